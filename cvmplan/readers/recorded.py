"""
Recorded launches: a VMM's trace of its SNP calls, or JSON Lines of any launch.

The trace events are kvm_sev_snp_launch_start, _update and _finish as the VMM's log prints
them, with or without "pid@time:" before them ("addr" for "src" in AMD's QEMU before 9.1); each
is printed before its call, so the result is known only where the VMM's errors tell it (see
`vmm_errors`).  Other lines of such a log are passed over.
"""

from __future__ import annotations

import errno
import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MalformedError
from cvmplan.core.platform import Platform, of_state
from cvmplan.documents import text
from cvmplan.readers import recorded_calls, recorded_ops, vmm_errors
from cvmplan.simulator.attempts import Attempt
from cvmplan.simulator.replay import Recording

if TYPE_CHECKING:
    from cvmplan.documents.recorded import Left, RecordedLine


EVENT: Final = b"kvm_sev_snp_launch_"
BOM: Final = b"\xef\xbb\xbf"
_HEX = r"(0x[0-9a-fA-F]{1,16})"
_STAMP = re.compile(r"\d{1,20}@\d{1,20}(?:\.\d{1,20})?:")
_ALONE = re.compile(r"kvm_sev_snp_launch_(\w+)(?:\s+(\S.*))?")
_INSIDE = re.compile(
    r"[\s:]kvm_sev_snp_launch_(start|update|finish)\s+((?:policy|src|addr|id_block) .*)"
)
_UPDATE = re.compile(rf"(?:src|addr) {_HEX} gpa {_HEX} len {_HEX} \((\w+) page\)")
_START = re.compile(rf"policy {_HEX}(?: gosvw.*)?")
_FINISH = re.compile(r"(?:id_block (\S*))?.*")
_CALL = re.compile(rb'\A\s*+\{(?:[^{}]|\{[^{}]*+\})*"op"\s*+:')
SEARCHED: Final = 64 << 20  # bytes of a log in which the first event is looked for
MOST_LINE: Final = 1 << 16  # characters
PAGE_TYPES: Final = ("normal", "zero", "unmeasured", "secrets", "cpuid", "vmsa")


def recognises(blob: Blob) -> bool:
    """Whether the text has a trace event, or begins with a JSON object of a call."""
    head = bytes(blob.data[:MOST_LINE]).removeprefix(BOM)
    if _CALL.match(head) or recorded_calls.recognises(head):
        return True
    return b"\0" not in head and _has_events(blob)


def has_calls(blob: Blob) -> bool:
    """Whether the text is a recording of ioctls (cvmplan.recorded/2)."""
    return recorded_calls.recognises(bytes(blob.data[:MOST_LINE]).removeprefix(BOM))


def _has_events(blob: Blob) -> bool:
    if bytes(blob.data[:MOST_LINE]).removeprefix(BOM).lstrip()[:1] == b"{":
        return False
    searched = bytes(blob.data[:SEARCHED])
    return EVENT in searched or vmm_errors.REFUSED in searched


def read(blob: Blob, platform: Platform | None = None) -> Recording:
    """
    Return the attempts that were recorded, by their lines.

    `platform` beats the one that the calls are of.  MalformedError with the line.
    """
    if has_calls(blob):
        made = recorded_ops.recording(recorded_calls.read_lines(blob, lines(blob)), blob.name)
        return made if platform is None else made._replace(platform=platform)
    attempts = tuple(_trace(blob) if _has_events(blob) else _json_lines(blob))
    return Recording(platform or _platform(attempts, blob.name), attempts)


def _platform(attempts: Sequence[Attempt], name: str) -> Platform:
    """Return the platform of the VM that was created, or else the one that has such calls."""
    made = next((a.vm_type for a in attempts if a.op == "create-vm"), None)
    legacy = any(a.op == "init" and a.legacy for a in attempts)
    if made is not None and not legacy:
        return made
    names = {a.op.partition("-")[0] for a in attempts}
    found = [p for p in Platform if p.calls in names]
    kinds = sorted({p.calls for p in found})
    if len(kinds) != 1:
        what = " and ".join(kinds) or "no platform"
        raise ConfigError(f"the calls are of {what}", at=name, hint="--platform NAME")
    states = any(a.op == "sev-launch-update-vmsa" for a in attempts)
    return of_state(found, vmsa=states)


def lines(blob: Blob) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of the text, without what is empty; MalformedError."""
    start, number, size = 0, 0, len(blob)
    while start < size:
        number += 1
        piece = bytes(blob.data[start : start + MOST_LINE + 1])
        length = piece.find(b"\n")
        if length < 0:
            length = len(piece)
        if length > MOST_LINE:
            raise MalformedError(
                f"a line of more than {MOST_LINE} bytes", at=f"{blob.name}:{number}"
            )
        line = piece[:length].decode(errors="surrogateescape")
        line = line.removeprefix("\ufeff") if number == 1 else line
        if line.strip():
            yield number, line
        start += length + 1


def _trace(blob: Blob) -> Iterator[Attempt]:
    """Yield the calls of a log, each with what the VMM's own errors say of it."""
    log = vmm_errors.Log()
    last: Attempt | None = None
    for number, line in lines(blob):
        line = line.strip()  # noqa: PLW2901
        told = _told(number, line, f"{blob.name}:{number}")
        if told is None:
            log.read(line)
            if last is None and log.page is not None:
                last = _refused_page(number, log)
            continue
        if last is not None:
            yield _with_errors(last, log)
        last, log = told, vmm_errors.Log()
    if last is not None:
        yield _with_errors(last, log)


def _told(number: int, line: str, at: str) -> Attempt | None:
    """Return the call that a line tells of, None for another line."""
    if EVENT.decode() not in line:
        return None
    stamp = _STAMP.match(line)
    found = _ALONE.fullmatch(line[stamp.end() :].lstrip() if stamp else line)
    found = found or _INSIDE.search(line)
    return _event(number, found[1], found[2] or "", at) if found else None


def _refused_page(number: int, log: vmm_errors.Log) -> Attempt:
    """Return the add that the VMM's errors name, where the log has no trace of it."""
    gpa, size, page_type = log.page or (0, 0, "")
    return Attempt(number, "snp-launch-update", gpa, size, page_type=page_type)


def _with_errors(attempt: Attempt, log: vmm_errors.Log) -> Attempt:
    if log.ret is None or attempt.op != "snp-launch-update":
        return attempt
    return replace(attempt, returned=_errno(log.ret), fw_error=log.fw_error, note=log.correction())


def _event(number: int, name: str, told: str, at: str) -> Attempt:
    if name == "update":
        return _update(number, told, at)
    if name == "start":
        start = _START.fullmatch(told)
        if start is None:
            raise MalformedError(f"no policy in {told!r}", at=at)
        return Attempt(number, "snp-launch-start", policy=int(start[1], 16))
    if name == "finish":
        finish = _FINISH.fullmatch(told)
        block = _id_block(finish[1] if finish else None)
        return Attempt(number, "snp-launch-finish", id_block=block)
    raise MalformedError(f"an unknown event {name!r}", at=at)


def _update(number: int, told: str, at: str) -> Attempt:
    found = _UPDATE.fullmatch(told)
    if found is None:
        raise MalformedError(f"no source, address, length and type in {told!r}", at=at)
    src, gpa, size = (int(n, 16) for n in found.groups()[:3])
    page_type = found[4].lower()
    if gpa + size > 1 << 64:
        raise MalformedError(f"{size:#x} bytes at {gpa:#x} end past 2^64", at=at)
    if page_type not in PAGE_TYPES:
        raise MalformedError(f"an unknown page type {found[4]!r}", at=at)
    return Attempt(number, "snp-launch-update", gpa, size, page_type=page_type, src=src)


def _id_block(written: str | None) -> bytes | None:
    """Return an ID block that the VMM was given in base64, None for anything else."""
    try:
        block = b64decode(written or "", validate=True)
    except ValueError:
        return None
    return block if len(block) == 96 else None


def _json_lines(blob: Blob) -> Iterator[Attempt]:
    from pydantic import ValidationError

    from cvmplan import documents
    from cvmplan.documents.fields import problems

    model = documents.model("recorded")
    for number, line in lines(blob):
        at = f"{blob.name}:{number}"
        try:
            document = model.model_validate(text.parse_line(line))
        except ValidationError as error:
            path, reason = problems(error)[0]
            where = f"{at}: {text.spell(path)}" if path else at
            raise MalformedError(reason, at=where) from None
        except (ValueError, RecursionError):
            raise MalformedError("not JSON, or a duplicate key", at=at) from None
        yield _attempt(number, document, at)


def _attempt(number: int, document: RecordedLine, at: str) -> Attempt:
    told = document.model_dump(exclude_none=True, exclude={"op", "ret", "residual"})
    left = document.residual
    if left is not None and not _is_rest(document, left):
        raise MalformedError("is not the end of the call's range", at=f"{at}: residual")
    return Attempt(
        number,
        document.op,
        **told,
        returned=None if document.ret is None else _errno(document.ret),
        residual=None if left is None else (left.gpa, left.size),
        placed=document.gpa is not None or document.size is None,
    )


def _is_rest(document: RecordedLine, left: Left) -> bool:
    if document.gpa is None or document.size is None:
        return False
    end = document.gpa + document.size
    return bool(document.gpa <= left.gpa and left.gpa + left.size == end)


def _errno(ret: int) -> str:
    """Return "" for success, else the name of an errno."""
    return errno.errorcode.get(-ret, f"errno {-ret}") if ret else ""
