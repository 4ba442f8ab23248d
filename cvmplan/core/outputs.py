"""
Output files: written whole or not at all.

A file is written under another name beside its target, and takes the target's place when it is
complete.  The other name is chosen before the file is made, so that no error and no signal
leaves it behind.  Pipes, devices and descriptors of this process (/dev/stdout, /dev/fd/3) are
written to as they are.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from cvmplan.core.errors import InputError
from cvmplan.core.mapped import confirm_all

PREFIX = ".cvmplan-"  # of the names of files that are not complete
_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"(?:/dev/fd|/proc/self/fd)/([0-9]{1,9})")


@contextmanager
def whole_file(path: str) -> Iterator[IO[str]]:
    """Open `path` for text that replaces it when the block ends well, and not otherwise."""
    with whole_bytes(path) as raw:
        file = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace")
        yield file
        file.flush()
        file.detach()


@contextmanager
def whole_bytes(path: str) -> Iterator[IO[bytes]]:
    """
    Open `path` for bytes that replace it when the block ends well, and not otherwise.

    InputError where it cannot be written, or where a mapped input has changed meanwhile.
    """
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        path = ""
    if not path or "\0" in path:
        raise InputError("cannot write: not a file name", at=repr(path))
    try:
        with _opened(path) as file:
            yield file
            confirm_all()
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror}", at=path) from None


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    number = descriptor(path)
    if number is not None:
        with open(os.dup(number), "wb") as file:
            yield file
    elif os.path.exists(path) and not os.path.isfile(path):  # a pipe, a device
        with open(path, "wb") as file:
            yield file
    else:
        target = os.path.realpath(path)
        with file_beside(target) as temporary:
            with open(temporary, "wb") as file:
                yield file
            os.chmod(temporary, _mode(target))
            os.replace(temporary, target)


def descriptor(path: str) -> int | None:
    """Return the number of an open file of this process that `path` names, None for others."""
    if path in _STREAMS:
        return _STREAMS[path]
    found = _DESCRIPTOR.fullmatch(path)
    return int(found[1]) if found else None


@contextmanager
def file_beside(target: str) -> Iterator[str]:
    """
    Make an empty file beside `target`, which only its owner may read, and yield its path.

    It is removed at the end of the block, unless it has another name by then.  OSError.
    """
    temporary = os.path.join(os.path.dirname(target) or ".", PREFIX + os.urandom(8).hex())
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def make_folder_of(path: str) -> None:
    """Make the folder in which `path` is, where it is not there; InputError."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make its folder: {error.strerror}", at=path) from None


def new_mode() -> int:
    """Return the permissions that a new file gets."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else new_mode()
