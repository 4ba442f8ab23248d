"""
Kata Containers' configuration.toml, of its runtime in Go.

Kata makes the kernel's command line: parameters of its own, then `kernel_params`.  A measured line
therefore has to begin as Kata begins it, and says how Kata is configured.

Source: kata-containers 7c6ba40 (4.1.0) src/runtime/pkg/katautils/config.go; shared/spec/outputs.md
5.3.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from itertools import product
from typing import Final

from cvmplan.core.errors import UnsupportedError
from cvmplan.launch.configuration import Configuration, Protection
from cvmplan.profiles.kata import BASE, FLAGS, Own, Verity

MIB: Final = 1 << 20
_VERITY: Final = re.compile(
    r'dm-mod\.create="dm-verity,,,ro,0 [0-9]{1,20} verity 1 /dev/vda1 /dev/vda2 '
    r'([0-9]{1,9}) ([0-9]{1,9}) ([0-9]{1,20}) 0 sha256 ([0-9a-f]{1,128}) ([0-9a-f]{1,128})"'
)


def config(made: Configuration) -> str:
    """Return the file; UnsupportedError where Kata would make a different command line."""
    return "".join(f"{line}\n" for line in _lines(made))


def _lines(made: Configuration) -> Iterator[str]:
    if made.memory % MIB:
        raise UnsupportedError(f"{made.memory} bytes are not a multiple of 1 MiB", at="--memory")
    yield from (f"# {line}" for line in made.heading)
    for line in _beside(made):
        yield f"# {line}"
    yield "[hypervisor.qemu]"
    yield 'machine_type = "q35"'
    yield "confidential_guest = true"
    yield f"firmware = {_text(made.firmware)}"
    yield f"default_vcpus = {made.vcpus}"
    yield f"default_memory = {made.memory // MIB}"
    yield from (
        f"{name} = {_text(path)}" for name in ("kernel", "initrd") if (path := getattr(made, name))
    )
    if made.guest.platform.page_info:
        yield from identity(made.guest)
        yield from _command_line(made)
    yield ""
    yield "[runtime]"
    yield "static_sandbox_resource_mgmt = true"


def identity(guest: Protection) -> Iterator[str]:
    """Yield the settings that are about SNP, and the ID block; UnsupportedError."""
    if guest.author_key:
        problem = "Kata has no setting that says that there is an author key"
        raise UnsupportedError(problem, at="--author-key-enabled")
    yield "sev_snp_guest = true"
    yield f"snp_guest_policy = {guest.policy}"
    if guest.id_block is not None and guest.id_auth is not None:
        yield "# runtime-rs reads these two and does not pass them on."
        yield f'snp_id_block = "{b64encode(guest.id_block).decode()}"'
        yield f'snp_id_auth = "{b64encode(guest.id_auth).decode()}"'


def _beside(made: Configuration) -> Iterator[str]:
    """Yield what is left to others."""
    guest = made.guest
    yield "A CPU limit of the pod adds vCPUs to default_vcpus."
    if guest.host_data is not None:
        yield "HOST_DATA is the digest of the pod's initdata, in cc_init_data, and must be:"
        yield guest.host_data.hex()
    if guest.mrconfigid is not None:
        yield "MRCONFIGID is the digest of the pod's initdata, in cc_init_data, and must be:"
        yield guest.mrconfigid.hex()
    if made.initrd is None:
        yield "Add the guest's image: image = …"
    if made.kernel is None:
        yield "Add the guest's kernel: kernel = …"


def _command_line(made: Configuration) -> Iterator[str]:
    own, rest = _own(made.append or "", image=made.initrd is None)
    if own.rootfs:
        yield f'rootfs_type = "{own.rootfs}"'
    if own.verity:
        yield f'kernel_verity_params = "{own.verity.setting()}"'
    yield f'block_device_driver = "{"virtio-scsi" if own.scsi else "virtio-blk"}"'
    yield f"enable_debug = {str(own.debug).lower()}"
    yield f"disable_guest_selinux = {str(not own.selinux).lower()}"
    yield f"kernel_params = {_text(rest)}"


def _own(line: str, *, image: bool) -> tuple[Own, str]:
    """Return how Kata makes a command line, and `kernel_params`; UnsupportedError."""
    found = _VERITY.search(line)
    verity = None
    if found:
        data, hashes, blocks = map(int, found.groups()[:3])
        verity = Verity(data, hashes, blocks, found[4], found[5])
    for scsi, debug, selinux, rootfs in product(
        (True, False), (False, True), (False, True), FLAGS if image else ("",)
    ):
        own = Own(scsi, debug, selinux, rootfs, verity if image else None)
        begins = own.parameters()
        rest = line[len(begins) + 1 :]
        if f"{line} ".startswith(f"{begins} ") and rest == " ".join(rest.split()):
            return own, rest
    problem = "does not begin with the parameters that Kata 4.1 puts before kernel_params"
    hint = f"they begin with {' '.join(BASE[:3])}"
    raise UnsupportedError(problem, at="--append", hint=hint)


def _text(value: str) -> str:
    """Return a basic string of TOML 1.0."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
