"""What `check` found, as cvmplan.findings/1."""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.core.findings import Finding
from cvmplan.core.places import Place
from cvmplan.core.values import Json
from cvmplan.emit.documents import finding
from cvmplan.emit.json import streamed
from cvmplan.operations.checked import Checked, Checks


def checks(made: Checks) -> Iterator[str]:
    """Yield the findings of all files, and about each file what was compared and how it ended."""
    document: dict[str, Json] = {
        "schema": "cvmplan.findings/1",
        "findings": [],
        "files": [_file(made, one) for one in made.files],
    }
    rows = (_finding(one, found) for one in made.files for found in one.findings)
    return streamed(document, "findings", rows)


def _finding(one: Checked, found: Finding) -> dict[str, Json]:
    place = one.place(found)
    document = {**finding(found), "file": one.name, "place": _place(place)}
    owners = [_place(o) for o in found.origins if isinstance(o, Place)]
    return {**document, **({"owners": owners} if owners else {})}


def _place(place: Place) -> dict[str, Json]:
    parts: dict[str, Json] = {
        "file": place.file,
        "offset": place.offset,
        "length": place.length,
        "line": place.line,
        "column": place.column,
    }
    return {name: value for name, value in parts.items() if value is not None}


def _file(made: Checks, one: Checked) -> dict[str, Json]:
    return {
        "path": one.name,
        "exit_code": made._replace(files=(one,)).exit_code,
        "compared": [
            {
                "register": held.register,
                "launch": held.settings,
                "expected": held.expected.hex(),
                "digest": held.found.hex(),
                "same": held.same,
            }
            for held in one.compared
        ],
    }
