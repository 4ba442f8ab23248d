"""A recorded launch in the form in which launches are compared."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from hashlib import sha256
from typing import Final, NamedTuple

from cvmplan.comparison.found import WHAT, Difference
from cvmplan.comparison.sides import (
    ADDED,
    EXTENDED,
    FUSED,
    HASHED,
    MEASURED,
    Piece,
    Side,
    SideKind,
    State,
    say,
)
from cvmplan.core.blob import Blob
from cvmplan.core.errors import UnsupportedError
from cvmplan.core.values import PAGE, write_span
from cvmplan.memory.contents import (
    Contents,
    DigestAfter,
    Filled,
    Hashed,
    Made,
    Zeros,
    known_bytes,
    part,
)
from cvmplan.simulator.attempts import Attempt, with_rests
from cvmplan.simulator.recording import Recording
from cvmplan.simulator.simulate import ADDS


def of_recording(name: str, recording: Recording) -> Side:
    """
    Return a recorded launch as a side.

    Contents and vCPU states are those of the recording, where it has any.  UnsupportedError where
    it does not show which pages were added.
    """
    if not _shows_adds(recording):
        hint = "'cvmplan help recording' has the forms that show them"
        raise UnsupportedError("does not show the addresses of its adds", at=name, hint=hint)
    side = Side(name, SideKind.RECORDED, recording.platform, recording=recording)
    for attempt in with_rests(recording.attempts):
        kind = _RECORDED.get(attempt.op, "")
        if attempt.op in ("tdx-add", "tdx-init-mem-region"):
            kind = FUSED if attempt.measured else ADDED
        kind = attempt.page_type or kind
        left = attempt.residual[1] if attempt.residual else 0
        size = 0 if attempt.returned and not left else attempt.size - left
        if kind and size:
            place = f"line {attempt.seq} ({attempt.op})"
            held, digest = _contents(attempt, size), _hash(attempt, size)
            side.pieces.append(Piece(kind, attempt.gpa, size, held, place, sha256=digest))
        if attempt.op in ("snp-launch-start", "sev-launch-start"):
            say(side, "policy", hex(attempt.policy or 0))
        for state in attempt.vmsas:
            vcpus = range(state.first, state.last + 1)
            place = f"line {attempt.seq} ({attempt.op})"
            side.states.append(State(vcpus, state.gpa, state.page, place))
    return side


def _shows_adds(recording: Recording) -> bool:
    """Whether a recording has the address of each add."""
    adds = [a for a in recording.attempts if a.op in ADDS]
    shown = all(a.shown for a in recording.attempts) and all(a.placed for a in adds)
    return shown and bool(adds or not recording.lacks)


def _contents(attempt: Attempt, size: int) -> Contents | None:
    """Return what pages hold, None where that was not recorded."""
    if attempt.page_type in ("secrets", "cpuid"):
        return Filled(attempt.page_type)
    if attempt.page_type == "zero":
        return Zeros()
    taken = attempt.taken
    known = taken is not None and taken.data is not None and taken.size == size
    return Made(taken.data) if known and taken and taken.data is not None else None


def _hash(attempt: Attempt, size: int) -> bytes | None:
    """Return the SHA-256 of contents, None where it was not recorded."""
    taken = attempt.taken
    return taken.sha256 if taken is not None and taken.size == size else None


def doubts_of(recording: Recording) -> Iterator[Difference]:
    """Yield the registers that calls of the recording set to others than there are in the end."""
    for one in recording.doubts:
        where, values = f"vCPU {one.vcpu} {one.field}", (hex(one.was_set), hex(one.found))
        told = (f"was set to {values[0]}", f"is {values[1]} in the end")
        yield Difference("state", WHAT["state"], where, *told)


def hashes_apart(a: Piece, b: Piece, low: int) -> Iterator[Difference]:
    """Yield the difference of two pieces of the same pages whose recorded hashes differ."""
    same = (a.gpa, a.size) == (b.gpa, b.size) and low == a.gpa
    if not same or a.sha256 is None or b.sha256 is None or a.sha256 == b.sha256:
        return
    last, measured = a.gpa + a.size - PAGE, a.kind in (*HASHED, FUSED)
    where = write_span(a.gpa, a.size)
    here, there = (f"SHA-256 {digest.hex()}" for digest in (a.sha256, b.sha256))
    yield Difference("contents", WHAT["contents"], where, here, there, measured, a.gpa, last)


class Settled(NamedTuple):
    """Pieces whose hash is that of other contents, and how many the VMM fills in the plan."""

    differences: tuple[Difference, ...]
    filled: int


def settle(recorded: Side, planned: Side) -> Settled:
    """Give the pages of a recording the contents that a plan has for them, where these fit."""
    rows = planned.table()
    lows = [low for low, _, _ in rows]
    found: list[Difference] = []
    filled = 0
    for number, piece in enumerate(recorded.pieces):
        at = bisect_right(lows, piece.gpa) - 1
        held = rows[at][2] if at >= 0 and piece.gpa + piece.size <= rows[at][1] else None
        if held is None or held.contents is None or piece.kind in NOT_FROM_USERS:
            continue
        if isinstance(held.contents, Filled):
            recorded.pieces[number] = piece._replace(contents=held.contents)
            filled += 1
        elif piece.sha256 is not None and piece.contents is None:
            recorded.pieces[number], difference = _fitted(piece, held)
            found += difference
    return Settled(tuple(found), filled)


def _fitted(piece: Piece, held: Piece) -> tuple[Piece, list[Difference]]:
    """Return a recorded piece with the contents of a planned one, or in what they differ."""
    contents = held.contents
    if contents is None or isinstance(contents, DigestAfter | Hashed):
        return piece, []
    mine = part(contents, piece.gpa - held.gpa, piece.size)
    made = _hash_of(mine, piece.size)
    if made == piece.sha256:
        return piece._replace(contents=mine), []
    last = piece.gpa + piece.size - PAGE
    where, measured = write_span(piece.gpa, piece.size), piece.kind in (*HASHED, FUSED)
    here, there = (f"SHA-256 {digest.hex()}" for digest in (made, piece.sha256 or b""))
    what = WHAT["contents"]
    return piece, [Difference("contents", what, where, here, there, measured, piece.gpa, last)]


def _hash_of(contents: Contents, size: int) -> bytes:
    made, data = sha256(), known_bytes(contents)
    made.update(data.data if isinstance(data, Blob) else data)
    for at in range(len(data), size, len(ZEROS)):
        made.update(ZEROS[: min(len(ZEROS), size - at)])
    return made.digest()


ZEROS: Final = bytes(1 << 20)
NOT_FROM_USERS: Final = ("secrets", "cpuid", "zero")
_RECORDED: Final = {
    "snp-launch-update": "normal",
    "tdx-extend": EXTENDED,
    "sev-launch-update-data": MEASURED,
    "import-page": MEASURED,
}


def not_recorded(side: Side, name: str) -> Iterator[str]:
    """Yield what counts and is not known of a recording that has contents and states."""
    kinds = (*HASHED, FUSED)
    places = [p.place for p in side.pieces if p.contents is None and p.kind in kinds]
    if places:
        yield f"contents of {len(places)} adds of {name}: {', '.join(places[:MOST_PLACES])}"
    created = sum(a.op == "create-vcpu" for a in side.recording.attempts) if side.recording else 0
    known = sum(len(state.vcpus) for state in side.states)
    if side.states and known < created:
        yield f"vCPU states: {name} has {known} of {created}"
    if side.platform.vmsa and not side.states:
        yield f"vCPU states: {name} has none"
    if side.recording is not None and not (side.digest or places):
        yield f"the measurement of {name}: the launch is not complete"


def not_reached(recording: Recording, name: str) -> Iterator[str]:
    """Yield where a recorded launch ended that was refused a call."""
    last = recording.attempts[-1] if recording.attempts else None
    if last is not None and last.returned:
        yield f"{name} after line {last.seq}: the launch ended with {last.returned}"


MOST_PLACES: Final = 3
