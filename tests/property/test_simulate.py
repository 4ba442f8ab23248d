"""
Whatever a plan asks of a kernel: `simulate` answers as the page-by-page model does.

Both are held to rows of ../shared/spec/kvm.md, with the answers written out; then random plans,
most of them with faults, are given to both.  The model is tests/oracles/kernel.py.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.oracles.firmware import PAGE, VMSA_GPA
from tests.oracles.kernel import Result, run_plan
from tests.run import run

Op: TypeAlias = dict[str, Any]

KERNELS: Final = (
    "kvm-6.11", "kvm-6.16", "kvm-6.18", "kvm-6.19", "kvm-7.0", "kvm-7.1", "kvm-7.2", "kvm-7.3",
)  # fmt: skip
BEFORE_7_0: Final = KERNELS[:4]
FROM_7_0: Final = KERNELS[4:]
TDX_KERNELS: Final = KERNELS[1:]
KINDS: Final = {
    "create-gmem": "memory", "set-memslot": "memory", "set-private": "memory",
    "set-shared": "memory", "punch-hole": "memory", "madvise": "memory", "write": "memory",
    "map-memory": "map", "pre-fault-memory": "map", "tdx-page-aug": "map",
    "snp-launch-update": "add", "tdx-add": "add", "tdx-init-mem-region": "add",
    "tdx-extend": "extend",
}  # fmt: skip
ZEROS: Final = {"zeros": True}
HUGE: Final = 512  # pages of a 2 MiB mapping


def op(name: str, **fields: Any) -> Op:
    """One operation of a plan, without its number; addresses and sizes are texts."""
    texts = {"gpa", "size", "offset", "gmem_offset"}
    made = {k: hex(v) if k in texts else v for k, v in fields.items()}
    return {"seq": 0, "kind": KINDS.get(name, "control"), "op": name, **made}


def document(platform: str, abi: str, ops: list[Op], gpaw: int = 48) -> dict[str, Any]:
    """The plan of these operations."""
    return {
        "schema": "cvmplan.plan/1",
        "tool": {"name": "cvmplan", "version": "0.1.0"},
        "platform": platform,
        "vmm": "",
        "abi": abi,
        "inputs": [],
        "given": {"gpaw": gpaw} if platform == "tdx" else {},
        "assumed": {},
        "ops": [{**each, "seq": number} for number, each in enumerate(ops)],
        "measurement": None,
        "findings": [],
    }


Answer: TypeAlias = tuple[list[Result], str | None, bool]
"""Results, digest, finalized."""


def model(plan: dict[str, Any], abi: str) -> Answer:
    """What the model says."""
    outcome = run_plan(plan, abi)
    return list(outcome.results), outcome.digest, outcome.finalized


def simulate(plan: dict[str, Any], abi: str) -> Answer:
    """What the verb says, and whether exit code and document agree."""
    text = json.dumps(plan).encode()
    answer = run("simulate", "-", "--abi", abi, "--format", "json", stdin=text)
    assert answer.code in (0, 1), answer.err
    assert answer.err == ""
    found = json.loads(answer.out)
    assert found["schema"] == "cvmplan.simulation/1"
    assert found["abi"] == abi
    assert [(r["seq"], r["op"]) for r in found["results"]] == [
        (o["seq"], o["op"]) for o in plan["ops"]
    ]
    results = [result_of(r) for r in found["results"]]
    wrong = any(r.result == "error" for r in results)
    wrong = wrong or any(f["severity"] == "error" for f in found["findings"])
    assert answer.code == int(wrong)
    return results, found["digest"], found["finalized"]


def result_of(found: dict[str, Any]) -> Result:
    """One result of the document."""
    residual = found.get("residual")
    rest = (int(residual["gpa"], 0), int(residual["size"], 0)) if residual else None
    return Result(found["result"], found.get("errno"), found.get("fw_error"), rest)


WHO: Final = {"model": model, "simulate": simulate}

# --- both against the tables --------------------------------------------------------------------

GPA: Final = 0x100000
CREATE: Final = {
    "snp": (op("create-vm", vm_type="snp"), op("init", vmsa_features="0x0")),
    "tdx": (op("create-vm", vm_type="tdx"), op("tdx-init-vm", attributes="0x0", xfam="0x0")),
    "sw-protected": (op("create-vm", vm_type="sw-protected"),),
    "default": (op("create-vm", vm_type="default"),),
}
GMEM: Final = (
    op("create-gmem", gmem=0, size=4 * PAGE),
    op("set-memslot", slot=0, gpa=GPA, size=4 * PAGE, gmem=0),
)
PLAIN: Final = (op("set-memslot", slot=0, gpa=GPA, size=4 * PAGE),)
START: Final = (op("snp-launch-start", policy="0x30000"),)
VCPU: Final = (op("create-vcpu", count=1),)
VCPUS: Final = (*VCPU, op("tdx-init-vcpu", count=1, rcx="0x0"))
BOUND_AGAIN: Final = op("set-memslot", slot=1, gpa=0, size=PAGE, gmem=0)
PRIVATE: Final = op("set-private", gpa=GPA, size=PAGE)
SHARED: Final = op("set-shared", gpa=GPA, size=PAGE)
PUNCH: Final = op("punch-hole", gmem=0, offset=0, size=PAGE)
MAP: Final = op("pre-fault-memory", gpa=GPA, size=PAGE)
PURE: Final = op("map-memory", gpa=GPA, size=PAGE)
UPDATE: Final = op("snp-launch-update", gpa=GPA, size=PAGE, page_type="normal", source=ZEROS)
FINISH: Final = op("snp-launch-finish", vmsas=[])
REGION: Final = op("tdx-init-mem-region", gpa=GPA, size=PAGE, measured=True, source=ZEROS)
ADD: Final = op("tdx-add", gpa=GPA, size=PAGE, measured=True, source=ZEROS)
AUG: Final = op("tdx-page-aug", gpa=GPA, size=PAGE)
EXTEND: Final = op("tdx-extend", gpa=GPA, size=PAGE)
FINALIZE: Final = op("tdx-finalize")
WRITE: Final = op("write", gpa=GPA, size=PAGE, source=ZEROS)

SNP: Final = (*CREATE["snp"], *GMEM, *VCPU, *START)
TDX: Final = (*CREATE["tdx"], *GMEM, *VCPUS)
SW: Final = (*CREATE["sw-protected"], *GMEM, *VCPU)
DEFAULT: Final = (*CREATE["default"], *PLAIN, *VCPU)
BIG: Final = (*CREATE["default"], op("set-memslot", slot=0, gpa=0x7FF000, size=514 * PAGE), *VCPU)


def short(result: Result) -> str:
    """A result in a word: ok, nop, the errno, or `refused` without one; then fw_error."""
    word = result.errno or "refused" if result.result == "error" else result.result
    return f"{word} {result.fw_error}" if result.fw_error is not None else word


Who: TypeAlias = Callable[[dict[str, Any], str], Answer]


def answers(who: Who, abi: str, head: tuple[Op, ...], calls: list[Op]) -> tuple[str, str | None]:
    """What the calls come to after a head that is accepted, and the digest."""
    ops = [*head, *calls]
    results, digest, _ = who(document(ops[0]["vm_type"], abi, ops), abi)
    words = [short(result) for result in results]
    assert set(words[: len(head)]) <= {"ok"}, words
    return ", ".join(words[len(head) :]), digest


GATE: Final = "EOPNOTSUPP, ok, EOPNOTSUPP, ok, EOPNOTSUPP"
ROWS: Final[dict[str, tuple[tuple[str, ...], tuple[Op, ...], list[Op], str]]] = {
    # 1.3 and 6.3: when mapping is allowed
    "default map": (KERNELS, DEFAULT, [MAP, MAP], "ok, nop"),
    "default N map": (KERNELS, (*CREATE["default"], *VCPU), [MAP], "ENOENT"),
    "default set private": (KERNELS, DEFAULT, [PRIVATE], "EINVAL"),
    "default at 2 MiB": (  # D9: nothing beyond the slot, nothing that is not wholly backed
        KERNELS, BIG,
        [op("madvise", gpa=0x7FF000, size=514 * PAGE, advice="hugepage")]
        + [{**MAP, "gpa": gpa} for gpa in ("0x8ff000", "0x800000", "0x9ff000", "0x7ff000")]
        + [op("pre-fault-memory", gpa=0x800000, size=513 * PAGE)],
        "ok, ok, nop, nop, ok, ok",
    ),
    "default SNP and TDX calls": (
        KERNELS,
        DEFAULT,
        [*START, FINISH, CREATE["tdx"][1], FINALIZE],
        "ENOTTY, ENOTTY, ENOTTY, ENOTTY",
    ),
    "sw-protected P": (KERNELS, SW, [PRIVATE, PRIVATE, MAP, MAP], "ok, nop, ok, nop"),
    "sw-protected S": (KERNELS, SW, [SHARED, MAP, MAP], "nop, ok, nop"),
    "sw-protected M4": (KERNELS, SW, [PRIVATE, MAP, SHARED, MAP], "ok, ok, ok, ok"),
    "sw-protected N": (
        KERNELS,
        (*CREATE["sw-protected"], *VCPU),
        [PRIVATE, MAP, *PLAIN, MAP],
        "ok, EFAULT, ok, EFAULT",  # booted 6.12, 7.2 and 7.3: also without a memslot
    ),
    "sw-protected private behind shared": (
        KERNELS,
        (*CREATE["sw-protected"], *PLAIN, *VCPU),
        [{**PRIVATE, "gpa": "0x101000"}, {**MAP, "size": "0x2000"}, MAP],
        "ok, EFAULT, nop",
    ),
    "sw-protected write": (KERNELS, SW, [WRITE, PRIVATE, WRITE], "ok, ok, ok"),
    "SNP map": (KERNELS, SNP, [MAP, PRIVATE, MAP, UPDATE, MAP], GATE),
    "TDX map": (TDX_KERNELS, TDX, [MAP, PRIVATE, MAP, REGION, MAP], GATE),
    # 6.3, SNP
    "SNP no start": (KERNELS, (*CREATE["snp"], *GMEM), [UPDATE, FINISH], "EINVAL, EINVAL"),
    "SNP N": (KERNELS, (*CREATE["snp"], *START), [PRIVATE, UPDATE], "ok, EINVAL"),
    "SNP S": (KERNELS, SNP, [UPDATE, SHARED], "EIO, nop"),
    "SNP P": (KERNELS, SNP, [PRIVATE, PRIVATE, UPDATE, FINISH], "ok, nop, ok, ok"),
    "SNP AM": (KERNELS, SNP, [PRIVATE, UPDATE, UPDATE], "ok, ok, EIO"),
    "SNP no punch": (
        KERNELS, SNP, [PRIVATE, UPDATE, SHARED, PRIVATE, UPDATE], "ok, ok, ok, ok, EIO",
    ),
    "SNP loophole": (
        KERNELS, SNP, [PRIVATE, UPDATE, SHARED, PUNCH, PRIVATE, UPDATE], "ok, ok, ok, ok, ok, ok",
    ),
    "SNP FP": (KERNELS, SNP, [PRIVATE, FINISH, UPDATE, MAP, MAP], "ok, ok, EIO 2, ok, nop"),
    "SNP FM": (KERNELS, SNP, [PRIVATE, FINISH, MAP, UPDATE], "ok, ok, ok, EIO"),
    "SNP FA": (KERNELS, SNP, [PRIVATE, UPDATE, FINISH, UPDATE, MAP], "ok, ok, ok, EIO, nop"),
    "SNP length 0": (
        KERNELS[:2], SNP, [PRIVATE, {**UPDATE, "size": "0x0"}], "ok, nop",
    ),
    "SNP length 0 later": (
        KERNELS[2:], SNP, [PRIVATE, {**UPDATE, "size": "0x0"}], "ok, EINVAL",
    ),
    "SNP arguments": (
        KERNELS,
        SNP,
        [{**UPDATE, "gpa": "0x100800"}, {**UPDATE, "page_type": "vmsa"}],
        "EINVAL, EINVAL",
    ),
    # 6.3 and 1.6, TDX
    "TDX not there": (KERNELS[:1], (), [*CREATE["tdx"], MAP], "EINVAL, EBADF, EBADF"),
    "TD not initialised": (
        TDX_KERNELS,
        CREATE["tdx"][:1],
        [*GMEM, PRIVATE, *VCPU, FINALIZE],
        "ok, ok, ok, EIO, EINVAL",
    ),
    "TDX N": (TDX_KERNELS, (*CREATE["tdx"], *VCPUS), [PRIVATE, REGION], "ok, EINVAL"),
    "TDX S": (TDX_KERNELS, TDX, [REGION, FINALIZE], "EINVAL, ok"),
    "TDX P": (TDX_KERNELS, TDX, [PRIVATE, REGION, FINALIZE], "ok, ok, ok"),
    "TDX AM": (BEFORE_7_0[1:], TDX, [PRIVATE, REGION, REGION, FINALIZE], "ok, ok, EEXIST, ok"),
    "TDX AM later": (FROM_7_0, TDX, [PRIVATE, REGION, REGION, FINALIZE], "ok, ok, EIO, ok"),
    "TDX no vCPU": (TDX_KERNELS, (*CREATE["tdx"], *GMEM), [REGION, *VCPU, REGION],
                    "EBADF, ok, EINVAL"),
    # corrections.md 3
    "TDX ends without a vCPU": (
        TDX_KERNELS, CREATE["tdx"], [FINALIZE, *VCPU, FINALIZE], "EIO, EIO, EIO",
    ),
    "SNP ends twice": (KERNELS, SNP, [FINISH, FINISH], "ok, EINVAL"),
    "a file bound twice": (KERNELS[:6], SW, [BOUND_AGAIN], "EINVAL"),
    "a file bound twice later": (KERNELS[6:], SW, [BOUND_AGAIN], "EEXIST"),
    # real-kernels.md, "same slot"
    "a slot again": (
        KERNELS, (*CREATE["default"], *PLAIN),
        [*PLAIN, {**PLAIN[0], "gpa": "0x0"}, {**PLAIN[0], "size": "0x2000"},
         {**PLAIN[0], "size": "0x0"}, {**PLAIN[0], "size": "0x0"}, *PLAIN],
        "nop, ok, EINVAL, ok, EINVAL, ok",
    ),
    "a slot of a file again": (
        KERNELS, SW, [GMEM[1], {**GMEM[1], "size": "0x0"}, GMEM[1]], "EINVAL, ok, ok",
    ),
    "slots and addresses at the end": (
        KERNELS, SW,
        [op("set-memslot", slot=32763, gpa=0, size=PAGE),
         op("set-memslot", slot=32764, gpa=PAGE, size=PAGE),
         op("set-memslot", slot=1, gpa=1 << 52, size=PAGE),
         op("set-private", gpa=1 << 52, size=PAGE),
         op("set-private", gpa=(1 << 64) - PAGE, size=PAGE),
         op("create-gmem", gmem=1, size=1 << 63),
         op("create-gmem", gmem=1, size=1 << 62)],
        "ok, EINVAL, EINVAL, ok, EINVAL, EINVAL, ok",
    ),
    "attributes of a default VM": (
        KERNELS, (*CREATE["default"], *PLAIN), [PRIVATE, SHARED], "EINVAL, nop",
    ),
    "TDX no punch": (
        BEFORE_7_0[1:], TDX, [PRIVATE, REGION, SHARED, PRIVATE, REGION], "ok, ok, ok, ok, EEXIST",
    ),
    "TDX no punch later": (
        FROM_7_0, TDX, [PRIVATE, REGION, SHARED, PRIVATE, REGION], "ok, ok, ok, ok, ok",
    ),
    "TDX loophole": (
        TDX_KERNELS, TDX, [PRIVATE, REGION, SHARED, PUNCH, PRIVATE, REGION],
        "ok, ok, ok, ok, ok, ok",
    ),
    "TDX FP": (
        TDX_KERNELS, TDX, [PRIVATE, FINALIZE, REGION, FINALIZE, MAP, MAP],
        "ok, ok, EINVAL, EINVAL, ok, nop",
    ),
    "TDX FA": (
        TDX_KERNELS, TDX, [PRIVATE, REGION, FINALIZE, REGION, MAP], "ok, ok, ok, EINVAL, nop",
    ),
    "TDX shared bit": (
        TDX_KERNELS,
        TDX,
        [{**REGION, "gpa": hex(GPA | 1 << 47)}, FINALIZE, {**MAP, "gpa": hex(GPA | 1 << 47)}],
        "EINVAL, ok, EINVAL",
    ),
    # 8: an augmented page makes the later add fail; 1.5: from 6.19 that is the end of the VM
    "TDX augmented": (TDX_KERNELS[:2], TDX, [PRIVATE, AUG, REGION, PRIVATE], "ok, ok, EIO, nop"),
    "TDX augmented later": (
        TDX_KERNELS[2:], TDX, [PRIVATE, AUG, REGION, PRIVATE], "ok, ok, EIO, EIO",
    ),
    "TDX augmented is mapped": (  # D5
        TDX_KERNELS, TDX, [PRIVATE, AUG, FINALIZE, MAP], "ok, ok, ok, nop",
    ),
    # 6.2: the pure mapping
    "pure SNP": (
        ("map-memory",), SNP, [PRIVATE, PURE, PURE, UPDATE, UPDATE, PURE, FINISH],
        "ok, ok, nop, ok, refused, nop, ok",
    ),
    "pure SNP, mapped before and after": (  # D5, D12: a map that does nothing leaves the RMP
        ("map-memory",), SNP, [PRIVATE, PURE, FINISH, PURE, UPDATE],
        "ok, ok, ok, nop, refused 2",
    ),
    "pure SNP, unmapped": (("map-memory",), SNP, [PRIVATE, UPDATE, FINISH], "ok, ok, ok"),
    "pure TDX": (
        ("map-memory",), TDX, [PRIVATE, PURE, PURE, ADD, ADD, PURE, FINALIZE],
        "ok, ok, nop, ok, refused, nop, ok",
    ),
    "pure TDX, unmapped": (("map-memory",), TDX, [PRIVATE, ADD], "ok, refused"),
    "pure TDX, waiting": (
        ("map-memory",), TDX, [PRIVATE, PURE, FINALIZE, ADD, FINALIZE],
        "ok, ok, refused, ok, ok",
    ),
    "pure TDX, extends": (
        ("map-memory",),
        TDX,
        [PRIVATE, EXTEND, PURE, EXTEND, ADD, EXTEND, FINALIZE, EXTEND],
        "ok, refused, ok, refused, ok, ok, ok, refused",
    ),
    # 2.2: one guest_memfd page is behind one guest page
    "two slots on a file": (
        KERNELS,
        SW,
        [op("set-memslot", slot=1, gpa=GPA, size=PAGE, gmem=0),
         op("set-memslot", slot=1, gpa=0, size=PAGE, gmem=1)],
        "EEXIST, EBADF",
    ),
}  # fmt: skip


@pytest.mark.parametrize("who", WHO.values(), ids=WHO)
@pytest.mark.parametrize(("abis", "head", "calls", "wanted"), ROWS.values(), ids=ROWS)
def test_rows_of_the_tables(
    who: Who, abis: tuple[str, ...], head: tuple[Op, ...], calls: list[Op], wanted: str
) -> None:
    assert {abi: answers(who, abi, head, calls)[0] for abi in abis} == dict.fromkeys(abis, wanted)


TWICE: Final = (
    "2828cec9fcadb54badcdaba2bb773a932ff189205536c87e5cfc55ac67939aa3"
    "f9d72114abb88656e664268304aa1102"
)
DIGESTS: Final[dict[str, tuple[str, tuple[Op, ...], list[Op], str]]] = {
    # 4.4
    "SNP normal": (
        "kvm-6.11", SNP, [PRIVATE, UPDATE],
        ("1ef58146b29937229db9c09edd5a124a1a77ffa91be387be7524e7a85fd0c2b1"
         "ed9ffd0536219fb839457a25c6f46923"),
    ),
    "SNP zero": (
        "kvm-6.16", SNP, [PRIVATE, {**UPDATE, "page_type": "zero"}],
        ("5e14cb95bc5d25c06332ea13f6e879e8dc65bda502b958108c4b63d6427ea443"
         "bdb15adb5b23cc82eb76f2bb680b9122"),
    ),
    "SNP refused the second time": (
        "kvm-7.0", SNP, [PRIVATE, {**UPDATE, "page_type": "unmeasured"}, UPDATE],
        ("52385399f1e50f65a001cb23ab3088de70a284b931087a42533dd9d3bb6c9fe5"
         "b67e9e683541acc6a35ebc8602371595"),
    ),
    "TDX measured": (
        "kvm-6.16", TDX, [PRIVATE, REGION, FINALIZE],
        ("d83467a3b349c17193dc14b12221f72ee7800c5560401bb7236cfa49f8e4ff2a"
         "18373457d28535a4ffa6d7ab5f3cafa4"),
    ),
    "TDX only added": (
        "kvm-6.19", TDX, [PRIVATE, {**REGION, "measured": False}, REGION, FINALIZE],
        ("30739fc015b6f3734f7684e90531f2d634cff74b38357fd6094b6d8a5c578924"
         "1d55fcfc6410d564e659255bc2d89805"),
    ),
    "TDX pages": (
        "kvm-6.18", TDX,
        [{**PRIVATE, "size": "0x2000"}, {**REGION, "size": "0x2000"}, FINALIZE],
        ("2e47887351a28d48deb3c4f7c12a0eb065876d225c469c7308010f22b78828f5"
         "2fb9f2374a79e09354aefdb51f9562f8"),
    ),
    "TDX two passes": (
        "map-memory", TDX,
        [{**o, "size": "0x2000"} for o in (PRIVATE, PURE, {**ADD, "measured": False})]
        + [{**EXTEND, "size": "0x2000"}, FINALIZE],
        ("401f64b91937fb717d636c3b1d65c39a9c8153da3125526c4092525dad8d8426"
         "09d78196345f2f7f3d86f3bfe9dfc4f9"),
    ),
    "TDX two passes, the second not to its end": (
        "map-memory", TDX,
        [PRIVATE, PURE, {**ADD, "measured": False}, {**EXTEND, "size": "0x2000"}, FINALIZE],
        ("d83467a3b349c17193dc14b12221f72ee7800c5560401bb7236cfa49f8e4ff2a"
         "18373457d28535a4ffa6d7ab5f3cafa4"),
    ),
    "TDX twice": (
        "kvm-6.16", TDX, [PRIVATE, REGION, SHARED, PUNCH, PRIVATE, REGION, FINALIZE], TWICE,
    ),
    "TDX twice, unpunched": (
        "kvm-7.0", TDX, [PRIVATE, REGION, SHARED, PRIVATE, REGION, FINALIZE], TWICE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("who", WHO.values(), ids=WHO)
@pytest.mark.parametrize(("abi", "head", "calls", "wanted"), DIGESTS.values(), ids=DIGESTS)
def test_sample_digests(
    who: Who, abi: str, head: tuple[Op, ...], calls: list[Op], wanted: str
) -> None:
    assert answers(who, abi, head, calls)[1] == wanted


@pytest.mark.parametrize("who", WHO.values(), ids=WHO)
def test_the_residual_is_from_where_a_call_was_not_done(who: Who) -> None:
    update = {**UPDATE, "size": "0x6000"}
    ops = [*SNP, {**PRIVATE, "size": "0x4000"}, update, update]
    results, _, _ = who(document("snp", "kvm-6.18", ops), "kvm-6.18")
    assert results[-2] == Result("error", "EINVAL", None, (GPA + 4 * PAGE, 2 * PAGE))
    assert results[-1] == Result("error", "EIO", None, (GPA, 6 * PAGE))


# --- random plans -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Guest pages of one slot; `gmem` and `offset` where a guest_memfd is behind it."""

    slot: int
    gpa: int
    pages: int
    gmem: int | None
    offset: int

    @property
    def size(self) -> int:
        return self.pages * PAGE

    @property
    def end(self) -> int:
        return self.gpa + self.size


@dataclass
class Launch:
    """A plan that is being drawn."""

    platform: str
    abi: str
    gpaw: int
    places: list[Place]
    ops: list[Op]

    @property
    def pure(self) -> bool:
        return self.abi == "map-memory"

    @property
    def map_name(self) -> str:
        return "map-memory" if self.pure else "pre-fault-memory"

    def document(self) -> dict[str, Any]:
        return document(self.platform, self.abi, self.ops, self.gpaw)


def has_gmem(platform: str, abi: str) -> bool:
    """Whether slots may have a guest_memfd."""
    return platform != "default" or abi not in ("kvm-6.11", "kvm-6.16")


@st.composite
def places(draw: st.DrawFn, platform: str, abi: str, gpaw: int) -> list[Place]:
    """One to three slots, some of them neighbours, some at the end of the private half."""
    made: list[Place] = []
    count = draw(st.integers(1, 3))
    one_file = draw(st.booleans())
    aligned = 4 * HUGE * PAGE
    bases = [0x100000, aligned - draw(st.integers(0, 1)) * PAGE, (1 << gpaw - 1) - 8 * PAGE]
    following, offset = 0, draw(st.integers(0, 1)) * PAGE
    for number in range(count):
        gpa = bases[number] if number == 0 or draw(st.booleans()) else following
        gmem: int | None = None
        pages = 8 if gpa == bases[2] else draw(st.integers(1, 8))
        if has_gmem(platform, abi) and (number == 0 or draw(st.integers(0, 2))):
            gmem = 0 if one_file else number
        elif gpa == bases[1] and platform in ("default", "sw-protected") and draw(st.booleans()):
            pages = HUGE + pages
        made.append(Place(number, gpa, pages, gmem, offset if gmem is not None else 0))
        if gmem is not None and one_file:
            offset += pages * PAGE
        following = gpa + pages * PAGE
    return made


def memory_ops(where: list[Place]) -> list[Op]:
    """The calls that make the slots."""
    files: dict[int, int] = {}
    for place in where:
        if place.gmem is not None:
            files[place.gmem] = max(files.get(place.gmem, 0), place.offset + place.size)
    made = [op("create-gmem", gmem=gmem, size=size) for gmem, size in files.items()]
    for place in where:
        slot: dict[str, Any] = {"slot": place.slot, "gpa": place.gpa, "size": place.size}
        if place.gmem is not None:
            slot |= {"gmem": place.gmem}
        if place.offset:
            slot |= {"gmem_offset": place.offset}
        made.append(op("set-memslot", **slot))
    return made


@st.composite
def sources(draw: st.DrawFn, size: int) -> dict[str, Any]:
    """Contents of an add: zeros, or some bytes somewhere in them."""
    if draw(st.booleans()):
        return dict(ZEROS)
    at = draw(st.sampled_from([0, 1, PAGE - 16]))
    length = draw(st.sampled_from([1, 16, size - at]))
    made: dict[str, Any] = {"hex": (draw(st.binary(min_size=1, max_size=4)) * length).hex()}
    made["hex"] = made["hex"][: 2 * length]
    return {**made, "at": at} if at or draw(st.booleans()) else made


@st.composite
def adds(draw: st.DrawFn, launch: Launch, gpa: int, size: int) -> list[Op]:
    """The calls that add a run of private pages."""
    run_of = {"gpa": gpa, "size": size}
    if launch.platform == "snp":
        kind = draw(st.sampled_from(["normal", "normal", "zero", "unmeasured", "secrets", "cpuid"]))
        host: dict[str, Any] = {"vmm": "parameters" if kind == "unmeasured" else kind}
        filled = kind in ("unmeasured", "secrets", "cpuid") and draw(st.booleans())
        source = host if filled else draw(sources(size))
        add = [op("snp-launch-update", **run_of, page_type=kind, source=source)]
        return [op("map-memory", **run_of), *add] if launch.pure and draw(st.booleans()) else add
    if launch.platform != "tdx":
        return []
    measured = draw(st.booleans())
    source = draw(sources(size)) if measured or draw(st.booleans()) else {"vmm": "hob"}
    if not launch.pure:
        return [op("tdx-init-mem-region", **run_of, measured=measured, source=source)]
    made = [op("map-memory", **run_of), op("tdx-add", **run_of, measured=measured, source=source)]
    if "vmm" not in source and draw(st.integers(0, 3)) == 0:
        made.append(op("tdx-extend", **run_of))
    return made


@st.composite
def body(draw: st.DrawFn, launch: Launch) -> list[Op]:
    """Pages made private and added, run by run, the runs in any order."""
    head: list[Op] = []
    groups: list[list[Op]] = []
    for place in launch.places:
        if place.gmem is None or launch.platform == "default":
            continue
        whole = draw(st.booleans())
        if whole:
            head.append(op("set-private", gpa=place.gpa, size=place.size))
        cuts = draw(st.sets(st.integers(0, place.pages), max_size=2))
        for low, high in pairwise(sorted({0, place.pages, *cuts})):
            gpa, size = place.gpa + low * PAGE, (high - low) * PAGE
            group: list[Op] = []
            if not whole:
                early = draw(st.booleans())
                (head if early else group).append(op("set-private", gpa=gpa, size=size))
            if draw(st.integers(0, 4)):
                group += draw(adds(launch, gpa, size))
            groups.append(group)
    return head + [call for group in draw(st.permutations(groups)) for call in group]


@st.composite
def anywhere(draw: st.DrawFn, launch: Launch) -> tuple[int, int]:
    """Address and size of a few pages of a slot, or of the whole slot."""
    place = draw(st.sampled_from(launch.places))
    if draw(st.integers(0, 3)) == 0:
        return place.gpa, place.size
    first = draw(st.integers(0, place.pages - 1) | st.just(place.pages - 1))
    count = draw(st.integers(1, min(4, place.pages - first)))
    return place.gpa + first * PAGE, count * PAGE


@st.composite
def memory_call(draw: st.DrawFn, launch: Launch) -> Op:
    """A call about a few pages that is legal at any time after the launch, or nearly."""
    gpa, size = draw(anywhere(launch))
    where = {"gpa": gpa, "size": size}
    maps = [op(launch.map_name, **where)] * 3
    advice = draw(st.sampled_from(["hugepage", "hugepage", "nohugepage"]))
    made = [*maps, op("madvise", **where, advice=advice), op("write", **where, source=dict(ZEROS))]
    made += [op("set-shared", **where), op("set-private", **where)]
    made += [hole(launch, gpa, size)]
    return draw(st.sampled_from(made))


def hole(launch: Launch, gpa: int, size: int) -> Op:
    """The hole in the file behind these pages; where there is no file, one that is unknown."""
    for place in launch.places:
        if place.gmem is not None and place.gpa <= gpa < place.end:
            offset = place.offset + gpa - place.gpa
            return op("punch-hole", gmem=place.gmem, offset=offset, size=size)
    return op("punch-hole", gmem=7, offset=0, size=size)


@st.composite
def legal(draw: st.DrawFn, platform: str, abi: str) -> Launch:
    """A launch that nothing should refuse, but for some calls after its end."""
    gpaw = draw(st.sampled_from([48, 48, 52])) if platform == "tdx" else 48
    launch = Launch(platform, abi, gpaw, draw(places(platform, abi, gpaw)), [])
    count = draw(st.integers(1, 3))
    vcpu = [op("create-vcpu", count=count)]
    start = list(START) if platform == "snp" else []
    if platform == "tdx":
        vcpu.append(op("tdx-init-vcpu", count=count, rcx="0x0"))
    before = draw(st.permutations([memory_ops(launch.places), vcpu, start]))
    launch.ops = [*CREATE[platform], *(o for group in before for o in group)]
    launch.ops += draw(body(launch))
    if platform == "snp":
        launch.ops.append(op("snp-launch-finish", vmsas=draw(states(count))))
    elif platform == "tdx":
        launch.ops.append(FINALIZE)
    launch.ops = copy.deepcopy(launch.ops)
    return launch


@st.composite
def states(draw: st.DrawFn, count: int) -> list[dict[str, Any]]:
    """VMSAs of so many vCPUs."""
    cut = draw(st.integers(1, count))
    made = [{"vcpus": "0" if cut == 1 else f"0-{cut - 1}", "gpa": hex(VMSA_GPA), "hex": "0102"}]
    if cut < count:
        vcpus = str(cut) if cut == count - 1 else f"{cut}-{count - 1}"
        made.append({"vcpus": vcpus, "gpa": hex(VMSA_GPA), "hex": ""})
    return made


# --- faults -------------------------------------------------------------------------------------


def runs(launch: Launch) -> list[Op]:
    """The operations on addresses."""
    return [o for o in launch.ops if "gpa" in o]


def pick(draw: st.DrawFn, calls: list[Op]) -> Op:
    """One of some operations, an add more often than another."""
    return draw(st.sampled_from([*calls, *(o for o in calls if o["kind"] == "add")]))


def any_position(draw: st.DrawFn, launch: Launch) -> int:
    """Where something may be put: after the VM is created."""
    return draw(st.integers(1, len(launch.ops)))


def duplicate(draw: st.DrawFn, launch: Launch) -> None:
    again = pick(draw, launch.ops)
    launch.ops.insert(any_position(draw, launch), dict(again))


def drop(draw: st.DrawFn, launch: Launch) -> None:
    if len(launch.ops) > 1:
        del launch.ops[draw(st.integers(1, len(launch.ops) - 1))]


def swap(draw: st.DrawFn, launch: Launch) -> None:
    if len(launch.ops) > 1:
        one, other = (draw(st.integers(1, len(launch.ops) - 1)) for _ in range(2))
        launch.ops[one], launch.ops[other] = launch.ops[other], launch.ops[one]


def unalign(draw: st.DrawFn, launch: Launch) -> None:
    call = pick(draw, launch.ops)
    keys = [k for k in ("gpa", "size", "offset", "gmem_offset") if k in call]
    if keys and call["op"] not in ("madvise", "tdx-page-aug"):
        key = draw(st.sampled_from(keys))
        call[key] = hex(int(call[key], 0) + draw(st.sampled_from([1, 0x800])))


def move(draw: st.DrawFn, launch: Launch) -> None:
    calls = runs(launch)
    if not calls:
        return
    call = pick(draw, calls)
    gpa = int(call["gpa"], 0)
    bit = 1 << launch.gpaw - 1
    by = draw(st.sampled_from([PAGE, 2 * PAGE, 9 * PAGE, -PAGE, bit]))
    call["gpa"] = hex(min(max(gpa + by, 0), gpa | bit))


def stretch(draw: st.DrawFn, launch: Launch) -> None:
    calls = [o for o in launch.ops if "size" in o]
    if calls:
        call = pick(draw, calls)
        size = int(call["size"], 0) + draw(st.integers(1, 9)) * PAGE
        call["size"] = hex(size)


def empty(draw: st.DrawFn, launch: Launch) -> None:
    calls = [o for o in launch.ops if "size" in o]
    if calls:
        call = pick(draw, calls)
        if call["op"] in ("madvise", "write", "tdx-page-aug"):
            return
        call["size"] = "0x0"
        if call.get("source", {}).get("hex"):
            call["source"] = dict(ZEROS)


def wrap(draw: st.DrawFn, launch: Launch) -> None:
    calls = runs(launch)
    if calls:
        call = pick(draw, calls)
        call["gpa"] = hex((1 << 64) - PAGE)
        call["size"] = hex(max(int(call["size"], 0), 2 * PAGE))


def add_again(draw: st.DrawFn, launch: Launch) -> None:
    """Shared, with or without a hole, private, and once more."""
    calls = [o for o in launch.ops if o["kind"] == "add"]
    if not calls:
        return
    call = draw(st.sampled_from(calls))
    gpa, size = int(call["gpa"], 0), int(call["size"], 0)
    where = {"gpa": gpa, "size": size}
    shared, private = op("set-shared", **where), op("set-private", **where)
    forms = [[], [shared, private], [shared, hole(launch, gpa, size), private]]
    between = draw(st.sampled_from(forms))
    if launch.pure:
        between.append(op("map-memory", **where))
    if between and draw(st.integers(0, 3)) == 0:
        between.remove(draw(st.sampled_from(between)))
    again = dict(call)
    if draw(st.integers(0, 3)) == 0 and size > PAGE:
        again |= {"size": hex(PAGE), "source": dict(ZEROS)}
    at = next(n for n, o in enumerate(launch.ops) if o is call) + 1
    at = draw(st.sampled_from([at, len(launch.ops)]))
    launch.ops[at:at] = [*between, again]


def retype(draw: st.DrawFn, launch: Launch) -> None:
    for call in launch.ops:
        if "page_type" in call and draw(st.booleans()):
            call["page_type"] = draw(st.sampled_from(["vmsa", "normal", "zero", "cpuid"]))
        if "measured" in call and draw(st.booleans()):
            call["measured"] = not call["measured"]


def fill(draw: st.DrawFn, launch: Launch) -> None:
    calls = [o for o in launch.ops if "source" in o]
    if calls:
        draw(st.sampled_from(calls))["source"] = {"vmm": "parameters"}


def slots(draw: st.DrawFn, launch: Launch) -> None:
    """A slot that some rule is against, or one that no rule is against."""
    place = draw(st.sampled_from(launch.places))
    free = 0x4000000
    slot: dict[str, Any] = {"slot": draw(st.sampled_from([0, 9])), "size": PAGE}
    slot["gpa"] = draw(st.sampled_from([free, place.gpa, place.end - PAGE, place.end]))
    gmem = draw(st.sampled_from([None, place.gmem, 7]))
    if gmem is not None:
        slot |= {"gmem": gmem, "gmem_offset": draw(st.sampled_from([0, 1, PAGE, 64 * PAGE]))}
    made = [op("set-memslot", **slot)]
    if draw(st.booleans()):
        flags = draw(st.sampled_from([["mmap"], ["init-shared"], ["mmap", "init-shared"]]))
        file = {"flags": flags} if draw(st.booleans()) else {}
        made.insert(0, op("create-gmem", gmem=7, size=2 * PAGE, **file))
    if not any(o["op"] == "create-gmem" and o["gmem"] == 7 for o in launch.ops):
        at = any_position(draw, launch)
        launch.ops[at:at] = made


def wrong_setting(draw: st.DrawFn, launch: Launch) -> None:
    for call in launch.ops:
        if call["op"] == "snp-launch-start":
            call["policy"] = draw(st.sampled_from(["0x0", "0x4020000", "0x3030000", "0x10000"]))
        if call["op"] in ("create-vcpu", "tdx-init-vcpu") and draw(st.booleans()):
            call["count"] = draw(st.integers(1, 4))
        if call["op"] == "snp-launch-finish" and draw(st.booleans()):
            call["vmsas"] = draw(st.sampled_from([[], call["vmsas"][:1]]))


def call_anywhere(draw: st.DrawFn, launch: Launch) -> None:
    call = draw(memory_call(launch))
    launch.ops.insert(any_position(draw, launch), call)


def patch(draw: st.DrawFn, launch: Launch) -> None:
    """One page of a slot converted, then the whole slot mapped."""
    plain = [place for place in launch.places if place.gmem is None]
    place = draw(st.sampled_from([*launch.places, *plain, *plain]))
    gpa = place.gpa + draw(st.integers(0, place.pages - 1)) * PAGE
    name = draw(st.sampled_from(["set-private", "set-shared"]))
    launch.ops.append(op(name, gpa=gpa, size=PAGE))
    launch.ops.append(op(launch.map_name, gpa=place.gpa, size=place.size))


def large(draw: st.DrawFn, launch: Launch) -> None:
    """A slot that the host may map at 2 MiB, or not quite, and pages of it mapped."""
    for place in launch.places:
        if place.pages < HUGE:
            continue
        where = {"gpa": place.gpa, "size": place.size}
        launch.ops.append(op("madvise", **where, advice="hugepage"))
        if draw(st.booleans()):
            page = place.gpa + draw(st.sampled_from([0, 1, HUGE - 1, HUGE])) * PAGE
            launch.ops.append(op("madvise", gpa=page, size=PAGE, advice="nohugepage"))
        for page in draw(st.permutations([0, 1, HUGE - 1, HUGE])):
            launch.ops.append(op(launch.map_name, gpa=place.gpa + page * PAGE, size=PAGE))


def augment(draw: st.DrawFn, launch: Launch) -> None:
    """A page augmented before the end of the build, sometimes one that is added then."""
    if launch.platform != "tdx":
        return
    names = [o["op"] for o in launch.ops]
    at = names.index("tdx-init-vm") + 1 if "tdx-init-vm" in names else 1
    at = draw(st.integers(at, len(names)))
    gpa, size = draw(anywhere(launch))
    added = [n for n, o in enumerate(launch.ops) if o["kind"] == "add" and n >= at]
    if added:
        at = draw(st.sampled_from(added))
        gpa, size = int(launch.ops[at]["gpa"], 0) // PAGE * PAGE, PAGE
    launch.ops.insert(at, op("tdx-page-aug", gpa=gpa, size=size))


def other_interface(draw: st.DrawFn, launch: Launch) -> None:
    """An add, a map or an extend of the other kind of ABI, or a call of another platform."""
    gpa, size = draw(anywhere(launch))
    where = {"gpa": gpa, "size": size}
    maps = [op("map-memory", **where), op("pre-fault-memory", **where)]
    if launch.platform == "tdx":
        source = {"measured": True, "source": dict(ZEROS)}
        maps += [op("tdx-add", **where, **source), op("tdx-extend", **where)]
        maps += [op("tdx-init-mem-region", **where, **source)]
    launch.ops.insert(any_position(draw, launch), draw(st.sampled_from(maps)))


def late_add(draw: st.DrawFn, launch: Launch) -> None:
    calls = [o for o in launch.ops if o["kind"] == "add"]
    if calls:
        launch.ops.append(dict(draw(st.sampled_from(calls))))


FAULTS: Final[tuple[Callable[[st.DrawFn, Launch], None], ...]] = (
    duplicate, drop, swap, unalign, move, stretch, empty, wrap, add_again, add_again, add_again,
    retype, fill, slots, wrong_setting, call_anywhere, patch, large, augment,
    other_interface, late_add,
)  # fmt: skip


@st.composite
def spoiled(draw: st.DrawFn, platform: str, abi: str) -> Launch:
    """A launch, some calls after it, and up to four faults in it."""
    launch = draw(legal(platform, abi))
    for _ in range(draw(st.integers(0, 4))):
        launch.ops.append(dict(draw(memory_call(launch))))
    for _ in range(draw(st.integers(0, 4))):
        draw(st.sampled_from(FAULTS))(draw, launch)
        launch.ops = copy.deepcopy(launch.ops)
    return launch


# --- the program against the model --------------------------------------------------------------


def lines(plan: dict[str, Any], results: list[Result]) -> list[str]:
    """The results beside their operations, to be compared and read."""
    made = []
    for call, result in zip(plan["ops"], results, strict=True):
        fields = {k: v for k, v in call.items() if k not in ("kind", "op", "seq")}
        made.append(f"{call['seq']} {call['op']} {fields}: {result}")
    return made


PAIRS: Final = [(platform, abi) for platform in CREATE for abi in (*KERNELS, "map-memory")]


@pytest.mark.parametrize(("platform", "abi"), PAIRS)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_legal_launch_is_accepted(platform: str, abi: str, data: st.DataObject) -> None:
    plan = data.draw(legal(platform, abi)).document()
    outcome = run_plan(plan, abi)
    there = (platform, abi) != ("tdx", "kvm-6.11")
    assert all(r.result != "error" for r in outcome.results) == there
    assert outcome.finalized == (there and platform in ("snp", "tdx"))


@pytest.mark.parametrize(("platform", "abi"), PAIRS)
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_simulate_answers_as_the_model_does(platform: str, abi: str, data: st.DataObject) -> None:
    plan = data.draw(spoiled(platform, abi)).document()
    (found, digest, finalized), (wanted, *end) = simulate(plan, abi), model(plan, abi)
    assert lines(plan, found) == lines(plan, wanted)
    if platform not in ("snp", "tdx"):  # these have no end of the build
        finalized = False
    assert [digest, finalized] == end
