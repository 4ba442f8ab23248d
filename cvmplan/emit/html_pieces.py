"""Answers as pieces of HTML, which notebooks show in place of their text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cvmplan.comparison.found import Comparison
from cvmplan.comparison.pages import owners_of_plan, owners_of_side
from cvmplan.comparison.sides import Side
from cvmplan.core.errors import PlanError
from cvmplan.core.spans import Spans
from cvmplan.core.values import PAGE
from cvmplan.emit.html import STYLE, counted, figure, map_table, number, table
from cvmplan.emit.markup import Markup, lines, tag
from cvmplan.emit.palette import style
from cvmplan.emit.svg import Picture, picture_of
from cvmplan.memory.bands import shapes_of
from cvmplan.memory.owners import Owners
from cvmplan.operations.plan import Plan

MOST_DIFFERENCES: Final = 200
DIFFERS: Final = "differs"


def owners(found: Owners) -> str:
    """Return a map as its picture, with the table to unfold."""
    picture = picture_of([*shapes_of(found)])
    return _piece([picture], _drawn(picture))


def plan(made: Plan) -> str:
    """Return the pages of a plan, each with the operation that adds it."""
    launch = f"{made.platform}, {made.vmm}, {made.abi}, {len(made.ops)} operations"
    try:
        picture = picture_of([*shapes_of(owners_of_plan(made))])
    except PlanError as error:
        return _piece([], [tag("p", f"{launch}: not a legal launch: {error}")])
    return _piece([picture], [tag("p", launch), *_drawn(picture)])


def diff(found: Comparison) -> str:
    """Return the pages of two launches, those that differ marked, and the differences."""
    marked = Spans()
    for one in found.differences:
        if one.first is not None and one.last is not None:
            marked.add(one.first, one.last + PAGE)
    pictures = [_side(side, marked) for side in (found.a, found.b)]
    content = []
    for letter, side, picture in zip("AB", (found.a, found.b), pictures, strict=True):
        content.append(tag("h3", f"{letter}: {side.name} ({side.kind})"))
        if side.digest:
            content.append(tag("p", f"{side.register} ", number(side.digest.hex())))
        content += _drawn(picture)
    return _piece(pictures, [_differences(found), *content])


def _side(side: Side, marked: Spans) -> Picture:
    return picture_of([*shapes_of(owners_of_side(side), marked, DIFFERS)])


def _differences(found: Comparison) -> Markup:
    """Return what differs as a table; in one line where nothing does."""
    if not found.differences:
        words = "The launches differ." if found.differ else "No difference."
        return tag("p", words)
    rows = [
        (d.what, d.where, "yes" if d.measured else "no", d.a, d.b)
        for d in found.differences[:MOST_DIFFERENCES]
    ]
    left = len(found.differences) + found.more - len(rows)
    caption = f"The first {len(rows)} differences; {left} more" if left else "Differences"
    return table(("What", "Where", "Measured", "A", "B"), rows, caption)


def _drawn(picture: Picture) -> Sequence[Markup]:
    unfold = tag("details", tag("summary", "Table"), map_table(picture))
    return tag("p", counted(picture)), figure(picture), unfold


def _piece(pictures: Sequence[Picture], content: Sequence[Markup]) -> str:
    """Return content with the style that it needs."""
    kinds = [kind for picture in pictures for kind in picture.kinds]
    return tag("div", style(kinds, STYLE), lines(*content), class_="cvm-page")
