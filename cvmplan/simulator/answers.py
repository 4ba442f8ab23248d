"""What a simulated kernel says: the answer to a call, and the outcome of all of them."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

from cvmplan.core.documented import as_document, summary
from cvmplan.core.findings import Finding
from cvmplan.core.platform import Platform

Reason: TypeAlias = Literal[
    "add-failed", "added-before", "attributes-elsewhere", "bound-twice", "breakpoint",
    "cannot-begin-shared", "created-before", "dead", "features", "finalized", "finished-before",
    "id-block-alone", "id-block-digest", "id-block-policy", "in-use-elsewhere",
    "initialised-before", "launch-over", "launch-state", "mapped-before", "masks", "never-added",
    "no-gmem", "no-gmem-here", "no-memslot", "no-page", "no-preserve", "no-private-memory",
    "no-source", "no-such-call", "no-vcpu", "no-vm", "not-added", "not-in-gmem",
    "not-initialised", "not-mapped", "not-private", "not-started", "not-writable", "past-the-end",
    "policy", "private-without-gmem", "shared-bit", "slot-fixed", "slot-taken", "started-before",
    "too-early", "unaligned", "unknown-flag", "vcpus", "vm-type", "vmsa-from-user-space",
]  # fmt: skip
"""Why a call is refused; the sentence beside it is for people."""
Note: TypeAlias = Literal["", "unknown-states", "recorded"]
"""What is to be known of a call beside its answer: the vCPU states that count are not known."""


class Answer(NamedTuple):
    """
    What a call answers; `mapped` is (gpa, size, level) and `residual` (gpa, size) in bytes.

    A call that a VMM repeats for its rest is answered where the repetition ends; `first_call` is
    the rest with which the call itself answered 0, where it then is refused.  `why` says in words
    what `id` says to the program.
    """

    result: str = "ok"
    errno: str | None = None
    why: str = ""
    fw_error: int | None = None
    seamcall_status: str | None = None
    mapped: tuple[int, int, int] | None = None
    residual: tuple[int, int] | None = None
    id: Reason | Note = ""
    first_call: tuple[int, int] | None = None


class Refused(NamedTuple):
    """Why something is refused: what it is called in the program, and in words."""

    id: Reason
    why: str


def no(
    errno: str | None,
    id: Reason,  # noqa: A002 it is the answer's
    why: str,
    *,
    fw_error: int | None = None,
    seamcall_status: str | None = None,
    residual: tuple[int, int] | None = None,
) -> Answer:
    """Return a refusal."""
    return Answer("error", errno, why, fw_error, seamcall_status, None, residual, id)


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

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document that the verb prints."""
        return as_document(self)

    @property
    def refused(self) -> tuple[Result, ...]:
        """The calls that are refused."""
        return tuple(r for r in self.results if r.answer.result == "error")

    def __repr__(self) -> str:
        digest = self.digest.hex() if self.digest else None
        told = {"finalized": self.finalized, "refused": len(self.refused), "digest": digest}
        return summary("Simulation", abi=self.abi, calls=len(self.results), **told)
