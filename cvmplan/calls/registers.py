"""
The registers that a VMM gives KVM so that KVM builds a certain VMSA of them.

What KVM sets itself is left out (EFER.SVME, CR4.MCE), what no VMSA has is as after a reset.
Sources: linux arch/x86/kvm/svm/sev.c, sev_es_sync_vmsa; arch/x86/include/uapi/asm/kvm.h; AMD
24593, APM volume 2, "VMSA Layout"; Intel SDM volume 1, 13.4 (the XSAVE area).
"""

from __future__ import annotations

from typing import Final

from cvmplan.calls.record import Packed, filled
from cvmplan.kvm.layouts import STRUCTS, Field, Struct, struct
from cvmplan.kvm.packing import Value, Values, pack
from cvmplan.platforms.snp.vmsa import FIELDS, value_of

GENERAL: Final = tuple(f.name for f in STRUCTS["kvm_regs"].fields)
SEGMENTS: Final = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
TABLES: Final = ("gdt", "idt")
NAMES: Final = {"ldt": "ldtr", "gdt": "gdtr", "idt": "idtr"}
"""A kvm_sregs2 field to its name in the VMSA, where that differs."""
SVME, MCE = 1 << 12, 1 << 6
APIC_BASE, APIC_ENABLED, BOOT_CPU = 0xFEE00000, 1 << 11, 1 << 8  # Intel SDM 3, IA32_APIC_BASE
X87, SSE = 1 << 0, 1 << 1  # XSTATE_BV
FCW, MXCSR = 0x37F, 0x1F80  # what a processor has after a reset
PAT, XSS = 0x277, 0xDA0
MSR_FIELDS: Final = {PAT: "g_pat", XSS: "xss"}
BITS: Final = {"type": (0, 15), "s": (4, 1), "dpl": (5, 3), "present": (7, 1), "avl": (8, 1),
               "l": (9, 1), "db": (10, 1), "g": (11, 1)}  # fmt: skip
"""Part of a kvm_segment to its place and mask in a VMSA's attributes."""


XSAVE: Final = struct(
    "kvm_xsave",
    "cwd:2 swd:2 twd:2 fop:2 rip:8 rdp:8 mxcsr:4 mxcsr_mask:4 st_space:128 xmm_space:256 "
    "reserved:96 xstate_bv:8 xcomp_bv:8 reserved_header:48 extended:3520",
    "Intel SDM volume 1, 13.4: what KVM has as a region of bytes",
)


def general(page: bytes) -> Packed:
    """Return kvm_regs: the general registers, RIP and RFLAGS of a VMSA (4096 bytes)."""
    values = {name: value_of(page, name) for name in GENERAL}
    return filled(STRUCTS["kvm_regs"], values)


def system(page: bytes, vcpu: int) -> Packed:
    """Return kvm_sregs2: segments, tables and control registers of the VMSA of a vCPU."""
    values: dict[str, Value] = {name: _segment(page, NAMES.get(name, name)) for name in SEGMENTS}
    values |= {name: _table(page, NAMES[name]) for name in TABLES}
    values |= {name: value_of(page, name) for name in ("cr0", "cr2", "cr3")}
    values |= {"cr4": value_of(page, "cr4") & ~MCE, "efer": value_of(page, "efer") & ~SVME}
    values |= {"cr8": 0, "flags": 0, "pdptrs": bytes(32)}
    values["apic_base"] = APIC_BASE | APIC_ENABLED | (0 if vcpu else BOOT_CPU)
    return filled(STRUCTS["kvm_sregs2"], values)


def _segment(page: bytes, name: str) -> dict[str, int | bytes | str]:
    attributes = value_of(page, f"{name}.attrib")
    made: dict[str, int | bytes | str] = {
        part: value_of(page, f"{name}.{part}") for part in ("base", "limit", "selector")
    }
    made |= {part: attributes >> at & mask for part, (at, mask) in BITS.items()}
    return made | {"unusable": int(not made["present"])}


def _table(page: bytes, name: str) -> dict[str, int | bytes | str]:
    return {"base": value_of(page, f"{name}.base"), "limit": value_of(page, f"{name}.limit")}


def debug(page: bytes) -> Packed:
    """Return kvm_debugregs: DR6 and DR7; DR0 to DR3 are 0."""
    dr6, dr7 = value_of(page, "dr6"), value_of(page, "dr7")
    return filled(STRUCTS["kvm_debugregs"], {"db": bytes(32), "dr6": dr6, "dr7": dr7, "flags": 0})


def extended(page: bytes) -> Packed:
    """Return kvm_xcrs: XCR0."""
    one = pack(STRUCTS["kvm_xcr"], {"xcr": 0, "value": value_of(page, "xcr0")})[0]
    return filled(STRUCTS["kvm_xcrs"], {"nr_xcrs": 1, "flags": 0, "xcrs": one.ljust(256, b"\0")})


def fpu(page: bytes, *, measured: bool) -> Packed:
    """
    Return kvm_xsave: the x87 and SSE state of a VMSA, in the standard form.

    Where KVM does not measure it (KVM_SEV_ES_INIT) it is that of a reset.
    """
    names = {"cwd": "x87_fcw", "swd": "x87_fsw", "twd": "x87_ftw", "fop": "x87_fop",
             "rip": "x87_rip", "rdp": "x87_dp", "mxcsr": "mxcsr"}  # fmt: skip
    state = {name: value_of(page, field) for name, field in names.items()}
    if not measured:
        state |= {"cwd": FCW, "mxcsr": MXCSR}
    at = FIELDS["x87_rip"][0] + 8  # eight registers: their mantissas, then their exponents
    parts = ((page[at + 8 * n : at + 8 * n + 8], page[at + 64 + 2 * n :][:2]) for n in range(8))
    stack = b"".join((low + high).ljust(16, b"\0") for low, high in parts)
    values: Values = {
        **state, "mxcsr_mask": 0, "st_space": stack, "xmm_space": page[at + 80 : at + 336],
        "xstate_bv": X87 | SSE, "xcomp_bv": 0, "extended": b"",
    }  # fmt: skip
    return filled(XSAVE, values)


def msrs(page: bytes) -> Packed:
    """Return kvm_msrs with its entries: PAT and XSS."""
    values: dict[str, Value] = {"nmsrs": len(MSR_FIELDS)}
    for number, (index, name) in enumerate(MSR_FIELDS.items()):
        values |= {
            f"entries[{number}].index": index,
            f"entries[{number}].data": value_of(page, name),
        }
    return filled(_MSRS, values)


def _with_entries(count: int) -> Struct:
    """Return kvm_msrs with what follows it."""
    head, entry = STRUCTS["kvm_msrs"], STRUCTS["kvm_msr_entry"]
    fields = [*head.fields]
    for number in range(count):
        start = head.size + number * entry.size
        for name, at, size in entry.fields:
            fields.append(Field(f"entries[{number}].{name}", start + at, size))
    return Struct(head.name, head.size + count * entry.size, tuple(fields), head.source)


_MSRS: Final = _with_entries(len(MSR_FIELDS))
