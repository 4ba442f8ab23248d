"""
The guest-physical map as a picture: SVG that needs nothing from elsewhere, and no script.

Addresses grow downwards from 0.  A region has a height of `LEAST` for one page and `DOUBLED` more
for each doubling, so that one page stays readable beside 4 MiB and is smaller than it; a gap is
broken and always as high.  The legend says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from cvmplan.core.values import PAGE, write_span
from cvmplan.emit.lines import without_name
from cvmplan.emit.markup import Markup, cut, lines, tag
from cvmplan.emit.palette import LOOKS, look_of, patterns, style
from cvmplan.memory.bands import Band, Shape, bands, shapes_of
from cvmplan.memory.owners import Owners

WIDTH: Final = 900
AXIS, BAR, BAR_END, TEXT = 152, 160, 320, 336
LEAST, DOUBLED, GAP, EDGE, ROW = 38, 6, 40, 20, 18
MOST_NAME: Final = 74  # characters of an owner
MOST_TITLE: Final = 400
COVERED: Final = {
    "contents": "contents measured",
    "address": "address measured, contents not",
    "no": "not measured",
    None: "measured differently",
}
"""What is measured of a region's pages."""
_UNITS: Final = ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB"))


class Picture(NamedTuple):
    """What is drawn: the file's name, shapes that are named without it, their bands and looks."""

    name: str
    shapes: tuple[Shape, ...]
    bands: tuple[Band, ...]
    kinds: tuple[str, ...]

    @property
    def wrong(self) -> int:
        """How many shapes break a rule."""
        return sum(bool(shape.wrong) for band in self.bands for shape in band.shapes)


def guest_map(owners: Owners) -> str:
    """Return the map as one SVG document."""
    picture = picture_of([*shapes_of(owners)])
    return f"{drawn(picture)}\n"


def picture_of(shapes: Sequence[Shape]) -> Picture:
    """Return what is drawn of shapes that are in address order."""
    name, short = without_name([owner for shape in shapes for owner in shape.owners])
    renamed = tuple(
        shape._replace(owners=(short[2 * n], short[2 * n + 1])) for n, shape in enumerate(shapes)
    )
    made = bands(renamed)
    kinds = [kind_of(shape) for band in made for shape in band.shapes]
    return Picture(name, renamed, made, tuple(dict.fromkeys(kinds)))


def kind_of(shape: Shape) -> str:
    """Return the look of a shape."""
    return look_of(shape.kind)


def amount(size: int) -> str:
    """Return a number of bytes in the unit that fits, with "about" where it is rounded."""
    for shift, unit in _UNITS:
        if size >> shift:
            exact = size % (1 << shift) == 0
            return f"{size >> shift} {unit}" if exact else f"about {size / (1 << shift):.2f} {unit}"
    return f"{size} bytes" if size != 1 else "1 byte"


def many(count: int, what: str) -> str:
    """Return a number of things."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def span(first: int, end: int) -> str:
    """Return [first, end) with both ends included; an address alone for no bytes."""
    return write_span(first, end - first) if end > first else f"{first:#x}"


def said(shape: Shape) -> str:
    """Return size, type and coverage of a shape, in one line."""
    kinds = shape.kind
    if shape.regions > 1 and len(shape.kinds) > 1:
        kinds = ", ".join(f"{count} {kind}" for kind, count in shape.kinds)
    pages = -(-shape.size // PAGE)
    size = amount(shape.size)
    if pages > 1:
        size += f" ({pages} pages)"
    return " · ".join((size, kinds, COVERED[shape.measured]))


def named(shape: Shape) -> str:
    """Return who owns a shape."""
    first, last = shape.owners
    if shape.regions == 1:
        return first
    most = MOST_NAME // 2 - 10
    return f"{shape.regions} regions: {cut(first, most)} to {cut(last, most)}"


def height(size: int, least: int = LEAST) -> int:
    """Return how high `size` bytes are, where one page is as high as `least`."""
    return least + DOUBLED * (max(1, -(-size // PAGE)).bit_length() - 1)


def drawn(picture: Picture) -> Markup:
    """Return a picture as a document of its own."""
    legend, low = _legend(picture.kinds, 12)
    rows, end = _rows(picture.bands, low + 12)
    return _svg(picture, (legend, *rows), end + 12, styled=True, part="")


def parts(picture: Picture, most: int) -> Iterator[Markup]:
    """
    Yield a picture in parts of at most `most` in height, where a band is not higher.

    A printer breaks a page between them.  The style is the page's.
    """
    legend, low = _legend(picture.kinds, 12)
    held, y = [legend], low + 12
    number = 1
    for band in picture.bands:
        shapes, end = _band(band, y)
        if end > most and len(held) > (number == 1):
            yield _svg(picture, held, y + 8, styled=False, part=f", part {number}")
            held, number = [], number + 1
            shapes, end = _band(band, 8)
        held += shapes
        y = end
    told = f", part {number}" if number > 1 else ""
    yield _svg(picture, held, y + 8, styled=False, part=told)


def _svg(picture: Picture, content: Iterable[str], end: int, *, styled: bool, part: str) -> Markup:
    """Return an image of this height."""
    title = f"Guest memory{f' of {picture.name}' if picture.name else ''}{part}"
    shapes = [shape for band in picture.bands for shape in band.shapes]
    regions = sum(shape.regions for shape in shapes)
    gaps = sum(not band.shapes for band in picture.bands)
    desc = f"{many(regions, 'region')} and {many(gaps, 'gap')} in address order, "
    desc += f"from address 0 at the top down. {picture.wrong or 'None'} of them marked with !. "
    desc += "Each has a title and a description."
    return tag(
        "svg",
        tag("title", title),
        tag("desc", desc),
        *([style(picture.kinds)] if styled else []),
        patterns(picture.kinds),
        tag("rect", width=WIDTH, height=end, class_="cvm-paper"),
        Markup("\n"),
        lines(*content),
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {end}", width=WIDTH, height=end,
        class_="cvm", role="graphics-document document", aria_label=title,
    )  # fmt: skip


def _text(x: int, y: int, content: str, kind: str, **more: str) -> Markup:
    return tag("text", content, x=x, y=y, class_=kind, **more)


def _legend(kinds: Sequence[str], y: int) -> tuple[Markup, int]:
    """Return what colours, patterns and heights mean, and where it ends."""
    made = []
    for kind in kinds:
        box = tag("rect", x=12, y=y, width=34, height=ROW - 2, fill=f"url(#cvm-{kind})",
                  class_="cvm-edge")  # fmt: skip
        made += [box, _text(56, y + 13, f"{kind}: {LOOKS[kind].meaning}", "cvm-ink")]
        y += ROW + 2
    y += ROW
    scale = f"Heights: {LEAST} for one 4 KiB page, {DOUBLED} more for each doubling; "
    scale += "gaps are broken and not to scale."
    made.append(_text(12, y, scale, "cvm-soft"))
    return tag("g", *made), y


def _rows(several: Iterable[Band], y: int) -> tuple[list[Markup], int]:
    made: list[Markup] = []
    for band in several:
        shapes, y = _band(band, y)
        made += shapes
    return made, y


def _band(band: Band, y: int) -> tuple[list[Markup], int]:
    """Return what is drawn of a band from `y` on, and where it ends."""
    if not band.shapes:
        return [_gap(band, y)], y + GAP
    if len(band.shapes) == 1:
        shape = band.shapes[0]
        end = y + height(shape.size)
        return [_shape(shape, (y, end), (BAR, BAR_END), y + 15), *_ends(band, y, end)], end
    return _overlapping(band, y)


def _ends(band: Band, y: int, end: int) -> list[Markup]:
    """Return the first and the last address of a band."""
    right = {"text_anchor": "end"}
    made = [_text(AXIS, y + 12, f"{band.first:#x}", "cvm-mono cvm-ink", **right)]
    if band.end > band.first:
        made.append(_text(AXIS, end - 4, f"{band.end - 1:#x}", "cvm-mono cvm-soft", **right))
    return made


def _gap(band: Band, y: int) -> Markup:
    """Return a gap: two broken edges, and what it leaves out."""
    middle = y + GAP // 2
    wave = "l10 -6l10 6" * ((BAR_END - BAR) // 20)
    told = f"gap · {amount(band.end - band.first)} · {span(band.first, band.end)}"
    return tag(
        "g",
        tag("title", f"Gap {span(band.first, band.end)}"),
        tag("desc", f"{amount(band.end - band.first)} that the launch does not contain"),
        tag("path", d=f"M{BAR} {middle - 3}{wave}M{BAR} {middle + 7}{wave}", class_="cvm-gap"),
        _text(TEXT, middle + 5, told, "cvm-mono cvm-soft"),
        role="graphics-symbol img",
    )  # fmt: skip


def _shape(shape: Shape, rows: tuple[int, int], bar: tuple[int, int], label: int) -> Markup:
    """Return a shape between `rows` and `bar`, and what is said of it at `label`."""
    (y, end), (x, right) = rows, bar
    box = {"x": x, "y": y, "width": right - x, "height": max(end - y, 6)}
    name = named(shape)
    mark = f"! {', '.join(shape.wrong)}: " if shape.wrong else ""
    made = [tag("rect", **box, fill=f"url(#cvm-{kind_of(shape)})", class_="cvm-edge")]
    if shape.wrong:
        inner = {"x": x + 2, "y": y + 2, "width": right - x - 4, "height": max(end - y - 4, 2)}
        made.append(tag("rect", **inner, class_="cvm-bad"))
    if (x, right) != (BAR, BAR_END):
        centre = (x + right) // 2
        made.append(tag("circle", cx=centre, cy=label - 4, r=3, class_="cvm-ink"))
        made.append(tag("path", d=f"M{centre} {label - 4}H{TEXT - 4}", class_="cvm-gap"))
    kind = "cvm-name cvm-wrong" if shape.wrong else "cvm-name cvm-ink"
    return tag(
        "g",
        tag("title", cut(f"{mark}{name}, {span(shape.first, shape.end)}", MOST_TITLE)),
        tag("desc", said(shape)),
        *made,
        _text(TEXT, label, cut(mark + name, MOST_NAME), kind),
        _text(TEXT, label + 17, _second(shape), "cvm-soft"),
        role="graphics-symbol img",
    )


def _second(shape: Shape) -> str:
    """Return the second line of a shape, with its addresses where the axis has others."""
    told = f"{said(shape)} · {span(shape.first, shape.end)}" if shape.wrong else said(shape)
    return cut(told, MOST_NAME + 20)


def _overlapping(band: Band, y: int) -> tuple[list[Markup], int]:
    """Return regions that overlap, each in a lane of its own where it needs one."""
    shapes = sorted(band.shapes, key=lambda s: s.first)
    marks = sorted({s.first for s in shapes} | {s.end for s in shapes})
    at: dict[int, int] = {}
    made: list[Markup] = []
    for low, high in zip(marks, [*marks[1:], marks[-1]], strict=True):
        at[low] = y
        made.append(_text(AXIS, y + 12, f"{low:#x}", "cvm-mono cvm-ink", text_anchor="end"))
        begin = sum(s.first == low for s in shapes)
        y += max(height(high - low, EDGE) if high > low else 0, LEAST * begin)
    lanes = [*_lanes(shapes)]
    wide = (BAR_END - BAR) // (max(lanes) + 1)
    seen: dict[int, int] = {}
    for shape, lane in zip(shapes, lanes, strict=True):
        nth = seen.get(shape.first, 0)
        seen[shape.first] = nth + 1
        bar = (BAR + lane * wide, BAR + (lane + 1) * wide)
        label = at[shape.first] + 15 + nth * LEAST
        made.append(_shape(shape, (at[shape.first], at[shape.end]), bar, label))
    return made, max(y, at[marks[-1]] + EDGE)


def _lanes(shapes: Iterable[Shape]) -> Iterator[int]:
    """Yield the lane of each shape, in which none before it reaches so far."""
    ends: list[int] = []
    for shape in shapes:
        lane = next((n for n, end in enumerate(ends) if end <= shape.first), len(ends))
        ends[lane : lane + 1] = [shape.end]
        yield lane
