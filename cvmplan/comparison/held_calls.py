"""
The calls of a plan against those of a recording: operation by operation, field by field.

Calls are paired by what they are about (the address of an add, the number of a vCPU), else by
their order.  Addresses and descriptors of the process are apart: the plan does not know them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from cvmplan.comparison import held_memory
from cvmplan.comparison.deviations import (
    CAPABILITIES,
    KINDS,
    POINTERS,
    REASONS,
    UNCHECKED,
    ZERO_PAGE,
)
from cvmplan.kvm.layouts import CAPABILITIES as NUMBERS
from cvmplan.kvm.layouts import KVM_MEM_READONLY, STRUCTS
from cvmplan.kvm.recorded import COMMAND_STRUCTS, FIRMWARE, Fields, RecordedCall, gpaw_of

ABOUT: Final = {
    "KVM_SEV_SNP_LAUNCH_UPDATE": "gfn_start",
    "KVM_TDX_INIT_MEM_REGION": "gpa",
}
"""Command to the field that says what it is about."""
ENDS: Final = {
    "KVM_SEV_SNP_LAUNCH_UPDATE": ("gfn_start", "len", 12),
    "KVM_TDX_INIT_MEM_REGION": ("gpa", "nr_pages", 12),
}
"""Add to its address, its length, and by how many bits one of them is smaller than bytes."""
IGNORED: Final = frozenset(NUMBERS[name] for name in CAPABILITIES)


class FieldDifference(NamedTuple):
    """A field, or with "" a whole call, that is otherwise; the value in each."""

    call: str
    where: str
    planned: str
    recorded: str


class Deviations(NamedTuple):
    """A known deviation: its name, how often it occurs, and why it is harmless."""

    id: str
    times: int
    reason: str


class CallsCompared(NamedTuple):
    """
    How calls compare: pairs that were held against each other, fields that were equal.

    `apart` are fields that are the process's own, `differences` those that count.
    """

    pairs: int
    equal: int
    apart: int
    differences: tuple[FieldDifference, ...]
    deviations: tuple[Deviations, ...]


def compare_calls(
    planned: Sequence[RecordedCall],
    recorded: Sequence[RecordedCall],
    known: Mapping[str, int] | None = None,
    *,
    memory: bool = False,
) -> CallsCompared:
    """
    Return how the calls of a plan compare with recorded ones; `known` were found before.

    `memory`: the plan has the memory of the VMM's machine, so that it is compared as well.
    """
    made = _Compared(planned, recorded, memory=memory)
    made.known.update(known or {})
    return made.result()


class _Compared:
    """Collects what is found out about two lists of calls."""

    def __init__(
        self, planned: Sequence[RecordedCall], recorded: Sequence[RecordedCall], *, memory: bool
    ) -> None:
        self.known: Counter[str] = Counter()
        self._memory = held_memory.MEMORY if memory else frozenset()
        self._found: list[FieldDifference] = []
        self._pairs = self._equal = self._apart = 0
        self._planned = [*self._held(planned)]
        self._recorded = [*self._effective(self._held(recorded))]
        found = [(held, held_memory.known(held)) for held in (self._planned, self._recorded)]
        self._alone = {id(held[n]): why for held, known in found for n, why in known.items()}

    def result(self) -> CallsCompared:
        """Return all of it."""
        mine, theirs = _grouped(self._planned), _grouped(self._recorded)
        for key in {**mine, **theirs}:
            ours, others = mine.get(key, []), theirs.get(key, [])
            for one, other in zip(ours, others, strict=False):
                self._pair(one, other)
            for one in ours[len(others) :]:
                self._missing(one)
            for other in others[len(ours) :]:
                self._extra(other)
        self._order(_first_seen(self._planned, theirs), _first_seen(self._recorded, mine))
        known = (Deviations(n, c, REASONS[n]) for n, c in sorted(self.known.items()) if c)
        return CallsCompared(
            self._pairs, self._equal, self._apart, tuple(self._found), tuple(known)
        )

    def _held(self, calls: Sequence[RecordedCall]) -> Iterator[RecordedCall]:
        """Yield the calls that are compared with others; count the rest."""
        for call in calls:
            name = call.command or call.name
            if name in KINDS and name not in self._memory:
                self.known[KINDS[name]] += name != "state"
            elif call.fd == FIRMWARE:
                self.known["query"] += 1
            else:
                yield call

    def _effective(self, calls: Iterator[RecordedCall]) -> Iterator[RecordedCall]:
        """Yield calls without those that go on with the one before, or only ask."""
        before: RecordedCall | None = None
        for call in calls:
            if call.command == "KVM_SEV_LAUNCH_MEASURE" and not call.data.get("len"):
                self.known["asks-length"] += 1
            elif before is not None and _goes_on(before, call):
                self.known["repeated"] += 1
            else:
                yield call
            before = call

    def _pair(self, one: RecordedCall, other: RecordedCall) -> None:
        self._pairs += 1
        where = f"op {one.line}, line {other.line}"
        if one.argument is not None and one.argument != other.argument:
            told = str(other.argument)
            self._differs(one.words, f"{where}: argument", str(one.argument), told)
        layout = "kvm_tdx_cmd" if "TDX" in one.command else "kvm_sev_cmd"
        self._fields(one, where, one.fields, other.fields, layout if one.command else "")
        if one.follows:
            self._width(one, where, gpaw_of(one.follows), gpaw_of(other.follows))
        struct = COMMAND_STRUCTS.get(one.command, "")
        self._fields(one, where, one.data, other.data, struct)

    def _width(self, call: RecordedCall, where: str, mine: int, theirs: int) -> None:
        if mine == theirs:
            self._equal += 1
        else:
            self._differs(call.words, f"{where}: guest address width", str(mine), str(theirs))

    def _fields(
        self, call: RecordedCall, where: str, mine: Fields, theirs: Fields, struct: str
    ) -> None:
        """Compare the fields of a struct; those that the plan leaves out are apart."""
        if struct and theirs and (mine or call.command):
            self._apart += sum(f.name not in mine for f in STRUCTS[struct].fields if mine)
        for name, value in mine.items():
            if name not in theirs:
                continue
            if value == theirs[name]:
                self._equal += 1
            else:
                self._field(call, f"{where}: {name}", name, value, theirs)

    def _field(
        self, call: RecordedCall, where: str, name: str, value: int | bytes, theirs: Fields
    ) -> None:
        other = theirs[name]
        if name in UNCHECKED or name.startswith("reserved"):
            self.known["reserved"] += 1
        elif name == "uaddr" and theirs.get("type") == ZERO_PAGE:
            self.known["zero-source"] += 1
        elif name in POINTERS and value and other:
            self._apart += 1
        elif held_memory.is_deleted(theirs) and name in held_memory.UNREAD:
            self.known["reserved"] += 1
        elif "memory_size" in theirs and (name, other) == ("flags", int(value) | KVM_MEM_READONLY):
            self.known["flash"] += 1
        else:
            self._differs(call.words, where, _shown(value), _shown(other))

    def _order(self, mine: list[RecordedCall], theirs: list[RecordedCall]) -> None:
        """Compare the order of calls: that of the vendor's commands counts."""
        names = [[call.words for call in calls] for calls in (mine, theirs)]
        commands = [[call.command for call in calls if call.command] for calls in (mine, theirs)]
        if commands[0] != commands[1]:
            here, there = (", ".join(dict.fromkeys(found)) for found in commands)
            self._differs("order", "commands", here, there)
        elif names[0] != names[1]:
            self.known["order"] += 1

    def _missing(self, call: RecordedCall) -> None:
        if id(call) in self._alone:
            self.known[self._alone[id(call)]] += 1
        elif call.name == "KVM_ENABLE_CAP" and call.fields.get("cap") in IGNORED:
            self.known["capability"] += 1
        else:
            self._differs(call.words, f"op {call.line}", "called", "not called")

    def _extra(self, call: RecordedCall) -> None:
        if id(call) in self._alone:
            self.known[self._alone[id(call)]] += 1
        elif call.name == "KVM_ENABLE_CAP":
            self.known["capability"] += 1
        else:
            self._differs(call.words, f"line {call.line}", "not called", "called")

    def _differs(self, call: str, where: str, planned: str, recorded: str) -> None:
        self._found.append(FieldDifference(call, where, planned, recorded))


def _grouped(calls: Sequence[RecordedCall]) -> dict[Hashable, list[RecordedCall]]:
    """Return calls by what they are about."""
    found: dict[Hashable, list[RecordedCall]] = {}
    for call in calls:
        found.setdefault(_about(call), []).append(call)
    return found


def _about(call: RecordedCall) -> Hashable:
    if call.command in ABOUT:
        return call.command, call.data.get(ABOUT[call.command])
    if call.name == "KVM_ENABLE_CAP":
        return call.name, call.fields.get("cap")
    if call.name == "KVM_CREATE_VCPU":
        return call.name, call.argument
    if call.name in held_memory.MEMORY:
        return held_memory.about(call)
    return call.words, call.fd if call.command == "KVM_TDX_INIT_VCPU" else ""


def _first_seen(
    mine: list[RecordedCall], theirs: Mapping[Hashable, list[RecordedCall]]
) -> list[RecordedCall]:
    """Return the first call of each kind that both have, in their order."""
    kinds: dict[str, RecordedCall] = {}
    for call in mine:
        if _about(call) in theirs:
            kinds.setdefault(call.words, call)
    return [*kinds.values()]


def _goes_on(one: RecordedCall, other: RecordedCall) -> bool:
    """Whether an add is what another one left over: up to the same end, and later or again."""
    if one.command != other.command or one.command not in ENDS:
        return False
    if not (one.failed or (one.source is not None and one.source.size < _size(one))):
        return False
    return _end(one) == _end(other) and _start(one) <= _start(other)


def _start(call: RecordedCall) -> int:
    name, _, shift = ENDS[call.command]
    value = int(call.data.get(name, 0))
    return value << shift if name == "gfn_start" else value


def _size(call: RecordedCall) -> int:
    _, name, shift = ENDS[call.command]
    value = int(call.data.get(name, 0))
    return value << shift if name == "nr_pages" else value


def _end(call: RecordedCall) -> int:
    return _start(call) + _size(call)


def _shown(value: int | bytes) -> str:
    return value.hex() if isinstance(value, bytes) else hex(value)
