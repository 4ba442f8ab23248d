"""The calls of a plan (cvmplan.plan/1) as they stand there, for the simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError
from cvmplan.core.platform import Platform
from cvmplan.readers.plan import Finder
from cvmplan.readers.plan_document import load
from cvmplan.simulator.source import NOTHING, UNKNOWN, Source


class Calls(NamedTuple):
    """The calls of one plan with what their pages hold, and what the plan says of itself."""

    platform: Platform
    abi: str
    settings: Mapping[str, Any]
    calls: Sequence[tuple[Any, Source | None]]
    digest: str | None


def read(blob: Blob, find: Finder) -> Calls:
    """
    Return the calls of the plan in `blob`, in their order, legal or not.

    ConfigError where the document is wrong, InputError where an input is not found.
    """
    document = load(blob)
    settings = {**document.assumed, **document.given}
    if settings.get("gpaw", 48) not in (48, 52):
        raise ConfigError(f"gpaw is {settings['gpaw']!r}, want 48 or 52", at=blob.name)
    reader = _Sources(blob.name, document.inputs, find)
    calls = []
    if any(o.op == "create-vm" and o.vm_type != document.platform for o in document.ops):
        raise ConfigError(f"creates no {document.platform} VM", at=f"{blob.name}: ops")
    for number, op in enumerate(document.ops):
        if op.seq != number:
            raise ConfigError(f"has seq {op.seq}", at=f"{blob.name}: ops[{number}]")
        calls.append((op, reader.source(op)))
    measured = document.measurement
    digest = measured.digest if measured else None
    return Calls(document.platform, document.abi, settings, calls, digest)


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
            raise ConfigError(problem, at=f"{self._name}: ops[{op.seq}].source")
        return made

    def _input(self, number: int, seq: int) -> Blob:
        if number >= len(self._inputs):
            at = f"{self._name}: ops[{seq}].source"
            raise ConfigError(f"there is no input {number}", at=at)
        if number not in self._found:
            entry = self._inputs[number]
            self._found[number] = self._find(entry.path, entry.size, entry.sha256, self._name)
        return self._found[number]
