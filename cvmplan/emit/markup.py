"""
Elements of HTML and SVG, as text: what is no element already is escaped, always.

Characters that no page may have, and those that would turn the direction of text, are shown as
escapes.
"""

from __future__ import annotations

from html import escape
from typing import Final

from cvmplan.core.values import printable

CUT: Final = "…"


class Markup(str):
    """Text that consists of elements: it is not escaped."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """Return text as a page may have it; elements as they are."""
    return text if isinstance(text, Markup) else Markup(escape(printable(text)))


def tag(name: str, *content: str, **attributes: str | int) -> Markup:
    """
    Return an element; `content` that is text is escaped, and so are attributes.

    Underscores of attributes mean hyphens, but for the last one (`class_`).  Empty attributes are
    left out.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(str(value))}"'
        for key, value in attributes.items()
        if value != ""
    )
    return Markup(f"<{name}{told}>{''.join(map(escaped, content))}</{name}>")


def lines(*content: str) -> Markup:
    """Return elements and texts, each on a line of its own."""
    return Markup("\n".join(map(escaped, content)))


def cut(text: str, most: int) -> str:
    """Return the text in at most `most` printable characters."""
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - 1]}{CUT}"
