"""Cases about memory: memslots, guest_memfds and attributes."""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.host.cases.words import (
    BOTH,
    END,
    LOG,
    PAGE,
    PRIVATE,
    READONLY,
    SHARED,
    VCPU,
    WHOLE,
    M,
    advise,
    attributes,
    gmem,
    prefault,
    punch,
    slot,
    write,
)


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


def of_capabilities() -> Iterator[tuple[str, tuple[str, ...]]]:
    """What a VM says it has: USER_MEMORY2 to PRE_FAULT_MEMORY, GUEST_MEMFD_FLAGS; SEV's call."""
    asked = tuple(f"capability {number}" for number in (231, 232, 233, 234, 235, 236, 244))
    yield "capabilities", (*asked, "encrypt 0", VCPU, "encrypt 1")


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


def of_shared_gmem() -> Iterator[tuple[str, tuple[str, ...]]]:
    """guest_memfds that user space maps (from 6.18 on), and that begin shared."""
    mapped = (gmem(4 * M, flags=3), slot(0, 4 * M, gmem=0, how="gmem"), VCPU)
    yield "gmem-only-mapped", (
        gmem(M, flags=1), "touch 0 0x0", slot(0, M, gmem=0), VCPU, prefault(0, PAGE),
        prefault(0, M),
    )  # fmt: skip
    yield "gmem-touched", (gmem(M, flags=3), "touch 0 0x0", "touch 0 0xff000", "touch 0 0x100000")
    yield "gmem-is-the-memory", (
        *mapped, "touch 0 0x0", prefault(0, PAGE), prefault(0, 4 * M), punch(0, M),
        prefault(0, PAGE), prefault(0, 4 * M),
    )  # fmt: skip
    yield "gmem-advised", (*mapped, advise(0, 4 * M, "hugepage"), prefault(0, 4 * M))
    yield "gmem-given-back", (
        *mapped, prefault(0, M), advise(0, M, "dontneed"), prefault(0, M), write(0, PAGE),
        prefault(0, M),
    )  # fmt: skip
    yield "gmem-other-memory-beside", (
        gmem(4 * M, flags=3), slot(0, 4 * M, gmem=0), advise(0, 4 * M, "hugepage"),
        write(0, 4 * M), VCPU, prefault(0, 4 * M),
    )  # fmt: skip
    yield "gmem-attributes", (
        *mapped, attributes(0, M, PRIVATE), "attributes2 0 0x0 0x100000 8", prefault(0, M),
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
    yield "private-without-memslot", (
        attributes(0, M, PRIVATE), slot(M, M), VCPU, prefault(0, PAGE), prefault(M, PAGE),
    )  # fmt: skip
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

    yield "attributes-with-holes", (
        gmem(8 * M), slot(0, 8 * M, gmem=0), advise(0, 8 * M, "hugepage"), VCPU,
        attributes(0, PAGE, PRIVATE), attributes(2 * PAGE, PAGE, PRIVATE),
        attributes(4 * PAGE, PAGE, PRIVATE), prefault(0, 8 * M), attributes(2 * PAGE, PAGE, SHARED),
        attributes(PAGE, PAGE, PRIVATE), prefault(0, 8 * PAGE), prefault(0, 8 * M),
    )  # fmt: skip
    yield "attributes-on-the-file", (
        gmem(M), slot(0, M, gmem=0), "attributes2 0 0x0 0x100000 8", VCPU, prefault(0, PAGE),
    )  # fmt: skip
