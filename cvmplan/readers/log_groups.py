"""
The launch of a VMM that logs how many pages it imports next, or the TDX section that it loads.

Of an SNP add the log has neither the address nor the page type.  A call that fails ends the launch,
apart from a refused CPUID page, which is added once more; so what is followed by other lines of the
launch returned 0.  Of a TD the log has the sections, which are added later in the same order, and
neither results nor the end.  Sources: cloud-hypervisor ae44c297 vmm/src/igvm/igvm_loader.rs
(levels info and debug), hypervisor/src/kvm/x86_64/sev.rs, sev_op and launch_finish;
vmm/src/vm.rs, populate_tdx_sections and init_tdx_memory.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MalformedError
from cvmplan.core.values import PAGE
from cvmplan.readers.log_lines import SEARCHED, Logged, lines
from cvmplan.simulator.attempts import Attempt

_ANY = re.compile(
    rb"Importing \d{1,9} pages?\s|Populating TDVF Section: |KVM_SEV_SNP_LAUNCH_\w{1,10} op failed"
)
_GROUP = re.compile(r"\bImporting (\d{1,9}) pages?$")
_SECTION = re.compile(
    r"\bPopulating TDVF Section: TdvfSection \{.{0,200} address: ([0-9a-f]{1,16}), "
    r"size: ([0-9a-f]{1,16}), type: \w{1,20}, attributes: ([0-9a-f]{1,8}) \}"
)
_FAILED = re.compile(r"\bKVM_SEV_(SNP_LAUNCH_\w{1,10}) op failed\. error code: 0x([0-9a-f]{1,8})")
_FINISH = re.compile(r"\bKVM_SEV_SNP_LAUNCH_FINISH: id_block_en=")
HASHED: Final = "hashing pages"
COMPLETE: Final = "launch complete command"
CORRECTED: Final = "but firmware expects"
OPS: Final = {
    "SNP_LAUNCH_START": "snp-launch-start",
    "SNP_LAUNCH_UPDATE": "snp-launch-update",
    "SNP_LAUNCH_FINISH": "snp-launch-finish",
}
NO_ADDRESSES: Final = "the log has the number of added pages, not their addresses and types"
NO_END: Final = "the log has no results, and not the end of the launch"


def recognises(blob: Blob) -> bool:
    """Whether a log has such a line."""
    return _ANY.search(blob.data[:SEARCHED]) is not None


def read(blob: Blob) -> Logged:
    """Return the calls of a launch; ConfigError where it has lines of both; MalformedError."""
    log = _Log()
    for number, line in lines(blob):
        log.take(number, line.strip(), f"{blob.name}:{number}")
    if log.sections and log.calls:
        raise ConfigError("the log has more than one launch", at=blob.name)
    if log.sections:
        return Logged(tuple(log.sections), (NO_END,), ends=False)
    lacks = (NO_ADDRESSES,) if any(not a.placed for a in log.calls) else ()
    return Logged(tuple(log.calls), lacks)


class _Log:
    """Goes through the lines once, and collects calls."""

    def __init__(self) -> None:
        self.calls: list[Attempt] = []
        self.sections: list[Attempt] = []

    def take(self, number: int, line: str, at: str) -> None:
        """Take in one line; what it does not know is passed over."""
        if group := _GROUP.search(line):
            self._done()
            size = int(group[1]) * PAGE
            self.calls.append(Attempt(number, "snp-launch-update", size=size, placed=False))
        elif _FINISH.search(line):
            self._done()
            self.calls.append(Attempt(number, "snp-launch-finish"))
        elif HASHED in line:
            self._done()
        elif COMPLETE in line:
            if self.calls and self.calls[-1].op != "snp-launch-finish":
                self.calls.append(Attempt(number, "snp-launch-finish"))
            self._done()
        elif failed := _FAILED.search(line):
            self._failed(number, OPS.get(failed[1], ""), int(failed[2], 16))
        elif CORRECTED in line and self.calls:
            note = "the firmware corrected the CPUID page"
            self.calls[-1] = replace(self.calls[-1], note=note)
        elif section := _SECTION.search(line):
            self._section(number, section, at)

    def _done(self) -> None:
        """Note that the last call did not end the launch."""
        if self.calls and self.calls[-1].op in OPS.values():
            self.calls[-1] = replace(self.calls[-1], returned="", fw_error=None)

    def _failed(self, number: int, op: str, fw_error: int) -> None:
        """Note a refused call; where the firmware says nothing its errno is not in the log."""
        if not self.calls or self.calls[-1].op != op:
            self.calls.append(Attempt(number, op, placed=op != "snp-launch-update"))
        returned = "EIO" if fw_error else "unknown"
        self.calls[-1] = replace(self.calls[-1], returned=returned, fw_error=fw_error or None)

    def _section(self, number: int, section: re.Match[str], at: str) -> None:
        gpa, size, attributes = (int(written, 16) for written in section.groups())
        if gpa + size > 1 << 64 or size % PAGE or gpa % PAGE:
            raise MalformedError(f"{size:#x} bytes at {gpa:#x} are not whole pages", at=at)
        op, measured = "tdx-init-mem-region", attributes == 1
        self.sections.append(Attempt(number, op, gpa, size, measured=measured))
