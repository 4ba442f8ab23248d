"""
The VMSA that KVM builds of the structs that were set on a vCPU.

Sources: linux arch/x86/kvm/svm/sev.c, sev_es_sync_vmsa; arch/x86/include/asm/svm.h, struct
sev_es_save_area; Intel SDM volume 1, 13.4 and 13.8 (XSAVE area, initial states).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from tests.executor.kernel import DEBUGREGS, MSRS, REGS, SREGS2, XCRS, XSAVE
from tests.executor.memory import PAGE

# Their order in kvm_sregs2 (24 bytes each), by where they are in the save area.
SEGMENTS: Final = (0x10, 0x30, 0x00, 0x40, 0x50, 0x20, 0x90, 0x70)  # cs ds es fs gs ss tr ldt
GENERAL: Final = (  # the order of kvm_regs: rax rbx rcx rdx rsi rdi rsp rbp r8 … r15 rip rflags
    0x1F8, 0x318, 0x308, 0x310, 0x330, 0x338, 0x1D8, 0x328,
    *range(0x340, 0x380, 8), 0x178, 0x170,
)  # fmt: skip
PLACES: Final = {0x277: 0x268, 0xDA0: 0x140}  # PAT, XSS
SVME, MCE, RFLAGS_FIXED, CD_NW = 1 << 12, 1 << 6, 1 << 1, 3 << 29


def vmsa_of(held: Mapping[int, bytes], features: int, *, fpu: bool) -> bytes:
    """Return the page; `held` are structs by the number of their ioctl."""
    page = bytearray(PAGE)
    sregs, regs, debug = held[SREGS2], held[REGS], held[DEBUGREGS]
    for number, at in enumerate(SEGMENTS):
        page[at : at + 16] = _segment(sregs[24 * number : 24 * number + 24])
    page[0xCB] = sregs[24 * 5 + 16] & 3  # the DPL of SS is the CPL
    for number, at in enumerate((0x60, 0x80)):  # GDT, IDT
        base, limit = struct.unpack_from("<QH", sregs, 192 + 16 * number)
        struct.pack_into("<IQ", page, at + 4, limit, base)
    cr0, cr2, cr3, cr4, _cr8, efer = struct.unpack_from("<6Q", sregs, 224)
    values = {0x158: cr0 & ~CD_NW, 0x240: cr2, 0x150: cr3, 0x148: cr4 | MCE, 0xD0: efer | SVME}
    values |= dict(zip(GENERAL, struct.unpack("<18Q", regs), strict=True))
    values[0x170] |= RFLAGS_FIXED
    values |= {0x168: _word(debug, 32), 0x160: _word(debug, 40), 0x3B0: features}
    values[0x3E8] = _word(held[XCRS], 16)
    for at in range(8, len(held[MSRS]), 16):
        values[PLACES[_word(held[MSRS], at, 4)]] = _word(held[MSRS], at + 8)
    for at, value in values.items():
        struct.pack_into("<Q", page, at, value)
    if fpu:
        page[0x400:0x570] = _fpu(held[XSAVE])
    return bytes(page)


def _segment(data: bytes) -> bytes:
    """kvm_segment: base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable."""
    base, limit, selector, kind, present, dpl, db, s, long, g, avl, unusable = struct.unpack(
        "<QIH9Bx", data
    )
    attributes = kind | s << 4 | dpl << 5 | (present and not unusable) << 7
    attributes |= avl << 8 | long << 9 | db << 10 | g << 11
    return struct.pack("<HHIQ", selector, attributes, limit, base)


def _fpu(area: bytes) -> bytes:
    """x87_dp, mxcsr, ftw, fsw, fcw, fop, ds, cs, rip, eight registers, sixteen XMM registers."""
    has = _word(area, 512)
    fcw, fsw, ftw, _, fop, rip, dp = struct.unpack_from("<HHBBHQQ", area)
    stack = area[32:160]
    if not has & 1:
        fcw, fsw, ftw, fop, rip, dp, stack = 0x37F, 0, 0, 0, 0, 0, bytes(128)
    mxcsr = _word(area, 24, 4) if has & 2 else 0x1F80
    registers = [stack[16 * n : 16 * n + 16] for n in range(8)]
    made = struct.pack("<QIHHHHHHQ", dp, mxcsr, ftw, fsw, fcw, fop, 0, 0, rip)
    made += b"".join(one[:8] for one in registers) + b"".join(one[8:10] for one in registers)
    return made + (area[160:416] if has & 2 else bytes(256))


def _word(data: bytes, at: int, size: int = 8) -> int:
    return int.from_bytes(data[at : at + size], "little")
