"""Whatever calls a plan may hold: where cvmplan has a digest, the fake firmware has the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvmplan.core.errors import PlanError
from cvmplan.core.platform import Platform
from cvmplan.memory.contents import Made, Zeros
from cvmplan.operations.measure import measure
from cvmplan.operations.plan import MapMemory, Op, Plan
from cvmplan.operations.steps import Step
from cvmplan.platforms.sev.ops import (
    SevLaunchFinish,
    SevLaunchMeasure,
    SevLaunchStart,
    SevLaunchUpdateData,
    SevLaunchUpdateVmsa,
    Vcpus,
)
from cvmplan.platforms.snp.ops import SnpLaunchFinish, SnpLaunchStart, SnpLaunchUpdate, Vmsa
from cvmplan.platforms.snp.steps import PageType
from cvmplan.platforms.tdx.ops import TdxAdd, TdxExtend, TdxFinalize, TdxInitVcpu, TdxInitVm
from tests.oracles.firmware import PAGE, VMSA_GPA
from tests.property.launches import KINDS, POLICY, Kind, commands, noise, replay

VMSAS: Final = Vmsa(range(2), VMSA_GPA, noise(7, PAGE))
SNP: Final = KINDS["snp"]
TDX_4, TDX_5 = KINDS["tdx_4_levels_two_pass"], KINDS["tdx_5_levels_two_pass"]
DATA: Final = noise(8, 6 * PAGE)  # what the pages from 0 upwards hold, whoever adds them


def measured(kind: Kind, ops: Sequence[Op]) -> tuple[bytes, list[Step]] | None:
    """Digest and commands of a plan, None where it is refused."""
    plan = Plan(Platform(kind.platform), "", "map-memory", tuple(ops), given={"gpaw": kind.gpaw})
    try:
        return measure(plan).digest, commands(plan)
    except PlanError:
        return None


@st.composite
def one_call(draw: st.DrawFn, kind: Kind) -> Op:
    """Any call about the first six pages, or one that begins or ends a launch."""
    first = draw(st.integers(0, 5))
    count = draw(st.integers(1, min(2, 6 - first)))
    gpa, size = first * PAGE, count * PAGE
    contents = Made(DATA[gpa : gpa + size])
    calls: list[Op] = [MapMemory(gpa, size)]
    if kind.platform == "snp":
        calls += [SnpLaunchUpdate(gpa, size, t, contents) for t in PageType if t.label != "vmsa"]
        calls += [SnpLaunchStart(POLICY), SnpLaunchFinish((VMSAS,))]
    elif kind.platform == "tdx":
        adds = [TdxAdd(gpa, size, measured, contents) for measured in (True, False)]
        calls += [*adds, TdxExtend(gpa, size), TdxInitVcpu(1, 0), TdxFinalize()]
    else:
        vmsa = SevLaunchUpdateVmsa((Vcpus(range(2), VMSAS.page),))
        calls += [SevLaunchUpdateData(gpa, size, contents), vmsa, SevLaunchStart(1)]
        calls += [SevLaunchMeasure(), SevLaunchFinish()]
    return draw(st.sampled_from(calls))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_firmware_takes_whatever_a_plan_may_hold(kind: Kind, data: st.DataObject) -> None:
    begin: dict[str, list[Op]] = {
        "snp": [SnpLaunchStart(POLICY)],
        "tdx": [TdxInitVm(0, 0), TdxInitVcpu(1, 0), MapMemory(0, 6 * PAGE)],
    }
    end: dict[str, list[Op]] = {"snp": [SnpLaunchFinish((VMSAS,))], "tdx": [TdxFinalize()]}
    between = data.draw(st.lists(one_call(kind), max_size=6))
    if kind.platform == "tdx":  # nothing may wait for its add
        added = {op.gpa + at for op in between if isinstance(op, TdxAdd) for at in (0, op.size - 1)}
        pages = {gpa // PAGE for gpa in added}
        between += [TdxAdd(n * PAGE, PAGE, False, Zeros()) for n in range(6) if n not in pages]
    ops = [
        *begin.get(kind.platform, [SevLaunchStart(1)]),
        *between,
        *end.get(kind.platform, [SevLaunchMeasure(), SevLaunchFinish()]),
    ]
    answer = measured(kind, ops)
    if answer is not None:
        digest, single = answer
        assert replay(kind, single) == digest


def snp(*ops: Op) -> list[Op]:
    """An SNP launch with these calls in its middle."""
    return [SnpLaunchStart(POLICY), *ops, SnpLaunchFinish((VMSAS,))]


def td(gpa: int, *ops: Op) -> list[Op]:
    """A TD with one mapped page, and these calls."""
    begin = [TdxInitVm(0, 0), TdxInitVcpu(1, 0), MapMemory(gpa, PAGE)]
    return [*begin, *ops, TdxFinalize()]


REFUSED: Final[dict[str, tuple[Kind, list[Op]]]] = {
    "snp_page_where_the_vmsas_are": (
        SNP,
        snp(SnpLaunchUpdate(VMSA_GPA, PAGE, PageType.ZERO, Zeros())),
    ),
    "snp_vmsa_over_a_page": (
        SNP,
        snp(
            SnpLaunchUpdate(0, PAGE, PageType.NORMAL, Zeros()),
            SnpLaunchUpdate(0, PAGE, PageType.VMSA, Zeros()),
        ),
    ),
    "snp_page_past_52_bits": (
        SNP,
        snp(SnpLaunchUpdate(1 << 52, PAGE, PageType.ZERO, Zeros())),
    ),
    "tdx_page_at_the_shared_bit_of_4_levels": (
        TDX_4,
        td(1 << 47, TdxAdd(1 << 47, PAGE, False, Zeros())),
    ),
    "tdx_page_at_the_shared_bit_of_5_levels": (
        TDX_5,
        td(1 << 51, TdxAdd(1 << 51, PAGE, False, Zeros())),
    ),
    "snp_contents_longer_than_their_pages": (
        SNP,
        snp(SnpLaunchUpdate(0, PAGE, PageType.NORMAL, Made(DATA))),
    ),
}


@pytest.mark.parametrize(("kind", "ops"), REFUSED.values(), ids=REFUSED)
def test_a_plan_that_no_firmware_takes_has_no_digest(kind: Kind, ops: list[Op]) -> None:
    assert measured(kind, ops) is None
