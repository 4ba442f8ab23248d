"""
The calls that kernels are asked, in cases: each begins with a VM of its own.

One list for both: `text` is what /init of the booted machine reads, `calls` are the same calls for
the simulator.  A line is a word and its arguments:

    slot NUMBER GPA SIZE GMEM OFFSET FLAGS HOW
        HOW: new memory that lies as the guest's does, askew: 4 KiB off, same: that of before,
        skew: its next page, 2m or 1g: pages of that size
    gmem NUMBER SIZE FLAGS
    vcpu NUMBER
    attributes GPA SIZE ATTRIBUTES
    prefault GPA SIZE VCPU FLAGS
    punch GMEM OFFSET SIZE
    advise GPA SIZE ADVICE
    write GPA SIZE BYTE
    run VCPU GPA
    mapgmem NUMBER SIZE
    capability NUMBER
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

DEFAULT, PROTECTED = 0, 1  # KVM_X86_DEFAULT_VM, KVM_X86_SW_PROTECTED_VM
K, M, G = 1 << 10, 1 << 20, 1 << 30
PAGE, LARGE = 4 * K, 2 * M
END: Final = 1 << 64
HLT: Final = 0xF4
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
    """madvise of the memory behind a range."""
    return f"advise {gpa:#x} {size:#x} {advice}"


def write(gpa: int, size: int, byte: int = 1) -> str:
    """User space writes."""
    return f"write {gpa:#x} {size:#x} {byte}"


def punch(offset: int, size: int, *, number: int = 0) -> str:
    """fallocate(FALLOC_FL_PUNCH_HOLE) of a guest_memfd."""
    return f"punch {number} {offset:#x} {size:#x}"


VCPU: Final = "vcpu 0"
WHOLE: Final = (slot(0, 4 * M), VCPU)  # memory of 4 MiB, and a vCPU
BOTH: Final = (gmem(4 * M), slot(0, 4 * M, gmem=0), VCPU)  # with a guest_memfd


def of_mapping() -> Iterator[tuple[str, tuple[str, ...]]]:
    """The seed: a read fault in advance, nothing where something is mapped, levels."""
    yield "a-page", (*WHOLE, prefault(0, PAGE), prefault(0, PAGE))
    yield (
        "more-than-is-mapped",
        (*WHOLE, prefault(PAGE, PAGE), prefault(0, 4 * M), prefault(0, 4 * M)),
    )
    yield "before-any-slot", (VCPU, prefault(0, PAGE))
    yield "without-a-vcpu", (slot(0, 4 * M), prefault(0, PAGE))
    yield "not-whole-pages", (*WHOLE, prefault(1, PAGE), prefault(0, 1), prefault(0, 0))
    yield "a-flag", (*WHOLE, prefault(0, PAGE, flags=1))
    yield "outside", (*WHOLE, prefault(4 * M, PAGE), prefault(G, PAGE))
    yield "past-the-slot", (*WHOLE, prefault(4 * M - PAGE, 2 * PAGE), prefault(0, 5 * M))
    yield "to-the-end-of-all", (*WHOLE, prefault(END - PAGE, PAGE), prefault(END - 2 * PAGE, PAGE))
    yield "a-hole", (
        slot(0, M), slot(2 * M, M, number=1), VCPU, prefault(0, 3 * M), prefault(2 * M, M),
    )  # fmt: skip
    yield "two-slots", (slot(0, M), slot(M, M, number=1), VCPU, prefault(0, 2 * M))
    yield "huge-pages", (slot(0, 8 * M), advise(0, 8 * M, "hugepage"), VCPU, prefault(0, 8 * M))
    yield "one-page-of-a-huge-one", (
        slot(0, 8 * M), advise(0, 8 * M, "hugepage"), VCPU, prefault(LARGE, PAGE),
        prefault(LARGE, LARGE),
    )  # fmt: skip
    yield "the-end-of-a-huge-page", (
        slot(0, 8 * M), advise(0, 8 * M, "hugepage"), VCPU, prefault(LARGE - PAGE, 2 * PAGE),
    )  # fmt: skip
    yield "huge-pages-that-a-slot-cuts", (
        slot(M, 6 * M), advise(M, 6 * M, "hugepage"), VCPU, prefault(M, 6 * M),
    )  # fmt: skip
    yield "memory-that-lies-otherwise", (
        slot(0, 8 * M, how="askew"), advise(0, 8 * M, "hugepage"), VCPU, prefault(0, 8 * M),
    )  # fmt: skip
    yield "advice-after-a-write", (
        *WHOLE, write(0, 4 * M), advise(0, 4 * M, "hugepage"), prefault(0, 4 * M),
    )  # fmt: skip
    yield "advice-after-a-mapping", (
        *WHOLE, prefault(0, PAGE), advise(0, 4 * M, "hugepage"), prefault(0, 4 * M),
    )  # fmt: skip
    yield "advice-against", (
        *WHOLE, advise(0, 4 * M, "hugepage"), advise(0, LARGE, "nohugepage"), prefault(0, 4 * M),
    )  # fmt: skip
    yield "written-then-mapped", (*WHOLE, write(0, LARGE), prefault(0, LARGE))
    yield (
        "a-write-breaks-the-zero-page",
        (*WHOLE, prefault(0, PAGE), write(0, PAGE), prefault(0, PAGE)),
    )
    yield "two-vcpus", (*WHOLE, "vcpu 1", prefault(0, M, vcpu=1), prefault(0, 2 * M, vcpu=0))
    yield "before-and-after-a-run", (
        *WHOLE, write(0, PAGE, HLT), prefault(0, PAGE), "run 0 0x10", prefault(0, M),
    )  # fmt: skip
    yield "after-the-run-of-another-vcpu", (
        *WHOLE, write(0, PAGE, HLT), "vcpu 1", "run 1 0x10", prefault(0, M), "run 0 0x20",
        prefault(0, M),
    )  # fmt: skip


def of_giving_back() -> Iterator[tuple[str, tuple[str, ...]]]:
    """What is mapped and goes away."""
    huge = (slot(0, 8 * M), advise(0, 8 * M, "hugepage"), VCPU, prefault(0, 8 * M))
    yield "dontneed", (*WHOLE, prefault(0, M), advise(0, M, "dontneed"), prefault(0, M))
    yield "dontneed-of-a-huge-page", (*huge, advise(0, LARGE, "dontneed"), prefault(0, PAGE))
    yield (
        "slot-deleted",
        (*WHOLE, prefault(0, M), slot(0, 0), prefault(0, M), slot(0, 4 * M), prefault(0, M)),
    )
    yield (
        "slot-moved",
        (
            *WHOLE,
            prefault(0, M),
            slot(8 * M, 4 * M, how="same"),
            prefault(8 * M, M),
            prefault(0, M),
        ),
    )
    yield "dirty-log-later", (*huge, slot(0, 8 * M, flags=LOG, how="same"), prefault(0, 4 * M))
    yield "dirty-log-at-once", (
        slot(0, 8 * M, flags=LOG), advise(0, 8 * M, "hugepage"), VCPU, prefault(0, 4 * M),
    )  # fmt: skip
    yield "readonly", (
        slot(0, 8 * M, flags=READONLY), advise(0, 8 * M, "hugepage"), VCPU, prefault(0, 4 * M),
    )  # fmt: skip


def of_large_backing() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Memory from hugetlbfs: levels of 2 MiB and 1 GiB."""
    yield "hugetlb-2m", (slot(0, 8 * M, how="2m"), VCPU, prefault(0, 8 * M))
    yield "hugetlb-1g", (
        slot(G, G, how="1g"), write(G, PAGE), VCPU, prefault(G, PAGE), prefault(G, G),
    )  # fmt: skip
    yield "hugetlb-1g-askew", (
        slot(G + LARGE, G, how="1g"), write(G + LARGE, PAGE), VCPU, prefault(G + LARGE, 4 * M),
    )  # fmt: skip


def of_slots() -> Iterator[tuple[str, tuple[str, ...]]]:
    """KVM_SET_USER_MEMORY_REGION and REGION2."""
    yield (
        "slot-again",
        (slot(0, M), slot(0, M, how="same"), slot(0, M, how="skew"), slot(0, 2 * M, how="same")),
    )
    yield "slot-overlaps", (slot(0, M), slot(M - PAGE, M, number=1), slot(M, M, number=1))
    yield "slot-numbers", (
        slot(0, M, number=32763), slot(M, M, number=32764), slot(2 * M, M, number=0x10000),
    )  # fmt: skip
    yield "slot-not-whole-pages", (slot(1, M), slot(0, M + 1), slot(0, 0), slot(0, M, flags=8))
    yield "slot-deleted-twice", (slot(0, M), slot(0, 0), slot(0, 0))
    yield "slot-at-the-end", (
        slot((1 << 52) - PAGE, PAGE), slot(1 << 52, PAGE, number=1), slot(END - PAGE, PAGE,
        number=2),
    )  # fmt: skip


def of_gmem() -> Iterator[tuple[str, tuple[str, ...]]]:
    """guest_memfd: sizes, flags, bindings, holes."""
    yield "gmem-sizes", (
        gmem(0), gmem(1), gmem(PAGE + 1, number=1), gmem(1 << 62, number=2), gmem(1 << 63,
        number=3),
        gmem(END - PAGE, number=4),
    )  # fmt: skip
    yield "gmem-flags", tuple(gmem(M, number=n, flags=n) for n in range(1, 9))
    yield "gmem-bound", (
        *BOTH, slot(8 * M, M, number=1, gmem=0, offset=M), slot(8 * M, M, number=1, gmem=0,
        offset=4 * M),
        slot(8 * M, M, number=1, gmem=0, offset=1), slot(8 * M, M, number=1, gmem=7),
    )  # fmt: skip
    yield "gmem-slot-changed", (
        *BOTH, slot(0, 4 * M, gmem=0, how="same"), slot(8 * M, 4 * M, gmem=0, how="same"),
        slot(0, 0, gmem=0), slot(8 * M, 4 * M, gmem=0), slot(0, 0), slot(0, 4 * M, gmem=0),
    )  # fmt: skip
    yield (
        "gmem-slot-flags",
        (gmem(M), slot(0, M, gmem=0, flags=LOG), slot(0, M, gmem=0, flags=READONLY)),
    )
    yield "gmem-prefault", (*BOTH, prefault(0, PAGE), prefault(0, 4 * M), prefault(0, 4 * M))
    yield "gmem-huge", (*BOTH, advise(0, 4 * M, "hugepage"), prefault(0, 4 * M))
    yield "gmem-punched", (
        *BOTH, prefault(0, M), punch(0, M), prefault(0, M), punch(1, PAGE), punch(0, 0),
        punch(8 * M, M),
    )  # fmt: skip
    yield (
        "gmem-mapped",
        (gmem(M), "mapgmem 0 0x1000", gmem(M, number=1, flags=1), "mapgmem 1 0x1000"),
    )
    yield "gmem-begins-shared", (
        gmem(M, flags=3), slot(0, M, gmem=0), VCPU, "mapgmem 0 0x1000", prefault(0, M), punch(0, M),
        prefault(0, PAGE),
    )  # fmt: skip


def of_attributes() -> Iterator[tuple[str, tuple[str, ...]]]:
    """KVM_SET_MEMORY_ATTRIBUTES."""
    yield "attributes", (
        *BOTH, attributes(0, 4 * M, PRIVATE), attributes(0, 4 * M, PRIVATE), attributes(0, M,
        SHARED),
        attributes(0, M, SHARED), attributes(1, PAGE, PRIVATE), attributes(0, 0, PRIVATE),
        attributes(0, M, 1),
    )  # fmt: skip
    yield "attributes-anywhere", (
        attributes(0, M, PRIVATE), attributes(1 << 51, M, PRIVATE), attributes(END - PAGE, PAGE,
        PRIVATE),
        attributes(END - 2 * PAGE, PAGE, PRIVATE),
    )  # fmt: skip
    yield (
        "private-without-gmem",
        (*WHOLE, attributes(0, M, PRIVATE), prefault(0, PAGE), prefault(M, M)),
    )
    yield "private-and-shared", (
        gmem(8 * M), slot(0, 8 * M, gmem=0), advise(0, 8 * M, "hugepage"), VCPU,
        attributes(0, M, PRIVATE), attributes(5 * M, M, PRIVATE), prefault(0, 8 * M),
        attributes(0, M, SHARED), prefault(0, 8 * M),
    )  # fmt: skip
    yield "private-later", (
        gmem(4 * M), slot(0, 4 * M, gmem=0), advise(0, 4 * M, "hugepage"), VCPU, prefault(0, 4 * M),
        attributes(M, PAGE, PRIVATE), prefault(0, 4 * M),
    )  # fmt: skip
    yield "private-punched", (
        *BOTH, attributes(0, 4 * M, PRIVATE), prefault(0, M), punch(0, M), prefault(0, M),
    )  # fmt: skip


GROUPS: Final = (of_mapping, of_giving_back, of_large_backing, of_slots, of_gmem, of_attributes)
CASES: Final = tuple(
    Case(name, vm, lines)
    for vm in (DEFAULT, PROTECTED)
    for group in GROUPS
    for name, lines in group()
)
"""Every case on a default VM, and once more on a software-protected one."""


def text() -> str:
    """Return the cases as /init reads them."""
    return "".join("\n".join((f"case {one.vm}", *one.lines)) + "\n" for one in CASES)
