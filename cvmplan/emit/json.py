"""The JSON documents, as `documents` has them; a test validates each against its model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from cvmplan import __version__
from cvmplan.calls.planned import Planned, Row
from cvmplan.core.findings import RULES, Finding
from cvmplan.core.inputs import Input
from cvmplan.core.values import PAGE, Json
from cvmplan.emit.documents import (
    abi_document,
    finding,
    profile_document,
    simulation_document,
)
from cvmplan.emit.fields import fields_of, is_said, plan_value, vcpus
from cvmplan.images.inspection import Inspection
from cvmplan.kvm.abi import ABIS
from cvmplan.kvm.interface import Abi
from cvmplan.memory.owners import Owners
from cvmplan.operations.measure import Measurement
from cvmplan.operations.outcome import Trace, Traced
from cvmplan.operations.plan import Plan
from cvmplan.profiles import PROFILES, Profile
from cvmplan.simulator.answers import Simulation


def dumps(document: Json) -> str:
    """Return a document as text; the same document gives the same bytes."""
    return json.dumps(document, indent=1) + "\n"


def listed(document: Mapping[str, Json], key: str) -> str:
    """Return a document as text, with one line for each entry of its list `key`."""
    text = dumps({**document, key: []})
    rows = document[key]
    entries = rows if isinstance(rows, list) else ()
    lines = ",\n  ".join(json.dumps(entry) for entry in entries)
    return text.replace(f'"{key}": []', f'"{key}": [\n  {lines}\n ]', 1)


def measurement(plan: Plan, result: Measurement) -> str:
    """Return cvmplan.measurement/1."""
    return dumps(
        {
            "schema": "cvmplan.measurement/1",
            "platform": plan.platform,
            "vmm": plan.vmm,
            "abi": plan.abi,
            **_register(result),
            "coverage": {
                name: {"pages": pages, "bytes": pages * PAGE}
                for name, pages in result.coverage._asdict().items()
            },
            "inputs": inputs_of(plan.inputs),
            "given": plan.given,
            "assumed": plan.assumed,
            "findings": [finding(f) for f in plan.findings],
        }
    )


def _register(result: Measurement) -> dict[str, Json]:
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


def plan(made: Planned) -> str:
    """Return cvmplan.plan/1, on SNP with the launch digest after each add."""
    plan, result = made.plan, made.result
    index = {i.blob.name: n for n, i in enumerate(plan.inputs)}
    return listed(
        {
            "schema": "cvmplan.plan/1",
            "tool": {"name": "cvmplan", "version": __version__},
            "platform": plan.platform,
            "vmm": plan.vmm,
            "abi": plan.abi,
            "inputs": inputs_of(plan.inputs),
            "given": plan.given,
            "assumed": plan.assumed,
            "ops": [_op(row, index) for row in made.rows],
            "measurement": _register(result) if result else None,
            "findings": [finding(f) for f in plan.findings],
        },
        "ops",
    )


def _op(row: Row, index: Mapping[str, int]) -> dict[str, Json]:
    op = row.op
    document: dict[str, Json] = {"seq": row.number, "kind": op.kind, "op": op.name}
    if row.fd:
        document["fd"] = row.fd
    for name, value in fields_of(op):
        if is_said(value) or name == "measured":
            document[name] = plan_value(name, value, index)
    if row.largest_level is not None:
        document["largest_level"] = hex(row.largest_level)
    if row.fd and document.get("page_type") == "cpuid":
        document["retry"] = "invalid-param-once"
    if row.digest is not None and op.kind == "add":
        document["digest_after"] = row.digest.hex()
    return document


def trace(made: Trace) -> str:
    """Return cvmplan.trace/1, a run of equal commands as one step."""
    steps = [step_document(number, one) for number, one in enumerate(made.steps())]
    return dumps({"schema": "cvmplan.trace/1", "platform": made.plan.platform, "steps": steps})


def step_document(number: int, traced: Traced) -> dict[str, Json]:
    """Return a step, or a single command."""
    step = traced.step
    document: dict[str, Json] = {"step": number, "op": traced.op, "command": step.command}
    for name, value in fields_of(step):
        if isinstance(value, range):
            document["vcpus"] = vcpus(value)
        elif name not in ("contents", "page", "registers"):
            document[name] = plan_value(name, value, {})
    if traced.digest is not None:
        document["digest"] = traced.digest.hex()
    return document


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


def rules() -> str:
    """Return the catalogue of rules."""
    return dumps(
        [
            {"rule": name, "severity": rule.severity, "explanation": rule.explanation}
            for name, rule in RULES.items()
        ]
    )


def abis() -> str:
    """Return the kernel interfaces."""
    return dumps([abi_document(a) for a in ABIS.values()])


def abi(chosen: Abi) -> str:
    """Return one kernel interface."""
    return dumps(abi_document(chosen))


def profiles() -> str:
    """Return all built-in profiles, each as cvmplan.profile/1."""
    return dumps([profile_document(p) for p in PROFILES.values()])


def profile(chosen: Profile) -> str:
    """Return cvmplan.profile/1, which --vmm takes back."""
    return dumps(profile_document(chosen))
