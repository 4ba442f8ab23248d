"""JSON Lines of a launch (cvmplan.recorded/1), each line an operation with its result."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.core.places import spell
from cvmplan.core.platform import OF_KVM, Platform
from cvmplan.documents import text
from cvmplan.readers.log_lines import head, lines
from cvmplan.readers.recorded_ops import HostMemory, Slot, gmem_flags
from cvmplan.simulator.attempts import Attempt, errno_name

if TYPE_CHECKING:
    from cvmplan.documents.recorded import Left, RecordedLine

_CALL = re.compile(rb'\A\s*+\{(?:[^{}]|\{[^{}]*+\})*"op"\s*+:')
_ATTACHED = re.compile(r"Attach(?:ing|ed) \d{1,9} probes?(?:\.\.\.)?")
_LOST = re.compile(r"Lost (\d{1,20}) events")
_FIRST = re.compile(rb"\A\s*+Attach(?:ing|ed) \d{1,9} probes?(?:\.\.\.)?\r?\n")
"""What bpftrace prints before the first line, and where it could not keep up."""
HOST_ADDRESSED: Final = frozenset({"sev-launch-update-data"})
BEYOND: Final = ("n", "op", "vm_type", "flags", "ret", "fw_error", "residual")
"""Keys that are not fields of an attempt as they are."""


def recognises(blob: Blob) -> bool:
    """Whether a text begins with the object of an operation."""
    return _CALL.match(_FIRST.sub(b"", head(blob), count=1)) is not None


def read(blob: Blob) -> tuple[Attempt, ...]:
    """Return the operations in the order in which they were made; MalformedError with the line."""
    made = [*_numbered(blob)]
    numbers = [number for number, _ in made if number is not None]
    if numbers and len(numbers) < len(made):
        without = next(attempt.seq for number, attempt in made if number is None)
        raise MalformedError("no n, and other lines have one", at=f"{blob.name}:{without}")
    if numbers:
        made.sort(key=itemgetter(0))
    return _placed([attempt for _, attempt in made])


def _placed(attempts: list[Attempt]) -> tuple[Attempt, ...]:
    """Return operations where adds of host addresses have a guest's, by the memslots."""
    memory = HostMemory()
    for one in attempts:
        if one.op == "set-memslot" and one.size and one.src is not None and not one.returned:
            memory.add(Slot(one.src, one.size, one.gpa))
    return tuple(_with_gpa(one, memory) for one in attempts)


def _with_gpa(attempt: Attempt, memory: HostMemory) -> Attempt:
    if attempt.op not in HOST_ADDRESSED or attempt.placed or attempt.src is None:
        return attempt
    gpa = memory.gpa_of(attempt.src)
    return attempt if gpa is None else replace(attempt, gpa=gpa, placed=True)


def _numbered(blob: Blob) -> Iterator[tuple[int | None, Attempt]]:
    """Yield each operation with the number of the call, where lines have one."""
    from pydantic import ValidationError

    from cvmplan import documents
    from cvmplan.documents.fields import problems

    model = documents.model("recorded")
    for number, line in lines(blob):
        at = f"{blob.name}:{number}"
        if _ATTACHED.fullmatch(line.strip()):
            continue
        if lost := _LOST.match(line):
            hint = "record again with more room: BPFTRACE_PERF_RB_PAGES=1024"
            raise MalformedError(f"{lost[1]} lines of the recording were lost", at=at, hint=hint)
        try:
            document = model.model_validate(text.parse_line(line))
        except ValidationError as error:
            path, reason = problems(error)[0]
            where = f"{at}: {spell(path)}" if path else at
            raise MalformedError(reason, at=where) from None
        except (ValueError, RecursionError):
            raise MalformedError("not JSON, or a duplicate key", at=at) from None
        yield document.n, _attempt(number, document, at)


def _attempt(number: int, document: RecordedLine, at: str) -> Attempt:
    told = document.model_dump(exclude_none=True, exclude=set(BEYOND))
    left = document.residual
    if left is not None and not _is_rest(document, left):
        raise MalformedError("is not the end of the call's range", at=f"{at}: residual")
    return Attempt(
        number,
        document.op,
        **told,
        vm_type=_platform(document.vm_type, f"{at}: vm_type"),
        flags=gmem_flags(document.flags or 0),
        returned=None if document.ret is None else errno_name(document.ret),
        fw_error=document.fw_error or None,  # 0: the firmware was not asked, or is content
        residual=None if left is None else (left.gpa, left.size),
        placed=document.gpa is not None or document.size is None,
    )


def _platform(number: int | None, at: str) -> Platform | None:
    """Return the platform of a VM's type."""
    if number is None:
        return None
    found = [p for p in OF_KVM if p.vm_type == number]
    if not found:
        known = ", ".join(str(p.vm_type) for p in OF_KVM)
        raise MalformedError(f"{number} is not a type of VM; known are {known}", at=at)
    return found[0]


def _is_rest(document: RecordedLine, left: Left) -> bool:
    if document.gpa is None or document.size is None:
        return False
    end = document.gpa + document.size
    return bool(document.gpa <= left.gpa and left.gpa + left.size == end)
