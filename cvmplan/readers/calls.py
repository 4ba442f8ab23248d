"""
The calls of a plan for the simulator: as its document (cvmplan.plan/1) has them, or its operations.

Both lead to the same calls.  A document is taken as it stands, legal or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, Protocol

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.core.platform import Platform
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import Contents, DigestAfter, Filled, Hashed, Made, Zeros
from cvmplan.operations.measure import Measurement
from cvmplan.operations.plan import Op, Plan
from cvmplan.platforms.sev.ops import Vcpus
from cvmplan.platforms.snp.ops import Vmsa
from cvmplan.readers.plan_document import load
from cvmplan.simulator.call import Call, State
from cvmplan.simulator.source import NOTHING, UNKNOWN, Source


class Finder(Protocol):
    """Finds the input of a plan by its path and hash."""

    def __call__(self, path: str | None, size: int, sha256: str, plan: str) -> Blob:
        """Return the bytes; InputError where no file has this hash."""


class Calls(NamedTuple):
    """The calls of one plan with what their pages hold, and what the plan says of itself."""

    platform: Platform
    abi: str
    gpaw: int
    calls: Sequence[tuple[Call, Source | None]]
    digest: str | None


def of_plan(plan: Plan, result: Measurement | None) -> Calls:
    """Return the calls of a plan, and its measurement's digest."""
    calls = [*of_operations(plan.ops)]
    gpaw = plan.guest.get("gpaw", 48)
    return Calls(plan.platform, plan.abi, gpaw, calls, result.digest.hex() if result else None)


def of_operations(ops: Iterable[Op]) -> Iterator[tuple[Call, Source | None]]:
    """Yield each operation as a call, and what its pages hold."""
    for number, op in enumerate(ops):
        values = {f.name: getattr(op, f.name) for f in fields(op)}  # type: ignore[arg-type]  # every concrete Op is a dataclass
        contents = values.pop("source", None)
        source = None if contents is None else _held(contents, op)
        yield _call(number, op.name, values, has_source=source is not None), source


def _held(contents: Contents, op: Op) -> Source:
    """Return contents as the simulator sees them."""
    match contents:
        case Blob(data=data):
            return Source(data)
        case Made(data, at):
            return Source(memoryview(data), at)
        case Zeros():
            return NOTHING
        case DigestAfter(digest):
            return Source(known=False, digest_after=digest, size=getattr(op, "size", 0))
        case Filled() | Hashed():
            return UNKNOWN


def of_documents(ops: Iterable[Any]) -> Iterator[Call]:
    """Yield the operations of a document as calls."""
    for op in ops:
        values = {name: getattr(op, name) for name in type(op).model_fields}
        source = values.pop("source", None)
        yield _call(op.seq, op.op, values, has_source=source is not None)


_NAMES = frozenset(f.name for f in fields(Call)) - {"seq", "op", "has_source", "vmsas"}


def _call(seq: int, name: str, values: Mapping[str, Any], *, has_source: bool) -> Call:
    """Return a call with those of `values` that it has; what is not said is as if it were off."""
    told = {n: v for n, v in values.items() if n in _NAMES and v is not None}
    if values.get("id_auth", b"") is None:
        told["id_auth"] = None
    page_type = told.get("page_type", "")
    told["page_type"] = getattr(page_type, "label", page_type)
    told["flags"] = tuple(told.get("flags", ()))
    vmsas = tuple(map(_state, values.get("vmsas") or ()))
    return Call(seq, name, vmsas=vmsas, has_source=has_source, **told)


def _state(vmsa: Any) -> State:
    """Return the state of vCPUs, of an operation or of a document."""
    if isinstance(vmsa, Vmsa | Vcpus):
        gpa = vmsa.gpa if isinstance(vmsa, Vmsa) else None
        return State(vmsa.vcpus.start, vmsa.vcpus.stop - 1, gpa, vmsa.page)
    low, _, high = vmsa.vcpus.partition("-")
    return State(int(low), int(high or low), vmsa.gpa, vmsa.hex.ljust(PAGE, b"\0"))


def read(blob: Blob, find: Finder) -> Calls:
    """
    Return the calls of the plan in `blob`, in their order, legal or not.

    MalformedError where the document is wrong, InputError where an input is not found.
    """
    document = load(blob)
    settings = {**document.assumed, **document.given}
    gpaw = settings.get("gpaw", 48)
    if gpaw not in (48, 52):
        raise MalformedError(f"gpaw is {gpaw!r}, expected 48 or 52", at=blob.name)
    if any(o.op == "create-vm" and o.vm_type != document.platform for o in document.ops):
        raise MalformedError(f"creates no {document.platform} VM", at=f"{blob.name}: ops")
    for number, op in enumerate(document.ops):
        if op.seq != number:
            raise MalformedError(f"has seq {op.seq}", at=f"{blob.name}: ops[{number}]")
    reader = _Sources(blob.name, document.inputs, find)
    sources = map(reader.source, document.ops)
    calls = [*zip(of_documents(document.ops), sources, strict=True)]
    measured = document.measurement
    digest = measured.digest if measured else None
    return Calls(document.platform, document.abi, gpaw, calls, digest)


class _Sources:
    """Finds what the operations of one plan refer to, each input once."""

    def __init__(self, name: str, inputs: Sequence[Any], find: Finder) -> None:
        self._name = name
        self._inputs = inputs
        self._find = find
        self._found: dict[int, Blob] = {}

    def source(self, op: Any) -> Source | None:
        """Return what the pages of an operation hold, None where it does not say."""
        source = getattr(op, "source", None)
        if source is None:
            return None
        if source.zeros:
            return NOTHING
        if source.vmm is not None:
            return UNKNOWN
        if source.digest_after is not None:
            return Source(known=False, digest_after=source.digest_after, size=op.size)
        if source.hex is not None:
            made = Source(memoryview(source.hex), source.at or 0)
        else:
            blob = self._input(source.input, op.seq)
            made = Source(blob.slice(source.offset, source.offset + source.length).data)
        if made.at + len(made.data) > op.size:
            problem = f"{made.at + len(made.data):#x} bytes for {op.size:#x} bytes of memory"
            raise MalformedError(problem, at=f"{self._name}: ops[{op.seq}].source")
        return made

    def _input(self, number: int, seq: int) -> Blob:
        if number >= len(self._inputs):
            at = f"{self._name}: ops[{seq}].source"
            raise MalformedError(f"input {number} does not exist", at=at)
        if number not in self._found:
            entry = self._inputs[number]
            self._found[number] = self._find(entry.path, entry.size, entry.sha256, self._name)
        return self._found[number]
