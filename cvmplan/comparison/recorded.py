"""A recorded launch in the form in which launches are compared."""

from __future__ import annotations

from typing import Final

from cvmplan.comparison.sides import (
    ADDED,
    EXTENDED,
    FUSED,
    MEASURED,
    Piece,
    Side,
    SideKind,
    State,
    say,
)
from cvmplan.memory.contents import Contents, Filled, Made, Zeros
from cvmplan.simulator.replay import Attempt, Recording


def of_recording(name: str, recording: Recording) -> Side:
    """
    Return a recorded launch as a side.

    Contents and vCPU states are those of the recording, where it has any.
    """
    side = Side(name, SideKind.RECORDED, recording.platform)
    for attempt in recording.attempts:
        kind = _RECORDED.get(attempt.op, "")
        if attempt.op in ("tdx-add", "tdx-init-mem-region"):
            kind = FUSED if attempt.measured else ADDED
        kind = attempt.page_type or kind
        left = attempt.residual[1] if attempt.residual else 0
        size = 0 if attempt.returned and not left else attempt.size - left
        if kind and size:
            place = f"line {attempt.seq} ({attempt.op})"
            side.pieces.append(Piece(kind, attempt.gpa, size, _contents(attempt, size), place))
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


_RECORDED: Final = {
    "snp-launch-update": "normal",
    "tdx-extend": EXTENDED,
    "sev-launch-update-data": MEASURED,
    "import-page": MEASURED,
}
