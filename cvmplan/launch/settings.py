"""
The settings of a launch: one table for the options, the manifest's `guest`, and what is given.

A setting that is given for a platform where it means nothing is an error: it would be
ignored without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from cvmplan.core import values
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError
from cvmplan.core.platform import (
    POLICED,
    WITH_INIT_CHOICE,
    WITH_PAGE_INFO,
    WITH_SECURE_EPT,
    WITH_VMSA,
    Platform,
)
from cvmplan.profiles import cpus

TOP: Final = ("platform", "vmm", "abi")  # settings that are no part of the guest


class Setting(NamedTuple):
    """How a setting is written, what it means, and the platforms that know it (None: all)."""

    read: Callable[[object], Any]
    metavar: str
    help: str
    platforms: tuple[Platform, ...] | None = None
    many: bool = False


def _text(written: object) -> str:
    if not isinstance(written, str):
        raise ValueError(f"{written!r} is not text")  # noqa: TRY004 as in `values`
    return written


def _flag(written: object) -> bool:
    return bool(written)


def _ranges(written: object) -> tuple[tuple[int, int], ...]:
    return tuple(values.span(w) for w in (written if isinstance(written, list) else [written]))


def _identity(name: str) -> Setting:
    text = f"{name}: 48 bytes, hex or base64; or the SHA-384 of a file; not measured."
    return Setting(values.octets_or_file(48), "HEX|file:PATH", text, WITH_SECURE_EPT)


_U64 = values.integer
_SHA256 = values.octets(32)

SETTINGS: Final[dict[str, Setting]] = {
    "vcpus": Setting(values.within(1, values.MOST_VCPUS), "N", "Number of vCPUs.  [assumed: 1]"),
    "cpu": Setting(
        _text, "MODEL", "EPYC model, or CPUID signature as 0x…  [assumed: EPYC-v4]", POLICED
    ),
    "family": Setting(_U64, "N", "CPU family, with --model and --stepping, for --cpu.", POLICED),
    "model": Setting(_U64, "N", "CPU model number.", POLICED),
    "stepping": Setting(_U64, "N", "CPU stepping.", POLICED),
    "sev_features": Setting(
        _U64, "MASK", "SEV_FEATURES of each VMSA.  [assumed: profile]", WITH_VMSA
    ),
    "policy": Setting(_U64, "MASK", "Guest policy.  [assumed: profile]", POLICED),
    "es_init": Setting(
        values.one_of("legacy", "init2"),
        "legacy|init2",
        "SEV-ES: KVM_SEV_ES_INIT leaves the FPU state zero, KVM_SEV_INIT2 sets it.  "
        "[assumed: legacy]",
        WITH_INIT_CHOICE,
    ),
    "reset_eip": Setting(
        values.within(1, 0xFFFFFFFF), "GPA", "Where application processors start.", POLICED
    ),
    "c_bit": Setting(
        values.within(*values.C_BITS),
        "N",
        "Page-table bit that marks memory as encrypted.",
        POLICED,
    ),
    "firmware_digest": Setting(
        values.octets(48),
        "HEX",
        "Launch digest after the firmware pages, in place of hashing them.",
        WITH_PAGE_INFO,
    ),
    "firmware_size": Setting(
        values.size,
        "SIZE",
        "Size of the whole firmware, where the file is only its end.  [assumed: the file's]",
        WITH_PAGE_INFO,
    ),
    "kernel": Setting(_text, "FILE", "Kernel for direct boot.", POLICED),
    "initrd": Setting(_text, "FILE", "Initial RAM disk; with a kernel.", POLICED),
    "append": Setting(_text, "TEXT", "Kernel command line, to the byte; with a kernel.", POLICED),
    "kernel_hash": Setting(_SHA256, "HEX", "SHA-256 in place of --kernel.", POLICED),
    "initrd_hash": Setting(_SHA256, "HEX", "SHA-256 in place of --initrd.", POLICED),
    "append_hash": Setting(
        _SHA256, "HEX", "SHA-256 of the command line and its NUL, in place of --append.", POLICED
    ),
    "svsm": Setting(_text, "FILE", "SVSM binary, for profiles that launch one.", WITH_PAGE_INFO),
    "vars_size": Setting(
        values.size, "SIZE", "Size of the variable store between SVSM and firmware.", WITH_PAGE_INFO
    ),
    "page_order": Setting(
        values.one_of("single-pass", "two-pass"),
        "single-pass|two-pass",
        "Order of adds and extends.  [assumed: profile]",
        WITH_SECURE_EPT,
    ),
    "gpaw": Setting(
        lambda written: int(values.one_of("48", "52")(str(written))),
        "48|52",
        "Guest address width.  [assumed: 48]",
        WITH_SECURE_EPT,
    ),
    "pad": Setting(
        values.one_of("zero", "file"),
        "zero|file",
        "What follows the data of a measured section that is longer in memory.",
        WITH_SECURE_EPT,
    ),
    "hob_gpa": Setting(_U64, "GPA", "Where vCPUs find the TD HOB.", WITH_SECURE_EPT),
    "backing": Setting(
        values.one_of("guest-memfd", "vma"),
        "guest-memfd|vma",
        "What the memory comes from.  [assumed: vma for default VMs]",
    ),
    "prefault": Setting(
        _ranges,
        "RANGE",
        "Map FIRST+SIZE or FIRST-LAST once the guest is final, what it has not yet; repeats.",
        many=True,
    ),
    "machine": Setting(_text, "NAME", "Machine type; reported, not measured.", WITH_SECURE_EPT),
    "tsc_khz": Setting(_U64, "KHZ", "TSC frequency; reported, not measured.", WITH_SECURE_EPT),
    "attributes": Setting(_U64, "MASK", "TD ATTRIBUTES; not measured.", WITH_SECURE_EPT),
    "xfam": Setting(_U64, "MASK", "TD XFAM; not measured.", WITH_SECURE_EPT),
    "mrconfigid": _identity("MRCONFIGID"),
    "mrowner": _identity("MROWNER"),
    "mrownerconfig": _identity("MROWNERCONFIG"),
    "host_data": Setting(values.octets(32), "HEX", "HOST_DATA; not measured.", WITH_PAGE_INFO),
    "id_block": Setting(values.octets(96), "HEX", "ID block; not measured.", WITH_PAGE_INFO),
    "id_auth": Setting(
        values.octets(4096), "HEX", "ID authentication; not measured.", WITH_PAGE_INFO
    ),
    "author_key_enabled": Setting(_flag, "", "The ID block has an author key.", WITH_PAGE_INFO),
    "vcek_disabled": Setting(_flag, "", "Reports may not be signed by the VCEK.", WITH_PAGE_INFO),
    "gosvw": Setting(
        values.octets(16), "HEX", "OS-visible workarounds; not measured.", WITH_PAGE_INFO
    ),
}

IDENTITIES: Final = ("mrconfigid", "mrowner", "mrownerconfig")
"""Settings of 48 bytes that may also be the SHA-384 of a file."""
HEX: Final = frozenset(
    {
        "cpu_signature", "sev_features", "policy", "reset_eip", "hob_gpa", "attributes", "xfam",
        "vars_size", "firmware_size",
    }
)  # fmt: skip
"""Settings that documents write as hex strings."""


def read_options(options: Mapping[str, object]) -> dict[str, Any]:
    """Return the values of options that were given; ConfigError names the one that is wrong."""
    given = {}
    for name, written in options.items():
        if written is None or written is False or written == []:
            continue
        if name not in SETTINGS:
            raise ConfigError("there is no such setting", at=name)
        try:
            given[name] = SETTINGS[name].read(written)
        except ValueError as error:
            raise ConfigError(str(error), at=f"--{name.replace('_', '-')}") from None
    return given


def check_platform(
    given: Mapping[str, object], platform: Platform, place: Callable[[str], str]
) -> None:
    """Raise ConfigError at `place(name)` for a setting that means nothing on `platform`."""
    for name in given:
        known = SETTINGS[name].platforms if name in SETTINGS else None
        if known is not None and platform not in known and given[name] != "":
            raise ConfigError(
                f"means nothing for {platform}, only for {', '.join(known)}",
                at=place(name),
            )


def cpu_signature(given: Mapping[str, Any], place: Callable[[str], str]) -> int | None:
    """Return the signature that `cpu`, or family, model and stepping, name; None for neither."""
    numbers = [given.get(name) for name in ("family", "model", "stepping")]
    if any(n is not None for n in numbers):
        if None in numbers or "cpu" in given:
            raise ConfigError(
                "family, model and stepping go together, and without a CPU model",
                at=place("family"),
            )
        try:
            return cpus.signature(*(n for n in numbers if n is not None))
        except ConfigError as error:
            raise ConfigError(str(error), at=place("family"), hint=error.hint) from None
    name = given.get("cpu")
    if name is None:
        return None
    if not name[:1].isdigit():
        try:
            return cpus.find(name)
        except ConfigError as error:
            raise ConfigError(str(error.args[0]), at=place("cpu"), hint=error.hint) from None
    try:
        return values.within(0, 0xFFFFFFFF)(name)
    except ValueError as error:
        raise ConfigError(str(error), at=place("cpu")) from None


def documented(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as documents write them: masks and addresses in hex, bytes in hex."""
    return {name: _documented(name, value) for name, value in settings.items()}


def _documented(name: str, value: Any) -> Any:
    if name == "prefault":
        return [f"{gpa:#x}+{size:#x}" for gpa, size in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Blob):
        return value.name
    return hex(value) if name in HEX else value
