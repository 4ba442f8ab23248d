"""A plan, and the firmware commands beneath it, as JSON documents."""

from __future__ import annotations

from collections.abc import Mapping

from cvmplan import __version__
from cvmplan.calls.planned import Planned, Row
from cvmplan.core.values import Json
from cvmplan.emit.documents import finding
from cvmplan.emit.fields import fields_of, is_said, plan_value, practice_of, vcpus
from cvmplan.emit.json import dumps, inputs_of, listed, register_of
from cvmplan.operations.outcome import MappedRange, Trace, Traced


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
            **({"places": dict(plan.places)} if plan.places else {}),
            **({"practice": practice_of(plan.practice)} if plan.practice else {}),
            "ops": [_op(row, index) for row in made.rows],
            "measurement": register_of(result) if result else None,
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
    if row.digest is not None and op.kind == "add":
        document["digest_after"] = row.digest.hex()
    return document


def trace(made: Trace) -> str:
    """Return cvmplan.trace/1, a run of equal commands as one step."""
    steps = [step_document(number, one) for number, one in enumerate(made.steps())]
    return dumps(
        {
            "schema": "cvmplan.trace/1",
            "platform": made.plan.platform,
            "steps": steps,
            **({"mappings": [_mapping(one) for one in made.mappings]} if made.mappings else {}),
        }
    )


def _mapping(one: MappedRange) -> dict[str, Json]:
    told: dict[str, Json] = {
        "op": one.op,
        "gpa": hex(one.gpa),
        "size": hex(one.size),
        "level": hex(one.level),
    }
    return {**told, "why": one.why} if one.why else told


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
