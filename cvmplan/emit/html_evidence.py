"""What became of evidence, as sections of a page: the comparison, and the RTMRs of a TD."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cvmplan.emit.html import number, table
from cvmplan.emit.markup import Markup, lines, tag
from cvmplan.evidence.lines import Line

if TYPE_CHECKING:
    from cvmplan.evidence.verify import Verification

RTMR = "rtmr"


def sections(found: Verification) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield (id, title, content) of each section."""
    registers = [line for line in found.lines if line.id.startswith(RTMR)]
    others = [line for line in found.lines if not line.id.startswith(RTMR)]
    yield "evidence", "Evidence", [*_head(found), _compared(others)]
    yield "rtmrs", "RTMRs", [*_replayed(found), _compared(registers)] if registers else []


def _head(found: Verification) -> Iterator[Markup]:
    """Yield the verdict, and what it rests on."""
    bad = {"differs": "The evidence differs.", "unsigned": "Nothing shows that hardware signed it."}
    if found.verdict in bad:
        yield tag("p", tag("strong", bad[found.verdict], class_="cvm-t-wrong"))
    elif found.planned:
        yield tag("p", tag("strong", "Signed by hardware, and it is of this launch."))
    else:
        yield tag("p", "Signed by hardware; not compared, since the launch has no measurement.")
    told = [f"Kind: {found.evidence.kind}"]
    told += [
        f"Certificate: {one.subject}, {one.not_before:%Y-%m-%d} to {one.not_after:%Y-%m-%d}"
        for one in found.trust.chain
    ]
    told += [f"Note: {note}" for note in found.notes]
    told += [f"Not checked: {one}" for one in found.not_checked]
    yield tag("ul", lines(*(tag("li", one) for one in told)))


def _compared(several: Sequence[Line]) -> Markup:
    rows = []
    for line in several:
        status = tag("strong", line.status, class_="cvm-t-wrong") if line.differs else line.status
        rows.append((status, line.name, number(line.expected or ""), number(line.found), line.why))
    return table(("Status", "Field", "Expected", "Found", "Why"), rows)


def _replayed(found: Verification) -> Iterator[Markup]:
    if found.replay is not None:
        yield tag("p", "The event log was replayed into these registers.")
