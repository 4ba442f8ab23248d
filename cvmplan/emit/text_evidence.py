"""What became of evidence, as text for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cvmplan.emit.lines import Command, joined
from cvmplan.emit.text_identity import compared_lines

if TYPE_CHECKING:
    from cvmplan.evidence.verify import Launched, Verification


def verification(found: Verification) -> str:
    """Return each line of the comparison, what was not checked, and the verdict."""
    return joined(_verification(found))


def _verification(found: Verification) -> Iterator[str]:
    yield f"evidence: {found.evidence.kind}"
    for one in found.trust.chain:
        yield f"certificate: {one.subject}, {one.not_before:%Y-%m-%d} to {one.not_after:%Y-%m-%d}"
    for note in found.notes:
        yield f"note: {note}"
    if found.evidence.trailing:
        yield f"ignored: {found.evidence.trailing} bytes after the quote"
    if found.replay is not None:
        from cvmplan.emit.text_events import event_rows

        yield from event_rows(found.replay)
    yield from compared_lines(found.lines, unplanned="not in plan" if found.planned else "")
    if found.launched is not None:
        yield from _launched(found.launched)
    if found.not_checked:
        yield f"not checked: {'; '.join(found.not_checked)}"
    yield _verdict(found)
    if found.explain:
        yield "to find the reason:"
        yield Command(f"  {shlex.join(found.explain)}")


def _launched(found: Launched) -> Iterator[str]:
    """Yield which firmware of the catalogue it is, and how it was started."""
    if found.name:
        yield f"launched: {' '.join(one for one in (found.name, found.version) if one)}, by"
        yield Command(f"  {shlex.join(found.command)}")
    else:
        more = "" if found.complete else "; 'cvmplan explain --report' searches longer"
        yield f"launched: with no firmware of the catalogue that was found{more}"


def _verdict(found: Verification) -> str:
    """Return the last word: what differs, or what was shown."""
    wrong = [line.name for line in found.lines if line.differs]
    if wrong:
        return f"differs: {', '.join(wrong)}"
    if found.verdict == "unsigned":
        accepted = "accepted" if found.holds else "--certs FILE, or --no-signature accepts it"
        return f"unsigned: nothing shows that hardware wrote this ({accepted})"
    if found.planned:
        return "OK: evidence matches the plan"
    return "OK: signed by hardware, and nothing differs from what was asked for"
