"""
SARIF 2.1.0, the form of findings that code hosts show (OASIS, Static Analysis Results Interchange
Format 2.1.0, 27 March 2020, with errata 01).

A place in a binary is a byte range, a place in a document a line and a column.  Both owners of a
conflict are related locations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import quote

from cvmplan import __version__
from cvmplan.core.findings import Finding, Rule
from cvmplan.core.places import Place
from cvmplan.core.values import Json, printable
from cvmplan.emit.json import filled
from cvmplan.operations.checked import Checked, Checks

SCHEMA: Final = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
HOME: Final = "https://github.com/cvmplan/cvmplan"
HELP: Final = f"{HOME}/blob/main/cvmplan/docs/rules.md"
FINGERPRINT: Final = "cvmplanFinding/v1"


def checks(made: Checks) -> Iterator[str]:
    """Yield the findings of all files as one run of SARIF."""
    order = {name: number for number, name in enumerate(made.rules)}
    results = (
        _result(one, found, order, name)
        for one in made.files
        for found, name in zip(one.findings, one.fingerprints(), strict=True)
    )
    names = dict.fromkeys(one.name for one in made.files)
    run: dict[str, Json] = {
        "tool": {"driver": _driver(made.rules)},
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {
                "executionSuccessful": not any(one.error for one in made.files),
                "exitCode": made.exit_code,
            }
        ],
        "artifacts": [
            {"location": {"uri": uri(name)}, "roles": ["analysisTarget"]} for name in names
        ],
        "results": [],
    }
    return filled({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, "results", results)


def _driver(rules: Mapping[str, Rule]) -> dict[str, Json]:
    return {
        "name": "cvmplan",
        "version": __version__,
        "semanticVersion": __version__,
        "informationUri": HOME,
        "rules": [
            {
                "id": name,
                "shortDescription": {"text": name.replace("-", " ")},
                "fullDescription": {"text": rule.explanation},
                "help": {"text": f"{rule.explanation} 'cvmplan help rules' lists all rules."},
                "helpUri": HELP,
                "defaultConfiguration": {"level": rule.severity},
            }
            for name, rule in rules.items()
        ],
    }


def _result(
    one: Checked, found: Finding, order: Mapping[str, int], fingerprint: str
) -> dict[str, Json]:
    hint = f"\n{found.hint}" if found.hint else ""
    result: dict[str, Json] = {
        "ruleId": found.rule,
        "ruleIndex": order[found.rule],
        "level": found.severity,
        "message": {"text": _shown(found.text.removeprefix(f"{found.rule}: ")) + _shown(hint)},
        "locations": [_location(one.place(found))],
        "partialFingerprints": {FINGERPRINT: fingerprint},
    }
    if found.origins:
        result["relatedLocations"] = [*_owners(found.origins)]
    return result


def _owners(origins: Iterable[str]) -> Iterable[dict[str, Json]]:
    for number, origin in enumerate(origins):
        place = origin if isinstance(origin, Place) else Place(origin)
        yield {"id": number, "message": {"text": _shown(origin)}, **_location(place)}


def _location(place: Place) -> dict[str, Json]:
    """Return a place: its file and range where it has one, and how people write it."""
    location: dict[str, Json] = {"logicalLocations": [{"fullyQualifiedName": _shown(place)}]}
    if place.file:
        region = _region(place)
        physical: dict[str, Json] = {"artifactLocation": {"uri": uri(place.file)}}
        location["physicalLocation"] = {**physical, **({"region": region} if region else {})}
    return location


def _region(place: Place) -> dict[str, Json]:
    if place.offset is not None:
        length: dict[str, Json] = {} if place.length is None else {"byteLength": place.length}
        return {"byteOffset": place.offset, **length}
    if place.line is None:
        return {}
    column: dict[str, Json] = {} if place.column is None else {"startColumn": place.column}
    return {"startLine": place.line, **column}


def uri(path: str) -> str:
    """Return a path as a URI reference (RFC 3986): relative, or file: where it is absolute."""
    written = quote(path.encode(errors="surrogateescape"), safe="/")
    return f"file://{written}" if path.startswith("/") else written


def _shown(text: str) -> str:
    """Return lines with escapes in place of control characters and directions of writing."""
    return "\n".join(printable(line) for line in text.split("\n"))
