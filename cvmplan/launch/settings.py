"""
The settings of a launch: one row each, for options, manifests, plans and the Python API.

A row says how a setting is written, what is assumed without it, on which platforms it means
something, and what documents write.  A setting that is given for a platform where it means
nothing is an error: it would be ignored without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple, TypedDict

from cvmplan.core import values
from cvmplan.core.files import AnyPath
from cvmplan.core.platform import (
    OF_KVM,
    POLICED,
    WITH_INIT_CHOICE,
    WITH_PAGE_INFO,
    WITH_SECURE_EPT,
    WITH_VMSA,
    Platform,
)
from cvmplan.core.values import Json
from cvmplan.launch.given import Ranges, Value
from cvmplan.profiles import Profile, cpus
from cvmplan.profiles.machines import MACHINES, MINIMAL

TOP: Final = ("platform", "vmm", "abi")  # settings that are no part of the guest
READ_WITH: Final = ("pod", "kata_version")
"""Settings that decide how a launch description is read; other images do not take them."""


class Kind(Enum):
    """What the values of a setting are, and how documents write them."""

    NUMBER = "a number"
    MASK = "a number that documents write in hex"
    TEXT = "text"
    FLAG = "true or false"
    OCTETS = "bytes, in hex"
    IDENTITY = "48 bytes, or the SHA-384 of a file"
    RANGES = "ranges of addresses"


class Setting(NamedTuple):
    """
    One setting: kind, reader, how the option names its value, and what it is.

    `platforms` that know it (None: all).  `default` is assumed where nothing else is said;
    `assumed` says in words who decides then.  `firmware`: an IGVM file has no use for it.
    """

    kind: Kind
    read: Callable[[Json], Value]
    metavar: str
    text: str
    platforms: tuple[Platform, ...] | None = None
    default: int | str | None = None
    assumed: str = ""
    firmware: bool = False

    @property
    def help(self) -> str:
        """What it is, and what is assumed without it."""
        shown = self.assumed or ("" if self.default is None else str(self.default))
        return f"{self.text}  [assumed: {shown}]" if shown else self.text


def _text(written: Json) -> str:
    if not isinstance(written, str):
        raise ValueError(f"{written!r} is not text")  # noqa: TRY004 as in `values`
    return written


def _flag(written: Json) -> bool:
    if not isinstance(written, bool):
        raise ValueError(f"{written!r} is not true or false")  # noqa: TRY004 as in `values`
    return written


def _ranges(written: Json) -> Ranges:
    return tuple(values.span(w) for w in (written if isinstance(written, list) else [written]))


def _width(written: Json) -> int:
    return int(values.one_of("48", "52")(str(written)))


def _identity(name: str) -> Setting:
    text = f"{name}: 48 bytes in hex or base64, or the SHA-384 of a file; not measured."
    read = values.octets_or_file(48)
    return Setting(Kind.IDENTITY, read, "HEX|file:PATH", text, WITH_SECURE_EPT)


def _octets(length: int, text: str, *, firmware: bool = False) -> Setting:
    read = values.octets(length)
    return Setting(Kind.OCTETS, read, "HEX", text, WITH_PAGE_INFO, firmware=firmware)


def _switch(text: str, platforms: tuple[Platform, ...]) -> Setting:
    return Setting(Kind.FLAG, _flag, "", text, platforms)


def _hash(text: str, *, firmware: bool = False) -> Setting:
    return Setting(Kind.OCTETS, values.octets(32), "HEX", text, POLICED, firmware=firmware)


def _choice(
    words: tuple[str, ...], text: str, platforms: tuple[Platform, ...] | None, **more: str
) -> Setting:
    read = values.one_of(*words)
    default, assumed = more.get("default"), more.get("assumed", "")
    return Setting(Kind.TEXT, read, "|".join(words), text, platforms, default, assumed)


_NUMBER, _MASK, _TEXT = Kind.NUMBER, Kind.MASK, Kind.TEXT
_U64, _SIZE = values.integer, values.size
_VCPUS = values.within(1, values.MOST_VCPUS)
_EIP = values.within(1, 0xFFFFFFFF)
_C_BIT = values.within(*values.C_BITS)
_TD, _SNP = WITH_SECURE_EPT, WITH_PAGE_INFO

SETTINGS: Final[dict[str, Setting]] = {
    "vcpus": Setting(_NUMBER, _VCPUS, "N", "Number of vCPUs.", default=1),
    "cpu": Setting(
        _TEXT, _text, "MODEL", "EPYC model name, or CPUID signature as 0x…", POLICED, cpus.DEFAULT
    ),
    "family": Setting(
        _NUMBER, _U64, "N", "CPU family; use with --model and --stepping instead of --cpu.", POLICED
    ),
    "model": Setting(_NUMBER, _U64, "N", "CPU model number.", POLICED),
    "stepping": Setting(_NUMBER, _U64, "N", "CPU stepping.", POLICED),
    "sev_features": Setting(
        _MASK, _U64, "MASK", "SEV_FEATURES of each VMSA.", WITH_VMSA, assumed="profile"
    ),
    "policy": Setting(_MASK, _U64, "MASK", "Guest policy.", POLICED, assumed="profile"),
    "es_init": _choice(
        ("legacy", "init2"),
        "SEV and SEV-ES: KVM_SEV_INIT or KVM_SEV_ES_INIT (FPU state zero), or KVM_SEV_INIT2.",
        WITH_INIT_CHOICE,
        assumed="profile",
    ),
    "reset_eip": Setting(
        _MASK,
        _EIP,
        "GPA",
        "Entry point (EIP) of the application processors.",
        POLICED,
        firmware=True,
    ),
    "c_bit": Setting(
        _NUMBER, _C_BIT, "N", "Position of the C-bit, which marks encrypted memory.", POLICED
    ),
    "firmware_digest": _octets(
        48, "Launch digest after the firmware pages; replaces hashing them.", firmware=True
    ),
    "firmware_size": Setting(
        _MASK,
        _SIZE,
        "SIZE",
        "Size of the complete firmware if the file is only its end.",
        _SNP,
        assumed="the file's",
        firmware=True,
    ),
    "kernel": Setting(_TEXT, _text, "FILE", "Kernel for direct boot.", POLICED),
    "initrd": Setting(_TEXT, _text, "FILE", "Initial RAM disk; needs a kernel.", POLICED),
    "append": Setting(
        _TEXT, _text, "TEXT", "Kernel command line, used byte for byte; needs a kernel.", POLICED
    ),
    "uki_sections": _switch(
        "The kernel is a UKI that the VMM unpacks: its sections count.", POLICED
    ),
    "uki_profile": Setting(
        _TEXT, _text, "ID", "Profile of the UKI, for --uki-sections.", POLICED, assumed="first"
    ),
    "kernel_hash": _hash("SHA-256 of the kernel, instead of --kernel.", firmware=True),
    "initrd_hash": _hash("SHA-256 of the initrd, instead of --initrd."),
    "append_hash": _hash("SHA-256 of the command line and its NUL, instead of --append."),
    "svsm": Setting(_TEXT, _text, "FILE", "SVSM binary; only for profiles that launch one.", _SNP),
    "vars_size": Setting(
        _MASK, _SIZE, "SIZE", "Size of the variable store between SVSM and firmware.", _SNP
    ),
    "page_order": _choice(
        ("single-pass", "two-pass"),
        "Order in which TDX pages are added and extended.",
        _TD,
        assumed="profile",
    ),
    "gpaw": Setting(_NUMBER, _width, "48|52", "Guest address width.", _TD, default=48),
    "pad": Setting(
        _TEXT,
        values.one_of("zero", "file"),
        "zero|file",
        "How to fill a measured section whose memory size exceeds its file data.",
        _TD,
        firmware=True,
    ),
    "hob_gpa": Setting(
        _MASK, _U64, "GPA", "Address of the TD HOB that vCPUs receive.", _TD, firmware=True
    ),
    "backing": _choice(
        ("guest-memfd", "vma"),
        "Source of the guest memory.",
        None,
        assumed="vma for default VMs",
    ),
    "memory": Setting(
        _MASK,
        values.memory,
        "SIZE",
        "RAM (512M, 5G), in memslots as the VMM's machine has them; not measured.",
        OF_KVM,
        assumed="minimal layout",
    ),
    "prefault": Setting(
        Kind.RANGES,
        _ranges,
        "RANGE",
        "Map FIRST+SIZE or FIRST-LAST after the guest is final (repeatable).",
    ),
    "pod": Setting(
        _TEXT, _text, "FILE", "Pod (YAML, JSON): its annotations and CPU limits, for Kata."
    ),
    "kata_version": Setting(
        _TEXT, _text, "X.Y.Z", "Version of Kata, for its configuration.", assumed="4.1.0"
    ),
    "machine": Setting(_TEXT, _text, "NAME", "Machine type; reported, not measured.", _TD),
    "tsc_khz": Setting(_NUMBER, _U64, "KHZ", "TSC frequency; reported, not measured.", _TD),
    "attributes": Setting(_MASK, _U64, "MASK", "TD ATTRIBUTES; not measured.", _TD),
    "xfam": Setting(_MASK, _U64, "MASK", "TD XFAM; not measured.", _TD),
    "mrconfigid": _identity("MRCONFIGID"),
    "mrowner": _identity("MROWNER"),
    "mrownerconfig": _identity("MROWNERCONFIG"),
    "host_data": _octets(32, "HOST_DATA; not measured."),
    "id_block": _octets(96, "ID block; not measured."),
    "id_auth": _octets(4096, "ID authentication; not measured."),
    "author_key_enabled": _switch("The ID authentication contains an author key.", _SNP),
    "vcek_disabled": _switch("Forbid reports that are signed by the VCEK.", _SNP),
    "gosvw": _octets(16, "OS-visible workarounds; not measured."),
}
DECIDED: Final[dict[str, Setting]] = {
    "cpu_signature": Setting(_MASK, _U64, "", "CPUID signature of --cpu.", POLICED),
    "vmsa_scope": _choice(("all", "boot-vcpu"), "vCPUs whose VMSA is measured.", _SNP),
    "kernel_hashes": _choice(("on", "off"), "Whether kernel hashes are measured.", POLICED),
    "layout": _choice((MINIMAL, *MACHINES), "Where the guest has its memory.", OF_KVM),
}
"""What follows from settings, VMM and kernel: printed with them, and given by nobody."""
IDENTITIES: Final = tuple(n for n, s in SETTINGS.items() if s.kind is Kind.IDENTITY)


def kind_of(name: str) -> Kind:
    """Return the kind of a setting that is in a plan."""
    if name in TOP:
        return Kind.TEXT
    return (SETTINGS if name in SETTINGS else DECIDED)[name].kind


class Settings(TypedDict, total=False):
    """
    Settings of a launch by name, as `settings.SETTINGS` describes them; None: not given.

    Addresses, masks and sizes are numbers, or texts as options have them ("0x30000", "4MiB");
    hashes, identities and blocks are hex or base64; `prefault` is a list of ranges.
    `vmm` is a name, a file or a Profile; `allow_outside` lets a manifest name files outside
    its folder.
    """

    platform: str | None
    vmm: str | Profile | None
    abi: str | None
    allow_outside: bool
    vcpus: int | str | None
    cpu: str | None
    family: int | str | None
    model: int | str | None
    stepping: int | str | None
    sev_features: int | str | None
    policy: int | str | None
    es_init: str | None
    reset_eip: int | str | None
    c_bit: int | str | None
    firmware_digest: str | None
    firmware_size: int | str | None
    kernel: AnyPath | None
    initrd: AnyPath | None
    append: str | None
    uki_sections: bool
    uki_profile: str | None
    kernel_hash: str | None
    initrd_hash: str | None
    append_hash: str | None
    svsm: AnyPath | None
    vars_size: int | str | None
    page_order: str | None
    gpaw: int | str | None
    pad: str | None
    hob_gpa: int | str | None
    backing: str | None
    memory: int | str | None
    prefault: list[str] | str | None
    pod: AnyPath | None
    kata_version: str | None
    machine: str | None
    tsc_khz: int | str | None
    attributes: int | str | None
    xfam: int | str | None
    mrconfigid: str | None
    mrowner: str | None
    mrownerconfig: str | None
    host_data: str | None
    id_block: str | None
    id_auth: str | None
    author_key_enabled: bool
    vcek_disabled: bool
    gosvw: str | None
