"""
Small random launches of every platform, and the fake firmware fed with their single commands.

A launch is made of runs of pages that share no page.  What each page holds is computed here from
the bytes that were drawn, so that the fakes check the commands' contents too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import shake_128
from typing import Final

from hypothesis import strategies as st

from cvmplan.core.blob import Blob
from cvmplan.core.platform import Platform
from cvmplan.memory.contents import Contents, Filled, Made, Zeros
from cvmplan.operations.plan import CreateVcpu, MapMemory, Op, Plan
from cvmplan.operations.steps import Step
from cvmplan.platforms.sev import ops as sev_ops
from cvmplan.platforms.sev import steps as sev_steps
from cvmplan.platforms.snp import ops as snp_ops
from cvmplan.platforms.snp import steps as snp_steps
from cvmplan.platforms.tdx import ops as tdx_ops
from cvmplan.platforms.tdx import steps as tdx_steps
from tests.oracles.firmware import PAGE, VMSA_GPA, FakePsp, FakeSev, FakeTdxModule

GRANULE: Final = 16  # bytes of LAUNCH_UPDATE_DATA
POLICY: Final = 0x30000
SPANS: Final = (1 << 21, 1 << 30, 1 << 39, 1 << 48)  # what one secure-EPT table maps, by level


@dataclass(frozen=True)
class Kind:
    """A platform, and how its pages are mapped and measured."""

    platform: str
    gpaw: int = 48
    two_pass: bool = False

    @property
    def end(self) -> int:
        """The end of the private addresses."""
        return 1 << (self.gpaw - 1)


KINDS: Final = {
    "snp": Kind("snp"),
    "sev": Kind("sev"),
    "sev_es": Kind("sev-es"),
    "tdx_4_levels_single_pass": Kind("tdx"),
    "tdx_4_levels_two_pass": Kind("tdx", two_pass=True),
    "tdx_5_levels_single_pass": Kind("tdx", 52),
    "tdx_5_levels_two_pass": Kind("tdx", 52, two_pass=True),
}


@dataclass(frozen=True)
class Run:
    """Bytes [gpa, gpa + size) of one page type; where `data` ends, zeros follow."""

    gpa: int
    size: int
    page_type: str
    data: bytes
    form: str  # how the contents are given: blob, made, zeros, or who fills the pages

    @property
    def contents(self) -> Contents:
        """The contents as an operation refers to them."""
        if self.form == "blob":
            around = b"\x55" * 7
            return Blob("image", memoryview(around + self.data + around)).slice(
                7, 7 + len(self.data)
            )
        if self.form == "made":
            zeros = len(self.data) - len(self.data.lstrip(b"\0"))
            at = min(zeros, PAGE - 1)
            return Made(self.data[at:], at)
        return Zeros() if self.form == "zeros" else Filled(self.form)

    @property
    def whole(self) -> bytes:
        """Every byte of the run."""
        return self.data.ljust(self.size, b"\0")

    @property
    def map(self) -> MapMemory:
        """The mapping of its pages."""
        first = self.gpa - self.gpa % PAGE
        return MapMemory(first, -(-(self.gpa + self.size) // PAGE) * PAGE - first)

    @property
    def cuts(self) -> range:
        """Where it can be cut into two runs that share no page, in bytes from its start."""
        return range(PAGE - self.gpa % PAGE, self.size, PAGE)

    def part(self, start: int, end: int) -> Run:
        """Bytes [start, end) of it."""
        data = self.data[start:end]
        return Run(self.gpa + start, end - start, self.page_type, data, self.form)


@dataclass(frozen=True)
class Launch:
    """Runs in launch order, and the vCPUs, all but the first with the same VMSA."""

    kind: Kind
    runs: tuple[Run, ...]
    vcpus: int = 0

    @property
    def states(self) -> list[tuple[range, bytes]]:
        """Runs of vCPUs and their VMSA."""
        vcpus = (range(min(self.vcpus, 1)), range(1, self.vcpus))
        return [(span, noise(1000 + n, PAGE)) for n, span in enumerate(vcpus) if span]

    def adds(self, run: Run) -> list[Op]:
        """The call that adds a run."""
        gpa, size, contents = run.gpa, run.size, run.contents
        if self.kind.platform == "snp":
            page_type = snp_steps.PageType[run.page_type.upper()]
            return [snp_ops.SnpLaunchUpdate(gpa, size, page_type, contents)]
        if self.kind.platform == "tdx":
            measured = run.page_type == "measured" and not self.kind.two_pass
            return [tdx_ops.TdxAdd(gpa, size, measured, contents)]
        return [sev_ops.SevLaunchUpdateData(gpa, size, contents)]

    def extends(self, run: Run) -> list[Op]:
        """The call that extends a run of its own, in two passes."""
        if self.kind.two_pass and run.page_type == "measured":
            return [tdx_ops.TdxExtend(run.gpa, run.size)]
        return []

    def group(self, run: Run, *parts: Run) -> list[Op]:
        """All calls for one run, which may be handed over in parts."""
        pieces = parts or (run,)
        adds = [op for piece in pieces for op in self.adds(piece)]
        return [run.map, *adds, *(op for piece in pieces for op in self.extends(piece))]

    def head(self) -> list[Op]:
        """The calls before the first run."""
        if self.kind.platform == "snp":
            return [snp_ops.SnpLaunchStart(POLICY)]
        if self.kind.platform == "tdx":
            return [tdx_ops.TdxInitVm(0, 0), CreateVcpu(2), tdx_ops.TdxInitVcpu(2, 0x809000)]
        return [sev_ops.SevLaunchStart(1)]

    def tail(self) -> list[Op]:
        """The calls after the last run."""
        if self.kind.platform == "snp":
            vmsas = (snp_ops.Vmsa(vcpus, VMSA_GPA, page) for vcpus, page in self.states)
            return [snp_ops.SnpLaunchFinish(tuple(vmsas))]
        if self.kind.platform == "tdx":
            return [tdx_ops.TdxFinalize()]
        end: list[Op] = [sev_ops.SevLaunchMeasure(), sev_ops.SevLaunchFinish()]
        if self.kind.platform == "sev":
            return end
        pages = tuple(sev_ops.Vcpus(vcpus, page) for vcpus, page in self.states)
        return [sev_ops.SevLaunchUpdateVmsa(pages), *end]

    def plan_of(self, body: Iterable[Op]) -> Plan:
        """The plan with these calls between head and tail."""
        ops = (*self.head(), *body, *self.tail())
        return Plan(
            Platform(self.kind.platform), "", "map-memory", ops, given={"gpaw": self.kind.gpaw}
        )

    def plan(self) -> Plan:
        """The plan: each run mapped, added and extended before the next."""
        return self.plan_of(op for run in self.runs for op in self.group(run))


# --- strategies --------------------------------------------------------------------------------


def noise(seed: int, length: int, zero_pages: Iterable[int] = ()) -> bytes:
    """Bytes without pattern, but for some pages of zeros."""
    data = bytearray(shake_128(seed.to_bytes(8, "little")).digest(length))
    for page in zero_pages:
        start, end = page * PAGE, min(page * PAGE + PAGE, length)
        data[start:end] = bytes(max(end - start, 0))
    return bytes(data)


FORMS: Final = ("blob", "blob", "made", "zeros")
PAGE_TYPES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "snp": {"normal": FORMS, "zero": ("zeros",), "unmeasured": ("zeros", "parameters", "blob"),
            "secrets": ("secrets",), "cpuid": ("cpuid",)},
    "tdx": {"measured": FORMS, "unmeasured": (*FORMS, "hob")},
    "sev": {"measured": FORMS},
    "sev-es": {"measured": FORMS},
}  # fmt: skip
"""Platform to page type to the forms that its contents may have."""


@st.composite
def runs(draw: st.DrawFn, kind: Kind, gpa: int, pages: int) -> Run:
    """A run on `pages` pages from `gpa`; on SEV it may begin and end inside a page."""
    types = PAGE_TYPES[kind.platform]
    page_type = draw(st.sampled_from([*types, next(iter(types))]))
    form = draw(st.sampled_from(types[page_type]))
    size = pages * PAGE
    if kind.platform.startswith("sev"):
        start = draw(st.integers(0, 3)) * GRANULE
        gpa, size = gpa + start, size - start - draw(st.integers(0, 3)) * GRANULE
    if form not in ("blob", "made"):
        return Run(gpa, size, page_type, b"", form)
    length = draw(st.sampled_from([size, size - 1, 1]) | st.integers(1, size))
    zero_pages = draw(st.sets(st.integers(0, pages - 1), max_size=2))
    return Run(gpa, size, page_type, noise(draw(st.integers(0, 99)), length, zero_pages), form)


@st.composite
def launches(draw: st.DrawFn, kind: Kind, fewest: int = 0, shortest: int = 1) -> Launch:
    """
    At least `fewest` runs in any order, some of them across the border of a table.

    `shortest`: each has at least so many pages; at most 4.
    """
    start = draw(st.sampled_from([0, 0x800000, kind.end - 0x100000]))
    made: list[Run] = []
    for _ in range(draw(st.integers(fewest, 5))):
        gpa = start + draw(st.sampled_from([0, 0, PAGE, 3 * PAGE]))
        border = draw(st.sampled_from([PAGE, PAGE, *SPANS]))
        crossing = -(-gpa // border) * border - draw(st.integers(0, 2)) * PAGE
        if gpa <= crossing < kind.end - 0x100000:
            gpa = crossing
        length = draw(st.integers(shortest, 4))
        made.append(draw(runs(kind, gpa, length)))
        start = gpa + length * PAGE
    return Launch(kind, tuple(draw(st.permutations(made))), draw(st.integers(0, 3)))


# --- the fakes ---------------------------------------------------------------------------------


def commands(plan: Plan) -> list[Step]:
    """Every single command of a plan."""
    return [command for step in plan.trace() for command in step.commands()]


def replay(kind: Kind, trace: Sequence[Step]) -> bytes:
    """The digest that the platform's fake has after these commands; Refused."""
    if kind.platform == "snp":
        psp = FakePsp()
        for step in trace:
            _psp(psp, step)
        return psp.digest
    if kind.platform == "tdx":
        module = FakeTdxModule(kind.gpaw)
        for step in trace:
            _tdx(module, step)
        return module.digest
    sev = FakeSev()
    for step in trace:
        _sev(sev, step)
    return sev.digest


def contents_of(contents: Contents, size: int) -> bytes:
    """The bytes of one command; those that the host fills are zero here."""
    data = b""
    if isinstance(contents, Blob):
        data = bytes(contents.data)
    elif isinstance(contents, Made):
        data = bytes(contents.at) + contents.data
    assert len(data) <= size
    return data.ljust(size, b"\0")


def _psp(fake: FakePsp, step: Step) -> None:
    match step:
        case snp_steps.LaunchStart():
            fake.launch_start(step.policy)
        case snp_steps.LaunchUpdate():
            fake.launch_update(step.page_type, step.gpa, contents_of(step.contents, step.size))
        case snp_steps.VmsaUpdate():
            assert len(step.vcpus) == 1
            fake.launch_update(2, step.gpa, step.page)
        case snp_steps.LaunchFinish():
            fake.launch_finish()
        case _:
            raise TypeError(step)


def _tdx(fake: FakeTdxModule, step: Step) -> None:
    match step:
        case tdx_steps.MngInit():
            fake.mng_init()
        case tdx_steps.VpInit(count=1):
            fake.vp_init()
        case tdx_steps.MemSeptAdd(count=1):
            fake.mem_sept_add(step.level, step.gpa)
        case tdx_steps.MemPageAdd():
            fake.mem_page_add(step.gpa, contents_of(step.contents, step.size))
        case tdx_steps.MrExtend(size=0x100):
            fake.mr_extend(step.gpa)
        case tdx_steps.MrFinalize():
            fake.mr_finalize()
        case tdx_steps.MemPageAug(size=0x1000):
            fake.mem_page_aug(step.gpa)
        case _:
            raise TypeError(step)


def _sev(fake: FakeSev, step: Step) -> None:
    match step:
        case sev_steps.LaunchStart():
            fake.launch_start()
        case sev_steps.LaunchUpdateData():
            fake.update_data(contents_of(step.contents, step.size))
        case sev_steps.LaunchUpdateVmsa():
            assert len(step.vcpus) == 1
            fake.update_vmsa(step.page)
        case sev_steps.LaunchMeasure():
            fake.measure()
        case sev_steps.LaunchFinish():
            fake.finish()
        case _:
            raise TypeError(step)
