"""
The SEV and SEV-ES launch digest: one SHA-256 over the data in the order of the commands.

Source: AMD 55766, SEV API, "LAUNCH_MEASURE".  This is the digest (GCTX.LD), not the
measurement that LAUNCH_MEASURE returns, which is an HMAC over it and a nonce.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Protocol

from cvmplan.core.platform import Platform
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import known_bytes
from cvmplan.operations.measure import Coverage, Measurement
from cvmplan.operations.steps import Step, in_order
from cvmplan.platforms.sev.steps import ORDER, LaunchUpdateData, LaunchUpdateVmsa


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def copy(self) -> _Hash: ...
    def digest(self) -> bytes: ...


def measure(platform: Platform, trace: Iterable[Step]) -> Measurement:
    """Return the launch digest; PlanError when the steps are out of order."""
    *_, (digest, coverage) = running(trace)
    return Measurement(platform, "LD", "sha256", digest.digest(), coverage)


def by_vcpus(platform: Platform, trace: Iterable[Step]) -> Iterator[Measurement]:
    """
    Yield the launch digest of SEV-ES with 1, 2, … vCPUs up to all whose VMSA `trace` has.

    VMSAs come last; where there are none nothing is yielded.  PlanError.
    """
    for digest, coverage in running(trace):
        if coverage.vmsas:
            yield Measurement(platform, "LD", "sha256", digest.copy().digest(), coverage)


def running(trace: Iterable[Step]) -> Iterator[tuple[_Hash, Coverage]]:
    """Yield the hash and what it covers: at first, after data, and after each vCPU's VMSA."""
    digest = sha256()
    pages = vmsas = 0
    yield digest, Coverage()
    for step in in_order(trace, ORDER):
        if isinstance(step, LaunchUpdateData):
            data = known_bytes(step.contents)
            digest.update(data if isinstance(data, bytes) else data.data)
            _update_zeros(digest, step.size - len(data))
            pages += (step.gpa + step.size - 1) // PAGE - step.gpa // PAGE + 1
            yield digest, Coverage(contents=pages)
        elif isinstance(step, LaunchUpdateVmsa):
            for _ in step.vcpus:
                digest.update(step.page)
                vmsas += 1
                yield digest, Coverage(contents=pages, vmsas=vmsas)


def _update_zeros(digest: _Hash, count: int) -> None:
    zeros = bytes(min(count, 1 << 20))
    while count > 0:
        digest.update(zeros[:count])
        count -= len(zeros)
