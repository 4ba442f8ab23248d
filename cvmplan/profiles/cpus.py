"""
CPU signatures (CPUID Fn0000_0001_EAX), which KVM puts into RDX of each vCPU.

Source of the encoding: AMD 25481, CPUID Specification, Fn0000_0001_EAX.  The models are
QEMU's (target/i386/cpu.c, builtin_x86_defs), each with the versions it has had; versions
of one model share family, model and stepping.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cvmplan.core.errors import ConfigError
from cvmplan.core.names import spelled, unknown


def signature(family: int, model: int, stepping: int) -> int:
    """Return the 32-bit signature; ConfigError for numbers that it cannot hold."""
    if not (0 <= family <= 0x10E and 0 <= model <= 0xFF and 0 <= stepping <= 0xF):
        raise ConfigError(
            f"family {family}, model {model}, stepping {stepping} do not fit in a signature",
            hint="family is at most 270, model 255, stepping 15",
        )
    base, extended = (family, 0) if family < 0xF else (0xF, family - 0xF)
    return extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xF) << 4 | stepping


def parts(value: int) -> tuple[int, int, int]:
    """Return family, model and stepping of a signature."""
    base = value >> 8 & 0xF
    family = base + (value >> 20 & 0xFF) if base == 0xF else base
    return family, (value >> 16 & 0xF) << 4 | value >> 4 & 0xF, value & 0xF


_MODELS = {
    "EPYC": (signature(23, 1, 2), ("IBPB", "v1", "v2", "v3", "v4", "v5")),
    "EPYC-Rome": (signature(23, 49, 0), ("v1", "v2", "v3", "v4", "v5")),
    "EPYC-Milan": (signature(25, 1, 1), ("v1", "v2", "v3", "v4")),
    "EPYC-Genoa": (signature(25, 17, 0), ("v1", "v2", "v3")),
    "EPYC-Turin": (signature(26, 0, 0), ("v1", "v2")),
    "Dhyana": (signature(24, 0, 1), ("v1", "v2")),
    "qemu64": (signature(15, 107, 1), ("v1",)),
}
CHIPS: Final = {
    0xA00F11: "Milan", 0xA00F12: "Milan", 0xA10F11: "Genoa", 0xA10F12: "Genoa",
    0xAA0F02: "Bergamo", 0xB00F21: "Turin", 0xB10F10: "Turin Dense",
}  # fmt: skip
"""
Signatures of processors, which a guest has with the CPU model "host".

Source: AMD revision guides 57095 (Milan), 57504 (Genoa), 58268 (Turin); public launch reports.
"""

SIGNATURES: Final = {
    name: value
    for model, (value, versions) in _MODELS.items()
    for name in (model, *(f"{model}-{version}" for version in versions))
}
DEFAULT: Final = "EPYC-v4"
OF_QEMU: Final = "qemu64"
"""What QEMU takes where no model is named (target/i386/cpu.h, TARGET_DEFAULT_CPU_TYPE)."""
HOST: Final = ("host", "max")
"""Models whose signature is that of the host's processor."""


class Cpu(NamedTuple):
    """A signature and what has it: a CPU model of a VMM, or a processor."""

    name: str
    signature: int
    is_model: bool


def list_cpus() -> list[Cpu]:
    """Return all CPU models and processors that are known."""
    models = [Cpu(name, value, is_model=True) for name, value in SIGNATURES.items()]
    return [*models, *(Cpu(name, value, is_model=False) for value, name in CHIPS.items())]


def find(name: str) -> int:
    """
    Return the signature of the CPU model `name`; ConfigError for unknown ones.

    The name is taken in any case, and with the flags that a VMM's command line has behind it
    ("EPYC-v4,+amd-ssbd"): they do not change the signature.
    """
    model = name.partition(",")[0].strip()
    found = SIGNATURES.get(spelled(model, SIGNATURES))
    if found is not None:
        return found
    if model.lower() in HOST:
        chips = ", ".join(f"{value:#x} {chip}" for value, chip in CHIPS.items())
        raise ConfigError(
            f"{model!r} names no model: the signature is that of the host's processor",
            hint=f"give it as --cpu 0x…; known are {chips}",
        )
    listed = "'cvmplan cpus' lists them; a signature such as 0xa00f11 is taken too"
    raise unknown("CPU model", model, SIGNATURES, more=listed)


def name_of(written: str | None, value: int) -> str | None:
    """
    Return the model to start a guest with whose signature is `value`, None where none has it.

    That is the model `written` names, without flags.  A processor that is no model of its own is
    the "host".
    """
    model = (written or "").partition(",")[0].strip().lower()
    named = [name for name in SIGNATURES if name.lower() == model]
    of_value = [name for name, one in SIGNATURES.items() if one == value]
    return next(iter((*named, *of_value)), "host" if value in CHIPS else None)
