"""
CPU signatures (CPUID Fn0000_0001_EAX), which KVM puts into RDX of each vCPU.

Source of the encoding: AMD 25481, CPUID Specification, Fn0000_0001_EAX.  The models are
QEMU's (target/i386/cpu.c, builtin_x86_defs), each with the versions it has had; versions
of one model share family, model and stepping.
"""

from __future__ import annotations

from typing import Final

from cvmplan.errors import ConfigError


def signature(family: int, model: int, stepping: int) -> int:
    """Return the 32-bit signature; ConfigError for numbers that it cannot hold."""
    if not (0 <= family <= 0x10E and 0 <= model <= 0xFF and 0 <= stepping <= 0xF):
        raise ConfigError(
            f"family {family}, model {model}, stepping {stepping} do not fit in a signature",
            hint="family is at most 270, model 255, stepping 15",
        )
    base, extended = (family, 0) if family < 0xF else (0xF, family - 0xF)
    return extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xF) << 4 | stepping


_MODELS = {
    "EPYC": (signature(23, 1, 2), ("IBPB", "v1", "v2", "v3", "v4", "v5")),
    "EPYC-Rome": (signature(23, 49, 0), ("v1", "v2", "v3", "v4", "v5")),
    "EPYC-Milan": (signature(25, 1, 1), ("v1", "v2", "v3")),
    "EPYC-Genoa": (signature(25, 17, 0), ("v1", "v2")),
    "EPYC-Turin": (signature(26, 0, 0), ("v1", "v2")),
}

SIGNATURES: Final = {
    name: value
    for model, (value, versions) in _MODELS.items()
    for name in (model, *(f"{model}-{version}" for version in versions))
}
DEFAULT: Final = "EPYC-v4"


def find(name: str) -> int:
    """Return the signature of the CPU model `name`; ConfigError for unknown ones."""
    if name not in SIGNATURES:
        raise ConfigError(
            f"there is no CPU model {name!r}",
            hint=f"known are {', '.join(SIGNATURES)}; or a signature such as 0xa00f11",
        )
    return SIGNATURES[name]
