"""
How pictures look: a colour and a pattern for each page type, and the rules of style.

Text is always on the plain background.  Each type differs from the others without its colour too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from cvmplan.emit.markup import Markup, lines, tag
from cvmplan.memory.bands import OTHER, SEVERAL

Scheme = tuple[str, str]
"""A colour where the background is light, and where it is dark."""
PAPER: Final[Scheme] = ("#ffffff", "#15181c")
INK: Final[Scheme] = ("#1b1f24", "#e8eaed")
SOFT: Final[Scheme] = ("#4a525c", "#b4bcc6")
LINE: Final[Scheme] = ("#767f8a", "#8b949f")
WRONG: Final[Scheme] = ("#b3001b", "#ff9a9a")
LINK: Final[Scheme] = ("#0b4fa8", "#9cc7ff")
TEXTS: Final = {"ink": INK, "soft": SOFT, "wrong": WRONG, "link": LINK}
"""What text is written in, on PAPER."""


class Look(NamedTuple):
    """The fill of a page type, the stroke of its pattern, and the pattern: a path in 12 x 12."""

    fill: Scheme
    stroke: Scheme
    path: str
    meaning: str


LOOKS: Final[Mapping[str, Look]] = {
    "normal": Look(
        ("#cfe3ff", "#1b3a5c"), ("#1f4f8f", "#9cc7ff"), "M-3 9L9 -3M3 15L15 3",
        "contents are measured",
    ),
    "measured": Look(
        ("#cfe3ff", "#1b3a5c"), ("#1f4f8f", "#9cc7ff"), "M0 12L12 0M-3 9L9 -3M3 15L15 3",
        "contents are measured",
    ),
    "vmsa": Look(
        ("#fbd7e6", "#521f36"), ("#96214f", "#f6b3cd"), "M3 0V12M9 0V12",
        "state of a vCPU, measured",
    ),
    "zero": Look(
        ("#ececec", "#33373d"), ("#5a5a5a", "#bdbdbd"), "M0 6H12",
        "zeros; address and type are measured",
    ),
    "unmeasured": Look(
        ("#ffe2c2", "#4a2f12"), ("#8a4b00", "#ffc58a"), "M-3 3L9 15M3 -3L15 9",
        "contents are not measured",
    ),
    "secrets": Look(
        ("#ead7f7", "#3d2452"), ("#6a2d91", "#dcb6f5"), "M2 3h2v2h-2zM8 9h2v2h-2z",
        "filled by firmware at launch",
    ),
    "cpuid": Look(
        ("#d3f0d6", "#1d4023"), ("#22662b", "#a5e0ac"), "M0 3H12M0 9H12M3 0V12M9 0V12",
        "CPUID values, filled by the host and checked by firmware",
    ),
    "augmented": Look(
        ("#cdeef0", "#143f43"), ("#0f5f66", "#97dfe5"), "M0 8L6 3L12 8",
        "added while the guest runs",
    ),
    "mapped": Look(
        ("#f5efc0", "#423b10"), ("#6b5d00", "#e2d37c"), "M6 3V9M3 6H9",
        "mapped; nothing is measured",
    ),
    "shared": Look(
        ("#e0e0ff", "#2b2b57"), ("#3d3d9e", "#bdbdff"), "M6 3A3 3 0 1 0 6 9A3 3 0 1 0 6 3",
        "shared with the host, not measured",
    ),
    "inaccessible": Look(
        ("#dadada", "#2a2a2a"), ("#3d3d3d", "#cfcfcf"), "M0 0L12 12M12 0L0 12",
        "not accessible to the guest",
    ),
    "error-range": Look(
        ("#dadada", "#2a2a2a"), ("#3d3d3d", "#cfcfcf"), "M0 0L12 12M12 0L0 12M0 6H12",
        "an address range that the loader rejects",
    ),
    SEVERAL: Look(
        ("#f2f2f2", "#2f333a"), ("#3f4650", "#cfd5dc"), "M0 0H6V6H0zM6 6H12V12H6z",
        "regions of several types, drawn as one",
    ),
    OTHER: Look(
        ("#f2f2f2", "#2f333a"), ("#3f4650", "#cfd5dc"), "M1 6H5M7 3H11M7 10H11",
        "a type without a pattern of its own",
    ),
}  # fmt: skip
"""Page type to how it looks."""


def look_of(kind: str) -> str:
    """Return the name of the look of a page type."""
    return kind if kind in LOOKS else OTHER


def patterns(kinds: Iterable[str]) -> Markup:
    """Return the patterns of these page types."""
    return tag("defs", *map(_pattern, dict.fromkeys(map(look_of, kinds))))


def _pattern(kind: str) -> Markup:
    return tag(
        "pattern",
        tag("rect", width=12, height=12, class_=f"cvm-f-{kind}"),
        tag("path", d=LOOKS[kind].path, class_=f"cvm-s-{kind}"),
        id=f"cvm-{kind}", width=12, height=12, patternUnits="userSpaceOnUse",
    )  # fmt: skip


def style(kinds: Iterable[str], more: str = "") -> Markup:
    """Return the style of a picture with these page types, and `more` rules."""
    names = [*dict.fromkeys(map(look_of, kinds))]
    dark = lines(*_rules(names, 1))
    return tag(
        "style",
        lines(
            *map(Markup, _FIXED),
            *_rules(names, 0),
            Markup(more),
            Markup(f"@media screen and (prefers-color-scheme:dark){{\n{dark}\n}}"),
        ),
    )


_FIXED: Final = (
    ".cvm{font-family:system-ui,sans-serif;font-size:13px}",
    ".cvm .cvm-mono{font-family:ui-monospace,monospace;font-size:12px}",
    ".cvm .cvm-name{font-weight:600}",
    ".cvm .cvm-edge{stroke-width:1}",
    ".cvm .cvm-bad{fill:none;stroke-width:3;stroke-dasharray:7 3}",
    ".cvm .cvm-gap{fill:none;stroke-width:1.5}",
    ".cvm pattern path{fill:none;stroke-width:1.3}",
)


def _rules(names: Iterable[str], scheme: int) -> list[Markup]:
    """Return what differs between light (0) and dark (1)."""
    made = [
        f".cvm-page,.cvm{{background:{PAPER[scheme]};color:{INK[scheme]}}}",
        f".cvm .cvm-paper{{fill:{PAPER[scheme]}}}",
        *(f".cvm .cvm-{name}{{fill:{colour[scheme]}}}" for name, colour in TEXTS.items()),
        *(f".cvm-t-{name}{{color:{colour[scheme]}}}" for name, colour in TEXTS.items()),
        f".cvm .cvm-edge,.cvm .cvm-gap{{stroke:{LINE[scheme]}}}",
        f".cvm .cvm-bad{{stroke:{WRONG[scheme]}}}",
    ]
    for name in names:
        look = LOOKS[name]
        made.append(f".cvm .cvm-f-{name}{{fill:{look.fill[scheme]}}}")
        made.append(f".cvm pattern .cvm-s-{name}{{stroke:{look.stroke[scheme]}}}")
    return [*map(Markup, made)]
