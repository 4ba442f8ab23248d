"""One form for all that can be compared: pages in the order of their adds, and vCPU states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from cvmplan.core.platform import Platform
from cvmplan.core.spans import Spans
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import Contents, byte_string
from cvmplan.operations.measure import measure
from cvmplan.operations.plan import Op, Plan, is_run
from cvmplan.operations.steps import Step
from cvmplan.platforms.sev.steps import LaunchUpdateData, LaunchUpdateVmsa
from cvmplan.platforms.snp.steps import LaunchUpdate, PageType, VmsaUpdate
from cvmplan.platforms.tdx.steps import MemPageAdd, MemPageAddExtend, MrExtend
from cvmplan.platforms.vbs.steps import ImportPages, ImportRegisters
from cvmplan.simulator.recording import Recording

if TYPE_CHECKING:
    from cvmplan.documents.results import TraceCommand

ADDED, FUSED, EXTENDED = "added", "fused", "extended"
MEASURED, UNMEASURED = "measured", "unmeasured"
WORDS: Final = {FUSED: "added and extended one by one"}
"""What people read, where that is not the name of a kind."""
HASHED: Final = frozenset({"normal", MEASURED, "vmsa"})
"""Page types whose contents are measured."""
UNMEASURED_SETTINGS: Final = (
    "gpaw",
    "tsc_khz",
    "machine",
    "backing",
    "c_bit",
    "memory",
    "prefault",
)
"""Settings of a plan that are in none of its operations, or in the calls beneath them only."""
NAMES: Final = {
    "count": "vCPUs", "rcx": "TD HOB (RCX)", "legacy": "opened by KVM_SEV_ES_INIT",
}  # fmt: skip
"""What a fact is called for people, where that is not its own name."""
HASHES: Final = ("kernel_hash", "initrd_hash", "append_hash")
_PAGES: Final = {"contents", "page", "registers", "gpa", "size", "vcpus", "source", "vmsas"}


class SideKind(StrEnum):
    """What a launch was read from, as documents write it."""

    PLAN = "plan"
    TRACE = "trace"
    RECORDED = "recorded launch"


class Fact(NamedTuple):
    """What a launch says beside pages and states: its name for people, and the value."""

    name: str
    value: str
    measured: bool = False


class Piece(NamedTuple):
    """
    A run of pages, as firmware is asked for it; `place` says by which operation or line.

    `contents` is None where they are not known, `digest` the SNP launch digest after it where
    that was written down, `sha256` that of contents that are not known.
    """

    kind: str
    gpa: int
    size: int
    contents: Contents | None
    place: str
    digest: bytes | None = None
    sha256: bytes | None = None

    @property
    def words(self) -> str:
        """The kind for people."""
        return WORDS.get(self.kind, self.kind)


class State(NamedTuple):
    """The state of `vcpus`, a VMSA of 4096 bytes at `gpa`; None where it is not known."""

    vcpus: range
    gpa: int | None
    page: bytes | None
    place: str
    digest: bytes | None = None


@dataclass(slots=True)
class Side:
    """
    One launch: `kind` is what it was read from, `facts` what else it says, by id.

    `digest` is None where it is not known, `calls` are the operations of a plan without what
    their pages hold; `plan` and `recording` are what it was made of.
    """

    name: str
    kind: SideKind
    platform: Platform
    pieces: list[Piece] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    facts: dict[str, Fact] = field(default_factory=dict)
    register: str = ""
    digest: bytes | None = None
    calls: tuple[tuple[object, ...], ...] = ()
    plan: Plan | None = None
    recording: Recording | None = None

    def table(self) -> list[tuple[int, int, Piece]]:
        """Return (first byte, end, piece) of all pages by address, each as it was added first."""
        seen, extended = Spans(), Spans()
        for piece in self.pieces:
            if piece.kind == EXTENDED:
                extended.add(piece.gpa, piece.gpa + piece.size)
        rows: list[tuple[int, int, Piece]] = []
        for piece in self.pieces:
            if piece.kind == EXTENDED:
                continue
            for low, high in tuple(seen.missing(piece.gpa, piece.gpa + piece.size)):
                rows += _typed(low, high, piece, extended)
                seen.add(low, high)
        return sorted(rows, key=lambda row: row[0])

    def twice(self) -> Iterator[tuple[int, int, Piece]]:
        """Yield (first byte, end, piece) of pages that are added again."""
        seen = Spans()
        for piece in self.pieces:
            if piece.kind != EXTENDED:
                again = seen.overlap(piece.gpa, piece.gpa + piece.size)
                if again:
                    yield (*again, piece)
                seen.add(piece.gpa, piece.gpa + piece.size)


def _typed(low: int, high: int, piece: Piece, extended: Spans) -> Iterator[tuple[int, int, Piece]]:
    """Yield the parts of a piece, whether a TDX page is measured being one type or the other."""
    if piece.kind not in (ADDED, FUSED):
        yield low, high, piece
        return
    if piece.kind == FUSED:
        yield low, high, piece._replace(kind=MEASURED)
        return
    for start, end in tuple(extended.missing(low, high)):
        yield start, end, piece._replace(kind=UNMEASURED)
    while (held := extended.overlap(low, high)) is not None:
        yield (*held, piece._replace(kind=MEASURED))
        low = held[1]


def pages_of_plan(name: str, plan: Plan) -> Side:
    """Return pages and states of a plan as a side, not measured; PlanError as `of_plan`."""
    side = Side(name, SideKind.PLAN, plan.platform, plan=plan)
    for number, step in plan.lowered():
        _take(side, step, f"op {number} ({plan.ops[number].name})")
    for number, op in enumerate(plan.ops):
        place = f"op {number} ({op.name})"
        if op.kind == "control":
            _note(side, op)
        elif not plan.platform.measured and op.kind == "map" and is_run(op):
            side.pieces.append(Piece("mapped", op.gpa, op.size, None, place))
    return side


def of_plan(name: str, plan: Plan) -> Side:
    """Return a plan as a side; PlanError if it is not a legal launch."""
    side = pages_of_plan(name, plan)
    if plan.platform.measured:
        found = measure(plan)
        side.register, side.digest = found.register, found.digest
    named = (*HASHES, *UNMEASURED_SETTINGS)
    for told in (n for n in named if n in plan.guest):
        side.facts[told] = Fact(told, str(plan.guest[told]), told in HASHES)
    side.calls = tuple(_call(op) for op in plan.ops)
    return side


Pages: TypeAlias = (
    LaunchUpdate | MemPageAdd | MemPageAddExtend | MrExtend | LaunchUpdateData | ImportPages
)
"""Steps of pages."""


_KIND_OF: Final[Mapping[type[Step], str]] = {
    MemPageAdd: ADDED,
    MemPageAddExtend: FUSED,
    MrExtend: EXTENDED,
    LaunchUpdateData: MEASURED,
}


def _kind_of(step: Pages) -> str:
    """Return what a step does to its pages."""
    if isinstance(step, LaunchUpdate):
        return step.page_type.label
    if isinstance(step, ImportPages):
        unmeasured = "error-range" if step.acceptance else UNMEASURED
        return MEASURED if step.measured and not step.acceptance else unmeasured
    return _KIND_OF[type(step)]


def _take(side: Side, step: Step, place: str) -> None:
    """Put what a step asks for into a side."""
    if isinstance(step, LaunchUpdate) and step.page_type is PageType.VMSA:
        page = byte_string(step.contents, step.size)
        first = sum(len(state.vcpus) for state in side.states)
        side.states.append(State(range(first, first + 1), step.gpa, page, place))
        side.pieces.append(Piece("vmsa", step.gpa, step.size, step.contents, place))
    elif isinstance(step, VmsaUpdate | LaunchUpdateVmsa):
        gpa = step.gpa if isinstance(step, VmsaUpdate) else None
        side.states.append(State(step.vcpus, gpa, step.page, place))
    elif isinstance(step, Pages):
        side.pieces.append(Piece(_kind_of(step), step.gpa, step.size, step.contents, place))
    elif isinstance(step, ImportRegisters):
        for name, value in step.registers:
            number = int.from_bytes(value, "little")
            told = f"VTL {step.vtl} register {name:#x}"
            side.facts[f"vtl{step.vtl}-{name:#x}"] = Fact(told, hex(number), measured=True)
    else:
        _note(side, step)


def _note(side: Side, said: Op | Step) -> None:
    """Put what an operation or a step says beside pages and states into the facts."""
    for one in fields(said):  # type: ignore[arg-type]  # every concrete one is a dataclass
        value = getattr(said, one.name)
        if one.name not in _PAGES and value not in (None, False):
            say(side, one.name, str(value) if one.name == "count" else _plain(value))


def say(side: Side, name: str, value: str) -> None:
    """Put a fact that is a value of its own into a side."""
    side.facts[name] = Fact(NAMES.get(name, name), value)


def _plain(value: int | str | bytes) -> str:
    """Return a value as people write it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return hex(value)


def _call(op: Op) -> tuple[object, ...]:
    """Return what an operation says, but for contents and states."""
    names = [f.name for f in fields(op)]  # type: ignore[arg-type]  # every concrete Op is a dataclass
    told = (getattr(op, n) for n in names if n not in ("source", "vmsas", "registers"))
    return (op.name, *(None if value is False else value for value in told))


def of_trace(name: str, platform: Platform, commands: Sequence[TraceCommand]) -> Side:
    """Return a trace (its commands as `documents` has them) as a side; contents are not in it."""
    side = Side(name, SideKind.TRACE, platform)
    for command in commands:
        place = f"step {command.step} ({command.command})"
        digest = bytes.fromhex(command.digest) if command.digest else None
        gpa = None if command.gpa is None else int(command.gpa, 16)
        if command.vcpus is not None:
            side.states.append(State(_numbers(command.vcpus), gpa, None, place, digest))
        elif gpa is not None and command.command in _KINDS:
            kind = command.page_type or _KINDS[command.command]
            if command.command == "IMPORT_PAGES" and not command.measured:
                kind = "error-range" if command.acceptance else UNMEASURED
            size = PAGE if command.size is None else int(command.size, 16)
            if kind == "vmsa":
                first = len(side.states)
                side.states.append(State(range(first, first + 1), gpa, None, place, digest))
            side.pieces.append(Piece(kind, gpa, size, None, place, digest))
        for fact in ("policy", "attributes", "xfam", "rcx"):
            value = getattr(command, fact)
            if value is not None:
                say(side, fact, str(value))
        side.digest = digest or side.digest
    vcpus = sum(c.count or 1 for c in commands if c.command == "TDH.VP.INIT")
    if vcpus:
        say(side, "count", str(vcpus))
    side.register = platform.register if side.digest else ""
    side.pieces = [*_runs(_fused(side.pieces))]
    return side


def _fused(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield `pieces`, where a page that is extended right after its add is one piece."""
    held: list[Piece] = []
    for piece in pieces:
        page = held[0] if held else None
        if (
            page
            and piece.kind == EXTENDED
            and piece.gpa == page.gpa + sum(p.size for p in held[1:])
        ):
            held.append(piece)
            if sum(p.size for p in held[1:]) == page.size:
                yield page._replace(kind=FUSED)
                held = []
            continue
        yield from held
        held = [piece] if piece.kind == ADDED else []
        if not held:
            yield piece
    yield from held


def _runs(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield `pieces`, neighbours of which nothing is known but the address as one."""
    last: Piece | None = None
    for piece in pieces:
        unknown = last and last.digest is None and piece.digest is None
        if last and unknown and (last.kind, last.gpa + last.size) == (piece.kind, piece.gpa):
            last = last._replace(size=last.size + piece.size)
            continue
        if last:
            yield last
        last = piece
    if last:
        yield last


_KINDS: Final = {
    "SNP_LAUNCH_UPDATE": "normal",
    "TDH.MEM.PAGE.ADD": ADDED,
    "TDH.MEM.PAGE.ADD+MR.EXTEND": FUSED,
    "TDH.MR.EXTEND": EXTENDED,
    "LAUNCH_UPDATE_DATA": MEASURED,
    "IMPORT_PAGES": MEASURED,
}
"""Commands of pages, to what they do where the trace does not say it."""


def _numbers(written: str) -> range:
    first, _, last = written.partition("-")
    return range(int(first), int(last or first) + 1)
