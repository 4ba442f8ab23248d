"""
The ioctls of a VMM as strace prints them: their order and results.

What a pointer points to is not in such a trace, apart from memslots, so a call is not simulated:
its answer is the one that was recorded.  Calls after the first KVM_RUN are those of a guest that
runs.  Source: strace 6.1 and 7.2, what they print.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.platform import OF_KVM, Platform
from cvmplan.kvm.layouts import IOCTLS
from cvmplan.kvm.recorded import NAMES
from cvmplan.readers.log_lines import SEARCHED, Logged, lines
from cvmplan.simulator.attempts import Attempt

ENCRYPT: Final = "memory-encrypt-op"
OPS: Final = {
    "KVM_CREATE_VM": "create-vm",
    "KVM_CREATE_VCPU": "create-vcpu",
    "KVM_CREATE_GUEST_MEMFD": "create-gmem",
    "KVM_SET_USER_MEMORY_REGION": "set-memslot",
    "KVM_SET_USER_MEMORY_REGION2": "set-memslot",
    "KVM_SET_MEMORY_ATTRIBUTES": "set-attributes",
    "KVM_PRE_FAULT_MEMORY": "pre-fault-memory",
    "KVM_MEMORY_ENCRYPT_OP": ENCRYPT,
    "KVM_RUN": "run",
}
"""Ioctl to what it is called in the answers; others are passed over."""
_ANY = re.compile(
    rb"ioctl\(\d{1,10}[^,\n]{0,300}, (?:\w{0,40} ?or )?(?:KVM_|_IOC\([A-Z_|]{1,32}, 0xae|"
    rb"0x[0-9a-f]{0,6}ae[0-9a-f]{2}\b)"
)
_CALL = re.compile(
    r"(?:^|[\s\]])ioctl\(\d{1,10}(?:<[^>]{0,4096}>)?, (_IOC\([^)]{1,80}\)|[^,)(]{1,80})"
)
_IOC = re.compile(
    r"_IOC\(([A-Z_|]{1,32}), (0x[0-9a-f]{1,2}), (0x[0-9a-f]{1,2}|0), (0x[0-9a-f]{1,4}|0)\)"
)
_NUMBER = re.compile(r"0x[0-9a-f]{1,8}")
_RESUMED: Final = "<... ioctl resumed>"
_UNFINISHED: Final = "<unfinished ...>"
_PID = re.compile(r"(?:\[pid {1,10})?(\d{1,10})[\] ]")
_RESULT = re.compile(r"^(-?\d{1,20})(?:<[^>]{0,4096}>)?(?: (E[A-Z0-9]{1,20}))?")
_SLOT = re.compile(
    r"slot=(\d{1,10}), flags=[^,]{1,100}, guest_phys_addr=(0x[0-9a-f]{1,16}|0), "
    r"memory_size=(\d{1,20}), userspace_addr=(0x[0-9a-f]{1,16}|NULL)"
)
_TYPE = re.compile(r", (0x[0-9a-f]{1,8}|\d{1,8})")
_ASKS = re.compile(r", (?:0|0x0|NULL)\)")
DIRECTIONS: Final = {"_IOC_NONE": 0, "_IOC_WRITE": 1 << 30, "_IOC_READ": 2 << 30}
MOST_THREADS: Final = 1 << 13  # with a call that is not finished
NOT_SHOWN: Final = "struct not in the trace"


class _Made(NamedTuple):
    """A call as a line shows it: its name, what follows that, and its result."""

    name: str
    rest: str
    result: str


def recognises(blob: Blob) -> bool:
    """Whether a text has an ioctl of KVM as strace prints it."""
    return _ANY.search(blob.data[:SEARCHED]) is not None


def read(blob: Blob) -> Logged:
    """Return the calls of a launch, none of which is shown as a whole; MalformedError."""
    attempts = _attempts(blob)
    hidden = [attempt.seq for attempt in attempts if attempt.note]
    if not hidden:
        return Logged(attempts)
    what = f"strace shows pointers only: {len(hidden)} structs are missing ({_span(hidden)})"
    return Logged(attempts, (what,))


def _attempts(blob: Blob) -> tuple[Attempt, ...]:
    """Return the calls up to the first KVM_RUN, in the order in which they began."""
    found: list[Attempt] = []
    open_calls: dict[str, int] = {}  # thread to where its call is in `found`
    for number, line in lines(blob):
        thread = pid[1] if (pid := _PID.match(line.lstrip())) else ""
        if _RESUMED in line:
            at = open_calls.pop(thread, None)
            if at is not None:
                result = _result(line.rpartition(" = ")[2], f"{blob.name}:{number}")
                found[at] = replace(found[at], returned=result)
            continue
        made = _made(line)
        if made is None or made.name not in OPS or _asks(made):
            continue
        if OPS[made.name] == "run" and found and found[-1].op == "run":
            break
        found.append(_attempt(number, made, f"{blob.name}:{number}"))
        if made.result == _UNFINISHED:
            open_calls[thread] = len(found) - 1
        if len(open_calls) > MOST_THREADS:
            problem = f"more than {MOST_THREADS} calls at the same time"
            raise UnsupportedError(problem, at=f"{blob.name}:{number}")
        if found[-1].op == "run":
            break
    return tuple(found)


def _made(line: str) -> _Made | None:
    """Return the ioctl of a line, None for another line."""
    called = _CALL.search(line)
    if called is None:
        return None
    rest = line[called.end() :]
    if line.rstrip().endswith(_UNFINISHED):
        return _Made(_name(called[1]), rest, _UNFINISHED)
    before, _, result = rest.rpartition(" = ")
    return _Made(_name(called[1]), before, result.strip())


def _asks(made: _Made) -> bool:
    """Whether a command has no struct: a VMM asks if there is such a call."""
    return OPS[made.name] == ENCRYPT and _ASKS.match(made.rest) is not None


def _name(request: str) -> str:
    """Return the name of an ioctl, "" where it has none here."""
    if found := _IOC.fullmatch(request):
        number = sum(DIRECTIONS.get(word, 0) for word in found[1].split("|"))
        kind, nr, size = (int(found[n], 16) for n in (2, 3, 4))
        return NAMES.get(number | size << 16 | kind << 8 | nr, "")
    if found := _NUMBER.match(request):
        return NAMES.get(int(found[0], 16), "")
    return next((word for word in request.split() if word in IOCTLS), "")


def _attempt(number: int, made: _Made, at: str) -> Attempt:
    result = None if made.result == _UNFINISHED else _result(made.result, at)
    attempt = Attempt(number, OPS[made.name], returned=result, shown=False)
    if attempt.op in ("create-vm", "create-vcpu", "run"):
        vm_type = _vm_type(made.rest) if attempt.op == "create-vm" else None
        return replace(attempt, vm_type=vm_type, count=int(attempt.op == "create-vcpu"))
    slot = _SLOT.search(made.rest)
    if slot is None or attempt.op != "set-memslot":
        return replace(attempt, note=NOT_SHOWN)
    gpa, size = int(slot[2], 0), int(slot[3])
    return replace(attempt, slot=int(slot[1]), gpa=gpa, size=size)


def _vm_type(rest: str) -> Platform | None:
    """Return the platform of the argument of KVM_CREATE_VM, None where it is not known."""
    found = _TYPE.match(rest)
    number = int(found[1], 0) if found else None
    return next((p for p in OF_KVM if p.vm_type == number), None)


def _result(written: str, at: str) -> str | None:
    """Return "" for success, the name of an errno, None where the call did not return."""
    written = written.strip()
    if written.startswith("?"):
        return None
    found = _RESULT.match(written)
    if found is None or (int(found[1]) < 0 and not found[2]):
        raise MalformedError(f"no result in {written[:40]!r}", at=at)
    return found[2] or ""


def _span(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"line {numbers[0]}"
    return f"lines {numbers[0]} to {numbers[-1]}" if numbers else ""
