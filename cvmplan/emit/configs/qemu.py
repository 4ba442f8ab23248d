"""
QEMU's command line, for a shell.

Sources: qemu 11.1.3 qapi/qom.json (SevSnpGuestProperties, TdxGuestProperties), introspected over
QMP; docs/system/i386/amd-memory-encryption.rst, docs/system/i386/tdx.rst, docs/system/igvm.rst.
"""

from __future__ import annotations

import json
import shlex
from base64 import b64encode
from collections.abc import Iterator
from typing import Final

from cvmplan.launch.configuration import Configuration, Protection

ID: Final = "cgs0"
C_BIT: Final = 51
"""Of all processors with SNP (AMD 55898, CPUID Fn8000_001F_EBX); QEMU refuses another host's."""
MIB: Final = 1 << 20


def config(made: Configuration) -> str:
    """Return the command, with comments before it."""
    words = [" ".join(map(shlex.quote, words)) for words in _arguments(made)]
    return "".join(f"# {line}\n" for line in made.heading) + " \\\n  ".join(words) + "\n"


def _arguments(made: Configuration) -> Iterator[tuple[str, ...]]:
    """Yield the program, and each option with its value."""
    yield ("qemu-system-x86_64",)
    split = "" if made.guest.platform.page_info else ",kernel-irqchip=split"
    igvm = ",igvm-cfg=igvm0" if made.igvm else ""
    yield ("-machine", f"q35,accel=kvm{split},confidential-guest-support={ID}{igvm}")
    yield ("-cpu", made.cpu)
    yield ("-smp", str(made.vcpus))
    unit = f"{made.memory // MIB}M" if made.memory % MIB == 0 else f"{made.memory}B"
    yield ("-m", unit)
    yield ("-object", guest_object(made.guest))
    if made.igvm:
        file = made.firmware.replace(",", ",,")
        yield ("-object", f"igvm-cfg,id=igvm0,file={file}")
    else:
        yield ("-bios", made.firmware)
    for name in ("kernel", "initrd", "append"):
        if value := getattr(made, name):
            yield (f"-{name}", value)


def guest_object(guest: Protection) -> str:
    """Return the value of -object that describes the guest."""
    return _snp(guest) if guest.platform.page_info else _tdx(guest)


def _snp(guest: Protection) -> str:
    properties = {
        "id": ID,
        "cbitpos": str(guest.c_bit or C_BIT),
        "reduced-phys-bits": "1",
        "policy": hex(guest.policy),
        "kernel-hashes": "on" if guest.kernel_hashes else "",
        "guest-visible-workarounds": _base64(guest.gosvw),
        "id-block": _base64(guest.id_block),
        "id-auth": _base64(guest.id_auth),
        "author-key-enabled": "on" if guest.author_key else "",
        "vcek-disabled": "on" if guest.vcek_disabled else "",
        "host-data": _base64(guest.host_data),
    }
    told = (f"{name}={value}" for name, value in properties.items() if value)
    return ",".join(("sev-snp-guest", *told))


def _tdx(guest: Protection) -> str:
    """As JSON: the object has members that the other form cannot say."""
    identities = {
        "mrconfigid": guest.mrconfigid,
        "mrowner": guest.mrowner,
        "mrownerconfig": guest.mrownerconfig,
    }
    told = {name: _base64(value) for name, value in identities.items() if value is not None}
    made = {"qom-type": "tdx-guest", "id": ID, "attributes": guest.attributes, **told}
    return json.dumps(made, separators=(",", ":"))


def _base64(value: bytes | None) -> str:
    return "" if value is None else b64encode(value).decode()
