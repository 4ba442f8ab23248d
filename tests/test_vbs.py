"""VBS: the chain against digests of the igvm crate, and against a fold that is all spec."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from struct import unpack_from
from typing import Any, Final

import pytest

from cvmplan.core.blob import Blob
from cvmplan.core.errors import CvmplanError, MapError, PlanError
from cvmplan.core.platform import VBS
from cvmplan.kvm.abi import IMPORT
from cvmplan.launch.guest import Guest
from cvmplan.launch.model import Image, Launch
from cvmplan.memory.contents import Contents, DigestAfter, Filled, Made, Zeros
from cvmplan.memory.gpamap import GpaMap
from cvmplan.memory.regions import Region, Role
from cvmplan.operations.measure import Coverage, measure, measure_steps
from cvmplan.operations.plan import CreateVcpu, CreateVm, Op, Plan
from cvmplan.operations.steps import Step, in_order
from cvmplan.platforms.vbs import planner, steps
from cvmplan.platforms.vbs.ops import ImportComplete, ImportPage, ImportRegisters, Lowering
from cvmplan.profiles import PROFILES
from tests.oracles import vector

PAGE = 4096
RIP = (0x20010, (0xFFF0).to_bytes(16, "little"))
CR0 = (0x40000, (0x11).to_bytes(16, "little"))


def launch(*ops: Op) -> Plan:
    """A VBS launch with these calls in its middle."""
    return Plan(VBS, "", "isolated-import", (CreateVm(VBS), CreateVcpu(1), *ops, ImportComplete()))


def noise(seed: int, size: int) -> bytes:
    """Bytes of which no page is like another."""
    chunks = (sha256(b"%d %d" % (seed, n)).digest() for n in range(size // 32 + 1))
    return b"".join(chunks)[:size]


# --- the same, straight from the spec -----------------------------------------------------------


def little(*fields: tuple[int, int]) -> bytes:
    """Fields as (value, bytes), little endian."""
    return b"".join(value.to_bytes(size, "little") for value, size in fields)


def contents_of(contents: Contents) -> bytes:
    """The bytes of one page."""
    match contents:
        case Blob():
            return bytes(contents.data).ljust(PAGE, b"\0")
        case Made(data, at):
            return (bytes(at) + data).ljust(PAGE, b"\0")
        case _:
            return bytes(PAGE)


def naive(trace: Iterable[Step]) -> bytes:
    """The digest of single commands, by igvm.md 2.3 and nothing else."""
    digest = bytes(32)
    for run in trace:
        for one in run.commands():
            if isinstance(one, steps.ImportPages):
                assert one.size == PAGE
                metadata = one.acceptance | (0 if one.measured else 4)
                chunk = little((4128, 4), (2, 4), (0, 8), (metadata, 8), (one.gpa // PAGE, 8))
                chunk += contents_of(one.contents) if one.measured else bytes(PAGE)
                assert len(chunk) == 4128
            elif isinstance(one, steps.ImportRegisters):
                ((name, value),) = one.registers
                chunk = little((48, 4), (0, 4), (0, 8), (0, 4), (one.vtl, 1), (0, 1), (0, 2))
                chunk += little((0, 4), (name, 4)) + value
                assert len(chunk) == 48
            else:
                continue
            digest = sha256(digest + chunk).digest()
    return digest


BIG = Blob("x", memoryview(noise(1, 5 * PAGE)))
MIXED: Final[dict[str, tuple[Op, ...]]] = {
    "nothing": (),
    "whole pages": (ImportPage(0x100000, 5 * PAGE, "measured", BIG),),
    "contents that end inside a page": (
        ImportPage(0, 4 * PAGE, "measured", BIG.slice(0, PAGE + 100)),
    ),
    "contents that begin inside a page": (
        ImportPage(0, 3 * PAGE, "measured", Made(noise(2, 500), at=PAGE + 8)),
    ),
    "zeros": (ImportPage((1 << 52) - 2 * PAGE, 2 * PAGE, "measured", Zeros()),),
    "unmeasured contents": (ImportPage(0, 2 * PAGE, "unmeasured", BIG.slice(0, 2 * PAGE)),),
    "an error range": (ImportPage(0, 2 * PAGE, "error-range", Zeros()),),
    "all of them and registers": (
        ImportPage(0x10000, PAGE, "measured", BIG.slice(0, PAGE)),
        ImportPage(0, 3 * PAGE, "unmeasured", Filled("parameters")),
        ImportPage(0x40000, PAGE, "error-range", Zeros()),
        ImportPage(0x30000, 2 * PAGE, "measured", Zeros()),
        ImportRegisters(2, (RIP, CR0)),
        ImportRegisters(0, (CR0,)),
    ),
}


@pytest.mark.parametrize("ops", MIXED.values(), ids=MIXED)
def test_the_fold_over_runs_is_the_naive_fold_over_commands(ops: tuple[Op, ...]) -> None:
    plan = launch(*ops)
    single = [one for run in plan.trace() for one in run.commands()]
    digest = naive(plan.trace())
    assert measure(plan).digest == digest
    assert measure_steps(VBS, single).digest == digest


def test_every_launch_above_has_a_digest_of_its_own() -> None:
    assert len({measure(launch(*ops)).digest for ops in MIXED.values()}) == len(MIXED)


def test_an_error_range_is_a_shared_page_without_contents() -> None:
    chunk = little((4128, 4), (2, 4), (0, 8), (7, 8), (5, 8)) + bytes(PAGE)
    result = measure(launch(ImportPage(5 * PAGE, PAGE, "error-range", BIG.slice(0, PAGE))))
    assert result.digest == sha256(bytes(32) + chunk).digest()


def test_a_measurement_says_what_it_covers() -> None:
    result = measure(launch(*MIXED["all of them and registers"]))
    assert result[:3] == ("vbs", "BOOT_DIGEST", "sha256")
    assert result.coverage == Coverage(contents=3, host_filled=4, vmsas=2)


def test_sixteen_megabytes_of_zeros_cost_no_memory_and_measure_as_their_pages() -> None:
    size = 16 << 20
    ops = [ImportPage(at, PAGE, "measured", Zeros()) for at in range(0, size, PAGE)]
    run = launch(ImportPage(0, size, "measured", Zeros()))
    tracemalloc.start()
    try:
        digest = measure(run).digest
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 1 << 20
    assert digest == measure(launch(*ops)).digest == naive(run.trace())


# --- known answers of the igvm crate ------------------------------------------------------------

KNOWN: Final = (
    "igvm_c_test_data", "multi_v1", "overlap_page_page", "shared_pages", "unmeasured_pages",
    "vbs_basic",
)  # fmt: skip
TWICE: Final = "overlap_page_page"
VSM_ISOLATION: Final = 1
IS_2MB, UNMEASURED, SHARED = 1, 2, 4


def known() -> dict[str, dict[str, Any]]:
    """What is known of each file that has a VBS platform."""
    valid = json.loads(vector("igvm/vectors.json"))["valid"]
    return {row["name"]: row for row in valid if "VSM_ISOLATION" in row["platforms"]}


def variable_headers(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each variable header."""
    at, size = unpack_from("<II", data, 8)
    end = at + size
    while at < end:
        kind, length = unpack_from("<II", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + -(-length // 8) * 8


def registers_at(data: bytes, offset: int) -> ImportRegisters:
    """What the file data of a VP context sets."""
    (count,) = unpack_from("<I", data, offset)
    rows = [unpack_from("<BI11s16s", data, offset + 4 + n * 32) for n in range(count)]
    assert all(mbz == bytes(11) for _, _, mbz, _ in rows)
    (vtl,) = {vtl for vtl, *_ in rows}
    return ImportRegisters(vtl, tuple((name, value) for _, name, _, value in rows))


def igvm_ops(data: bytes) -> tuple[Op, ...]:
    """The calls of the VBS platform of an IGVM file; a parser for these few files."""
    pages: list[Op] = []
    registers: list[Op] = []
    areas: dict[int, int] = {}
    mine = 0
    for kind, body in variable_headers(data):
        if kind == 0x1:
            mask, _, platform, _, _ = unpack_from("<IBBHQ", body)
            mine |= mask if platform == VSM_ISOLATION else 0
        elif kind == 0x301:
            size, index, _ = unpack_from("<QII", body)
            areas[index] = size
        elif kind in (0x302, 0x303, 0x304, 0x30D):
            gpa, mask, field = unpack_from("<QII", body)
            if not mask & mine:
                continue
            if kind == 0x302:
                flags, data_type = unpack_from("<IH", body, 16)
                assert data_type == 0
                assert not flags & IS_2MB
                source = Made(data[field : field + PAGE]) if field else Zeros()
                page_type = "unmeasured" if flags & UNMEASURED else "measured"
                if not flags & SHARED:
                    pages.append(ImportPage(gpa, PAGE, page_type, source))
            elif kind == 0x303:
                pages.append(ImportPage(gpa, areas[field], "unmeasured", Filled("parameters")))
            elif kind == 0x304:
                registers.append(registers_at(data, field))
            else:
                pages.append(ImportPage(gpa, field, "error-range", Zeros()))
    return (*pages, *registers)


def known_ops(name: str) -> tuple[tuple[Op, ...], str]:
    """The calls of a known file, and its digest by the crate."""
    row = known()[name]
    data = vector(f"igvm/{row['file']}")
    assert sha256(data).hexdigest() == row["sha256"]
    return igvm_ops(data), row["expected"]["VSM_ISOLATION"]["igvm_crate"]


def test_every_file_with_vbs_is_a_known_answer() -> None:
    assert sorted(known()) == sorted(KNOWN)


@pytest.mark.parametrize("name", [n for n in KNOWN if n != TWICE])
def test_an_igvm_file_measures_as_the_crate_says(name: str) -> None:
    ops, digest = known_ops(name)
    assert measure(launch(*ops)).digest.hex() == digest


def test_a_page_given_twice_is_no_plan_though_the_crate_measures_it() -> None:
    ops, digest = known_ops(TWICE)
    with pytest.raises(PlanError, match="the page at 0x1000 was added before"):
        measure(launch(*ops))
    apart = [step for op in ops for step in op.lower(Lowering(VBS, {}))]
    assert measure_steps(VBS, [*apart, steps.Complete()]).digest.hex() == digest


# --- what is refused ----------------------------------------------------------------------------


def pages(
    gpa: int = 0,
    size: int = PAGE,
    acceptance: int = 0,
    measured: bool = True,
    contents: Contents | None = None,
) -> steps.ImportPages:
    """A legal run of pages, unless told otherwise."""
    return steps.ImportPages(gpa, size, acceptance, measured, contents or Zeros())


ILLEGAL: Final[dict[str, Callable[[], Step]]] = {
    "an unaligned page": lambda: pages(gpa=1),
    "half a page": lambda: pages(size=2048),
    "no page": lambda: pages(size=0),
    "a negative page": lambda: pages(gpa=-PAGE),
    "a page past 52 bits": lambda: pages(gpa=1 << 52),
    "a run past 52 bits": lambda: pages(gpa=(1 << 52) - PAGE, size=2 * PAGE),
    "three bits of acceptance": lambda: pages(acceptance=4),
    "a negative acceptance": lambda: pages(acceptance=-1),
    "more contents than pages": lambda: pages(contents=Made(bytes(PAGE + 1))),
    "measured contents that nobody knows": lambda: pages(contents=Filled("parameters")),
    "a digest of another chain": lambda: pages(measured=False, contents=DigestAfter(bytes(48))),
    "VTL 3": lambda: steps.ImportRegisters(3, (RIP,)),
    "VTL -1": lambda: steps.ImportRegisters(-1, (RIP,)),
    "no register": lambda: steps.ImportRegisters(0, ()),
    "a register value of 8 bytes": lambda: steps.ImportRegisters(0, ((RIP[0], bytes(8)),)),
    "a register name of 33 bits": lambda: steps.ImportRegisters(0, ((1 << 32, bytes(16)),)),
    "a negative register name": lambda: steps.ImportRegisters(0, (RIP, (-1, bytes(16)))),
}


@pytest.mark.parametrize("make", ILLEGAL.values(), ids=ILLEGAL)
def test_an_illegal_step_cannot_be_made(make: Callable[[], Step]) -> None:
    with pytest.raises(PlanError):
        make()


REGISTERS: Final = steps.ImportRegisters(0, (RIP,))
OUT_OF_ORDER: Final[dict[str, list[Step]]] = {
    "nothing": [],
    "no end": [pages()],
    "registers and no end": [pages(), REGISTERS],
    "a page after registers": [REGISTERS, pages(), steps.Complete()],
    "a page after the end": [steps.Complete(), pages()],
    "registers after the end": [steps.Complete(), REGISTERS],
    "two ends": [steps.Complete(), steps.Complete()],
}


@pytest.mark.parametrize("trace", OUT_OF_ORDER.values(), ids=OUT_OF_ORDER)
def test_steps_out_of_order_are_refused(trace: list[Step]) -> None:
    with pytest.raises(PlanError):
        list(in_order(trace, steps.ORDER))
    with pytest.raises(PlanError):
        measure_steps(VBS, trace)


REFUSED: Final[dict[str, tuple[tuple[Op, ...], str]]] = {
    "a page added twice": (
        (
            ImportPage(0, 2 * PAGE, "measured", Zeros()),
            ImportPage(PAGE, PAGE, "unmeasured", Filled("parameters")),
        ),
        "op 3 (import-page): the page at 0x1000 was added before",
    ),
    "a page type of another platform": (
        (ImportPage(0, PAGE, "normal", Zeros()),),
        "op 2 (import-page): vbs has no page type 'normal'",
    ),
    "measured pages that the host fills": (
        (ImportPage(0, PAGE, "measured", Filled("parameters")),),
        "op 2 (import-page): the VMM fills these pages at launch (parameters): not measurable",
    ),
    "registers before a page": (
        (ImportRegisters(0, (RIP,)), ImportPage(0, PAGE, "measured", Zeros())),
        "step 1: IMPORT_PAGES after IMPORT_REGISTERS",
    ),
    "a page after the end": (
        (ImportComplete(), ImportPage(0, PAGE, "measured", Zeros())),
        "step 1: IMPORT_PAGES after COMPLETE_IMPORT",
    ),
    "a VTL that there is not": (
        (ImportRegisters(15, (RIP,)),),
        "op 2 (import-registers): registers of VTL 15, there are 0 to 2",
    ),
}


@pytest.mark.parametrize(("ops", "why"), REFUSED.values(), ids=REFUSED)
def test_an_illegal_launch_has_no_measurement(ops: tuple[Op, ...], why: str) -> None:
    with pytest.raises(CvmplanError) as caught:
        measure(launch(*ops))
    assert str(caught.value) == why


# --- planning -----------------------------------------------------------------------------------


def vbs_launch(*regions: Region, image: Image | None = None) -> Launch:
    """A launch of these regions on two vCPUs."""
    profile = next(iter(PROFILES.values()))
    return Launch(VBS, "x.igvm", profile, IMPORT, Guest(vcpus=2), regions, image)


def region(gpa: int, page_type: str, contents: Contents | None = None) -> Region:
    """One page of a type."""
    return Region(gpa, PAGE, Role.REGION, f"page {gpa:#x}", page_type, contents)


def test_a_launch_imports_pages_in_order_and_registers_last() -> None:
    regions = (
        region(0x3000, "measured", BIG.slice(0, PAGE)),
        region(0x9000, "shared"),
        region(0x1000, "unmeasured", Filled("parameters")),
        region(0x2000, "error-range"),
        region(0x0000, "measured"),
    )
    states = ((2, (RIP, CR0)), (1, ()), (0, (CR0,)))
    wanted = vbs_launch(*regions, image=Image(BIG, regions, registers=states))
    layout = planner.layout(wanted)
    assert layout.regions == regions
    assert [(f.rule, f.origins) for f in layout.findings] == [
        ("unmeasured-contents", ("page 0x1000", "page 0x2000"))
    ]
    gpa_map = GpaMap.of(layout.regions, layout.limits, findings=layout.findings)
    assert list(planner.operations(wanted, gpa_map)) == [
        CreateVm(VBS),
        CreateVcpu(2),
        ImportPage(0x3000, PAGE, "measured", BIG.slice(0, PAGE)),
        ImportPage(0x1000, PAGE, "unmeasured", Filled("parameters")),
        ImportPage(0x2000, PAGE, "error-range", Zeros()),
        ImportPage(0x0000, PAGE, "measured", Zeros()),
        ImportRegisters(2, (RIP, CR0)),
        ImportRegisters(0, (CR0,)),
        ImportComplete(),
    ]


def test_a_launch_without_an_image_has_no_registers() -> None:
    wanted = vbs_launch(region(0, "measured"))
    layout = planner.layout(wanted)
    ops = list(planner.operations(wanted, GpaMap.of(layout.regions, layout.limits)))
    assert [op.name for op in ops] == [
        "create-vm", "create-vcpu", "import-page", "import-complete",
    ]  # fmt: skip


def test_a_region_past_52_bits_is_no_map() -> None:
    layout = planner.layout(vbs_launch(region(1 << 52, "measured")))
    with pytest.raises(MapError, match="the 52 bits of a physical address"):
        GpaMap.of(layout.regions, layout.limits)
