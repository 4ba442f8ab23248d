"""
The language of the cases that kernels are asked; each case begins with a VM of its own.

The same lines are read by `check --on-host`, by the /init of a machine that tests boot, and as the
calls of a plan by the simulator.  A line is a word and its arguments:

    slot NUMBER GPA SIZE GMEM OFFSET FLAGS HOW
        HOW: new memory that lies as the guest's does, askew: 4 KiB off, same: that of before,
        skew: its next page, 2m or 1g: pages of that size, gmem: the guest_memfd itself, mapped
    gmem NUMBER SIZE FLAGS
    vcpu NUMBER
    attributes GPA SIZE ATTRIBUTES
    attributes2 GMEM OFFSET SIZE ATTRIBUTES
    prefault GPA SIZE VCPU FLAGS
    punch GMEM OFFSET SIZE
    advise GPA SIZE ADVICE
    write GPA SIZE BYTE
    code GPA HEX                user space writes a program
    run VCPU GPA                real mode, up to a HLT
    start VCPU GPA              the same in a thread of its own
    stop VCPU                   a signal ends it
    mapgmem NUMBER SIZE
    touch GMEM OFFSET           user space writes a byte into its mapping of a guest_memfd
    capability NUMBER           KVM_CHECK_EXTENSION of the VM
    encrypt VCPU                KVM_MEMORY_ENCRYPT_OP: 0 of the VM, 1 of vCPU 0
"""

from __future__ import annotations

from typing import Final, NamedTuple

DEFAULT, PROTECTED = 0, 1  # KVM_X86_DEFAULT_VM, KVM_X86_SW_PROTECTED_VM
K, M, G = 1 << 10, 1 << 20, 1 << 30
PAGE, LARGE = 4 * K, 2 * M
END: Final = 1 << 64
HLT: Final = 0xF4
WRITES: Final = "c606002001f4"  # mov byte [0x2000], 1; hlt
READS: Final = "a00020f4"  # mov al, [0x2000]; hlt
WRITES_ALWAYS: Final = "fe060020ebfa"  # inc byte [0x2000], and again
TOUCHED: Final = 0x2000  # the page of these programs
PRIVATE, SHARED = 8, 0
LOG, READONLY = 1, 2  # flags of a memslot


class Case(NamedTuple):
    """A name, the type of the VM, and calls as lines."""

    name: str
    vm: int
    lines: tuple[str, ...]


def slot(
    gpa: int, size: int, *, number: int = 0, gmem: int | None = None, offset: int = 0,
    flags: int = 0, how: str = "new",
) -> str:  # fmt: skip
    """KVM_SET_USER_MEMORY_REGION, with a guest_memfd REGION2."""
    file = "-" if gmem is None else gmem
    return f"slot {number} {gpa:#x} {size:#x} {file} {offset:#x} {flags} {how}"


def gmem(size: int, *, number: int = 0, flags: int = 0) -> str:
    """KVM_CREATE_GUEST_MEMFD."""
    return f"gmem {number} {size:#x} {flags}"


def prefault(gpa: int, size: int, *, vcpu: int = 0, flags: int = 0) -> str:
    """KVM_PRE_FAULT_MEMORY, and the loop over its rest."""
    return f"prefault {gpa:#x} {size:#x} {vcpu} {flags}"


def attributes(gpa: int, size: int, value: int) -> str:
    """KVM_SET_MEMORY_ATTRIBUTES."""
    return f"attributes {gpa:#x} {size:#x} {value}"


def advise(gpa: int, size: int, advice: str) -> str:
    """User space advises the kernel about the memory behind a range."""
    return f"advise {gpa:#x} {size:#x} {advice}"


def write(gpa: int, size: int, byte: int = 1) -> str:
    """User space writes."""
    return f"write {gpa:#x} {size:#x} {byte}"


def code(gpa: int, program: str) -> str:
    """User space writes a program, in hex."""
    return f"code {gpa:#x} {program}"


def punch(offset: int, size: int, *, number: int = 0) -> str:
    """fallocate(FALLOC_FL_PUNCH_HOLE) of a guest_memfd."""
    return f"punch {number} {offset:#x} {size:#x}"


VCPU: Final = "vcpu 0"
WHOLE: Final = (slot(0, 4 * M), VCPU)  # memory of 4 MiB, and a vCPU
BOTH: Final = (gmem(4 * M), slot(0, 4 * M, gmem=0), VCPU)  # with a guest_memfd
