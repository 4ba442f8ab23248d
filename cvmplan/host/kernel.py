"""The system calls that a check on this machine makes, and nothing else of it."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Final, Protocol

# x86: include/uapi/asm-generic/mman-common.h; the module mmap names it from Python 3.13 on.
MAP_NORESERVE: Final = 0x4000


class Kernel(Protocol):
    """The system calls that are made; each raises OSError where the kernel refuses."""

    def open(self, path: str) -> int:
        """Return a file descriptor for reading and writing."""

    def close(self, fd: int) -> None:
        """Close a file descriptor."""

    def ioctl(self, fd: int, number: int, argument: int | bytearray) -> int:
        """Make the call; what it writes back is in `argument`."""

    def map(self, size: int) -> int:
        """Return the address of `size` bytes of memory that nothing is reserved for."""

    def unmap(self, address: int) -> None:
        """Give memory back."""


class Linux:
    """The kernel that this process runs on."""

    def __init__(self) -> None:
        self._maps: dict[int, mmap.mmap] = {}

    def open(self, path: str) -> int:
        """See Kernel."""
        return os.open(path, os.O_RDWR)

    def close(self, fd: int) -> None:
        """See Kernel."""
        os.close(fd)

    def ioctl(self, fd: int, number: int, argument: int | bytearray) -> int:
        """See Kernel."""
        import fcntl  # not on every system where plans are made

        return fcntl.ioctl(fd, number, argument)

    def map(self, size: int) -> int:
        """See Kernel."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        made = mmap.mmap(-1, size, flags=flags)
        address = ctypes.addressof(ctypes.c_char.from_buffer(made))
        self._maps[address] = made
        return address

    def unmap(self, address: int) -> None:
        """See Kernel."""
        self._maps.pop(address).close()
