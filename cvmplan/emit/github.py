"""
Annotations of GitHub Actions: workflow commands `::error file=…,line=…,title=…::message`.

GitHub, "Workflow commands for GitHub Actions"; what is escaped in them is that of actions/toolkit,
packages/core/src/command.ts: % CR LF everywhere, and : and , in properties.
"""

from __future__ import annotations

from typing import Final

from cvmplan.core.findings import Finding
from cvmplan.core.places import Place
from cvmplan.core.values import printable
from cvmplan.operations.checked import Checks

COMMANDS: Final = {"error": "error", "warning": "warning", "note": "notice"}
_DATA: Final = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_PROPERTY: Final = str.maketrans(
    {"%": "%25", "\r": "%0D", "\n": "%0A", ":": "%3A", ",": "%2C"},
)


def checks(made: Checks) -> str:
    """Return an annotation for each finding, the gravest first: GitHub shows ten of a kind."""
    return "".join(_annotation(one.place(found), found) for one, found in made.rows)


def _annotation(place: Place, found: Finding) -> str:
    properties: dict[str, str | int] = {"file": printable(place.file)}
    if place.line is not None:
        properties["line"] = place.line
    if place.column is not None:
        properties["col"] = place.column
    properties["title"] = found.rule
    told = ",".join(f"{name}={str(v).translate(_PROPERTY)}" for name, v in properties.items())
    where = "" if place == place.file or place.line is not None else f"{place}: "
    lines = [where + found.text.removeprefix(f"{found.rule}: "), found.hint]
    text = "\n".join(printable(line) for line in lines if line)
    return f"::{COMMANDS[found.severity]} {told}::{text.translate(_DATA)}\n"
