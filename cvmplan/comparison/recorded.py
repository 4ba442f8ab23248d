"""A recorded launch in the form in which launches are compared."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from hashlib import sha256
from typing import Final

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
from cvmplan.core.values import PAGE
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
from cvmplan.simulator.replay import Attempt, Recording


def of_recording(name: str, recording: Recording) -> Side:
    """
    Return a recorded launch as a side.

    Contents and vCPU states are those of the recording, where it has any.
    """
    side = Side(name, SideKind.RECORDED, recording.platform, recording=recording)
    for attempt in recording.attempts:
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


def settle(recorded: Side, planned: Side) -> Iterator[Difference]:
    """
    Give the pages of a recording the contents that a plan has for them, where the hash fits.

    Yield a difference for each piece whose hash is that of other contents.
    """
    rows = planned.table()
    lows = [low for low, _, _ in rows]
    for number, piece in enumerate(recorded.pieces):
        if piece.sha256 is None or piece.contents is not None:
            continue
        at = bisect_right(lows, piece.gpa) - 1
        held = rows[at] if at >= 0 and piece.gpa + piece.size <= rows[at][1] else None
        contents = held[2].contents if held else None
        if held is None or contents is None or isinstance(contents, Filled | DigestAfter | Hashed):
            continue
        mine = part(contents, piece.gpa - held[2].gpa, piece.size)
        made = _hash_of(mine, piece.size)
        if made == piece.sha256:
            recorded.pieces[number] = piece._replace(contents=mine)
        else:
            last = piece.gpa + piece.size - PAGE
            where, measured = f"{piece.gpa:#x}-{last:#x}", piece.kind in (*HASHED, FUSED)
            here, there = (f"SHA-256 {digest.hex()}" for digest in (made, piece.sha256))
            yield Difference(
                "contents", WHAT["contents"], where, here, there, measured, piece.gpa, last
            )


def _hash_of(contents: Contents, size: int) -> bytes:
    made, data = sha256(), known_bytes(contents)
    made.update(data.data if isinstance(data, Blob) else data)
    for at in range(len(data), size, len(ZEROS)):
        made.update(ZEROS[: min(len(ZEROS), size - at)])
    return made.digest()


ZEROS: Final = bytes(1 << 20)
_RECORDED: Final = {
    "snp-launch-update": "normal",
    "tdx-extend": EXTENDED,
    "sev-launch-update-data": MEASURED,
    "import-page": MEASURED,
}
