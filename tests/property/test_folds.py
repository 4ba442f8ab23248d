"""The digest folds over runs of pages, against fake firmware that takes single commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cvmplan.core.errors import PlanError
from cvmplan.core.platform import Platform
from cvmplan.memory.contents import DigestAfter
from cvmplan.operations.measure import measure, measure_steps
from cvmplan.operations.plan import MapMemory, Op
from cvmplan.operations.steps import Step
from cvmplan.platforms.sev.steps import LaunchUpdateData
from cvmplan.platforms.snp.ops import SnpLaunchUpdate
from cvmplan.platforms.snp.steps import LaunchUpdate, PageType
from cvmplan.platforms.tdx.steps import LEVEL_SPAN, MemPageAdd, MemSeptAdd, MrExtend
from tests.oracles.firmware import PAGE, FakePsp, Refused
from tests.property.launches import (
    GRANULE,
    KINDS,
    PAGE_TYPES,
    POLICY,
    Kind,
    Launch,
    Run,
    commands,
    contents_of,
    launches,
    noise,
    replay,
)

few = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
ADDS: Final = (LaunchUpdate, MemPageAdd, LaunchUpdateData)


def body(launch: Launch) -> list[list[Op]]:
    """The calls for each run."""
    return [launch.group(run) for run in launch.runs]


def flat(groups: Sequence[Sequence[Op]]) -> list[Op]:
    """All calls in order."""
    return [op for group in groups for op in group]


def maps(launch: Launch) -> list[Op]:
    """The mappings of all runs."""
    return [run.map for run in launch.runs]


# --- the same digest ---------------------------------------------------------------------------


@each_kind
@few
@given(data=st.data())
def test_fold_over_runs_is_the_fold_over_commands(kind: Kind, data: st.DataObject) -> None:
    plan = data.draw(launches(kind)).plan()
    single = commands(plan)
    digest = replay(kind, single)
    assert measure(plan).digest == digest
    assert measure_steps(Platform(kind.platform), single).digest == digest


SIZES: Final = (1, 10, 255, 256, 257, 512, 700)  # a batch of the fold is 256 pages
LONG: Final = {n: KINDS[n] for n in KINDS if n in ("snp", "sev") or n.startswith("tdx_4")}


@pytest.mark.parametrize("pages", SIZES)
@pytest.mark.parametrize("kind", LONG.values(), ids=LONG)
def test_fold_over_long_runs_is_the_fold_over_commands(kind: Kind, pages: int) -> None:
    page_type = next(iter(PAGE_TYPES[kind.platform]))
    size = pages * PAGE
    shapes = (
        (noise(1, size, range(3, pages, 7)), "blob"),
        (b"", "zeros"),
        (noise(2, size // 2 + 1), "blob"),
        (noise(3, size - 100), "made"),
    )
    runs = [Run(n * size, size, page_type, data, form) for n, (data, form) in enumerate(shapes)]
    plan = Launch(kind, tuple(runs)).plan()
    assert measure(plan).digest == replay(kind, commands(plan))


@each_kind
@few
@given(data=st.data())
def test_commands_carry_the_bytes_of_the_runs_each_once(kind: Kind, data: st.DataObject) -> None:
    launch = data.draw(launches(kind))
    memory = {run.gpa + at: run for run in launch.runs for at in range(0, run.size, GRANULE)}
    added: list[range] = []
    for command in commands(launch.plan()):
        if isinstance(command, (*ADDS, MrExtend)):
            run = memory[command.gpa]
            at = command.gpa - run.gpa
            wanted = run.whole[at : at + command.size]
            assert contents_of(command.contents, command.size) == wanted
        if isinstance(command, ADDS):
            added.append(range(command.gpa, command.gpa + command.size, GRANULE))
    assert sorted(address for span in added for address in span) == sorted(memory)


@few
@given(data=st.data())
def test_digest_after_a_run_stands_in_for_it(data: st.DataObject) -> None:
    launch = data.draw(launches(KINDS["snp"], fewest=1))
    first = launch.runs[0]
    psp = FakePsp()
    psp.launch_start(POLICY)
    for at in range(0, first.size, PAGE):
        page_type = PageType[first.page_type.upper()]
        psp.launch_update(page_type, first.gpa + at, first.whole[at : at + PAGE])
    known = SnpLaunchUpdate(first.gpa, first.size, PageType.NORMAL, DigestAfter(psp.running))
    rest = flat(body(launch)[1:])
    plan = launch.plan_of([first.map, known, *rest])
    assert measure(plan).digest == replay(launch.kind, commands(launch.plan()))


@each_kind
@few
@given(data=st.data())
def test_a_run_in_two_adjacent_calls_measures_alike(kind: Kind, data: st.DataObject) -> None:
    launch = data.draw(launches(kind, fewest=1, shortest=2))
    chosen = data.draw(st.integers(0, len(launch.runs) - 1))
    run = launch.runs[chosen]
    cut = data.draw(st.sampled_from(run.cuts))
    groups = body(launch)
    groups[chosen] = launch.group(run, run.part(0, cut), run.part(cut, run.size))
    digest = replay(kind, commands(launch.plan()))
    assert measure(launch.plan_of(flat(groups))).digest == digest


# --- another digest ----------------------------------------------------------------------------


@each_kind
@few
@given(data=st.data())
def test_two_runs_exchanged_measure_differently(kind: Kind, data: st.DataObject) -> None:
    launch = data.draw(launches(kind, fewest=2))
    one, other = sorted(data.draw(st.permutations(range(len(launch.runs))))[:2])
    runs = list(launch.runs)
    runs[one], runs[other] = runs[other], runs[one]
    if kind.platform.startswith("sev"):  # addresses do not count, nor do equal bytes
        before = b"".join(run.whole for run in launch.runs)
        assume(before != b"".join(run.whole for run in runs))
    exchanged = Launch(kind, tuple(runs), launch.vcpus).plan()
    digest = measure(exchanged).digest
    assert digest == replay(kind, commands(exchanged))
    assert digest != replay(kind, commands(launch.plan()))


@few
@given(data=st.data())
def test_two_passes_measure_differently_from_one(data: st.DataObject) -> None:
    launch = data.draw(launches(KINDS["tdx_4_levels_two_pass"], fewest=1))
    measured = any(run.page_type == "measured" and run.size > PAGE for run in launch.runs)
    other = Launch(KINDS["tdx_4_levels_single_pass"], launch.runs).plan()
    assert (measure(launch.plan()).digest != measure(other).digest) == measured


# --- mapping -----------------------------------------------------------------------------------


@each_kind
@few
@given(data=st.data())
def test_mapping_again_asks_nothing_of_the_firmware(kind: Kind, data: st.DataObject) -> None:
    launch = data.draw(launches(kind, fewest=1))
    groups = body(launch)
    chosen = data.draw(st.integers(0, len(groups) - 1))
    again = launch.runs[chosen].map
    first = data.draw(st.integers(0, again.size // PAGE - 1)) * PAGE
    end = data.draw(st.integers(first // PAGE + 1, again.size // PAGE)) * PAGE
    late = len(flat(groups[:chosen])) + data.draw(st.integers(1, len(flat(groups[chosen:]))))
    calls = flat(groups)
    calls.insert(late, MapMemory(again.gpa + first, end - first))
    assert commands(launch.plan_of(calls)) == commands(launch.plan())


@each_kind
@few
@given(data=st.data())
def test_when_pages_are_mapped_is_not_measured(kind: Kind, data: st.DataObject) -> None:
    launch = data.draw(launches(kind, fewest=1))
    early = data.draw(st.permutations(maps(launch)))
    plan = launch.plan_of([*early, *flat(body(launch))])
    single = commands(plan)
    assert measure(plan).digest == replay(kind, single)
    assert replay(kind, single) == replay(kind, commands(launch.plan()))
    tables = [c for c in single if isinstance(c, MemSeptAdd)]
    assert len(tables) == (expected_tables(launch) if kind.platform == "tdx" else 0)


def expected_tables(launch: Launch) -> int:
    """One table for each region of each level below the root that holds a page."""
    pages = [p for run in launch.runs for p in range(run.gpa, run.gpa + run.size, PAGE)]
    levels = (1, 2, 3) if launch.kind.gpaw == 48 else (1, 2, 3, 4)
    return sum(len({page >> (12 + 9 * level) for page in pages}) for level in levels)


# --- what is refused ---------------------------------------------------------------------------


@each_kind
@few
@given(data=st.data())
def test_adding_a_page_again_is_refused(kind: Kind, data: st.DataObject) -> None:
    launch = data.draw(launches(kind, fewest=1))
    groups = body(launch)
    chosen = data.draw(st.integers(0, len(groups) - 1))
    run = launch.runs[chosen]
    cuts = [0, *run.cuts, run.size]
    first = data.draw(st.integers(0, len(cuts) - 2))
    last = data.draw(st.integers(first + 1, len(cuts) - 1))
    again = launch.adds(run.part(cuts[first], cuts[last]))
    after = data.draw(st.integers(chosen + 1, len(groups)))
    calls = [*flat(groups[:after]), *again, *flat(groups[after:])]
    with pytest.raises(PlanError, match="was added before"):
        measure(launch.plan_of(calls))


PAGED: Final = {name: kind for name, kind in KINDS.items() if kind.platform in ("snp", "tdx")}


@pytest.mark.parametrize("kind", PAGED.values(), ids=PAGED)
@few
@given(data=st.data())
def test_firmware_refuses_an_add_that_is_repeated(kind: Kind, data: st.DataObject) -> None:
    single = commands(data.draw(launches(kind, fewest=1)).plan())
    adds = [n for n, command in enumerate(single) if isinstance(command, ADDS)]
    chosen = data.draw(st.sampled_from(adds))
    later = data.draw(st.integers(chosen + 1, len(single) - 1))
    with pytest.raises(Refused, match="was added before"):
        replay(kind, [*single[:later], single[chosen], *single[later:]])


@each_kind
@few
@given(data=st.data())
def test_firmware_refuses_commands_exchanged_illegally(kind: Kind, data: st.DataObject) -> None:
    single = commands(data.draw(launches(kind, fewest=1)).plan())
    one, other = data.draw(st.sampled_from(sorted(set(illegal_exchanges(single)))))
    single[one], single[other] = single[other], single[one]
    with pytest.raises(Refused):
        replay(kind, single)


def illegal_exchanges(single: Sequence[Step]) -> Iterator[tuple[int, int]]:
    """Pairs of commands of which the second needs the first."""
    last = len(single) - 1
    for number in range(1, last):
        yield 0, number
        yield number, last
    yield 0, last
    for number, command in enumerate(single):
        for later in range(number + 1, last):
            if needs(single[later], command):
                yield number, later


def needs(command: Step, earlier: Step) -> bool:
    """Whether a TDX command needs another before it."""
    if isinstance(command, MrExtend) and isinstance(earlier, MemPageAdd):
        return earlier.gpa == command.gpa - command.gpa % PAGE
    if isinstance(earlier, MemSeptAdd) and isinstance(command, MemPageAdd | MemSeptAdd):
        level = command.level if isinstance(command, MemSeptAdd) else 0
        inside = 0 <= command.gpa - earlier.gpa < LEVEL_SPAN[earlier.level]
        return inside and level < earlier.level
    return False


@each_kind
@few
@given(data=st.data())
def test_calls_exchanged_illegally_are_no_plan(kind: Kind, data: st.DataObject) -> None:
    launch = data.draw(launches(kind, fewest=1))
    calls = [*launch.head(), *maps(launch), *flat(body(launch)), *launch.tail()]
    start = next(n for n, op in enumerate(calls) if op.kind == "control")
    end = len(calls) - 1
    adds = [n for n, op in enumerate(calls) if op.kind == "add"]
    extends = [n for n, op in enumerate(calls) if op.kind == "extend"]
    pairs = [(start, add) for add in adds] + [(add, end) for add in adds] + [(start, end)]
    pairs += [(n - 1, n) for n in extends if adds.count(n - 1)]
    one, other = data.draw(st.sampled_from(pairs))
    calls[one], calls[other] = calls[other], calls[one]
    plan = launch.plan()
    with pytest.raises(PlanError):
        measure(type(plan)(plan.platform, "", plan.abi, tuple(calls), plan.given))


TDX: Final = {name: kind for name, kind in KINDS.items() if kind.platform == "tdx"}


@pytest.mark.parametrize("kind", TDX.values(), ids=TDX)
@few
@given(data=st.data())
def test_tdx_pages_are_mapped_before_and_added_after(kind: Kind, data: st.DataObject) -> None:
    launch = data.draw(launches(kind, fewest=1))
    chosen = data.draw(st.integers(0, len(launch.runs) - 1))
    without = body(launch)
    del without[chosen][0]
    with pytest.raises(PlanError, match="is added before it is mapped"):
        measure(launch.plan_of(flat(without)))
    waiting = body(launch)
    del waiting[chosen][1:]
    with pytest.raises(PlanError, match="is mapped, and never added"):
        measure(launch.plan_of(flat(waiting)))
