"""The JSON documents, as `documents` has them; a test validates each against its model."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from cvmplan import __version__
from cvmplan.core.blob import Blob
from cvmplan.core.errors import PlanError
from cvmplan.core.findings import RULES, Finding
from cvmplan.core.inputs import Input
from cvmplan.core.platform import Platform
from cvmplan.core.values import PAGE
from cvmplan.emit.documents import (
    abi_document,
    finding,
    profile_document,
    simulation_document,
)
from cvmplan.kvm.abi import ABIS, find
from cvmplan.kvm.calls import fd_of
from cvmplan.kvm.interface import Abi
from cvmplan.memory.contents import Contents, DigestAfter, Filled, Hashed, Made, Zeros
from cvmplan.memory.regions import Region
from cvmplan.operations.measure import Measurement, checked, measure_steps
from cvmplan.operations.plan import Op, Plan, is_run
from cvmplan.operations.steps import Step
from cvmplan.platforms.snp.digest import measured, running
from cvmplan.platforms.vm.ops import largest_mapping
from cvmplan.profiles import PROFILES, Profile
from cvmplan.simulator.answers import Simulation

HEX_FIELDS = {
    "gpa", "size", "policy", "vmsa_features", "attributes", "xfam", "rcx", "gmem_offset", "offset",
}  # fmt: skip
MEASURED_TYPES = {"normal", "measured", "vmsa"}


def dumps(document: Any) -> str:
    """Return a document as text; the same document gives the same bytes."""
    return json.dumps(document, indent=1) + "\n"


def listed(document: Mapping[str, Any], key: str) -> str:
    """Return a document as text, with one line for each entry of its list `key`."""
    text = dumps({**document, key: []})
    lines = ",\n  ".join(json.dumps(entry) for entry in document[key])
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


def _register(result: Measurement) -> dict[str, Any]:
    return {
        "register": result.register,
        "algorithm": result.algorithm,
        "digest": result.digest.hex(),
        "pages": result.pages,
    }


def findings(found: Sequence[Finding]) -> str:
    """Return cvmplan.findings/1."""
    return dumps({"schema": "cvmplan.findings/1", "findings": [finding(f) for f in found]})


def inputs_of(inputs: Iterable[Input]) -> list[dict[str, Any]]:
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


def plan(made: Plan) -> str:
    """Return cvmplan.plan/1, on SNP with the launch digest after each add."""
    result, digests = checkpoints(made)
    index = {i.blob.name: n for n, i in enumerate(made.inputs)}
    return listed(
        {
            "schema": "cvmplan.plan/1",
            "tool": {"name": "cvmplan", "version": __version__},
            "platform": made.platform,
            "vmm": made.vmm,
            "abi": made.abi,
            "inputs": inputs_of(made.inputs),
            "given": made.given,
            "assumed": made.assumed,
            "ops": [_op(made, n, op, index, digests.get(n)) for n, op in enumerate(made.ops)],
            "measurement": _register(result) if result else None,
            "findings": [finding(f) for f in made.findings],
        },
        "ops",
    )


def checkpoints(plan: Plan) -> tuple[Measurement | None, dict[int, bytes]]:
    """Return the measurement (None where nothing is measured), and SNP's digest after each op."""
    lowered = list(plan.lowered())
    steps = [step for _, step in lowered]
    if not plan.platform.measured:
        return None, {}
    if not plan.platform.page_info:
        return checked(plan, measure_steps(plan.platform, steps)), {}
    pairs = list(running(steps))
    digests = {index: digest for (index, _), (_, digest) in zip(lowered, pairs, strict=True)}
    return checked(plan, measured(plan.platform, pairs)), digests


def _op(
    made: Plan, number: int, op: Op, index: Mapping[str, int], digest: bytes | None
) -> dict[str, Any]:
    document: dict[str, Any] = {"seq": number, "kind": op.kind, "op": op.name}
    abi = find(made.abi)
    fd = fd_of(op, abi)
    if fd:
        document["fd"] = fd
    for field in fields(op):  # type: ignore[arg-type]  # every concrete Op is a dataclass
        value = getattr(op, field.name)
        if is_said(value) or field.name == "measured":
            document[field.name] = plan_value(field.name, value, index)
    if op.kind == "map" and not made.platform.measured and is_run(op):
        document["largest_level"] = hex(largest_level(made, op.gpa, op.size))
    if fd and document.get("page_type") == "cpuid":
        document["retry"] = "invalid-param-once"
    if digest is not None and op.kind == "add":
        document["digest_after"] = digest.hex()
    return document


def is_said(value: Any) -> bool:
    """Whether a field says something: neither absent, nor off, nor empty."""
    return value is not None and value is not False and value != ()


def largest_level(made: Plan, gpa: int, size: int) -> int:
    """Return the largest page (bytes) that the kernel may map in a range of an open VM."""
    abi = find(made.abi)
    private = abi.map_level if abi.runs and made.platform.private else abi.shared_level
    return min(largest_mapping(gpa, size), private)


def plan_value(name: str, value: Any, index: Mapping[str, int]) -> Any:
    """Return a field of an operation as the plan document has it."""
    if name == "source":
        return source(value, index)
    if name in _BY_NAME:
        return _BY_NAME[name](value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [*value]
    return hex(value) if name in HEX_FIELDS else value


def source(contents: Contents, index: Mapping[str, int]) -> dict[str, Any]:
    """Return where contents are; `index` maps an input's name to its number."""
    match contents:
        case Blob(name, data, base):
            return {"input": index[name], "offset": base, "length": len(data)}
        case Made(data, at):
            return {"hex": data.hex(), **({"at": at} if at else {})}
        case Zeros():
            return {"zeros": True}
        case Filled(what):
            return {"vmm": what}
        case DigestAfter(digest):
            return {"digest_after": digest.hex()}
        case Hashed():
            raise PlanError("a plan names contents, not the hashes of pages")


def _vmsa(vmsa: Any) -> dict[str, Any]:
    gpa = {"gpa": hex(vmsa.gpa)} if hasattr(vmsa, "gpa") else {}
    return {"vcpus": vcpus(vmsa.vcpus), **gpa, "hex": vmsa.page.rstrip(b"\0").hex()}


_BY_NAME: dict[str, Callable[[Any], Any]] = {
    "page_type": lambda value: getattr(value, "label", value),
    "vmsas": lambda value: [_vmsa(v) for v in value],
    "registers": lambda value: [{"name": hex(n), "value": held.hex()} for n, held in value],
}


def vcpus(numbers: range) -> str:
    """Write a run of vCPUs: "0" or "1-3"."""
    if len(numbers) == 1:
        return str(numbers.start)
    return f"{numbers.start}-{numbers.stop - 1}"


def trace(plan: Plan) -> str:
    """Return cvmplan.trace/1, a run of equal commands as one step."""
    lowered = list(plan.lowered())
    steps = list(commands(plan.platform, lowered, final_digest(plan)))
    return dumps({"schema": "cvmplan.trace/1", "platform": plan.platform, "steps": steps})


def final_digest(plan: Plan) -> bytes | None:
    """Return the measurement of platforms that have one at the end only."""
    if plan.platform.page_info or not plan.platform.measured:
        return None
    return measure_steps(plan.platform, plan.trace()).digest


def commands(
    platform: Platform, lowered: Iterable[tuple[int, Step]], final: bytes | None = None
) -> Iterator[dict[str, Any]]:
    """Yield each step as a document, on SNP with the launch digest after it, else with `final`."""
    ops: deque[int] = deque()

    def steps() -> Iterator[Step]:
        for op, step in lowered:
            ops.append(op)
            yield step

    pairs: Iterable[tuple[Step, bytes | None]] = ((step, None) for step in steps())
    if platform.page_info:
        pairs = running(steps())
    for number, (step, digest) in enumerate(pairs):
        yield _step(
            number, ops.popleft(), step, final if step.command == platform.sealed_by else digest
        )


def _step(number: int, op: int, step: Step, digest: bytes | None) -> dict[str, Any]:
    document: dict[str, Any] = {"step": number, "op": op, "command": step.command}
    for field in fields(step):  # type: ignore[arg-type]  # every concrete Step is a dataclass
        value = getattr(step, field.name)
        if field.name == "vcpus":
            document["vcpus"] = vcpus(value)
        elif field.name == "page_type":
            document["page_type"] = value.label
        elif field.name not in ("contents", "page", "registers"):
            document[field.name] = hex(value) if field.name in HEX_FIELDS else value
    if digest is not None:
        document["digest"] = digest.hex()
    return document


def guest_map(regions: Sequence[Region], found: Sequence[Finding]) -> str:
    """Return cvmplan.map/1."""
    ordered = sorted(regions, key=lambda r: r.gpa)
    return dumps(
        {
            "schema": "cvmplan.map/1",
            "regions": [
                {
                    "gpa": hex(r.gpa),
                    "size": hex(r.size),
                    "owner": r.origin,
                    "type": r.page_type or "",
                    "measured": r.page_type in MEASURED_TYPES,
                }
                for r in ordered
            ],
            "gaps": [{"gpa": hex(start), "size": hex(end - start)} for start, end in gaps(ordered)],
            "findings": [finding(f) for f in found],
        }
    )


def gaps(ordered: Iterable[Region]) -> Iterator[tuple[int, int]]:
    """Yield [start, end) between regions in address order where nothing is mapped."""
    end: int | None = None
    for region in ordered:
        if end is not None and region.gpa > end:
            yield end, region.gpa
        end = max(end or 0, region.end)


def inspect(document: Mapping[str, Any]) -> str:
    """Return what a file declares."""
    return dumps({**document, "findings": [finding(f) for f in document["findings"]]})


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
