"""The JSON documents, as `documents` has them; a test validates each against its model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

from cvmplan.core.findings import Finding
from cvmplan.core.inputs import Input
from cvmplan.core.values import PAGE, Json
from cvmplan.emit.documents import (
    finding,
    simulation_document,
)
from cvmplan.images.inspection import Inspection
from cvmplan.memory.owners import Owners
from cvmplan.operations.measure import Measurement
from cvmplan.operations.plan import Plan
from cvmplan.simulator.answers import Simulation


def dumps(document: Json) -> str:
    """Return a document as text; the same document gives the same bytes."""
    return json.dumps(document, indent=1) + "\n"


def listed(document: Mapping[str, Json], key: str) -> str:
    """Return a document as text, with one line for each entry of its list `key`."""
    rows = document[key]
    return "".join(streamed(document, key, rows if isinstance(rows, list) else ()))


def streamed(document: Mapping[str, Json], key: str, rows: Iterable[Json]) -> Iterator[str]:
    """
    Yield a document as text, with one line for each entry of its list `key`, which are `rows`.

    The entries are written one by one: they need not fit into memory.
    """
    return filled({**document, key: []}, key, rows)


def filled(document: Json, key: str, rows: Iterable[Json]) -> Iterator[str]:
    """Yield a document as text, with `rows` in its empty list `key`, wherever that is in it."""
    head, _, tail = dumps(document).partition(f'"{key}": []')
    mark = f'"{key}": [\n  '
    yield head
    for row in rows:
        yield mark + json.dumps(row)
        mark = ",\n  "
    yield f"{mark}\n ]{tail}" if mark[0] == '"' else f"\n ]{tail}"


def measurement(plan: Plan, result: Measurement) -> str:
    """Return cvmplan.measurement/1."""
    return dumps(
        {
            "schema": "cvmplan.measurement/1",
            "platform": plan.platform,
            "vmm": plan.vmm,
            "abi": plan.abi,
            **register_of(result),
            "coverage": {
                name: {"pages": pages, "bytes": pages * PAGE}
                for name, pages in result.coverage._asdict().items()
            },
            "inputs": inputs_of(plan.inputs),
            "given": plan.given,
            "assumed": plan.assumed,
            **({"places": dict(plan.places)} if plan.places else {}),
            "findings": [finding(f) for f in plan.findings],
        }
    )


def register_of(result: Measurement) -> dict[str, Json]:
    """Return a measurement and where it is read."""
    return {
        "register": result.register,
        "algorithm": result.algorithm,
        "digest": result.digest.hex(),
        "pages": result.pages,
    }


def findings(found: Sequence[Finding]) -> str:
    """Return cvmplan.findings/1."""
    return dumps({"schema": "cvmplan.findings/1", "findings": [finding(f) for f in found]})


def inputs_of(inputs: Iterable[Input]) -> list[dict[str, Json]]:
    """Return the inputs with their hashes."""
    return [
        {
            "role": i.role,
            **({"path": i.path} if i.path is not None else {}),
            "size": i.size,
            "sha256": i.sha256,
        }
        for i in inputs
    ]


def guest_map(owners: Owners) -> str:
    """Return cvmplan.map/1."""
    return dumps(
        {
            "schema": "cvmplan.map/1",
            "regions": [
                {
                    "gpa": hex(r.gpa),
                    "size": hex(r.size),
                    "owner": r.origin,
                    "type": r.page_type or "",
                    "measured": measured == "contents",
                }
                for r, measured in owners.rows
            ],
            "gaps": [{"gpa": hex(start), "size": hex(end - start)} for start, end in owners.gaps],
            "findings": [finding(f) for f in owners.findings],
        }
    )


def inspect(document: Inspection) -> str:
    """Return what a file declares."""
    tables = [cast("Mapping[str, Json]", table) for table in document["tables"]]
    return dumps(
        {
            "format": document["format"],
            "allows": list(document["allows"]),
            "tables": tables,
            "findings": [finding(f) for f in document["findings"]],
        }
    )


def simulation(outcome: Simulation) -> str:
    """Return cvmplan.simulation/1."""
    return listed(simulation_document(outcome), "results")
