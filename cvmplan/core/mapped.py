"""
Mapped files: large inputs that are hashed without reading them into memory.

A mapping shows the file as it is now, not as it was when it was opened.  Two rules make that
safe.  A page that cannot be read any more (the file was truncated, or its disk failed) would
end the process with SIGBUS: a handler maps zeros in its place and marks the file.  Whoever
hands out an answer calls `confirm` or `confirm_all` first: a marked file, or one whose size,
modification or change time is different from when it was opened, is an InputError.

The handler is a ctypes callback, which is safe here because SIGBUS is raised by the very
instruction that reads the page: never inside malloc, and the callback takes the interpreter's
lock where the hash function had released it.
"""

from __future__ import annotations

import errno
import mmap
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import IO, Any, Final, TypeAlias
from weakref import finalize

from cvmplan.core.errors import InputError

MACHINES: Final = ("x86_64", "aarch64", "riscv64")  # which share the layouts below
TICK: Final = 20_000_000  # ns; kernels before 6.13 take file times from a clock this coarse
TRIES: Final = 8  # times that the handler may fail before the fault is left to others
# glibc and musl: <signal.h>, struct sigaction and siginfo_t of 64-bit machines.
_ACTION: Final = 8 + 128 + 8 + 8  # bytes: handler, mask, flags, restorer
_FLAGS: Final = 8 + 128  # offset of sa_flags
_SI_ADDR: Final = 16  # offset of the address that faulted
_SA_SIGINFO: Final = 4
_MAP_FIXED: Final = 0x10  # not in the module mmap before Python 3.13
_MAP_NORESERVE: Final = 0x4000
_FAILED: Final = (1 << 64) - 1

Times: TypeAlias = tuple[int, int, int]
"""Size, modification time and change time of a file."""


@dataclass(slots=True, eq=False)
class _File:
    """One mapped file: its name, a descriptor of it, its times when it was opened, addresses."""

    name: str
    descriptor: int
    opened: Times
    start: int
    end: int
    unreadable: bool = False

    def confirm(self) -> None:
        if _times(self.descriptor) != self.opened:
            hint = "run again when no process writes to the file"
            raise InputError("the file changed while it was read", at=self.name, hint=hint)
        if self.unreadable:
            raise InputError(f"cannot read: {os.strerror(errno.EIO)}", at=self.name)


_files: dict[int, _File] = {}  # by id of the mapping
_guards: list[_Guard] = []  # one, made with the first mapping


def map_whole(file: IO[bytes], name: str) -> memoryview | None:
    """
    Return the bytes of an open file, mapped; None where it can only be read.

    That is on file systems that map nothing (sysfs) and on machines without the guard.
    OSError, ValueError (an empty file).
    """
    if not _guard():
        return None
    number = os.dup(file.fileno())
    try:
        opened = _settled_times(number)
        mapped = mmap.mmap(number, 0, access=mmap.ACCESS_READ)
        view = memoryview(mapped)
        start = _guards[0].address(mapped)
    except OSError as error:
        os.close(number)
        if error.errno != errno.ENODEV:
            raise
        return None
    except BaseException:
        os.close(number)
        raise
    _files[id(mapped)] = _File(name, number, opened, start, start + len(view))
    finalize(mapped, _forget, id(mapped), number).atexit = False
    return view


def confirm(*views: memoryview) -> None:
    """Raise InputError where a file behind one of `views` is not what it was when opened."""
    for view in views:
        if found := _files.get(id(view.obj)):
            found.confirm()


def confirm_all() -> None:
    """Raise InputError where any mapped file is not what it was when opened."""
    for found in [*_files.values()]:
        found.confirm()


def _forget(key: int, descriptor: int) -> None:
    _files.pop(key, None)
    os.close(descriptor)


def _times(descriptor: int) -> Times:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _settled_times(descriptor: int) -> Times:
    """Return the times of a file, late enough that the next change gives it other ones."""
    if 0 <= time.time_ns() - _times(descriptor)[2] < TICK:
        time.sleep(TICK / 1e9)
    return _times(descriptor)


def _guard() -> bool:
    """Make the guard where that is possible; whether there is one."""
    if not _guards and sys.platform == "linux" and os.uname().machine in MACHINES:
        try:
            _guards.append(_Guard())
        except (ImportError, OSError, AttributeError):  # a Python without ctypes
            return False
    return bool(_guards)


class _Guard:
    """Answers SIGBUS inside a mapped file; any other goes to the handler that was there."""

    def __init__(self) -> None:
        import ctypes

        self._types: Any = ctypes
        libc: Any = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        size, number = ctypes.c_size_t, ctypes.c_int
        libc.mmap.argtypes = [ctypes.c_void_p, size, number, number, number, ctypes.c_long]
        libc.sigaction.argtypes = [number, ctypes.c_void_p, ctypes.c_void_p]
        self._libc = libc
        self._failed = 0
        kind = ctypes.CFUNCTYPE(None, number, ctypes.c_void_p, ctypes.c_void_p)
        self._handler = kind(self._handle)  # kept: the kernel has its address
        self._before = ctypes.create_string_buffer(_ACTION)
        action = ctypes.create_string_buffer(b"\xff" * _ACTION, _ACTION)  # all signals wait
        ctypes.c_void_p.from_buffer(action).value = ctypes.cast(
            self._handler, ctypes.c_void_p
        ).value
        ctypes.c_uint64.from_buffer(action, _FLAGS).value = _SA_SIGINFO
        ctypes.c_uint64.from_buffer(action, _FLAGS + 8).value = 0
        if libc.sigaction(signal.SIGBUS, action, self._before):
            raise OSError("no handler of SIGBUS")

    def address(self, mapped: mmap.mmap) -> int:
        """Return where in memory a mapping begins."""
        api: Any = self._types.pythonapi
        view = (self._types.c_void_p * 16)()  # Py_buffer: its first word is the address
        owner = self._types.py_object(mapped)
        api.PyObject_GetBuffer(owner, self._types.byref(view), 0)
        start = int(view[0] or 0)
        api.PyBuffer_Release(self._types.byref(view))
        return start

    def _handle(self, _number: int, info: int, _context: int) -> None:
        try:
            if self._replace(self._types.c_void_p.from_address(info + _SI_ADDR).value or 0):
                return
        except BaseException:  # noqa: BLE001 nothing may leave a signal handler
            self._failed += 1
            if self._failed < TRIES:
                return  # the instruction is tried again, and so is this
        self._libc.sigaction(signal.SIGBUS, self._before, None)

    def _replace(self, address: int) -> bool:
        """Map zeros from the page of `address` to the end of its file; False where it has none."""
        for found in [*_files.values()]:
            if found.start <= address < found.end:
                page = address & -mmap.PAGESIZE
                flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED | _MAP_NORESERVE
                size = found.end - page
                made = self._libc.mmap(page, size, mmap.PROT_READ, flags, -1, 0)
                found.unreadable = True
                return bool(made != _FAILED)
        return False
