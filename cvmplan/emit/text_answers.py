"""What `explain` answers, as text for people."""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.emit.lines import aligned, joined
from cvmplan.explain.answer import Explanation


def explanation(answer: Explanation) -> str:
    """Return the command line that should have been typed, or what was searched in vain."""
    return joined([*_head(answer), *(_found(answer) if answer.explained else _missed(answer))])


def _head(answer: Explanation) -> Iterator[str]:
    if answer.evidence:
        yield f"evidence: {answer.evidence}"
        yield ""


def _found(answer: Explanation) -> Iterator[str]:
    if not answer.changes:
        yield "explained: what was given has this measurement"
    else:
        yield "explained: the measurement is that of"
        rows = [
            (change.typed, f"in place of {change.was}" if change.was else "", change.why)
            for change in answer.changes
        ]
        yield from aligned(rows, "  ")
    yield ""
    yield f"  {answer.shell}"
    yield ""
    yield from (f"beside it: {doubt}" for doubt in answer.doubts)
    yield f"{answer.candidates} candidates were compared"


def _missed(answer: Explanation) -> Iterator[str]:
    reach = "all" if answer.complete else "as far as the time sufficed"
    yield f"not explained: none of {answer.candidates} candidates has {answer.expected}"
    yield ""
    yield f"searched, {reach}:"
    yield from (f"  {name}: {values}" for name, values in answer.searched)
    yield "not searched:"
    yield from (f"  {what}" for what in answer.not_searched)
