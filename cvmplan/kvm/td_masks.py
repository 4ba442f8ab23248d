"""
Which ATTRIBUTES and XFAM a simulated KVM_TDX_INIT_VM takes.

Sources: linux 7.3.4 arch/x86/kvm/vmx/tdx.c, setup_tdparams; intel/tdx-module 1e63698
src/common/helpers/helpers.c, check_xfam.
"""

from __future__ import annotations

from typing import Final

from cvmplan.kvm.interface import Abi

AVX: Final = 1 << 2
AVX512: Final = 7 << 5
TOGETHER: Final = (AVX512, 3 << 11, 3 << 17)
"""Extended states that the module takes as a whole: AVX-512, CET, AMX."""


def refused_masks(abi: Abi, attributes: int, xfam: int) -> str:
    """Return why KVM, or the module behind it, refuses the masks; "" if neither does."""
    for name, mask, bits in (
        ("ATTRIBUTES", attributes, abi.td_attributes),
        ("XFAM", xfam, abi.td_xfam),
    ):
        why = bits.refuses(mask) if bits else ""
        if why:
            return f"{name} {mask:#x}: {why}"
    if abi.td_xfam is None:
        return ""
    split = any(xfam & group not in (0, group) for group in TOGETHER)
    lone = xfam & AVX512 and not xfam & AVX
    return f"XFAM {xfam:#x}: the module refuses it" if split or lone else ""
