"""Initial states: what IGVM loaders on KVM set, what KVM makes of it, and where an SVSM starts."""

from __future__ import annotations

from typing import Final

from cvmplan.profiles.record import HARDWARE, SOURCE, Fact, State

_PARTS = ("selector", "attrib", "limit", "base")
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
PLAIN_STATE: Final = (
    *(f"{segment}.{part}" for segment in _SEGMENTS for part in _PARTS),
    "gdtr.limit", "gdtr.base", "idtr.limit", "idtr.base", "cr0", "cr3", "cr4", "efer", "rflags",
    "rip", "rsp", "rax", "rbx", "rcx", "rdx", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11",
    "r12", "r13", "r14", "r15",
)  # fmt: skip
"""What KVM_SET_SREGS and KVM_SET_REGS set."""
WHOLE_STATE: Final = (
    *PLAIN_STATE, "gdtr.selector", "gdtr.attrib", "idtr.selector", "idtr.attrib", "g_pat", "dr6",
    "dr7", "xcr0", "mxcsr", "x87_fcw", "sev_features",
)  # fmt: skip
"""Fields that loaders take in a VMSA that they hold against what they can set."""

_FLAT = {"selector": 0x10, "attrib": 0xC93, "limit": 0xFFFFFFFF}
SVSM_STATE: Final[State] = {
    **{f"{seg}.{name}": value for seg in ("es", "ss", "ds", "fs") for name, value in _FLAT.items()},
    "cs.selector": 8, "cs.attrib": 0xC9B, "cs.limit": 0xFFFFFFFF, "cr0": 0x11,
    "rdx": "cpu_signature", "mxcsr": 0x1F80,
}  # fmt: skip
"""Where an SVSM starts each vCPU: 32-bit, flat."""

KVM_STATE: Final = (
    Fact(
        "KVM sets EFER.SVME and CR4.MCE itself, whatever the VMSA of a file says",
        "linux 7.3.4 arch/x86/kvm/svm/svm.c svm_set_efer, svm_set_cr4; each digest that signed "
        "evidence confirmed has both",
        HARDWARE,
        id="igvm-sets",
    ),
    Fact(
        "KVM sets bit 1 of RFLAGS, keeps 12 bits of a segment's attributes, 16 of the limits of "
        "GDT and IDT, and refuses DR7 with a breakpoint at the end of the launch",
        "linux arch/x86/kvm/x86.c __set_regs; arch/x86/include/uapi/asm/kvm.h struct kvm_segment, "
        "kvm_dtable; arch/x86/kvm/svm/sev.c sev_es_sync_vmsa",
        SOURCE,
        id="igvm-takes",
    ),
)
