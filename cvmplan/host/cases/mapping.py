"""Cases about mapping: the seed's rules, what goes away again, and memory in large pages."""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.host.cases.words import (
    END,
    HLT,
    LARGE,
    LOG,
    PAGE,
    READONLY,
    READS,
    TOUCHED,
    VCPU,
    WHOLE,
    WRITES,
    WRITES_ALWAYS,
    G,
    M,
    advise,
    code,
    prefault,
    slot,
    write,
)


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
    yield "written-then-mapped", (*WHOLE, write(0, LARGE), prefault(0, LARGE))
    yield (
        "a-write-breaks-the-zero-page",
        (*WHOLE, prefault(0, PAGE), write(0, PAGE), prefault(0, PAGE)),
    )


def of_advice() -> Iterator[tuple[str, tuple[str, ...]]]:
    """A level is asked for by what user space does to its memory."""
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
    yield "advice-before-a-write", (
        *WHOLE, advise(0, 4 * M, "hugepage"), write(0, PAGE), prefault(0, PAGE), prefault(0, 4 * M),
    )  # fmt: skip
    yield "collapsed-later", (
        *WHOLE, write(0, 4 * M), prefault(0, 4 * M), advise(0, 4 * M, "collapse"),
        prefault(0, PAGE), prefault(0, 4 * M),
    )  # fmt: skip
    yield "populated", (
        *WHOLE, advise(0, M, "populate-read"), prefault(0, PAGE),
        advise(0, M, "populate-write"), prefault(0, M),
    )  # fmt: skip


def of_other_vcpus() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Mappings beside runs, of the same vCPU and of others."""
    yield "two-vcpus", (*WHOLE, "vcpu 1", prefault(0, M, vcpu=1), prefault(0, 2 * M, vcpu=0))
    yield "before-and-after-a-run", (
        *WHOLE, write(0, PAGE, HLT), prefault(0, PAGE), "run 0 0x10", prefault(0, M),
    )  # fmt: skip
    yield "after-the-run-of-another-vcpu", (
        *WHOLE, write(0, PAGE, HLT), "vcpu 1", "run 1 0x10", prefault(0, M), "run 0 0x20",
        prefault(0, M),
    )  # fmt: skip
    yield "while-another-vcpu-runs", (
        *WHOLE, code(0, WRITES_ALWAYS), "vcpu 1", "start 1 0x0", prefault(0, M), prefault(0, 2 * M),
        "stop 1", prefault(0, 2 * M),
    )  # fmt: skip
    yield "huge-while-another-vcpu-runs", (
        slot(0, 8 * M), advise(0, 8 * M, "hugepage"), code(0, WRITES_ALWAYS), VCPU, "vcpu 1",
        prefault(0, PAGE), "start 1 0x0", prefault(LARGE, PAGE), prefault(0, 8 * M), "stop 1",
    )  # fmt: skip
    yield "what-the-guest-wrote", (
        *WHOLE, code(0, WRITES), prefault(0, 4 * PAGE), "run 0 0x0", prefault(0, 4 * PAGE),
        write(TOUCHED, PAGE), prefault(0, 4 * PAGE),
    )  # fmt: skip
    yield "what-the-guest-read", (
        *WHOLE, code(0, READS), prefault(0, PAGE), "run 0 0x0", prefault(TOUCHED, PAGE),
        write(TOUCHED, PAGE), prefault(TOUCHED, PAGE),
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
