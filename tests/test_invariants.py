"""The invariants of the architecture that no other test file is about (I2, I6 are properties)."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import cvmplan
from cvmplan import plan_image
from cvmplan.core.errors import CvmplanError, PlanError
from cvmplan.core.platform import Platform
from cvmplan.kvm.memory import PunchHole, SetMemslot, SetPrivate, SetShared, Write
from cvmplan.memory.contents import DigestAfter, Filled, Made, Zeros
from cvmplan.operations.measure import measure
from cvmplan.operations.plan import MapMemory, Plan, PreFaultMemory
from cvmplan.operations.steps import Step, in_order
from cvmplan.platforms.sev import steps as sev
from cvmplan.platforms.sev.ops import SevLaunchUpdateData
from cvmplan.platforms.snp import steps as snp
from cvmplan.platforms.snp.ops import SnpLaunchStart, SnpLaunchUpdate
from cvmplan.platforms.tdx import steps as tdx
from cvmplan.platforms.tdx.ops import TdxAdd, TdxExtend, TdxFinalize, TdxInitVcpu, TdxInitVm
from tests.build.ovmf import good_snp, good_tdx
from tests.run import run

ROOT = Path(cvmplan.__file__).parent
LAUNCHES: dict[str, Callable[[], Plan]] = {
    "snp": lambda: plan_image(good_snp().build(), vcpus=3),
    "snp-ec2": lambda: plan_image(good_snp().build(), vmm="ec2"),
    "sev": lambda: plan_image(good_snp().build(), platform="sev"),
    "sev-es": lambda: plan_image(good_snp().build(), platform="sev-es", vcpus=2),
    "tdx": lambda: plan_image(good_tdx().build()),
    "tdx-two-pass": lambda: plan_image(good_tdx().build(), vmm="qemu-8.2-tdx"),
    "tdx-52": lambda: plan_image(good_tdx().build(), gpaw="52"),
}


# What hashes no page: files of identities, TDINFO, keys, evidence, event logs, boot.
OTHER_HASHES = {
    "planning/read.py", "platforms/tdx/report.py", "eventlog/rtmr.py", "eventlog/search.py",
    "eventlog/dstack.py",
    "platforms/snp/idblock.py", "evidence/tdx_signatures.py", "images/pe.py",
    "boot/event_data.py", "boot/node.py",
}  # fmt: skip


def test_i1_launch_hashes_are_made_in_the_folds_only() -> None:
    """Only a `digest` module hashes pages, and what it takes is a trace."""
    for path in ROOT.rglob("*.py"):
        if str(path.relative_to(ROOT)) not in OTHER_HASHES:
            assert "sha384(" not in path.read_text() or path.name == "digest.py", path
    for platform in ("snp", "tdx", "sev", "vbs", "vm"):
        tree = ast.parse((ROOT / "platforms" / platform / "digest.py").read_text())
        public = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[0] != "_"]
        folds = [f for f in public if f.name != "page_links"]  # which chains nothing
        taken = {ast.unparse(a.annotation) for f in folds for a in f.args.args if a.annotation}
        links = {"bytes", "LaunchUpdate", "VmsaUpdate", "Chains"}  # of a chain: one step each
        assert taken <= {"Platform", "Iterable[Step]", "Iterable[tuple[Step, bytes]]", *links}, (
            platform
        )


ILLEGAL_STEPS: dict[str, Callable[[], Step]] = {
    "an unaligned page": lambda: snp.LaunchUpdate(snp.PageType.NORMAL, 1, 4096, Zeros()),
    "half a page": lambda: snp.LaunchUpdate(snp.PageType.ZERO, 0, 2048, Zeros()),
    "no page": lambda: snp.LaunchUpdate(snp.PageType.ZERO, 0, 0, Zeros()),
    "a page past 2^64": lambda: snp.LaunchUpdate(snp.PageType.ZERO, 2**64 - 4096, 8192, Zeros()),
    "a negative page": lambda: snp.LaunchUpdate(snp.PageType.ZERO, -4096, 4096, Zeros()),
    "a short VMSA": lambda: snp.VmsaUpdate(0, range(1), bytes(4095)),
    "no vCPU": lambda: snp.VmsaUpdate(0, range(0), bytes(4096)),
    "a short digest": lambda: snp.LaunchUpdate(
        snp.PageType.NORMAL, 0, 4096, DigestAfter(bytes(47))
    ),
    "an unaligned TD page": lambda: tdx.MemPageAdd(256, 4096, Zeros()),
    "an unaligned chunk": lambda: tdx.MrExtend(1, 256, Zeros()),
    "half a chunk": lambda: tdx.MrExtend(0, 128, Zeros()),
    "a table of level 0": lambda: tdx.MemSeptAdd(0, 0, 1),
    "a table of level 5": lambda: tdx.MemSeptAdd(5, 0, 1),
    "an unaligned table": lambda: tdx.MemSeptAdd(1, 4096, 1),
    "no table": lambda: tdx.MemSeptAdd(1, 0, 0),
    "no TD vCPU": lambda: tdx.VpInit(0, 0),
    "15 bytes of data": lambda: sev.LaunchUpdateData(0, 15, Zeros()),
    "a short SEV-ES VMSA": lambda: sev.LaunchUpdateVmsa(range(1), b""),
}


@pytest.mark.parametrize("make", ILLEGAL_STEPS.values(), ids=ILLEGAL_STEPS)
def test_i3_an_illegal_step_cannot_be_made(make: Callable[[], Step]) -> None:
    with pytest.raises(PlanError):
        make()


ZERO = snp.LaunchUpdate(snp.PageType.ZERO, 0, 4096, Zeros())
OUT_OF_ORDER: dict[str, tuple[list[Step], object]] = {
    "nothing": ([], snp.ORDER),
    "an update first": ([ZERO], snp.ORDER),
    "two starts": ([snp.LaunchStart(0), snp.LaunchStart(0)], snp.ORDER),
    "an update after the finish": ([snp.LaunchStart(0), snp.LaunchFinish(), ZERO], snp.ORDER),
    "no finish": ([snp.LaunchStart(0), ZERO], snp.ORDER),
    "a TD without vCPUs": ([tdx.MngInit(0, 0), tdx.MrFinalize()], tdx.ORDER),
    "a page before TDH.MNG.INIT": ([tdx.MemPageAdd(0, 4096, Zeros())], tdx.ORDER),
    "an extend after TDH.MR.FINALIZE": (
        [tdx.MngInit(0, 0), tdx.VpInit(1, 0), tdx.MrFinalize(), tdx.MrExtend(0, 256, Zeros())],
        tdx.ORDER,
    ),
    "SEV data after a VMSA": (
        [
            sev.LaunchStart(0),
            sev.LaunchUpdateVmsa(range(1), bytes(4096)),
            sev.LaunchUpdateData(0, 16, Zeros()),
        ],
        sev.ORDER,
    ),
    "SEV without a measure": ([sev.LaunchStart(0), sev.LaunchFinish()], sev.ORDER),
}


@pytest.mark.parametrize(("trace", "order"), OUT_OF_ORDER.values(), ids=OUT_OF_ORDER)
def test_i3_kinds_of_steps_follow_each_other_legally(trace: list[Step], order: object) -> None:
    with pytest.raises(PlanError):
        list(in_order(trace, order))  # type: ignore[arg-type]  # the table of some platform


TD_START = (TdxInitVm(0, 0), TdxInitVcpu(1, 0))
REFUSED_OPS = {
    "a page added twice": (
        "snp",
        (
            SnpLaunchStart(0x30000),
            SnpLaunchUpdate(0, 8192, snp.PageType.ZERO, Zeros()),
            SnpLaunchUpdate(4096, 4096, snp.PageType.NORMAL, Zeros()),
        ),
        "op 2 (snp-launch-update): the page at 0x1000 was added before",
    ),
    "a page added before it is mapped": (
        "tdx",
        (*TD_START, TdxAdd(0, 4096, True, Zeros())),
        "op 2 (tdx-add): the page at 0x0 is added before it is mapped",
    ),
    "a page extended before it is added": (
        "tdx",
        (
            *TD_START,
            MapMemory(0, 8192),
            TdxAdd(0, 4096, False, Zeros()),
            TdxExtend(0, 8192),
        ),
        "op 4 (tdx-extend): the page at 0x1000 is extended before it is added",
    ),
    "a page that still waits for its add": (
        "tdx",
        (*TD_START, MapMemory(0, 8192), TdxAdd(0, 4096, False, Zeros()), TdxFinalize()),
        "op 4 (tdx-finalize): the page at 0x1000 is mapped, and never added",
    ),
    "a page that is taken away again": (
        "snp",
        (
            SnpLaunchStart(0x30000),
            SnpLaunchUpdate(0, 8192, snp.PageType.ZERO, Zeros()),
            SetShared(4096, 4096),
        ),
        "op 2 (set-shared): the page at 0x1000 was added and is taken away again",
    ),
    "pages of a guest_memfd that are given back": (
        "snp",
        (SnpLaunchStart(0x30000), PunchHole(0, 0, 4096)),
        "op 1 (punch-hole): 0x1000 bytes are taken out of guest_memfd 0",
    ),
    "a page of a guest_memfd that is bound twice": (
        "snp",
        (SetMemslot(0, 0, 8192, 0), SetMemslot(1, 1 << 20, 4096, 0, 4096)),
        "op 1 (set-memslot): page 0x1000 of guest_memfd 0 is bound at two addresses",
    ),
    "a mapping before the guest is final": (
        "tdx",
        (*TD_START, PreFaultMemory(0, 4096)),
        "op 2 (pre-fault-memory): 0x1000 bytes at 0x0 are mapped before the guest is finalized",
    ),
    "a page that is written twice": (
        "snp",
        (Write(0, 8192, Made(b"x")), Write(4096, 4096, Made(b"y"))),
        "op 1 (write): the page at 0x1000 was written before",
    ),
    "a write that private memory does not show": (
        "snp",
        (SetPrivate(0, 8192, 0, preserve=True), Write(4096, 4096, Made(b"y"))),
        "op 1 (write): 0x1000 bytes at 0x1000 are private and cannot be written",
    ),
    "a write that is not preserved": (
        "snp",
        (Write(4096, 4096, Made(b"y")), SetPrivate(0, 8192, 0)),
        "op 1 (set-private): what was written at 0x1000 is not preserved",
    ),
    "a page of which nobody knows the contents": (
        "snp",
        (
            SnpLaunchStart(0x30000),
            SnpLaunchUpdate(0, 4096, snp.PageType.NORMAL, Filled("cpuid")),
        ),
        "the VMM fills these pages at launch (cpuid): not measurable",
    ),
}


@pytest.mark.parametrize(("platform", "ops", "why"), REFUSED_OPS.values(), ids=REFUSED_OPS)
def test_what_depends_on_addresses_is_refused_while_lowering(
    platform: str, ops: tuple[cvmplan.operations.plan.Op, ...], why: str
) -> None:
    with pytest.raises(CvmplanError) as caught:
        measure(Plan(Platform(platform), "qemu", "map-memory", ops))
    assert str(caught.value) == why


@pytest.mark.parametrize("name", LAUNCHES)
def test_i4_the_trace_adds_the_pages_of_the_map(name: str) -> None:
    plan = LAUNCHES[name]()
    adds = (tdx.MemPageAdd, tdx.MemPageAddExtend, snp.LaunchUpdate)
    pages = [
        page
        for step in plan.trace()
        if isinstance(step, adds)
        for page in range(step.gpa, step.gpa + step.size, 4096)
    ]
    if plan.platform.startswith("sev"):
        updates = [op for op in plan.ops if isinstance(op, SevLaunchUpdateData)]
        pages = [op.gpa // 4096 * 4096 for op in updates]
    mapped = [
        page
        for op in plan.ops
        if isinstance(op, MapMemory)
        for page in range(op.gpa, op.gpa + op.size, 4096)
    ]
    assert len(pages) == len(set(pages))
    assert set(pages) <= set(mapped)
    if not plan.platform.startswith("sev"):
        assert pages == mapped


IDENTITY = ("mrconfigid", "mrowner", "mrownerconfig")
PRINTED = {
    "snp": (
        "snp", "--vcpus", "3", "--host-data", "01" * 32, "--id-block", "02" * 96, "--id-auth",
        "03" * 4096, "--gosvw", "04" * 16, "--author-key-enabled", "--vcek-disabled",
    ),
    "snp-ec2": ("snp", "--vmm", "ec2"),
    "snp-by-digest": ("snp", "--firmware-digest", "05" * 48),
    "sev": ("snp", "--platform", "sev", "--policy", "0x3"),
    "sev-es": ("snp", "--platform", "sev-es", "--vcpus", "2", "--kernel-hash", "06" * 32),
    "tdx": ("tdx", "--vcpus", "5", "--attributes", "0x10000000", "--xfam", "0xe7"),
    "tdx-named": ("tdx", *(o for n in IDENTITY for o in (f"--{n}", f"{len(n):02x}" * 48))),
    "tdx-two-pass": ("tdx", "--vmm", "qemu-8.2-tdx"),
    "tdx-52": ("tdx", "--gpaw", "52"),
    "default": ("snp", "--platform", "default"),
}  # fmt: skip


@pytest.mark.parametrize("options", PRINTED.values(), ids=PRINTED)
def test_i5_plan_json_plan_keeps_every_operation(options: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    first = run("plan", "--example", *options, "--format", "json")
    path.write_text(first.out)
    again = run("plan", str(path), "--format", "json")
    assert first.code == again.code == 0, first.err + again.err
    assert json.loads(again.out) == json.loads(first.out)
    for option, value in zip(options[1::2], options[2::2], strict=False):
        if len(value) > 20:
            assert value in again.out, option


def test_a_map_that_covers_nothing_new_asks_for_no_table() -> None:
    ops = (*TD_START, MapMemory(0, 4096), MapMemory(0, 4096), TdxAdd(0, 4096, True, Made(b"x")))
    plan = Plan(Platform.TDX, "qemu", "map-memory", (*ops, TdxFinalize()))
    tables = [s for s in plan.trace() if isinstance(s, tdx.MemSeptAdd)]
    assert [(t.level, t.gpa, t.count) for t in tables] == [(3, 0, 1), (2, 0, 1), (1, 0, 1)]


@pytest.mark.parametrize(("gpaw", "count"), [(48, 6), (52, 7)])
def test_secure_ept_tables_of_a_four_megabyte_firmware(gpaw: int, count: int) -> None:
    """The count for [0xffc00000, 4 GiB), TD_HOB and TempMem below 16 MiB is from spec/tdx.md 2."""
    pages = ((0xFFC00000, 0x400000), (0x809000, 0x2000), (0x810000, 0x10000))
    ops = [
        op
        for gpa, size in pages
        for op in (MapMemory(gpa, size), TdxAdd(gpa, size, False, Zeros()))
    ]
    guest = {"gpaw": gpaw}
    plan = Plan(Platform.TDX, "qemu", "map-memory", (*TD_START, *ops, TdxFinalize()), guest)
    assert sum(s.count for s in plan.trace() if isinstance(s, tdx.MemSeptAdd)) == count
