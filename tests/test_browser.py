"""Maps and reports in a real browser: no error, no request, found, printed, read in the dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.browser import Browser, NoBrowserError, browser
from tests.build.igvm import good_snp as igvm
from tests.run import run
from tests.test_pictures import SHARED, contrast, manifest, zero

TAB, ENTER = "\ue004", "\ue007"  # W3C WebDriver, "Keyboard actions"
CONTRASTS: Final = """
const paper = getComputedStyle(document.body).backgroundColor, found = new Set();
for (const one of document.querySelectorAll("body *")) {
  const own = [...one.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  if (!own || one.closest("title, desc, style")) continue;
  const style = getComputedStyle(one);
  found.add(one.namespaceURI.endsWith("svg") ? style.fill : style.color);
}
return [paper, [...found]];
"""
FIND: Final = "getSelection().removeAllRanges(); return find(arguments[0], true, false, true)"
FOCUS: Final = "return [document.activeElement.tagName, location.hash]"
BROKEN: Final = """
const most = arguments[0];
return [...document.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().height > most)
  .length;
"""


MOST_ON_PAPER: Final = 950  # height of A4 at 96 dots an inch, without margins


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def window(folder: Path) -> Iterator[Browser]:
    try:
        with browser(folder) as made:
            yield made
    except NoBrowserError as reason:
        pytest.skip(str(reason))


LAUNCHES: Final = (
    "example:snp", "example:tdx", "OVMF.amdsev.fd", "OVMF.inteltdx.ms.fd", "conflict.igvm", "many",
)  # fmt: skip


def launch(name: str, folder: Path) -> tuple[tuple[str, ...], str]:
    """Return what is launched, and an address that a reader looks for."""
    if name == "conflict.igvm":
        (folder / name).write_bytes(igvm().page(0x11000, bytes([7]) * 4096, 1).build())
        return (str(folder / name), "--platform", "snp"), "0x11000"
    if name == "many":
        regions = (zero(0x100000 + n * 0x2000, 0x1000, f"r{n}") for n in range(100_000))
        return (manifest(folder / "many.json", *regions),), "0x100000"
    if name.startswith("example"):
        return (name,), "0x80cfff" if name.endswith("snp") else "0x81ffff"
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return (str(path), "--platform", "snp" if "sev" in name else "tdx"), "0xffc00000"


@pytest.mark.parametrize("verb", ["map", "report"])
@pytest.mark.parametrize("name", LAUNCHES)
def test_pages_are_found_read_and_printed(
    name: str, verb: str, window: Browser, folder: Path
) -> None:
    words, address = launch(name, folder)
    form = ("--format", "html") if verb == "map" else ()
    answer = run(verb, *words, *form, "-o", str(folder / "page.html"))
    assert answer.code == (1 if name == "conflict.igvm" else 0), answer.err
    assert window.open("page.html") == ["file:///work/page.html"]
    assert window.log("browser") == []
    assert window.run(FIND, address)  # as a person searches
    if name == "conflict.igvm":
        assert window.run(FIND, "! gpa-mapped-twice")
    for scheme, dark in (("light", False), ("dark", True)):
        window.scheme(scheme)
        paper, texts = window.run(CONTRASTS)
        assert (contrast(hexadecimal(paper), "#000000") < 2) == dark
        assert len(texts) >= 2
        assert min(contrast(hexadecimal(t), hexadecimal(paper)) for t in texts) >= 4.5
    window.scheme("light")
    assert window.run(BROKEN, MOST_ON_PAPER) == 0
    pages = len(re.findall(rb"/Type /Page\b", window.print()))
    assert 1 <= pages <= 60


def hexadecimal(colour: str) -> str:
    """Return a colour as the browser computes it, "rgb(1, 2, 3)", in hexadecimal digits."""
    parts = re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour)
    assert parts, colour
    return "#" + "".join(f"{int(part):02x}" for part in parts.groups())


def test_a_report_is_read_with_the_keyboard(window: Browser, folder: Path) -> None:
    run("report", "example:snp", "-o", str(folder / "page.html"))
    window.open("page.html")
    window.press(TAB)
    assert window.run(FOCUS) == ["A", ""]
    window.press(TAB, TAB, TAB, ENTER)
    assert window.run(FOCUS)[1] == "#findings"


def test_a_picture_by_itself_is_shown(window: Browser, folder: Path) -> None:
    run("map", "example:tdx", "--format", "svg", "-o", str(folder / "map.svg"))
    assert window.open("map.svg") == ["file:///work/map.svg"]
    assert window.log("browser") == []
    drawn = window.run(
        "return [...document.querySelectorAll('g[role] rect')].map(r => r.getBBox().height)"
    )
    assert len(drawn) == 6  # sections of the image
    assert min(drawn) > 20


def test_a_page_that_asks_for_something_is_seen(window: Browser, folder: Path) -> None:
    """So that the tests before can fail."""
    (folder / "bad.html").write_text(
        "<!DOCTYPE html><meta http-equiv=Content-Security-Policy content=\"img-src 'none'\">"
        "<img src=a.png><script src=b.js></script>"
    )
    assert "file:///work/b.js" in window.open("bad.html")
    assert len(window.log("browser")) >= 2
    assert not window.run(FIND, "0x80cfff")
