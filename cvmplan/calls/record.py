"""
A system call: its numbers, structs and bytes exact, and what only the VMM knows symbolic.

A symbol (`&memory[0]+0x1000`, `&input[0]+0x84000`, `gmem[0]`) is zero in the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

from cvmplan.kvm.layouts import IOCTLS, Struct, pack
from cvmplan.operations.plan import Op

Values: TypeAlias = Mapping[str, int | bytes | str]
"""Field of a struct to its value; a string is a symbol."""


class Repeat(NamedTuple):
    """A call is made again while `field` is not 0 ("": there is none), and on these errors."""

    field: Literal["", "len", "size", "nr_pages"]
    errors: tuple[str, ...] = ()


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


class SystemCall(NamedTuple):
    """
    One call; what it does not have is None, "" or empty.

    `number` is an ioctl's on the file descriptor `fd`, which `returns` another one.  A vendor's
    `command` has a struct of its own, `data`, that something may follow.  `arguments` are those
    of other system calls.  `symbolic` is an operation of an interface that nothing runs.
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
    repeat: Repeat | None = None
    retries: bool = False
    arguments: tuple[tuple[str, str], ...] = ()
    symbolic: Op | None = None


def ioctl(fd: str, name: str) -> SystemCall:
    """Return an ioctl on a file descriptor, by the name of its request."""
    return SystemCall(name, fd, IOCTLS[name].number)


def filled(layout: Struct, values: Values) -> Packed:
    """Return a struct with these values; PlanError where it does not hold one."""
    return Packed(layout, values, *pack(layout, values))
