"""
Which ATTRIBUTES and XFAM a simulated KVM_TDX_INIT_VM takes.

Sources: linux 7.3.4 arch/x86/kvm/vmx/tdx.c, setup_tdparams; intel/tdx-module 1e63698
src/common/helpers/helpers.c, verify_td_attributes, check_xfam; 1666adc td_control_structures.h,
TDX_ATTRIBUTES_FIXED0, TDX_XFAM_FIXED0 and _FIXED1.
"""

from __future__ import annotations

from typing import Final

from cvmplan.kvm.interface import Abi

AVX: Final = 1 << 2
AVX512: Final = 7 << 5
TOGETHER: Final = (AVX512, 3 << 11, 3 << 17)
"""Extended states that the module takes as a whole: AVX-512, CET, AMX."""
MODULE_XFAM: Final = 0x6DBE7
ALWAYS: Final = 0x3  # X87 and SSE, which KVM sets where they are not given
MODULE_ATTRIBUTES: Final = sum(1 << bit for bit in (0, 6, 16, 27, 28, 29, 30, 62, 63))
"""What the newest module has: DEBUG, PMT_PROF, ICSSD, LASS, SEPT_VE_DISABLE, MIGRATABLE, PKS, TPA,
PERFMON."""
APART: Final = (1 << 0 | 1 << 29, 1 << 63 | 1 << 29, 1 << 63 | 1 << 16)
"""Attributes that exclude each other: MIGRATABLE and DEBUG or PERFMON, PERFMON and ICSSD."""


def refused_masks(abi: Abi, attributes: int, xfam: int) -> str | None:
    """Return why KVM, or the module behind it, refuses the masks; None if neither does."""
    for name, mask, bits in (
        ("ATTRIBUTES", attributes, abi.td_attributes),
        ("XFAM", xfam, abi.td_xfam),
    ):
        why = bits.refuses(mask) if bits else None
        if why is not None:
            return f"{name} {mask:#x}: {why}"
    xfam |= ALWAYS
    if attributes & ~MODULE_ATTRIBUTES or any(attributes & pair == pair for pair in APART):
        return f"ATTRIBUTES {attributes:#x}: the module refuses it"
    split = any(xfam & group not in (0, group) for group in TOGETHER)
    lone = xfam & AVX512 and not xfam & AVX
    unknown = xfam & ~MODULE_XFAM
    return f"XFAM {xfam:#x}: the module refuses it" if split or lone or unknown else None
