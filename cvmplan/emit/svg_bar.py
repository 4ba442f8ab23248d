"""What a measurement covers, as one bar: each class of pages is as wide as its share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from cvmplan.core.values import PAGE
from cvmplan.emit.markup import Markup, lines, tag
from cvmplan.emit.palette import patterns
from cvmplan.emit.svg import WIDTH, amount

HIGH: Final = 40
LEAST: Final = 10  # width of a class that has few pages


class Class(NamedTuple):
    """Pages of one class: its name for people, how many there are, and what they look like."""

    name: str
    pages: int
    kind: str


def bar(classes: Sequence[Class]) -> Markup:
    """Return the classes that have pages as a bar, each with a title and a description."""
    found = [one for one in classes if one.pages]
    total = sum(one.pages for one in found)
    room = WIDTH - LEAST * len(found)
    widths = [LEAST + one.pages * room // total for one in found]
    starts = [0, *accumulate(widths)]
    made = []
    for one, x, wide in zip(found, starts, widths, strict=False):
        told = f"{one.pages} of {total} pages, {amount(one.pages * PAGE)}"
        box = tag("rect", x=x, y=0, width=wide, height=HIGH, fill=f"url(#cvm-{one.kind})",
                  class_="cvm-edge")  # fmt: skip
        shape = (tag("title", one.name), tag("desc", told), box)
        made.append(tag("g", *shape, role="graphics-symbol img"))
    title = "Pages by class"
    return tag(
        "svg", tag("title", title),
        tag("desc", f"{total} pages; each class is as wide as its share, and at least {LEAST}."),
        patterns(one.kind for one in found), lines(*made),
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HIGH}", width=WIDTH,
        height=HIGH, class_="cvm", role="graphics-document document", aria_label=title,
    )  # fmt: skip


def swatch(kind: str) -> Markup:
    """Return what a class of the bar looks like; its name is in the same row."""
    box = tag("rect", width=34, height=16, fill=f"url(#cvm-{kind})", class_="cvm-edge")
    return tag("svg", box, width=34, height=16, class_="cvm", aria_hidden="true")
