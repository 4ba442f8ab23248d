"""Plans (cvmplan.plan/1) read back: the same operations, on inputs with the same hashes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, MapError, PlanError
from cvmplan.core.findings import Finding, has_errors
from cvmplan.core.inputs import Input
from cvmplan.core.platform import Platform
from cvmplan.core.practice import Practice
from cvmplan.core.values import PAGE
from cvmplan.documents import text
from cvmplan.images.inspection import Inspection
from cvmplan.kvm import abi as abis
from cvmplan.kvm.calls import fd_of
from cvmplan.kvm.interface import Abi
from cvmplan.memory.contents import Contents, DigestAfter, Filled, Made, Zeros
from cvmplan.operations.plan import Op, Plan, stage
from cvmplan.profiles import DEFAULTS, PROFILES
from cvmplan.readers.calls import Finder, of_documents
from cvmplan.readers.plan_document import load
from cvmplan.readers.profile import practice
from cvmplan.simulator.simulate import first_refusal

if TYPE_CHECKING:
    from cvmplan.documents.plan import PlanDocument, PlanMeasurement, PlanSource, VmsaDocument
    from cvmplan.documents.results import FindingDocument

SCHEMA = re.compile(rb'"schema"\s*+:\s*+"cvmplan\.plan/')


def recognises(blob: Blob) -> bool:
    """Whether the text is a JSON object that names the plan's schema."""
    head = bytes(blob.data[: 1 << 16])
    if len(blob) > text.MOST_TEXT or b"\0" in head:
        return False
    begins = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
    return begins and SCHEMA.search(blob.data) is not None


def read(blob: Blob, find: Finder) -> Plan:
    """
    Return the plan in `blob`.

    MalformedError where the document is wrong, InputError where an input that an operation
    refers to is not found with the hash that the plan names.
    """
    document = load(blob)
    abi = abis.find(document.abi, at=f"{blob.name}: abi")
    _check_complete(blob.name, document, abi)
    used = {op.source.input for op in document.ops if getattr(op, "source", None)}
    inputs = []
    for index, entry in enumerate(document.inputs):
        data = Blob(entry.path or "", memoryview(b""))
        if index in used:
            data = find(entry.path, entry.size, entry.sha256, blob.name)
        inputs.append(Input(entry.role, entry.path, data, (entry.size, entry.sha256)))
    if {**document.assumed, **document.given}.get("vmsa_scope", "all") != abi.vmsa_scope:
        raise MalformedError(f"vmsa_scope is not that of {abi.name}", at=blob.name)
    made = _Maker(blob.name, document.platform, _classes(document.platform), inputs)
    ops = tuple(made.op(n, op) for n, op in enumerate(document.ops))
    for number, (op, written) in enumerate(zip(ops, document.ops, strict=True)):
        _check_call(f"{blob.name}: ops[{number}]", op, written, abi)
    _check_kernel(blob.name, document, abi)
    return Plan(
        document.platform,
        document.vmm,
        document.abi,
        ops,
        document.given,
        document.assumed,
        tuple(inputs),
        tuple(_finding(f) for f in document.findings),
        _recorded(document.measurement) if document.measurement else None,
        practice=_practice(document),
        places=document.places,
    )


def _practice(document: PlanDocument) -> Practice:
    """Return how the plan's VMM makes its calls; where it does not say, as the profile does."""
    if document.practice is not None:
        return practice(document.practice)
    known = PROFILES.get(document.vmm, PROFILES[DEFAULTS[""]])
    return known.practice(document.platform)


def _check_complete(name: str, document: PlanDocument, abi: Abi) -> None:
    """Raise MalformedError unless the VM and its vCPUs are created, MapError for an error in it."""
    found = tuple(_finding(f) for f in document.findings)
    if has_errors(found):
        raise MapError(found)
    ops = [op.op for op in document.ops]
    needed = ["create-vm", "create-vcpu"]
    if document.platform.policy is not None and not abi.imports:
        needed += ["init"]
    for op in needed:
        if ops.count(op) != 1:
            raise MalformedError(f"{ops.count(op)} operations {op}, expected 1", at=f"{name}: ops")
    if ops[0] != "create-vm":
        raise MalformedError("the first operation is not create-vm", at=f"{name}: ops[0]")
    guest = {**document.assumed, **document.given}
    created = next(op.count for op in document.ops if op.op == "create-vcpu")
    if guest.get("vcpus", created) != created:
        raise MalformedError(f"says {guest['vcpus']!r} vCPUs, and creates {created}", at=name)
    if type(guest.get("gpaw", 48)) is not int or guest.get("gpaw", 48) not in (48, 52):
        raise MalformedError(f"gpaw is {guest['gpaw']!r}, expected 48 or 52", at=name)


def _recorded(document: PlanMeasurement) -> tuple[str, str, str, int]:
    return document.register_, document.algorithm, document.digest, document.pages


def _classes(platform: Platform) -> Mapping[str, type[Op]]:
    """Return the operations of a platform by name."""
    modules = (
        import_module("cvmplan.operations.plan"),
        import_module("cvmplan.kvm.memory"),
        stage(platform, "ops"),
    )
    found = [c for m in modules for c in vars(m).values() if isinstance(c, type)]
    return {c.name: c for c in found if issubclass(c, Op) and hasattr(c, "name")}


class _Maker(NamedTuple):
    """Makes the operations of one plan: its file's name, platform, their classes, its inputs."""

    name: str
    platform: Platform
    classes: Mapping[str, type[Op]]
    inputs: Sequence[Input]

    def op(self, number: int, document: Any) -> Op:
        """Return operation `number`; MalformedError where it is none of the platform."""
        at = f"{self.name}: ops[{number}]"
        if document.seq != number:
            raise MalformedError(f"has seq {document.seq}", at=at)
        if document.op not in self.classes:
            raise MalformedError(f"{document.op} is not an operation of this platform", at=at)
        made: dict[str, Any] = {}
        for field in fields(self.classes[document.op]):  # type: ignore[arg-type]  # every Op is one
            value = getattr(document, field.name)
            if value is None and field.default is not MISSING:
                continue
            if field.name == "source" and value is not None:
                value = _contents(at, value, document.size, self.inputs)
            elif field.name == "registers":
                value = tuple((register.name, register.value) for register in value)
            elif field.name == "flags":
                value = tuple(value or ())
            elif field.name == "vmsas":
                value = tuple(_vmsas(at, value, with_gpa=document.op == "snp-launch-finish"))
            elif field.name == "page_type" and self.platform.page_info:
                value = _page_type(at, value)
            made[field.name] = value
        return self.classes[document.op](**made)


def _check_kernel(name: str, document: PlanDocument, abi: Abi) -> None:
    """Raise PlanError for the first call that the plan's own kernel would refuse."""
    if document.platform not in abi.vm_types or not abi.plans:
        raise MalformedError(f"{abi.name} has no {document.platform} guests", at=f"{name}: abi")
    created = document.ops[0].vm_type
    if created != document.platform:
        problem = f"create-vm of a {created} VM in a plan for {document.platform}"
        raise PlanError(problem, at=f"{name}: ops[0]")
    gpaw = {**document.assumed, **document.given}.get("gpaw", 48)
    refused = first_refusal(document.platform, abi, of_documents(document.ops), gpaw)
    if refused is not None:
        op, answer = refused
        told = f"{answer.errno}: " if answer.errno else ""
        at = f"{name}: ops[{op.seq}]"
        raise PlanError(f"{abi.name} refuses {op.op}: {told}{answer.why}", at=at)


def _page_type(at: str, label: str) -> Any:
    types = import_module("cvmplan.platforms.snp.steps").PageType.__members__
    if label.upper() not in types:
        raise MalformedError(f"snp has no page type {label!r}", at=f"{at}.page_type")
    return types[label.upper()]


def _check_call(at: str, op: Op, written: Any, abi: Abi) -> None:
    """Raise MalformedError for a call that the interface does not have in this form."""
    fd = fd_of(op, abi)
    if written.fd is not None and written.fd != fd:
        raise MalformedError(
            f"{op.name} is not a call on {written.fd} of {abi.name}", at=f"{at}.fd"
        )
    if op.kind == "add" and getattr(op, "source", abi) is None and not abi.in_place:
        raise MalformedError(f"is missing: {abi.name} adds no page as it is", at=f"{at}.source")


def _contents(at: str, source: PlanSource, size: int, inputs: Sequence[Input]) -> Contents:
    where = f"{at}.source"
    if source.zeros:
        return Zeros()
    if source.vmm is not None:
        return Filled(source.vmm)
    if source.digest_after is not None:
        return DigestAfter(source.digest_after)
    if source.hex is not None:
        made = Made(source.hex, source.at or 0)
        if made.at >= PAGE:
            raise MalformedError(f"at {made.at:#x} is not in the first page", at=where)
        _check_length(made.at + len(made.data), size, where)
        return made
    number, start, length = source.input or 0, source.offset or 0, source.length or 0
    if number >= len(inputs):
        raise MalformedError(f"input {number} does not exist", at=where)
    _check_length(length, size, where)
    return inputs[number].blob.slice(start, start + length)


def _check_length(length: int, size: int, at: str) -> None:
    if length > size:
        raise MalformedError(f"{length:#x} bytes for {size:#x} bytes of memory", at=at)


def _vmsas(at: str, documents: Sequence[VmsaDocument], *, with_gpa: bool) -> list[Any]:
    """Return the states of a list of vCPU runs, which must follow each other from 0."""
    made: list[Any] = []
    following = 0
    for document in documents:
        low, _, high = document.vcpus.partition("-")
        vcpus = range(int(low), int(high or low) + 1)
        if vcpus.start != following or not vcpus:
            raise MalformedError(f"vCPUs {document.vcpus} do not follow the last", at=f"{at}.vmsas")
        following = vcpus.stop
        page = document.hex.ljust(PAGE, b"\0")
        if (document.gpa is not None) != with_gpa:
            raise MalformedError("a VMSA has a gpa on SNP, and there only", at=f"{at}.vmsas")
        if with_gpa:
            made.append(import_module("cvmplan.platforms.snp.ops").Vmsa(vcpus, document.gpa, page))
        else:
            made.append(import_module("cvmplan.platforms.sev.ops").Vcpus(vcpus, page))
    return made


def _finding(document: FindingDocument) -> Finding:
    return Finding(
        document.rule,
        document.message,
        int(document.first, 0) if document.first else None,
        int(document.last, 0) if document.last else None,
        tuple(document.origins),
        document.at or "",
        document.hint or "",
        document.severity,
    )


def inspect(blob: Blob) -> Inspection:
    """Return the inputs that the plan refers to (a JSON document)."""
    document = load(blob)
    rows = [i.model_dump(exclude_none=True) for i in document.inputs]
    return {
        "format": document.schema_,
        "allows": [document.platform],
        "tables": [{"name": "inputs", "rows": rows}],
        "findings": (),
    }
