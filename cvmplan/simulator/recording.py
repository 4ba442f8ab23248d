"""A recorded launch as readers make it: its attempts, and what its form does not show."""

from __future__ import annotations

from typing import NamedTuple

from cvmplan.core.platform import Platform
from cvmplan.kvm.recorded import RecordedCall
from cvmplan.simulator.attempts import Attempt


class StateDoubt(NamedTuple):
    """A field of a vCPU's state: `was_set` by the VMM's calls, `found` in the end."""

    vcpu: int
    field: str
    was_set: int
    found: int

    @property
    def words(self) -> str:
        """What is wrong, for people."""
        values = f"was set to {self.was_set:#x} and is {self.found:#x} in the end"
        return f"vCPU {self.vcpu}: {self.field} {values}"


class Recording(NamedTuple):
    """
    The attempts of one launch, in their order.

    `calls` are all recorded calls where each was (cvmplan.recorded/2), `gpaw` the width of a
    TD's addresses where it is known.  `lacks` says for people what a form of recording does not
    show of a launch; not `ends`: it does not show its end.
    """

    platform: Platform
    attempts: tuple[Attempt, ...]
    calls: tuple[RecordedCall, ...] = ()
    gpaw: int | None = None
    doubts: tuple[StateDoubt, ...] = ()
    lacks: tuple[str, ...] = ()
    ends: bool = True

    @property
    def creates_vm(self) -> bool:
        """Whether it has the calls that set the VM up."""
        return bool(self.calls) or any(a.op == "create-vm" and a.shown for a in self.attempts)
