"""
A call as the simulator sees it: what stands in a plan or a recording, whatever it was read from.

`readers.calls` makes them, of a document or of a plan's operations; recordings are `Attempt`s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cvmplan.core.platform import Platform


class State(NamedTuple):
    """The initial state of vCPUs `first` to `last`: a VMSA, at `gpa` where that is said."""

    first: int
    last: int
    gpa: int | None
    page: bytes

    @property
    def vcpus(self) -> str:
        """The vCPUs, as a plan names them."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class Call:
    """
    One call, number `seq` of a plan or line `seq` of a recording; fields as in a plan.

    What an operation does not have is zero or None, and so are its contents, which go beside
    it.  An `id_auth` of no bytes is one of which a recording says nothing; `src` is
    the host address of contents, where one was recorded.
    """

    seq: int
    op: str
    gpa: int = 0
    size: int = 0
    measured: bool = False
    page_type: str = ""
    count: int = 0
    policy: int | None = None
    rcx: int = 0
    id_block: bytes | None = None
    vmsas: tuple[State, ...] = ()
    gmem: int | None = None
    gmem_offset: int | None = None
    slot: int = 0
    offset: int = 0
    flags: tuple[str, ...] = ()
    preserve: bool = False
    advice: str = ""
    vm_type: Platform | None = None
    vmsa_features: int = 0
    legacy: bool = False
    attributes: int = 0
    xfam: int = 0
    id_auth: bytes | None = b""
    has_source: bool = False
    src: int | None = None

    @property
    def end(self) -> int:
        """The address after the last byte."""
        return self.gpa + self.size
