"""
The rooms of the package as `.github/ARCHITECTURE.md` shows them: a picture and a table.

    python -m tests.rooms            print both
    python -m tests.rooms --write    put both into the page

Floors and imports from outside come from `test_layers`, lines from the docstrings of the rooms,
arrows from the imports.  An arrow that follows from others is left out.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Final

from tests.test_layers import FLOORS, MODULES, OUTSIDE, RANK, ROOT, imports, name_of

PAGE: Final = ROOT.parent / ".github" / "ARCHITECTURE.md"
BEGIN: Final = "<!-- made by: python -m tests.rooms --write -->\n"
END: Final = "<!-- end -->\n"
ROOMS: Final = [room for floor in reversed(FLOORS) for room in floor if room != "__main__"]
_BY_NAME = re.compile(r"cvmplan\.(\w+)\.[\w.]*")

Arrows = Mapping[str, set[str]]


def first_line(room: str) -> str:
    """Return the first line of a room's docstring."""
    said = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text())) or ""
    return " ".join(said.partition("\n")[0].split())


def imported() -> Arrows:
    """Return the rooms that each room imports."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in (p for p in MODULES if name_of(p) in found):
        for name in imports(path):
            top, _, rest = name.partition(".")
            if top == "cvmplan" and (room := rest.partition(".")[0]) in RANK:
                found[name_of(path)].add(room)
    return {room: rooms - {room} for room, rooms in found.items()}


def loaded_by_name(arrows: Arrows) -> Arrows:
    """Return the rooms whose modules each room loads by name and imports nowhere."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in (p for p in MODULES if name_of(p) in found):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                match = _BY_NAME.fullmatch(node.value)
                if match and match[1] in RANK:
                    found[name_of(path)].add(match[1])
    return {room: rooms - arrows[room] - {room} for room, rooms in found.items()}


def reached(arrows: Arrows, room: str) -> set[str]:
    """Return the rooms that `room` imports, or that those import."""
    return arrows[room].union(*(reached(arrows, other) for other in arrows[room]))


def needed(arrows: Arrows) -> Arrows:
    """Return the arrows that do not follow from others."""
    return {
        room: rooms - set[str]().union(*(reached(arrows, other) for other in rooms))
        for room, rooms in arrows.items()
    }


def picture() -> str:
    """Return the rooms as a Mermaid diagram, the highest floor first."""
    arrows = imported()
    return "\n".join([
        "```mermaid",
        "flowchart TB",
        *_floors(),
        *_lines(needed(arrows), "-->"),
        *_lines(loaded_by_name(arrows), "-.->"),
        "```",
        "",
    ])  # fmt: skip


def _floors() -> Iterator[str]:
    for number, rooms in reversed([*enumerate(FLOORS)]):
        if "__main__" not in rooms:
            yield f'    subgraph floor{number} ["{number}"]'
            yield from (f"        {room}" for room in rooms)
            yield "    end"


def _lines(arrows: Arrows, arrow: str) -> Iterator[str]:
    for room in ROOMS:
        for other in sorted(arrows[room], key=ROOMS.index):
            yield f"    {room} {arrow} {other}"


def table() -> str:
    """Return the rooms as a table: floor, room, the first line of its docstring, packages."""
    rows = ["| floor | room | what it is | packages |", "|---|---|---|---|"]
    for room in ROOMS:
        packages = ", ".join(name for name, rooms in OUTSIDE.items() if room in rooms)
        rows.append(f"| {RANK[room]} | `{room}/` | {first_line(room)} | {packages} |")
    return "\n".join([*rows, ""])


def made() -> str:
    """Return the part of the page that comes from the code."""
    return f"{BEGIN}\n{picture()}\n{table()}\n{END}"


def in_page() -> str:
    """Return the part of the page that should be `made()`; ValueError where a mark is missing."""
    page = PAGE.read_text("utf-8")
    return page[page.index(BEGIN) : page.index(END) + len(END)]


def main(argv: list[str]) -> None:
    """Print the made part, or write it into the page."""
    if argv == ["--write"]:
        page = PAGE.read_text("utf-8")
        PAGE.write_text(page.replace(in_page(), made()), "utf-8")
    else:
        sys.stdout.write(f"{picture()}\n{table()}")


if __name__ == "__main__":
    main(sys.argv[1:])
