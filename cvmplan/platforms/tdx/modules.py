"""
TDX modules as data: what each version accepts in TD_PARAMS.

Every row has its source and how sure it is: "source" where the module's own source was read,
"inferred" where a number follows from something else.  What a module offers on one machine is
less still: it drops what the processor lacks (LASS, 5-level EPT, extended states), which only
TDH.SYS.RD on that machine tells.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cvmplan.core.errors import ConfigError
from cvmplan.platforms.tdx.bits import mask_of


class Module(NamedTuple):
    """
    Limits of one module version; masks have the bits that may be set, or must be (fixed1).

    `cpuid_configs` entries are taken, `most_vcpus` per TD, `exclusive` pairs of attributes
    that exclude each other; `config_exclusive` pairs of configuration flags.
    """

    name: str
    attributes_fixed0: int
    config_flags: int
    cpuid_configs: int
    most_vcpus: int
    exclusive: tuple[tuple[int, int], ...]
    config_exclusive: tuple[tuple[int, int], ...]
    source: str
    confidence: str
    attributes_fixed1: int = 0
    xfam_fixed0: int = 0x6DBE7
    xfam_fixed1: int = 0x3
    most_l2_vms: int = 3


DEBUG, ICSSD, MIGRATABLE, PERFMON = 0, 16, 29, 63  # ATTRIBUTES
MAXPA_VIRT, MAXGPA_VIRT = 3, 4  # CONFIG_FLAGS
_MIGRATION: Final = ((MIGRATABLE, DEBUG), (MIGRATABLE, PERFMON))
_EARLY: Final = (DEBUG, 28, MIGRATABLE, 30, PERFMON)
_LATER: Final = (*_EARLY, ICSSD, 27)
_ANY_COUNT: Final = 0xFFFF  # max_vcpus has 16 bits, and the early modules only refuse 0

MODULES: Final[dict[str, Module]] = {
    "1.5.01": Module(
        "1.5.01",
        mask_of(*_EARLY),
        mask_of(0, 1, 2),
        12,
        _ANY_COUNT,
        _MIGRATION,
        (),
        "intel/tdx-module 72d8cff include/tdx_api_defs.h (MAX_NUM_CPUID_CONFIG), "
        "src/vmm_dispatcher/api_calls/tdh_mng_init.c",
        "inferred: attribute and configuration flags from the bits that the structures name",
    ),
    "1.5.06": Module(
        "1.5.06",
        mask_of(*_LATER),
        mask_of(0, 1, 2, MAXPA_VIRT),
        18,
        576,
        (*_MIGRATION, (PERFMON, ICSSD)),
        (),
        "intel/tdx-module 1e63698 td_control_structures.h (TDX_ATTRIBUTES_FIXED0, "
        "CONFIG_FLAGS_FIXED0, TDX_XFAM_FIXED0, MAX_VCPUS_PER_TD), auto_gen/"
        "cpuid_configurations_defines.h (MAX_NUM_CPUID_CONFIG)",
        "source; inferred: that this commit is version 1.5.06",
    ),
    "1.5.28": Module(
        "1.5.28",
        mask_of(*_LATER),
        mask_of(0, 1, 2, MAXPA_VIRT, MAXGPA_VIRT),
        28,
        576,
        (*_MIGRATION, (PERFMON, ICSSD)),
        ((MAXGPA_VIRT, MAXPA_VIRT),),
        "intel/tdx-module 30d2218 auto_gen_1_5/cpuid_configurations_defines.h "
        "(MAX_NUM_CPUID_CONFIG), td_control_structures.h (TDX_ATTRIBUTES_FIXED0, "
        "CONFIG_FLAGS_FIXED0, TDX_XFAM_FIXED0)",
        "source; inferred: most_vcpus from 1.5.06, and that this commit is version 1.5.28; a "
        "module with TDX_FEATURES0.DEBUG_RO_TD_MIGRATION also takes DEBUG with MIGRATABLE",
    ),
    "2.0.12": Module(
        "2.0.12",
        mask_of(*_LATER, 6, 62),
        mask_of(0, 1, 2, MAXPA_VIRT, MAXGPA_VIRT),
        28,
        576,
        (*_MIGRATION, (PERFMON, ICSSD)),
        ((MAXGPA_VIRT, MAXPA_VIRT),),
        "intel/tdx-module 1666adc auto_gen_2_0/cpuid_configurations_defines.h "
        "(MAX_NUM_CPUID_CONFIG), td_control_structures.h (TDX_ATTRIBUTES_FIXED0, "
        "CONFIG_FLAGS_FIXED0, TDX_XFAM_FIXED0)",
        "source; inferred: most_vcpus from 1.5.06",
    ),
}
"""Version to module, oldest first."""
DEFAULT: Final = "1.5"


def find(name: str, at: str = "--module") -> Module:
    """Return the module `name`, "1.5" for the newest 1.5 that is known; ConfigError."""
    found = [m for n, m in MODULES.items() if n == name or n.startswith(f"{name}.")]
    if not found:
        hint = f"supported: {', '.join(MODULES)}, and 1.5 and 2.0 for the newest of each"
        raise ConfigError(f"unknown TDX module {name!r}", at=at, hint=hint)
    return found[-1]
