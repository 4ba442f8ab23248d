"""The guest-physical map as a page of HTML: the picture, and the same as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from cvmplan.core.findings import Finding
from cvmplan.emit import svg
from cvmplan.emit.markup import Markup, cut, lines, tag
from cvmplan.emit.palette import style
from cvmplan.memory.bands import Band, Shape, shapes_of
from cvmplan.memory.owners import Owners

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""What a page may load: nothing."""
PRINTED: Final = 900  # height of a part of the picture, which a page on paper has whole
MOST_ROWS: Final = 2000  # regions that the table has one by one
MOST_FINDINGS: Final = 200
MOST_CELL: Final = 2000
STYLE: Final = """
.cvm-page{font:15px/1.45 system-ui,sans-serif;padding:1.5rem;overflow-wrap:break-word}
.cvm-page main{max-width:60rem;margin:0 auto}
.cvm-page h1{font-size:1.5rem;margin:0 0 .5rem}
.cvm-page h3{font-size:1rem;margin:1rem 0 .3rem}
.cvm-page h2{font-size:1.15rem;margin:1.8rem 0 .5rem;break-after:avoid}
.cvm-page a{color:inherit}
.cvm-scroll{overflow-x:auto}
.cvm-page table{border-collapse:collapse;font-size:.85rem;width:100%}
.cvm-page caption{text-align:left;padding:.2rem 0}
.cvm-page th,.cvm-page td{text-align:left;vertical-align:top;padding:.2rem .6rem .2rem 0}
.cvm-page th,.cvm-page td{border-bottom:1px solid #767f8a}
.cvm-page tr{break-inside:avoid}
td .cvm-op{white-space:nowrap}
.cvm-page td:last-child{overflow-wrap:anywhere}
.cvm-page svg{display:block;max-width:100%;height:auto;break-inside:avoid}
.cvm-page pre,.cvm-num{font:.8rem ui-monospace,monospace;overflow-wrap:anywhere}
.cvm-page td:first-child .cvm-num,.cvm-page td:nth-child(2) .cvm-num{white-space:nowrap}
.cvm-page pre{white-space:pre-wrap;border:1px solid #767f8a;padding:.6rem}
@media print{
.cvm-page{padding:0;font-size:10pt}
.cvm-page main{max-width:none}
.cvm-page thead{display:table-header-group}
.cvm-scroll{overflow:visible}
}
"""


def guest_map(owners: Owners) -> str:
    """Return the map as one page."""
    picture = svg.picture_of([*shapes_of(owners)])
    errors = [f for f in owners.findings if f.severity == "error"]
    title = f"Guest memory of {picture.name}" if picture.name else "Guest memory"
    content = [tag("h1", title), tag("p", counted(picture))]
    if errors:
        content += [tag("h2", "Errors"), findings_table(errors)]
    content += [tag("h2", "Picture"), figure(picture), tag("h2", "Table")]
    return page(title, picture.kinds, [*content, map_table(picture)])


def page(title: str, kinds: Iterable[str], content: Iterable[str]) -> str:
    """Return a whole page with this content, the style of pictures of these page types in it."""
    head = lines(
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        tag("title", title),
        style(kinds, STYLE + "body{margin:0}\n"),
    )
    body = tag("main", lines(*content))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n'
        f'<body class="cvm-page">\n{body}\n</body>\n</html>\n'
    )


def counted(picture: svg.Picture) -> str:
    """Return how many regions there are, and how many are wrong."""
    shapes = [shape for band in picture.bands for shape in band.shapes]
    regions = sum(shape.regions for shape in shapes)
    drawn = "" if len(shapes) == regions else f", drawn as {len(shapes)}"
    wrong = f"{picture.wrong} marked with !" if picture.wrong else "none marked"
    return f"{svg.many(regions, 'region')}{drawn}; {wrong}; the table has the same as text."


def figure(picture: svg.Picture) -> Markup:
    """Return the picture, in parts that a page on paper has whole."""
    parts = svg.parts(picture, PRINTED)
    return tag("div", lines(*parts), class_="cvm-scroll cvm-figure")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> Markup:
    """Return a table with a heading for each column."""
    cells = [
        tag("tr", *(tag("td", c if isinstance(c, Markup) else cut(c, MOST_CELL)) for c in row))
        for row in rows
    ]
    titles = tag("tr", *(tag("th", title, scope="col") for title in head))
    above = [tag("caption", caption)] if caption else []
    body = tag("tbody", lines(*cells))
    return tag("div", tag("table", *above, tag("thead", titles), body), class_="cvm-scroll")


def number(text: str) -> Markup:
    """Return an address, a size or a digest."""
    return tag("span", text, class_="cvm-num")


def map_table(picture: svg.Picture) -> Markup:
    """Return each region as a row, or what is drawn where there are more than `MOST_ROWS`."""
    caption = f"Regions and gaps in address order{f', in {picture.name}' * bool(picture.name)}"
    found: Iterable[Shape | Band] = _with_gaps(picture.shapes)
    if (count := len(picture.shapes)) > MOST_ROWS:
        found = [one for band in picture.bands for one in (band.shapes or (band,))]
        caption += f"; {count} regions are more than {MOST_ROWS}, so a run of them is one row"
    head = ("First", "Last", "Size", "Bytes", "Type", "Measured", "Owner", "Problem")
    columns = len(head) if picture.wrong else len(head) - 1
    return table(head[:columns], (_row(one)[:columns] for one in found), caption)


def _with_gaps(shapes: Sequence[Shape]) -> Iterable[Shape | Band]:
    end = 0
    for shape in shapes:
        if shape.first > end:
            yield Band(end, shape.first, ())
        yield shape
        end = max(end, shape.end)


def _row(one: Shape | Band) -> Sequence[str]:
    size = one.size if isinstance(one, Shape) else one.end - one.first
    last = number(f"{one.end - 1:#x}") if one.end > one.first else ""
    place = (number(f"{one.first:#x}"), last, svg.amount(size), number(f"{size:#x}"))
    if isinstance(one, Band):
        return *place, "", "", "gap", ""
    kinds = ", ".join(f"{n} {kind}" for kind, n in one.kinds) if one.kinds else one.kind
    wrong = tag("strong", ", ".join(one.wrong), class_="cvm-t-wrong") if one.wrong else ""
    return *place, kinds, svg.COVERED[one.measured], svg.named(one), wrong


def findings_table(found: Sequence[Finding]) -> Markup:
    """Return findings, the gravest first, and how many are left out."""
    order = ("error", "warning", "note")
    rows = []
    for one in sorted(found, key=lambda f: order.index(f.severity))[:MOST_FINDINGS]:
        grave = tag(
            "strong", one.severity, class_="cvm-t-wrong" if one.severity == order[0] else ""
        )
        pages = (
            ""
            if one.first is None or one.last is None
            else svg.span(one.first, (one.last | 0xFFF) + 1)
        )
        hint = f" Hint: {one.hint}" if one.hint else ""
        place = one.at or ", ".join(one.origins[:2])
        rows.append((grave, one.rule, f"{one.message}{hint}", number(pages), place))
    left = len(found) - len(rows)
    caption = f"The first {MOST_FINDINGS}; {left} more are in the answer of check" if left else ""
    return table(("Severity", "Rule", "Message", "Pages", "Place"), rows, caption)
