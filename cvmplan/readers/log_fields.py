"""
The SNP launch of a VMM that logs each call with its fields: NAME key=value key=value.

A call is logged before it is made, and a call that fails ends the launch, so each call but the
last returned 0.  Sources: openvmm 1488a37b vmm_core/virt_kvm/src/snp.rs,
snp_launch_initial_pages_inner (levels debug and trace); vm/kvm/src/lib.rs, Error::MemoryEncryptOp;
support/tracing_helpers/src/formatter.rs, FieldFormatter (numbers are hexadecimal).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.readers.log_lines import SEARCHED, Logged, lines
from cvmplan.readers.trace_events import PAGE_TYPES
from cvmplan.simulator.attempts import Attempt

_ANY = re.compile(rb"KVM_SEV_SNP_LAUNCH_(?:START policy=|UPDATE gpa=)")
_CALL = re.compile(r"\bKVM_SEV_SNP_LAUNCH_(START|UPDATE|FINISH)(?=\s|$)")
_FIELD = re.compile(r"\b(policy|gpa|len|kvm_page_type)=(\w{1,40})")
_FAILED = re.compile(
    r"MemoryEncryptOp\(KVM_SEV_SNP_LAUNCH_(?:START|UPDATE|FINISH), "
    r"firmware_error=(0x[0-9a-f]{1,8})\): (E[A-Z0-9]{1,20})"
)
FINISHED: Final = "finished SNP launch"
NO_ADDS: Final = "the log has no adds, whose lines are of level trace"
"""What a log without them lacks."""


def recognises(blob: Blob) -> bool:
    """Whether a log has such a line."""
    return _ANY.search(blob.data[:SEARCHED]) is not None


def read(blob: Blob) -> Logged:
    """Return the calls of a launch; MalformedError with the line."""
    found: list[Attempt] = []
    for number, line in lines(blob):
        if call := _CALL.search(line):
            if found:
                found[-1] = _done(found[-1])
            found.append(_attempt(number, call[1], line[call.end() :], f"{blob.name}:{number}"))
        elif not found:
            continue
        elif FINISHED in line:
            found[-1] = _done(found[-1])
        elif failed := _FAILED.search(line):
            found[-1] = replace(found[-1], returned=failed[2], fw_error=int(failed[1], 16) or None)
    adds = any(attempt.op == "snp-launch-update" for attempt in found)
    lacks = () if adds else (NO_ADDS,)
    return Logged(tuple(found), lacks)


def _done(attempt: Attempt) -> Attempt:
    """Return a call that did not end the launch: the VMM has repeated it until nothing was left."""
    if attempt.returned is not None:
        return attempt
    left = (attempt.end, 0) if attempt.size else None
    return replace(attempt, returned="", residual=left)


def _attempt(number: int, name: str, told: str, at: str) -> Attempt:
    fields: dict[str, str] = dict(_FIELD.findall(told))
    if name == "START":
        return Attempt(number, "snp-launch-start", policy=_number(fields, "policy", at))
    if name == "FINISH":
        return Attempt(number, "snp-launch-finish")
    gpa, size = _number(fields, "gpa", at), _number(fields, "len", at)
    page_type = fields.get("kvm_page_type", "").lower()
    if page_type not in PAGE_TYPES:
        raise MalformedError(f"unknown page type {page_type!r}", at=at)
    if gpa + size > 1 << 64:
        raise MalformedError(f"{size:#x} bytes at {gpa:#x} end past 2^64", at=at)
    return Attempt(number, "snp-launch-update", gpa, size, page_type=page_type)


def _number(fields: dict[str, str], name: str, at: str) -> int:
    try:
        number = int(fields[name], 0)
    except KeyError:
        raise MalformedError(f"no {name}", at=at) from None
    except ValueError:
        raise MalformedError(f"{name}={fields[name]!r} is not an integer", at=at) from None
    if not 0 <= number < 1 << 64:
        raise MalformedError(f"{name}={fields[name]!r} is not below 2^64", at=at)
    return number
