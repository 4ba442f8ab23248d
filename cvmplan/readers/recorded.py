"""
Recorded launches: JSON Lines, or what a VMM or a tracer logs of the calls of one launch.

Each form has a module of its own, which recognises it by content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError
from cvmplan.core.platform import Platform, of_state
from cvmplan.readers import (
    log_fields,
    log_groups,
    recorded_calls,
    recorded_lines,
    recorded_ops,
    strace,
    trace_events,
)
from cvmplan.readers.log_lines import Logged, head, lines
from cvmplan.simulator.attempts import Attempt
from cvmplan.simulator.recording import Recording

POLICY_ES: Final = 1 << 2  # AMD 55766, "Guest Policy Structure"
LOGS: Final = (trace_events, strace, log_fields, log_groups)
"""Forms of logs; each module has `recognises` and `read`."""


def recognises(blob: Blob) -> bool:
    """Whether the text is a recorded launch in one of the forms."""
    start = head(blob)
    if recorded_calls.recognises(start) or recorded_lines.recognises(blob):
        return True
    if b"\0" in start or start.lstrip()[:1] == b"{":
        return False
    return _log(blob) is not None


def has_calls(blob: Blob) -> bool:
    """Whether the text is a recording of ioctls (cvmplan.recorded/2)."""
    return recorded_calls.recognises(head(blob))


def read(blob: Blob, platform: Platform | None = None) -> Recording:
    """
    Return the attempts that were recorded, by their lines.

    `platform` beats the one that the calls are of.  MalformedError with the line.
    """
    if has_calls(blob):
        made = recorded_ops.recording(recorded_calls.read_lines(blob, lines(blob)), blob.name)
        return made if platform is None else made._replace(platform=platform)
    form = None if recorded_lines.recognises(blob) else _log(blob)
    logged = form.read(blob) if form else Logged(recorded_lines.read(blob))
    found = platform or _platform(logged.attempts, blob.name)
    attempts = tuple(_of(attempt, found) for attempt in logged.attempts)
    return Recording(found, attempts, lacks=logged.lacks, ends=logged.ends)


def _of(attempt: Attempt, platform: Platform) -> Attempt:
    """Return a call; one that creates a VM of type 0 for an older SEV launch creates that."""
    return replace(attempt, vm_type=platform) if attempt.op == "create-vm" else attempt


def _log(blob: Blob) -> ModuleType | None:
    """Return the form of a log, None where it has none."""
    return next((log for log in LOGS if log.recognises(blob)), None)


def _platform(attempts: Sequence[Attempt], name: str) -> Platform:
    """Return the platform of the VM that was created, or else the one that has such calls."""
    made = next((a.vm_type for a in attempts if a.op == "create-vm" and not a.returned), None)
    legacy = any(a.op == "init" and a.legacy for a in attempts)
    hidden = any(a.op == strace.ENCRYPT and a.returned == "" for a in attempts)
    if made is not None and hidden and not made.confidential:
        problem = "KVM_MEMORY_ENCRYPT_OP on a VM of type 0: the trace does not say of what platform"
        raise ConfigError(problem, at=name, hint="--platform NAME")
    if made is not None and not legacy:
        return made
    names = {a.op.partition("-")[0] for a in attempts}
    found = [p for p in Platform if p.calls in names]
    kinds = sorted({p.calls for p in found})
    if len(kinds) != 1:
        what = " and ".join(kinds) or "no platform"
        raise ConfigError(f"the calls are of {what}", at=name, hint="--platform NAME")
    states = any(a.op == "sev-launch-update-vmsa" or _measures_states(a) for a in attempts)
    return of_state(found, vmsa=states)


def _measures_states(attempt: Attempt) -> bool:
    """Whether a launch begins with a policy that wants the states of vCPUs measured."""
    return attempt.op == "sev-launch-start" and bool((attempt.policy or 0) & POLICY_ES)
