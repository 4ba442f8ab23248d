"""What a simulated kernel says: the answer to a call, and the outcome of all of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from cvmplan.core.findings import Finding
from cvmplan.core.platform import Platform


class Answer(NamedTuple):
    """What a call answers; `mapped` is (gpa, size, level) and `residual` (gpa, size) in bytes."""

    result: str = "ok"
    errno: str | None = None
    why: str = ""
    fw_error: int | None = None
    seamcall_status: str | None = None
    mapped: tuple[int, int, int] | None = None
    residual: tuple[int, int] | None = None


def no(errno: str | None, why: str, **more: Any) -> Answer:
    """Return a refusal."""
    return Answer("error", errno, why, **more)


class Result(NamedTuple):
    """What call `seq` answers; see `Answer`."""

    seq: int
    op: str
    answer: Answer


class Simulation(NamedTuple):
    """
    The answers in order, and where they lead.

    `digest` is None where nothing is measured, or where contents that count are not known.
    """

    platform: Platform
    abi: str
    results: tuple[Result, ...]
    digest: bytes | None
    finalized: bool
    findings: tuple[Finding, ...] = ()
