"""
The trace events of SNP and SEV launches, as a VMM's log prints them.

The events are kvm_sev_snp_launch_start, _update and _finish, and those of SEV without "snp_", with
or without "pid@time:" in front ("addr" for "src" in AMD's QEMU before 9.1).  Each is printed before
its call, so the result is known only where the VMM's errors tell it (see `vmm_errors`).  Other
lines of such a log are passed over.  Source: qemu target/i386/kvm/trace-events (11.1).
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.readers import vmm_errors
from cvmplan.readers.log_lines import SEARCHED, Logged, head, lines
from cvmplan.simulator.attempts import Attempt, errno_name

EVENTS: Final = (b"kvm_sev_snp_launch_", b"kvm_sev_launch_")
_HEX = r"(0x[0-9a-fA-F]{1,16})"
_STAMP = re.compile(r"\d{1,20}@\d{1,20}(?:\.\d{1,20})?:")
_ALONE = re.compile(r"kvm_sev_((?:snp_)?launch_\w+)(?:\s+(\S.*))?")
_INSIDE = re.compile(
    r"[\s:]kvm_sev_((?:snp_)?launch_(?:start|update|update_data|measurement|finish))"
    r"(?:\s+((?:policy|src|addr|data|id_block) .*)|\s*$)"
)
_UPDATE = re.compile(rf"(?:src|addr) {_HEX} gpa {_HEX} len {_HEX} \((\w+) page\)")
_START = re.compile(rf"policy {_HEX}(?: gosvw.*)?")
_SEV_START = re.compile(rf"policy {_HEX}(?: session.*)?")
_SEV_UPDATE = re.compile(rf"addr {_HEX} len {_HEX}")
_FINISH = re.compile(r"(?:id_block (\S*))?.*")
SEV_EVENTS: Final = {
    "launch_measurement": "sev-launch-measure",
    "launch_finish": "sev-launch-finish",
}
PAGE_TYPES: Final = ("normal", "zero", "unmeasured", "secrets", "cpuid", "vmsa")


def recognises(blob: Blob) -> bool:
    """Whether a log has an event of a launch, or an error of the VMM about one."""
    if head(blob).lstrip()[:1] == b"{":
        return False
    searched = bytes(blob.data[:SEARCHED])
    return any(event in searched for event in (*EVENTS, vmm_errors.REFUSED))


def read(blob: Blob) -> Logged:
    """Return the calls of a log; MalformedError with the line."""
    return Logged(tuple(_calls(blob)))


def _calls(blob: Blob) -> Iterator[Attempt]:
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
    if "launch_" not in line:
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
    return replace(
        attempt, returned=errno_name(log.ret), fw_error=log.fw_error, note=log.correction()
    )


def _event(number: int, name: str, told: str, at: str) -> Attempt | None:
    """Return the call of an event; None for an event of SEV that is not part of a launch."""
    if name == "snp_launch_update":
        return _update(number, told, at)
    if name in ("snp_launch_start", "launch_start"):
        snp = name.startswith("snp_")
        start = (_START if snp else _SEV_START).fullmatch(told)
        if start is None:
            raise MalformedError(f"no policy in {told!r}", at=at)
        op = "snp-launch-start" if snp else "sev-launch-start"
        return Attempt(number, op, policy=int(start[1], 16))
    if name == "snp_launch_finish":
        finish = _FINISH.fullmatch(told)
        block = _id_block(finish[1] if finish else None)
        return Attempt(number, "snp-launch-finish", id_block=block)
    if name == "launch_update_data":
        return _update_data(number, told, at)
    if name in SEV_EVENTS:
        return Attempt(number, SEV_EVENTS[name])
    if name.startswith("snp_"):
        raise MalformedError(f"an unknown event {name!r}", at=at)
    return None


def _update_data(number: int, told: str, at: str) -> Attempt:
    """Return an add of SEV: where it is in the guest, its event does not say."""
    found = _SEV_UPDATE.fullmatch(told)
    if found is None:
        raise MalformedError(f"no source and length in {told!r}", at=at)
    src, size = (int(n, 16) for n in found.groups())
    return Attempt(number, "sev-launch-update-data", size=size, src=src, placed=False)


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
