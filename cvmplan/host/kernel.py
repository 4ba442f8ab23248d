"""The system calls that a check on this machine makes, and nothing else of it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
from typing import Final, Protocol

# x86: include/uapi/asm-generic/mman-common.h; the module mmap names it from Python 3.13 on.
MAP_NORESERVE: Final = 0x4000
PUNCH_HOLE: Final = 3  # include/uapi/linux/falloc.h: FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE


class Kernel(Protocol):
    """The system calls that are made; each raises OSError where the kernel refuses."""

    def open(self, path: str) -> int:
        """Return a file descriptor for reading and writing."""

    def close(self, fd: int) -> None:
        """Close a file descriptor."""

    def ioctl(self, fd: int, number: int, argument: int | bytearray) -> int:
        """Make the call; what it writes back is in `argument`."""

    def map(self, size: int, file: int = -1, offset: int = 0) -> int:
        """Return the address of `size` bytes: of a file, or memory that nothing is reserved for."""

    def unmap(self, address: int) -> None:
        """Give memory back."""

    def advise(self, address: int, size: int, advice: int) -> None:
        """Advise the kernel about a part of memory that was mapped (MADV_…)."""

    def write(self, address: int, data: bytes) -> None:
        """Write into memory that was mapped."""

    def punch(self, fd: int, offset: int, size: int) -> None:
        """Give a part of a file back: fallocate with FALLOC_FL_PUNCH_HOLE."""

    def read(self, fd: int, offset: int, size: int) -> bytes:
        """Return bytes of a file."""

    def release(self) -> str:
        """Return the release of the kernel, as uname has it."""


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

    def map(self, size: int, file: int = -1, offset: int = 0) -> int:
        """See Kernel."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        made = mmap.mmap(file, size, flags=mmap.MAP_SHARED if file >= 0 else flags, offset=offset)
        address = ctypes.addressof(ctypes.c_char.from_buffer(made))
        self._maps[address] = made
        return address

    def unmap(self, address: int) -> None:
        """See Kernel."""
        self._maps.pop(address).close()

    def advise(self, address: int, size: int, advice: int) -> None:
        """See Kernel."""
        made, at = self._within(address)
        made.madvise(advice, at, size)

    def write(self, address: int, data: bytes) -> None:
        """See Kernel."""
        made, at = self._within(address)
        made[at : at + len(data)] = data

    def _within(self, address: int) -> tuple[mmap.mmap, int]:
        """Return what was mapped around an address, and how far into it that is."""
        for start, made in self._maps.items():
            if start <= address < start + len(made):
                return made, address - start
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))

    def punch(self, fd: int, offset: int, size: int) -> None:
        """See Kernel."""
        libc = ctypes.CDLL(None, use_errno=True)
        long = ctypes.c_long
        if libc.fallocate(fd, PUNCH_HOLE, long(offset), long(size)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def read(self, fd: int, offset: int, size: int) -> bytes:
        """See Kernel."""
        return os.pread(fd, size, offset)

    def release(self) -> str:
        """See Kernel."""
        return platform.release()
