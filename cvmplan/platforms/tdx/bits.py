"""
Names of the bits of a TD's masks.

Source: ATTRIBUTES: Linux 7.0 arch/x86/include/asm/shared/tdx.h (TDX_TD_ATTR_…), intel/tdx-module
1e63698 src/common/data_structures (td_param_attributes_t).  XFAM has the format of XCR0 and
IA32_XSS: Intel SDM volume 1, 13.1 "XSAVE-supported features and state-component bitmaps".
CONFIG_FLAGS: intel/tdx-module 1666adc td_control_structures.h (CONFIG_FLAGS_FIXED0).
"""

from __future__ import annotations

from typing import Final

ATTRIBUTES: Final[dict[int, str]] = {
    0: "DEBUG", 4: "HGS_PLUS_PROF", 5: "PERF_PROF", 6: "PMT_PROF", 16: "ICSSD", 27: "LASS",
    28: "SEPT_VE_DISABLE", 29: "MIGRATABLE", 30: "PKS", 31: "KL", 62: "TPA", 63: "PERFMON",
}  # fmt: skip
XFAM: Final[dict[int, str]] = {
    0: "X87", 1: "SSE", 2: "AVX", 3: "BNDREGS", 4: "BNDCSR", 5: "AVX512_OPMASK", 6: "ZMM_HI256",
    7: "HI16_ZMM", 8: "PT", 9: "PKRU", 10: "PASID", 11: "CET_U", 12: "CET_S", 13: "HDC",
    14: "UINTR", 15: "LBR", 16: "HWP", 17: "XTILECFG", 18: "XTILEDATA", 19: "APX",
}  # fmt: skip
CONFIG_FLAGS: Final[dict[int, str]] = {
    0: "GPAW", 1: "FLEXIBLE_PENDING_VE", 2: "NO_RBP_MOD", 3: "MAXPA_VIRT", 4: "MAXGPA_VIRT",
}  # fmt: skip
MSR_CONFIG_CTLS: Final[dict[int, str]] = {0: "IA32_ARCH_CAP"}


def mask_of(*bits: int) -> int:
    """Return the mask with these bits set."""
    return sum(1 << bit for bit in {*bits})
