"""The map as a picture: what is in it, what it looks like, and that nothing comes in by a name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import pytest

from cvmplan.memory.bands import MOST_BANDS, MOST_WRONG, bands, shapes_of
from cvmplan.memory.owners import owners
from cvmplan.memory.regions import Region, Role
from tests.build.ovmf import good_snp
from tests.run import run
from tests.test_bounds import in_time

SVG: Final = "{http://www.w3.org/2000/svg}"
SHARED: Final = Path(__file__).parent.parent.parent / "shared" / "firmware"
HOSTILE: Final = (
    '"><script>alert(1)</script>', "]]><svg onload=alert(1)>", "'; background:url(//x) '",
    "&amp;lt;", "\u202egpj.exe", "\x1b[31m", "%0A::error::", "</style><b>", "a\u2028b",
)  # fmt: skip
VOID: Final = {"meta"}
ELEMENTS: Final = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "div", "table",
    "caption", "thead", "tbody", "tr", "th", "td", "span", "strong", "pre", "ul", "li", "svg",
    "desc", "defs", "pattern", "rect", "path", "g", "text", "circle",
}  # fmt: skip
"""What pages consist of: nothing of it loads or runs anything."""
ATTRIBUTES: Final = {
    "lang", "charset", "name", "content", "http-equiv", "class", "scope", "id", "role", "d", "x",
    "y", "cx", "cy", "r", "width", "height", "fill", "viewbox", "xmlns", "patternunits",
    "text-anchor", "aria-label",
}  # fmt: skip


class Page(HTMLParser):
    """What a page consists of; elements that are not closed in order are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if tag in tags]


def picture(*arguments: str, code: int = 0) -> str:
    answer = run("map", *arguments)
    assert answer.code == code, answer.err
    return answer.out


def parsed(drawing: str) -> ET.Element:
    return ET.fromstring(drawing)  # noqa: S314 our own


def manifest(path: Path, *regions: dict[str, str]) -> str:
    document = {"schema": "cvmplan.manifest/1", "platform": "snp", "regions": regions}
    path.write_text(json.dumps(document))
    return str(path)


def zero(gpa: int, size: int, name: str) -> dict[str, str]:
    return {"gpa": hex(gpa), "size": hex(size), "type": "zero", "name": name}


# --- what is in it --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["svg", "html"])
def test_every_section_of_the_file_is_there_with_its_addresses(form: str, tmp_path: Path) -> None:
    image = good_snp()
    path = tmp_path / "image.fd"
    path.write_bytes(image.build())
    text = picture(str(path), "--format", form)
    for gpa, size, _ in image.sev_sections or []:
        assert f">{gpa:#x}<" in text
        assert f">{gpa + size - 1:#x}<" in text
    assert ">0xfffffffff000<" in text  # AMD's VMSA of the boot vCPU
    assert f"{image.size // 1024} KiB ({image.size // 4096} pages) · normal" in text


def test_a_higher_rectangle_is_a_larger_region_and_gaps_are_broken() -> None:
    root = parsed(picture("--example", "snp", "--format", "svg"))
    heights = {}
    for group in root.iter(f"{SVG}g"):
        desc, rect = group.find(f"{SVG}desc"), group.find(f"{SVG}rect")
        if desc is not None and rect is not None:
            amount, unit = str(desc.text).split()[:2]
            heights[int(amount) * {"KiB": 1, "MiB": 1024}[unit]] = int(rect.get("height", ""))
    assert [*heights.values()] != sorted(heights.values(), reverse=True)
    assert [heights[n] for n in sorted(heights)] == sorted(heights.values())
    gaps = [t for t in root.itertext() if t.startswith("Gap ")]
    assert gaps[0] == "Gap 0x0-0x7fffff"  # from address 0 on
    assert len(gaps) == 4


def test_regions_that_overlap_are_marked_and_others_are_not(tmp_path: Path) -> None:
    both = zero(0x1000, 0x4000, "low"), zero(0x3000, 0x4000, "high")
    path = manifest(tmp_path / "m.json", *both, zero(0x9000, 0x1000, "alone"))
    root = parsed(picture(path, "--format", "svg", code=1))
    marked = [str(t.text) for t in root.iter(f"{SVG}text") if str(t.text).startswith("!")]
    assert marked == ["! gpa-mapped-twice: regions[0] low", "! gpa-mapped-twice: regions[1] high"]
    rects = [r for r in root.iter(f"{SVG}rect") if r.get("class") == "cvm-bad"]
    low, high = ((int(r.get("y", "")), int(r.get("height", ""))) for r in rects)
    assert low[0] < high[0] < low[0] + low[1]  # they overlap in the picture too
    page = Page(picture(path, "--format", "html", code=1))
    assert page.of("strong").count("gpa-mapped-twice") == 2
    assert "error" in page.of("strong")


def test_a_region_that_is_wrong_by_itself_is_marked(tmp_path: Path) -> None:
    path = manifest(tmp_path / "m.json", zero(0x1800, 0x1000, "odd"), zero(0x9000, 0x1000, "fine"))
    text = picture(path, "--format", "svg", code=1)
    assert re.findall(r'cvm-wrong">! ([\w-]+): regions', text) == ["gpa-unaligned"]


# --- names and strings ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_stays_a_name(name: str, tmp_path: Path) -> None:
    regions = zero(0x1000, 0x2000, name), zero(0x2000, 0x1000, name), zero(0x8000, 0x1000, "end")
    path = manifest(tmp_path / "m.json", *regions)
    drawing = picture(path, "--format", "svg", code=1)
    tags = {e.tag.removeprefix(SVG) for e in parsed(drawing).iter()}
    text = picture(path, "--format", "html", code=1)
    page = Page(text)
    assert tags | {tag for tag, _ in page.seen} <= ELEMENTS
    assert {name for _, attrs in page.seen for name in attrs} <= ATTRIBUTES
    assert all(c == "\n" or c.isprintable() for c in drawing + text)
    if name.isprintable():
        assert any(name in cell for cell in page.of("td"))


def test_nothing_is_loaded_and_no_script_is_there() -> None:
    for form in ("svg", "html"):
        text = picture("--example", "tdx", "--format", form)
        assert not re.search(r"@import|@font-face|javascript:|<script|\bon\w+=|\bsrc=|href=", text)
        links = set(re.findall(r"\w+://[^\s\"']+", text))
        assert links == {"http://www.w3.org/2000/svg"}  # a name, which nobody opens
        assert all(n.startswith("#") for n in re.findall(r"url\(([^)]*)\)", text))
    assert "default-src 'none'; style-src 'unsafe-inline'" in text


def test_the_same_image_gives_the_same_bytes() -> None:
    for form in ("svg", "html"):
        one, two = (picture("--example", "snp", "--format", form) for _ in "ab")
        assert one == two


# --- for everybody --------------------------------------------------------------------------------


def channel(value: int) -> float:
    """Source: WCAG 2.2, definition of relative luminance."""
    part = value / 255
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def luminance(colour: str) -> float:
    red, green, blue = (channel(int(colour[n : n + 2], 16)) for n in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, two: str) -> float:
    """Source: WCAG 2.2, definition of contrast ratio."""
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_what_the_guidelines_say() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # just too little


def schemes(text: str) -> Iterator[dict[str, str]]:
    """Yield the colours of a page by selector and property: light, and dark over light."""
    style = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    light, _, dark = style.partition("@media screen and (prefers-color-scheme:dark){")
    found: dict[str, str] = {}
    for part in (light, dark):
        for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", part):
            for prop, colour in re.findall(r"([\w-]+):(#[0-9a-f]{6})", body):
                for selector in selectors.split(","):
                    found[f"{selector.strip()} {prop}"] = colour
        yield dict(found)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_a_contrast_of_4_5_and_patterns_one_of_3(scheme: int, tmp_path: Path) -> None:
    path = manifest(tmp_path / "m.json", zero(0x1000, 0x2000, "a"), zero(0x2000, 0x1000, "b"))
    texts = (
        picture(path, "--format", "html", code=1),
        picture("--example", "snp", "--format", "svg"),
    )
    for text in texts:
        colours = [*schemes(text)][scheme]
        paper = colours[".cvm background"]
        assert paper == colours[".cvm-page background"] == colours[".cvm .cvm-paper fill"]
        words = [colours[f".cvm .cvm-{name} fill"] for name in ("ink", "soft", "wrong")]
        words += [colours[".cvm-page color"], colours[".cvm-t-wrong color"]]
        assert min(contrast(word, paper) for word in words) >= 4.5
        assert contrast(colours[".cvm .cvm-bad stroke"], paper) >= 3
        assert contrast(colours[".cvm .cvm-edge stroke"], paper) >= 3
        kinds = re.findall(r"\.cvm pattern \.cvm-s-([\w-]+) stroke", "\n".join(colours))
        assert "zero" in kinds
        for kind in kinds:
            fill = colours[f".cvm .cvm-f-{kind} fill"]
            assert contrast(colours[f".cvm pattern .cvm-s-{kind} stroke"], fill) >= 3


def test_the_two_schemes_differ() -> None:
    light, dark = schemes(picture("--example", "snp", "--format", "html"))
    assert luminance(light[".cvm background"]) > 0.9
    assert luminance(dark[".cvm background"]) < 0.1


def test_patterns_differ_where_colours_do_not_show() -> None:
    root = parsed(picture("--example", "snp", "--format", "svg"))
    paths = {}
    for pattern in root.iter(f"{SVG}pattern"):
        shape = pattern.find(f"{SVG}path")
        assert shape is not None
        paths[pattern.get("id")] = shape.get("d")
    assert {"cvm-zero", "cvm-secrets", "cvm-cpuid", "cvm-normal", "cvm-vmsa"} == set(paths)
    assert all(a != b for a, b in combinations(paths.values(), 2))


def test_each_shape_has_a_title_and_a_description() -> None:
    root = parsed(picture("--example", "tdx", "--format", "svg"))
    shapes = [g for g in root.iter(f"{SVG}g") if g.get("role")]
    assert len(shapes) == 6 + 4  # sections of the image, and gaps
    for one in (root, *shapes):
        texts = [one.findtext(f"{SVG}{name}") for name in ("title", "desc")]
        assert all(texts), ET.tostring(one)
    drawn = {r.get("fill") for g in shapes for r in g.iter(f"{SVG}rect")}
    assert drawn == {"url(#cvm-measured)", "url(#cvm-unmeasured)"}


def test_tables_have_headers_and_the_page_a_language() -> None:
    page = Page(picture("--example", "snp", "--format", "html"))
    heads = [attrs for tag, attrs in page.seen if tag == "th"]
    assert heads
    assert all(attrs == {"scope": "col"} for attrs in heads)
    assert ("html", {"lang": "en"}) in page.seen
    assert page.of("title")[0] == page.of("h1")[0] == "Guest memory of example:snp"
    rows = sum(tag == "tr" for tag, _ in page.seen) - 1
    assert rows == 9 + 4  # regions of the image with its VMSA, and gaps


# --- many regions ---------------------------------------------------------------------------------


def many(count: int, form: str) -> Iterator[Region]:
    """Yield regions that are alike, or of three types in turn, or that overlap."""
    types = ("normal", "zero", "unmeasured") if form == "mixed" else ("zero",)
    size = 0x3000 if form == "overlapping" else 0x1000
    for n in range(count):
        kind = types[n % len(types)]
        yield Region(0x100000 + n * 0x2000, size, Role.REGION, f"m.json: regions[{n}] r{n}", kind)


@pytest.mark.parametrize("form", ["alike", "mixed", "overlapping"])
@pytest.mark.parametrize("count", [1000, 100_000])
def test_many_regions_are_drawn_in_bounded_space(count: int, form: str) -> None:
    from cvmplan.emit import html, svg

    found = owners(many(count, form), ())
    with in_time(count / 4000 + 2):
        drawing, page = svg.guest_map(found), html.guest_map(found)
    assert len(drawing) < 300_000
    assert len(page) < 1_000_000
    shapes = [g for g in parsed(drawing).iter(f"{SVG}g") if g.get("role")]
    assert len(shapes) <= 2 * (2 * MOST_BANDS + 2 * MOST_WRONG)
    assert f"{count} regions" in drawing
    Page(page)


def test_runs_of_alike_regions_are_one_and_the_others_stay() -> None:
    regions = [*many(1000, "alike")]
    regions[500] = Region(regions[500].gpa, 0x1000, Role.REGION, "m.json: secrets", "secrets")
    drawn = [b for b in bands([*shapes_of(owners(regions, ()))]) if b.shapes]
    assert [b.shapes[0].regions for b in drawn] == [500, 1, 499]
    assert [b.shapes[0].kind for b in drawn] == ["zero", "secrets", "zero"]
    assert sum(b.shapes[0].size for b in drawn) == 1000 * 0x1000


def test_an_error_among_many_regions_is_drawn_by_itself() -> None:
    regions = [*many(1000, "mixed")]
    extra = Region(regions[500].gpa, 0x1000, Role.REGION, "m.json: again", "zero")
    drawn = bands([*shapes_of(owners([*regions, extra], ()))])
    wrong = [b for b in drawn if b.is_wrong]
    assert [len(b.shapes) for b in wrong] == [2]
    assert {s.owners[0] for s in wrong[0].shapes} == {regions[500].origin, extra.origin}
    assert sum(s.regions for b in drawn for s in b.shapes) == 1001
