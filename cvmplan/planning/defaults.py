"""
Settings, from what was written to what a launch needs.

CPU models become signatures, files become hashes, what was not given is assumed from
profile and platform; errors name the option, or the path in the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256, sha384
from typing import Any, Final, TypeAlias

from cvmplan import profiles
from cvmplan.core import values
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError
from cvmplan.core.findings import Finding
from cvmplan.core.platform import Platform
from cvmplan.kvm.interface import Abi
from cvmplan.launch.model import Opener
from cvmplan.launch.settings import IDENTITIES, TOP, cpu_signature
from cvmplan.platforms.snp.hashes import NO_CMDLINE, NO_INITRD, KernelHashes
from cvmplan.profiles import Profile, cpus

# For profiles that say nothing: reserved bit 17 and SMT (AMD 56860, "Guest Policy Structure");
# NODBG; NODBG and ES (AMD 55766, SEV API, "Guest Policy Structure").
_BOOT = ("kernel", "initrd", "append")
MULTIBOOT: Final = 0x1BADB002.to_bytes(4, "little")
MULTIBOOT_SEARCH: Final = 8192  # bytes


Place: TypeAlias = Callable[[str], str]


def places(manifest: str, options: Mapping[str, Any]) -> Place:
    """Return what names the place of a setting: its option, or its path in the manifest."""

    def place(name: str) -> str:
        if name in (*TOP, "backing", "prefault") and manifest and name not in options:
            return f"{manifest}: {name}"
        if not manifest or name in options:
            return f"--{name.replace('_', '-')}"
        if name.startswith("firmware_"):
            return f"{manifest}: {name.replace('_', '.')}"
        group = "boot" if name.removesuffix("_hash") in _BOOT else "guest"
        return f"{manifest}: {group}.{name}"

    return place


def normal(settings: Mapping[str, Any], open_file: Opener, place: Place) -> dict[str, Any]:
    """Return `settings` with CPU models as signatures, and files as hashes or contents."""
    given = dict(settings)
    signature = cpu_signature(given, place)
    for name in ("family", "model", "stepping"):
        given.pop(name, None)
    if signature is not None:
        given["cpu_signature"] = signature
    for name in _BOOT:
        _hash_of(given, name, open_file, place)
    if isinstance(given.get("svsm"), str):
        given["svsm"] = open_file(given["svsm"], "svsm")
    for name in IDENTITIES:
        if name in given:
            given[name] = identity(given[name], name, open_file)
    return given


def identity(value: bytes | str | Blob, name: str, open_file: Opener) -> bytes:
    """Return 48 bytes as they are, or the SHA-384 of a file, file:PATH or opened; InputError."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        value = open_file(value.removeprefix(values.FILE), name)
    return sha384(value.data).digest()


def beaten(manifest: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of both, where an option beats the manifest, its source included."""
    given = {**manifest, **options}
    for name in (*_BOOT, "cpu"):
        value = "cpu_signature" if name == "cpu" else f"{name}_hash"
        if value in options and name not in options:
            given.pop(name, None)
    return given


def _hash_of(given: dict[str, Any], name: str, open_file: Opener, place: Place) -> None:
    """Replace the file or text `name` by its hash; ConfigError where both are given."""
    value = given.get(name)
    if value is None:
        return
    if f"{name}_hash" in given:
        raise ConfigError("goes without the hash of the same", at=place(name))
    if name == "append":
        try:
            line = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise ConfigError("is not text", at=place(name)) from None
        if b"\0" in line:
            raise ConfigError("a command line has no NUL inside", at=place(name))
        given["append_hash"] = sha256(line + b"\0").digest()
        return
    blob = open_file(value, name) if isinstance(value, str) else value
    given[f"{name}_hash"] = sha256(blob.data).digest()
    given[name] = blob.name


def kernel_findings(
    manifest: Mapping[str, Any], options: Mapping[str, Any], profile: Profile, open_file: Opener
) -> Iterator[Finding]:
    """
    Yield an error for a kernel whose format the VMM starts without hashing it.

    A note where that cannot be known, since only the kernel's hash is given.
    """
    if not profile.unhashed_kernels:
        return
    settings = {**manifest, **options}
    kernel = None if "kernel_hash" in options else settings.get("kernel")
    if kernel is None:
        if "kernel_hash" in settings:
            formats = " and ".join(profile.unhashed_kernels)
            problem = "not checked: the format of the kernel, of which only the hash is given; "
            yield Finding("not-checked", f"{problem}{profile.name} does not hash {formats} kernels")
        return
    blob = open_file(kernel, "kernel") if isinstance(kernel, str) else kernel
    found = kernel_format(bytes(blob.data[:MULTIBOOT_SEARCH]))
    if found in profile.unhashed_kernels:
        problem = f"{profile.name} does not hash {found} kernels: a launch with hashes ends"
        yield Finding("kernel-not-hashed", problem, at=blob.name)


def kernel_format(head: bytes) -> str:
    """
    Return the format of a kernel by its first 8 KiB: "linux", "multiboot", "elf" or "".

    Sources: Linux Documentation/arch/x86/boot.rst (HdrS at 0x202); Multiboot Specification
    0.6.96, 3.1 (a header at a multiple of 4 in the first 8192 bytes); System V ABI, ELF header.
    """
    if head[0x202:0x206] == b"HdrS":
        return "linux"
    at = head.find(MULTIBOOT)
    while at >= 0:
        if at % 4 == 0 and at + 12 <= len(head):
            words = (int.from_bytes(head[at + n : at + n + 4], "little") for n in (0, 4, 8))
            if sum(words) % (1 << 32) == 0:
                return "multiboot"
        at = head.find(MULTIBOOT, at + 1)
    return "elf" if head[:4] == b"\x7fELF" else ""


def profile(given: dict[str, Any], platform: Platform, place: Place, image: str) -> Profile:
    """Return the profile that is given, or assumed for an image; `given` gets its name."""
    chosen = given.get("vmm", profiles.DEFAULTS.get(image, profiles.DEFAULTS[""]))
    profile = chosen if isinstance(chosen, Profile) else profiles.find(chosen, place("vmm"))
    if "vmm" in given:
        given["vmm"] = profile.name
    return profiles.for_platform(profile, platform, place("vmm"))


def assumed(
    platform: Platform, profile: Profile, given: Mapping[str, Any], abi: Abi
) -> dict[str, Any]:
    """Return the settings that were not given and that the operations depend on."""
    defaults: dict[str, Any] = {"platform": platform, "vmm": profile.name, "abi": abi.name}
    defaults["vcpus"] = 1
    defaults |= _of_interface(platform, abi)
    if platform.policy is not None:
        defaults["policy"] = profile.policies.get(platform, platform.policy)
        defaults["kernel_hashes"] = "off"
    if platform.vmsa and profile.vmsa and profile.vmsa.boot:
        states = (*profile.vmsa.boot.values(), *profile.vmsa.others.values())
        if "cpu_signature" in states:
            defaults["cpu"] = cpus.DEFAULT
            defaults["cpu_signature"] = cpus.find(cpus.DEFAULT)
        features = profile.sev_features if platform.page_info else 0
        defaults["sev_features"] = (
            features if abi.default_sev_features is None else abi.default_sev_features
        )
    if platform.secure_ept:
        separate = abi.tdx_extend == "separate"
        order = "two-pass" if separate else profile.page_order
        defaults |= {"page_order": order, "gpaw": 48, "pad": profile.padding}
        defaults |= {"attributes": profile.td_attributes, "xfam": profile.td_xfam}
    if "cpu_signature" in given:
        defaults.pop("cpu", None)
    if "kernel_hash" in given:
        defaults.pop("kernel_hashes", None)
        if "append_hash" not in given:
            defaults["append"] = ""
    return {name: value for name, value in defaults.items() if name not in given}


def _of_interface(platform: Platform, abi: Abi) -> dict[str, Any]:
    """Return what the host kernel decides, or would."""
    if platform.page_info and abi.vmsa_scope != "all":
        return {"vmsa_scope": abi.vmsa_scope}
    if platform.init_choice:
        return {"es_init": abi.es_fpu_state or "legacy"}
    return {"backing": platform.backings[0]} if platform.shares_gmem else {}


def hash_table(settings: Mapping[str, Any], place: Place) -> bytes | None:
    """Return the SEV hash table, None where no kernel is given; ConfigError for half a boot."""
    if "kernel_hash" not in settings:
        for name in ("initrd_hash", "append_hash"):
            if name in settings and settings.get(name.removesuffix("_hash")) != "":
                given = name.removesuffix("_hash")
                raise ConfigError(
                    "goes with a kernel only", at=place(given if given in settings else name)
                )
        return None
    hashes = KernelHashes(
        settings["kernel_hash"],
        settings.get("initrd_hash", NO_INITRD),
        settings.get("append_hash", NO_CMDLINE),
    )
    return hashes.table()
