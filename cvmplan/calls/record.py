"""
A system call: its numbers, structs and bytes exact, and what only the VMM knows symbolic.

A symbol (`&memory[0]+0x1000`, `&input[0]+0x84000`, `gmem[0]`) is zero in the bytes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import PlanError
from cvmplan.kvm.layouts import IOCTLS, Struct
from cvmplan.kvm.packing import Values, is_reserved, pack
from cvmplan.memory.contents import Made
from cvmplan.operations.plan import Op


class Repeat(NamedTuple):
    """
    A call is made again while `field` is not 0 ("": there is none), and on these errors.

    "nent" is how many entries there is room for: it grows.
    """

    field: Literal["", "len", "size", "nr_pages", "nent"]
    errors: tuple[str, ...] = ()


class CpuidBits(NamedTuple):
    """Bits of a CPUID register that a launch decides; the rest of the CPUID is the host's."""

    function: int
    register: Literal["eax"]
    mask: int
    value: int


class Wants(NamedTuple):
    """What a capability has to answer: a bit that is set, or where that is None anything but 0."""

    bit: int | None = None

    def holds(self, value: int) -> bool:
        """Whether the answer is as wanted."""
        return value != 0 if self.bit is None else bool(value >> self.bit & 1)


class Packed(NamedTuple):
    """A struct with the fields that were given, as bytes, and (offset, symbol) of its symbols."""

    layout: Struct
    values: Values
    data: bytes
    relocations: tuple[tuple[int, str], ...]


class Placed(NamedTuple):
    """What the VMM puts at an address before a call: contents, then zeros, `size` bytes in all."""

    address: str
    held: Blob | Made
    size: int


class SystemCall(NamedTuple):
    """
    One call; what it does not have is None, "" or empty.

    `number` is an ioctl's on the file descriptor `fd`, which `returns` another one.  A vendor's
    `command` has a struct of its own, `data`, that something may follow.  `cpuid` are bits of the
    CPUID that is handed over.  `arguments` are those of other system calls.  `contents` are what
    is put into memory before the call.  `symbolic` is an operation of an interface that nothing
    runs.
    """

    name: str
    fd: str = ""
    number: int | None = None
    argument: int | str | None = None
    capability: str = ""
    wants: Wants | None = None
    returns: str = ""
    command: str = ""
    struct: Packed | None = None
    data: Packed | None = None
    followed_by: str = ""
    cpuid: tuple[CpuidBits, ...] = ()
    repeat: Repeat | None = None
    retries: bool = False
    arguments: tuple[tuple[str, str], ...] = ()
    contents: tuple[Placed, ...] = ()
    symbolic: Op | None = None


def ioctl(fd: str, name: str) -> SystemCall:
    """Return an ioctl on a file descriptor, by the name of its request."""
    return SystemCall(name, fd, IOCTLS[name].number)


def filled(layout: Struct, values: Values) -> Packed:
    """
    Return a struct with these values.

    PlanError where it does not hold one, or where a field has none and is not reserved: what is
    zero is said to be.
    """
    names = (f.name for f in layout.fields)
    silent = [n for n in names if n not in values and not is_reserved(n)]
    if silent:
        raise PlanError(f"struct {layout.name}: nothing says what {', '.join(silent)} is")
    return Packed(layout, values, *pack(layout, values))
