"""
The VMSA that KVM builds of a vCPU's registers, as it measures it.

Sources: linux arch/x86/kvm/svm/sev.c, sev_es_sync_vmsa; svm.c, svm_set_efer, svm_set_cr0,
svm_set_cr4, svm_set_segment; AMD 24593, APM volume 2, appendix B; Intel SDM volume 1, 13.8
(XRSTOR: a component whose XSTATE_BV bit is clear gets its initial state).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from cvmplan.kvm.layouts import STRUCTS, unpack
from cvmplan.simulator.digest import PAGE

# The simulator has its own copy of the layout, so that an error in the planner's is not in both.
_SEGMENTS: Final = {
    "es": 0x00, "cs": 0x10, "ss": 0x20, "ds": 0x30, "fs": 0x40, "gs": 0x50, "ldt": 0x70,
    "tr": 0x90,
}  # fmt: skip
_TABLES: Final = {"gdt": 0x60, "idt": 0x80}
_CONTROL: Final = {"efer": 0xD0, "cr4": 0x148, "cr3": 0x150, "cr0": 0x158, "cr2": 0x240}
_GENERAL: Final = {
    "rflags": 0x170, "rip": 0x178, "rsp": 0x1D8, "rax": 0x1F8, "rcx": 0x308, "rdx": 0x310,
    "rbx": 0x318, "rbp": 0x328, "rsi": 0x330, "rdi": 0x338,
    **{f"r{n}": 0x340 + 8 * (n - 8) for n in range(8, 16)},
}  # fmt: skip
_MSRS: Final = {
    0xC0000081: 0x200, 0xC0000082: 0x208, 0xC0000083: 0x210, 0xC0000084: 0x218,
    0xC0000102: 0x220, 0x174: 0x228, 0x175: 0x230, 0x176: 0x238, 0x277: 0x268, 0xDA0: 0x140,
}  # fmt: skip
"""STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE, SYSENTER_CS, _ESP, _EIP, PAT and XSS."""
_DEBUG: Final = {"dr7": 0x160, "dr6": 0x168}
NAMES: Final = {
    **{f"{name}.selector": (at, 2) for name, at in _SEGMENTS.items()},
    **{f"{name}.base": (at + 8, 8) for name, at in (_SEGMENTS | _TABLES).items()},
    **{name: (at, 8) for name, at in (_CONTROL | _GENERAL | _DEBUG).items()},
}
"""Name of a field to its place and size, of those that have a name here."""
_CPL, _FEATURES, _XCR0 = 0xCB, 0x3B0, 0x3E8
SVME, MCE, FIXED = 1 << 12, 1 << 6, 1 << 1  # KVM sets them in EFER, CR4 and RFLAGS
CD_NW: Final = 3 << 29  # and clears them in CR0 (KVM_X86_QUIRK_CD_NW_CLEARED)
X87, SSE, YMM = 1 << 0, 1 << 1, 1 << 2  # XSTATE_BV
FCW, MXCSR = 0x37F, 0x1F80  # the initial state
_RESET: Final = {0x160: 0x400, 0x168: 0xFFFF0FF0, 0x268: 0x7040600070406, 0x3E8: 1}
"""DR7, DR6, PAT and XCR0 of a vCPU that was never set."""


@dataclass(slots=True)
class Registers:
    """
    The registers of one vCPU: structs as KVM's ioctls have them, MSRs by index.

    b"" and an index that is not there: never set, so KVM's reset value holds.
    """

    regs: bytes = b""
    sregs: bytes = b""
    debugregs: bytes = b""
    xcrs: bytes = b""
    xsave: bytes = b""
    msrs: dict[int, int] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether enough is known of it to build its VMSA."""
        return bool(self.regs and self.sregs)

    def over(self, older: Registers) -> Registers:
        """Return these registers, with those of `older` where none are known."""
        return Registers(
            self.regs or older.regs,
            self.sregs or older.sregs,
            self.debugregs or older.debugregs,
            self.xcrs or older.xcrs,
            self.xsave or older.xsave,
            {**older.msrs, **self.msrs},
        )


def vmsa_of(registers: Registers, features: int, *, fpu: bool) -> bytes:
    """
    Return the VMSA of 4096 bytes that KVM measures for a vCPU.

    `features` are the SEV_FEATURES of the VM; without `fpu` (KVM_SEV_ES_INIT) the FPU state
    stays zero.  The registers must be `known`.
    """
    page = bytearray(PAGE)
    for at, value in _RESET.items():
        _put(page, at, value)
    _put_system(page, registers.sregs)
    general = _integers("kvm_regs", registers.regs)
    for name, at in _GENERAL.items():
        _put(page, at, general[name] | (FIXED if name == "rflags" else 0))
    if registers.debugregs:
        debug = _integers("kvm_debugregs", registers.debugregs)
        for name, at in _DEBUG.items():
            _put(page, at, debug[name])
    for index, at in _MSRS.items():
        if index in registers.msrs:
            _put(page, at, registers.msrs[index])
    if registers.xcrs:
        _put(page, _XCR0, _xcr0(registers.xcrs))
    _put(page, _FEATURES, features)
    if fpu:
        _put_fpu(page, registers.xsave)
    return bytes(page)


def differing(one: bytes, other: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield (field, value, other value) of what differs in two VMSAs; bytes by their offset."""
    seen: set[int] = set()
    for name, (at, size) in NAMES.items():
        values = [int.from_bytes(page[at : at + size], "little") for page in (one, other)]
        seen.update(range(at, at + size))
        if values[0] != values[1]:
            yield name, values[0], values[1]
    for at, (a, b) in enumerate(zip(one, other, strict=True)):
        if a != b and at not in seen:
            yield f"byte {at:#x}", a, b


def _integers(struct: str, data: bytes) -> Mapping[str, int]:
    held = unpack(STRUCTS[struct], data)
    return {name: value for name, value in held.items() if isinstance(value, int)}


def _put(page: bytearray, at: int, value: int, size: int = 8) -> None:
    page[at : at + size] = value.to_bytes(size, "little")


def _put_system(page: bytearray, sregs: bytes) -> None:
    """Put segments, descriptor tables and control registers; `sregs` is of either form."""
    layout = STRUCTS["kvm_sregs2" if len(sregs) >= STRUCTS["kvm_sregs2"].size else "kvm_sregs"]
    held = unpack(layout, sregs)
    for name, at in _SEGMENTS.items():
        _put_segment(page, at, held[name])
    for name, at in _TABLES.items():
        table = _integers("kvm_dtable", _bytes(held[name]))
        _put(page, at + 4, table["limit"], 4)
        _put(page, at + 8, table["base"])
    control = _integers(layout.name, sregs)
    values = {name: control[name] for name in _CONTROL}
    values |= {
        "efer": values["efer"] | SVME,
        "cr4": values["cr4"] | MCE,
        "cr0": values["cr0"] & ~CD_NW,
    }
    for name, at in _CONTROL.items():
        _put(page, at, values[name])
    page[_CPL] = _integers("kvm_segment", _bytes(held["ss"]))["dpl"] & 3


def _put_segment(page: bytearray, at: int, held: int | bytes) -> None:
    one = _integers("kvm_segment", _bytes(held))
    present = one["present"] & 1 and not one["unusable"]
    bits = (one["type"] & 15, one["s"] & 1, one["dpl"] & 3, present, one["avl"] & 1, one["l"] & 1,
            one["db"] & 1, one["g"] & 1)  # fmt: skip
    places = (0, 4, 5, 7, 8, 9, 10, 11)
    _put(page, at, one["selector"], 2)
    _put(page, at + 2, sum(int(bit) << place for bit, place in zip(bits, places, strict=True)), 2)
    _put(page, at + 4, one["limit"], 4)
    _put(page, at + 8, one["base"])


def _bytes(held: int | bytes) -> bytes:
    return held if isinstance(held, bytes) else held.to_bytes(8, "little")


def _xcr0(xcrs: bytes) -> int:
    held = unpack(STRUCTS["kvm_xcrs"], xcrs)
    entries, count = _bytes(held["xcrs"]), min(int(held["nr_xcrs"]), 16)
    for at in range(0, 16 * count, 16):
        one = _integers("kvm_xcr", entries[at : at + 16])
        if not one["xcr"]:
            return one["value"]
    return 1


def _put_fpu(page: bytearray, xsave: bytes) -> None:
    """Put the FPU state of an XSAVE area, by XRSTOR's rule for components that it has not."""
    area = xsave.ljust(1024, b"\0")
    has = int.from_bytes(area[512:520], "little") if xsave else 0
    legacy = area[:512] if has & X87 else FCW.to_bytes(2, "little").ljust(512, b"\0")
    _put(page, 0x400, int.from_bytes(legacy[16:24], "little"))  # DP
    _put(page, 0x408, _mxcsr(area, has), 4)
    places = {4: 0x40C, 2: 0x40E, 0: 0x410, 6: 0x412}  # FTW, FSW, FCW, FOP
    for at, to in places.items():
        page[to : to + 2] = legacy[at : at + 2]
    page[0x418:0x420] = legacy[8:16]  # RIP
    for n in range(8):
        register = legacy[32 + 16 * n : 48 + 16 * n]
        page[0x420 + 8 * n : 0x428 + 8 * n] = register[:8]
        page[0x460 + 2 * n : 0x462 + 2 * n] = register[8:10]
    if has & SSE:
        page[0x470:0x570] = area[160:416]
    if has & YMM:
        page[0x570:0x670] = area[576:832].ljust(256, b"\0")


def _mxcsr(area: bytes, has: int) -> int:
    return int.from_bytes(area[24:28], "little") if has & (SSE | YMM) else MXCSR
