"""What is mapped beside the launch: pages of a finalized TD, and why pages are small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvmplan import plan_image, simulate
from cvmplan.core.errors import PlanError
from cvmplan.core.spans import Spans
from cvmplan.operations.plan import PreFaultMemory
from cvmplan.platforms.tdx.ops import TdxInitMemRegion
from cvmplan.platforms.tdx.steps import LateMemSeptAdd, MemPageAug, MrFinalize
from tests.manifests import document, region, run_on
from tests.oracles.firmware import Refused
from tests.plans import guest as guest_of
from tests.plans import memory, op
from tests.plans import simulate as answers_of
from tests.property.launches import Kind, commands, replay
from tests.run import run

PAGE: Final = 4096
LARGE: Final = 2 << 20
Document = dict[str, Any]


# --- a TD after its end --------------------------------------------------------------------------


def test_trace_shows_what_the_module_is_asked_after_the_end() -> None:
    """TDH.MEM.SEPT.ADD top down for the first page of a 1 GiB region, then TDH.MEM.PAGE.AUG."""
    ranges = ("--prefault", "0x40000000+0x3000", "--prefault", "0x60000000-0x60000fff")
    out = run("trace", "--example", "tdx", "--abi", "kvm-7.3", *ranges).out
    after = [" ".join(line.split()) for line in out.partition("TDH.MR.FINALIZE")[2].splitlines()]
    told = [line.partition("TDH.")[2] for line in after if "TDH." in line]
    assert [line.removesuffix(" count 1") for line in told] == [
        "MEM.SEPT.ADD level 2 gpa 0x40000000",
        "MEM.SEPT.ADD level 1 gpa 0x40000000",
        "MEM.PAGE.AUG 0x40000000-0x40002fff",
        "MEM.SEPT.ADD level 1 gpa 0x60000000",
        "MEM.PAGE.AUG 0x60000000-0x60000fff",
    ]


@pytest.mark.parametrize("abi", ["map-memory", "kvm-6.16", "kvm-7.3"])
@pytest.mark.parametrize("gpaw", [48, 52])
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pages=st.lists(
        st.tuples(st.sampled_from([0x7FE, 0x40000, 0xFFFF0, 1 << 27]), st.integers(0, 1200),
                  st.integers(1, 600)),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_the_module_takes_what_a_mapping_asks_and_its_simulation_counts_it(
    abi: str, gpaw: int, pages: list[tuple[int, int, int]]
) -> None:
    """
    A model of the TDX module takes every command of the trace: each page once, its table first.

    The digest is that without the mappings.  The simulator, which shares nothing with the
    trace, tells the same numbers of tables and pages.
    """
    ranges = [f"{(first + more) * PAGE:#x}+{count * PAGE:#x}" for first, more, count in pages]
    made = plan_image("example:tdx", abi=abi, gpaw=gpaw, prefault=ranges)
    without = plan_image("example:tdx", abi=abi, gpaw=gpaw)
    kind = Kind("tdx", gpaw=gpaw)
    done = commands(made)
    assert replay(kind, done) == replay(kind, commands(without))
    tables = sum(isinstance(step, LateMemSeptAdd) for step in done)
    augmented = sum(isinstance(step, MemPageAug) for step in done)
    outcome = simulate(made)
    assert not outcome.refused
    assert outcome.finalized
    end = next(n for n, r in enumerate(outcome.results) if r.op == "tdx-finalize")
    told = [r.answer.why for r in outcome.results[end + 1 :]]
    assert sum(counted(why, "TDH.MEM.PAGE.AUG of ") for why in told) == augmented
    assert sum(counted(why, "TDH.MEM.SEPT.ADD of ") for why in told) == tables


def counted(why: str, command: str) -> int:
    """The number behind a command's name, 0 where it is not named."""
    return int(why.partition(command)[2].split()[0]) if command in why else 0


def test_the_model_of_the_module_refuses_a_page_twice_and_one_without_a_table() -> None:
    kind = Kind("tdx")
    done = commands(plan_image("example:tdx", abi="kvm-7.3", prefault=["0x40000000+0x1000"]))
    assert isinstance(done[-1], MemPageAug)
    for wrong in ([*done, done[-1]], [*done[:-2], done[-1]]):
        with pytest.raises(Refused):
            replay(kind, wrong)


def test_pages_that_were_added_or_are_shared_are_not_augmented() -> None:
    made = plan_image("example:tdx", abi="kvm-7.3")
    added = next(one for one in made.ops if isinstance(one, TdxInitMemRegion))
    shared = PreFaultMemory(1 << 40, PAGE)  # no memory is private there
    again = made.__class__(
        made.platform, made.vmm, made.abi,
        (*made.ops, PreFaultMemory(added.gpa, added.size), shared),
    )  # fmt: skip
    assert isinstance([*again.trace()][-1], MrFinalize)


@pytest.mark.parametrize("abi", ["kvm-6.16", "kvm-7.3"])
def test_before_the_end_a_mapping_is_refused(abi: str) -> None:
    """Documentation/virt/kvm/api.rst, KVM_PRE_FAULT_MEMORY: EOPNOTSUPP until it is finalized."""
    early = op("pre-fault-memory", 0x1000, PAGE)
    answers = answers_of("tdx", guest_of("tdx", early), abi)
    assert answers.errors() == [("pre-fault-memory", "EOPNOTSUPP")]
    made = plan_image("example:tdx", abi=abi)
    ops = [*made.ops[:-1], PreFaultMemory(0x1000, PAGE), made.ops[-1]]
    with pytest.raises(PlanError, match="before the guest is finalized"):
        [*made.__class__(made.platform, made.vmm, made.abi, tuple(ops)).trace()]


def test_a_mapping_with_the_shared_bit_is_refused() -> None:
    late = [*guest_of("tdx"), op("pre-fault-memory", 1 << 47, PAGE)]
    assert answers_of("tdx", late, "kvm-7.3").errors() == [("pre-fault-memory", "EINVAL")]
    result = run(
        "trace", "--example", "tdx", "--abi", "kvm-7.3", "--prefault", "0x7ffffffff000+0x2000"
    )
    assert (result.code, "0x800000001000" in result.err) == (1, True)


def test_what_is_taken_out_of_a_set_is_no_longer_in_it() -> None:
    spans = Spans([(0, 10), (20, 30), (40, 50)])
    spans.discard(5, 45)
    assert [*spans] == [(0, 5), (45, 50)]
    assert [*spans.inside(3, 48)] == [(3, 5), (45, 48)]


# --- memory behind a user-space address ----------------------------------------------------------


def of_manifest(folder: Path, **more: Any) -> Document:
    """The trace of a default VM with one region of 4 MiB and one page."""
    regions = (region("0x200000", "mapped", size="4MiB"), region("0x900000", "mapped"))
    result = run_on(folder, "trace", document(*regions, platform="default", **more),
                    "--format", "json")  # fmt: skip
    assert result.code == 0
    made: Document = json.loads(result.out)
    return made


def test_trace_says_which_pages_of_a_default_vm_are_small_and_why(tmp_path: Path) -> None:
    """Linux maps by 2 MiB where user space has large pages (booted kernels 6.12 to 7.3)."""
    large, small = of_manifest(tmp_path)["mappings"]
    assert (large["level"], "why" in large) == (hex(LARGE), False)
    assert small["level"] == hex(PAGE)
    assert "no huge page is advised (MADV_HUGEPAGE) for all of 0x800000-0x9fffff" in small["why"]
    regions = (region("0x200000", "mapped", size="4MiB"), region("0x900000", "mapped"))
    text = run_on(tmp_path, "trace", document(*regions, platform="default")).out
    assert text.startswith("no firmware commands\n")
    assert "2 MiB" in text


SLOT: Final = op("set-memslot", 0, 8 << 20, slot=0)
ADVICE: Final = op("madvise", 0, 8 << 20, advice="hugepage")
WRITE: Final = op("write", LARGE, PAGE, source={"zeros": True})
VCPU: Final = op("create-vcpu", count=1)
SMALL: Final = {
    "no large page is asked for": (
        "default", [SLOT], "no huge page is advised (MADV_HUGEPAGE) for all of 0x200000-0x3fffff",
    ),
    "a part is not advised": (
        "default", [SLOT, op("madvise", LARGE, LARGE - PAGE, advice="hugepage")],
        "no huge page is advised (MADV_HUGEPAGE) for all of 0x200000-0x3fffff",
    ),
    "small pages came first": (
        "default", [SLOT, WRITE, ADVICE],
        "there were 4 KiB pages, written or mapped before the advice, in 0x200000-0x3fffff",
    ),
    "the slot begins later": (
        "default", [op("set-memslot", LARGE + PAGE, LARGE, slot=3), op("madvise", LARGE + PAGE,
                    LARGE, advice="hugepage")],
        "slot 3 does not contain all of 0x200000-0x3fffff",
    ),
    "a neighbour is private": (
        "sw-protected", [op("create-gmem", size=8 << 20, gmem=0), op("set-memslot", 0, 8 << 20,
                         slot=0, gmem=0), ADVICE, op("set-private", LARGE, PAGE)],
        "there is private memory in 0x200000-0x3fffff",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_each_reason_for_small_pages_is_named(name: str) -> None:
    platform, setup, why = SMALL[name]
    ops = [op("create-vm", vm_type=platform), *setup, VCPU,
           op("pre-fault-memory", LARGE + PAGE, 2 * PAGE)]  # fmt: skip
    (found,) = [r for r in answers_of(platform, ops, "kvm-7.3").results if "mapped" in r]
    assert found["mapped"]["level"] == hex(PAGE)
    assert found["why"].endswith(why)
    assert found["why"].startswith("4 KiB pages at 0x201000-0x2")


def test_a_large_page_has_no_reason() -> None:
    ops = [op("create-vm", vm_type="default"), SLOT, ADVICE, WRITE, VCPU,
           op("pre-fault-memory", LARGE + PAGE, 2 * PAGE)]  # fmt: skip
    (found,) = [r for r in answers_of("default", ops, "kvm-7.3").results if "mapped" in r]
    assert (found["mapped"]["level"], found.get("why")) == (hex(LARGE), None)


def test_memory_of_a_guest_memfd_has_no_reason() -> None:
    ops = [op("create-vm", vm_type="sw-protected"), *memory(), VCPU,
           op("pre-fault-memory", LARGE, LARGE)]  # fmt: skip
    (found,) = [r for r in answers_of("sw-protected", ops, "kvm-7.3").results if "mapped" in r]
    assert (found["mapped"]["level"], found.get("why")) == (hex(PAGE), None)
