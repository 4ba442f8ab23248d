"""What became of evidence, as text for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cvmplan.emit.lines import Command, joined
from cvmplan.emit.text_identity import compared_lines

if TYPE_CHECKING:
    from cvmplan.evidence.verify import Verification


def verification(found: Verification) -> str:
    """Return each line of the comparison, what was not checked, and the verdict."""
    return joined(_verification(found))


def _verification(found: Verification) -> Iterator[str]:
    yield f"evidence: {found.evidence.kind}"
    for one in found.trust.chain:
        yield f"certificate: {one.subject}, {one.not_before:%Y-%m-%d} to {one.not_after:%Y-%m-%d}"
    for note in (*found.evidence.notes, *found.trust.notes):
        yield f"note: {note}"
    if found.evidence.trailing:
        yield f"ignored: {found.evidence.trailing} bytes after the quote"
    if found.replay is not None:
        from cvmplan.emit.text_events import event_rows

        yield from event_rows(found.replay)
    yield from compared_lines(found.lines)
    yield f"not checked: {'; '.join(found.not_checked)}"
    wrong = [line.name for line in found.lines if line.differs]
    yield f"differs: {', '.join(wrong)}" if wrong else "OK: evidence matches the plan"
    if found.explain:
        yield "to find the reason:"
        yield Command(f"  {shlex.join(found.explain)}")
