"""
The VMSA: the page that holds a vCPU's initial state, measured as a whole.

Layout: AMD 24593, APM volume 2, appendix B, "VMSA Layout"; the names are the manual's, in
lower case, segments as `cs.selector`.  Only fields that some VMM sets have a name here;
all other bytes are zero in every launch known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cvmplan.core.errors import ConfigError
from cvmplan.core.values import PAGE

_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "gdtr", "ldtr", "idtr", "tr")
_SEGMENT = {"selector": (0, 2), "attrib": (2, 2), "limit": (4, 4), "base": (8, 8)}
_REGISTERS: dict[str, tuple[int, int]] = {
    "vmpl": (0xCA, 1), "cpl": (0xCB, 1), "efer": (0xD0, 8), "xss": (0x140, 8), "cr4": (0x148, 8),
    "cr3": (0x150, 8), "cr0": (0x158, 8), "dr7": (0x160, 8), "dr6": (0x168, 8),
    "rflags": (0x170, 8), "rip": (0x178, 8), "rsp": (0x1D8, 8), "rax": (0x1F8, 8),
    "cr2": (0x240, 8), "g_pat": (0x268, 8), "pkru": (0x2E8, 4), "tsc_aux": (0x2EC, 4),
    "rcx": (0x308, 8), "rdx": (0x310, 8), "rbx": (0x318, 8), "rbp": (0x328, 8),
    "rsi": (0x330, 8), "rdi": (0x338, 8), "r8": (0x340, 8), "r9": (0x348, 8), "r10": (0x350, 8),
    "r11": (0x358, 8), "r12": (0x360, 8), "r13": (0x368, 8), "r14": (0x370, 8),
    "r15": (0x378, 8), "sev_features": (0x3B0, 8), "virtual_tom": (0x3C8, 8), "xcr0": (0x3E8, 8),
    "x87_dp": (0x400, 8), "mxcsr": (0x408, 4), "x87_ftw": (0x40C, 2), "x87_fsw": (0x40E, 2),
    "x87_fcw": (0x410, 2), "x87_fop": (0x412, 2), "x87_rip": (0x418, 8),
}  # fmt: skip

FIELDS: Final[dict[str, tuple[int, int]]] = {
    f"{segment}.{part}": (index * 16 + at, size)
    for index, segment in enumerate(_SEGMENTS)
    for part, (at, size) in _SEGMENT.items()
} | _REGISTERS
"""Field name to (offset in the page, size in bytes)."""

# What the processor has after INIT and KVM keeps, whatever the VMM (APM volume 2, table
# 14-1 "Initial Processor State"; EFER.SVME, CR4.MCE and DR6 as KVM leaves them).  Checked
# against an EPYC Milan report.
RESET: Final[Mapping[str, int]] = {
    **{f"{segment}.limit": 0xFFFF for segment in _SEGMENTS},
    **{f"{segment}.attrib": 0x93 for segment in ("es", "ss", "ds", "fs", "gs")},
    "cs.attrib": 0x9B, "ldtr.attrib": 0x82, "tr.attrib": 0x8B, "cs.selector": 0xF000,
    "efer": 0x1000, "cr0": 0x10, "cr4": 0x40, "dr6": 0xFFFF0FF0, "dr7": 0x400, "rflags": 2,
    "xcr0": 1, "g_pat": 0x7040600070406,
}  # fmt: skip

BOOT_EIP: Final = 0xFFFFFFF0  # the reset vector


def real_mode_entry(eip: int) -> dict[str, int]:
    """Return the fields that start a vCPU in real mode at the 32-bit address `eip`."""
    return {"cs.base": eip & 0xFFFF0000, "rip": eip & 0xFFFF}


def vmsa_page(states: Iterable[Mapping[str, int]]) -> bytes:
    """
    Return the 4096-byte VMSA with the fields of `states`; a later one wins.

    ConfigError for a field that is not in the layout or a value too large for it.
    """
    page = bytearray(PAGE)
    for state in states:
        for name, value in state.items():
            if name not in FIELDS:
                raise ConfigError(f"the VMSA has no field {name!r}")
            offset, size = FIELDS[name]
            if not 0 <= value < 1 << 8 * size:
                raise ConfigError(f"VMSA field {name}: {value:#x} does not fit in {size} bytes")
            page[offset : offset + size] = value.to_bytes(size, "little")
    return bytes(page)


_KVM_SETS: Final = {"efer": 0x1000, "cr4": 0x40, "rflags": 0x2}
"""Bits that KVM sets itself.  Sources: linux 7.3.4 arch/x86/kvm/svm/svm.c, svm_set_efer,
svm_set_cr4 (EFER.SVME; CR4.MCE as the host has it, which every host does); arch/x86/kvm/x86.c,
__set_regs (X86_EFLAGS_FIXED)."""
_KVM_CUTS: Final = {
    **{f"{segment}.attrib": 0xFFF for segment in _SEGMENTS},
    **dict.fromkeys(("gdtr.limit", "idtr.limit"), 0xFFFF),
}
"""Fields of which KVM has fewer bits: uapi/asm/kvm.h, struct kvm_segment, kvm_dtable."""
_KVM_KEEPS: Final = {"rdx": 0x600, "mxcsr": 0x1F80, "x87_fcw": 0x37F}
_NOT_GIVEN: Final = frozenset(
    {"vmpl", "cpl", "cr2", "pkru", "tsc_aux", "virtual_tom", "sev_features"}
    | {f"{table}.{part}" for table in ("gdtr", "idtr") for part in ("selector", "attrib")}
)
_GIVEN: Final = tuple(name for name in FIELDS if name not in _NOT_GIVEN)
"""Fields that KVM can be given, by KVM_SET_SREGS, _REGS, _DEBUGREGS, _MSRS, _XCRS and _XSAVE."""


def value_of(page: bytes, name: str) -> int:
    """Return the value of a field of a VMSA."""
    offset, size = FIELDS[name]
    return int.from_bytes(page[offset : offset + size], "little")


def kvm_page(
    page: bytes, carried: Sequence[str] | None, *more: Mapping[str, int], sets: Mapping[str, int]
) -> bytes:
    """
    Return the VMSA that KVM measures after a loader has set the vCPU to the state in `page`.

    `carried` are the fields that the loader sets, None for all that KVM can be given; the others
    keep KVM's reset values.  `sets` are bits that the loader sets beside them, `more` fields that
    beat those of the page.  SEV_FEATURES are those of the launch, which are the file's.
    """
    names = (*(_GIVEN if carried is None else carried), "sev_features")
    given = {name: value_of(page, name) & _KVM_CUTS.get(name, -1) for name in names}
    for name, bits in (*sets.items(), *_KVM_SETS.items()):
        given[name] = given.get(name, RESET.get(name, 0)) | bits
    return vmsa_page((RESET, real_mode_entry(BOOT_EIP), _KVM_KEEPS, given, *more))


def first_beyond(page: bytes, taken: Sequence[str]) -> int | None:
    """Return the offset of the first byte that is set outside the fields `taken`, or None."""
    rest = bytearray(page)
    for name in taken:
        offset, size = FIELDS[name]
        rest[offset : offset + size] = bytes(size)
    return next((at for at, byte in enumerate(rest) if byte), None)
