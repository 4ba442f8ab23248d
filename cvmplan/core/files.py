"""
Input files, each opened once.

What is hashed is what is measured.  A file of up to 16 MiB is read into memory, where nobody
changes it; so is standard input.  Larger files are mapped, since memory must not grow with the
image: `cvmplan.core.mapped` says how such a file may change or be truncated without a crash, and
without an answer about bytes that were never in it together.

With `outputs` and `mapped` the only module of the package that touches the file system, but for
the command line and the database of a sweep.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from collections.abc import Callable
from hashlib import sha256 as _sha256
from importlib import import_module
from typing import IO, TypeAlias
from weakref import finalize

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, InputError, MalformedError
from cvmplan.core.inputs import Input
from cvmplan.core.mapped import map_whole

AnyPath: TypeAlias = str | os.PathLike[str]
EXAMPLES = {"example:snp": "snp.fd", "example:tdx": "tdx.fd"}  # images that ship in the package
MADE = {"edk2:": "cvmplan.images.edk2_tables", "catalogue:": "cvmplan.catalogue.known"}
"""By prefix the module whose contents(rest) makes the bytes."""
PACKAGE = os.path.dirname(os.path.dirname(__file__))
HELD = 1 << 24  # bytes of a file that is read into memory, larger ones are mapped
TOGETHER = 1 << 26  # bytes of all files that are read at one time
SMALL = 1 << 16  # bytes of a file that is always read: /proc says 0 and /sys a page
MOST_UNSIZED = 1 << 25  # bytes of a file that does not say how many it has
PIECE = 1 << 20
MOST_UNMAPPED = 1 << 29  # bytes of what cannot be mapped: standard input, pipes


MOST_FILES = 256  # of a folder whose files are all read


class Files:
    """
    The inputs of one run.

    `allow_outside`: a manifest may name files outside its folder.  `folders`: where else
    the inputs of a plan may lie.  `base`: where those of a launch description do, by the paths that
    it has.  `tell` hears of each file that is opened.
    """

    def __init__(
        self,
        *,
        allow_outside: bool = False,
        folders: tuple[str, ...] = (),
        base: str | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.allow_outside = allow_outside
        self.folders = folders
        self.base = base
        self.tell = tell
        self.inputs: dict[str, Input] = {}
        self._searched: dict[tuple[str, str], str] = {}

    def again(self) -> Files:
        """Return what opens files in the same way, and has opened the same ones."""
        other = Files(
            allow_outside=self.allow_outside, folders=self.folders, base=self.base, tell=self.tell
        )
        other.inputs = dict(self.inputs)
        return other

    def open(
        self, path: str, role: str, beside: str | None = None, *, searched: bool = False
    ) -> Blob:
        """
        Return the bytes of `path`, and note it as an input of `role`.

        `beside`: the document that names it, to whose folder a relative path belongs and
        which it may not leave.  `searched`: it is a launch description (see `_search`).
        InputError when it cannot be read, ConfigError when it may not.
        """
        if beside is not None:
            path = self._search(path, beside) if searched else self.inside(path, beside)
        if path == "-" and path in self.inputs and self.inputs[path].role != role:
            raise ConfigError(f"standard input is already read as {self.inputs[path].role}", at="-")
        if path != "-" and path in self.inputs and self.inputs[path].path is None:
            path = os.path.join(os.path.curdir, path)  # a file named as bytes are
        if path not in self.inputs:
            blob = _stdin() if path == "-" else map_file(path)
            self.inputs[path] = Input(role, None if path == "-" else path, blob)
            self.tell(f"{role}: {blob.name}, {len(blob)} bytes")
        return self.inputs[path].blob

    def open_folder(self, path: str, role: str) -> list[Blob] | None:
        """
        Return the files in the folder `path`, by their names; None where it is no folder.

        Folders in it are left out.  InputError where one cannot be read, or there are too many.
        """
        if path == "-" or not os.path.isdir(path):
            return None
        names = [os.path.join(path, name) for name in _names(path)]
        found = [name for name in names if os.path.isfile(name)]
        if len(found) > MOST_FILES:
            raise InputError(f"{len(found)} files, at most {MOST_FILES}", at=path)
        return [self.open(name, role) for name in found]

    def keep(self, blob: Blob, role: str) -> Blob:
        """Note bytes that come from no file as an input of `role`, and return them."""
        self.inputs[blob.name] = Input(role, None, blob)
        return blob

    def find(self, path: str | None, size: int, sha256: str, plan: str) -> Blob:
        """
        Return the input of a plan: `path` itself, beside the plan, or in one of the folders.

        InputError where no file there has this size and hash.
        """
        name = os.path.basename(path or "")
        beside = "" if plan == "-" else os.path.dirname(plan)
        tried = [path or "", os.path.join(beside, path or ""), os.path.join(beside, name)]
        for folder in self.folders:
            names = [name] if name else _names(folder)
            tried += [os.path.join(folder, n) for n in names]
        present = False
        for candidate in tried:
            if not os.path.isfile(candidate) and not _ships(candidate):
                continue
            present = True
            blob = map_file(candidate)
            if len(blob) == size and _sha256(blob.data).hexdigest() == sha256:
                self.tell(f"input {path or 'from standard input'}: {candidate}")
                return blob
        what = "has changed" if present else "not found"
        raise InputError(
            f"input {path or 'from standard input'} (SHA-256 {sha256}) {what}",
            at=plan,
            hint="name its directory with --inputs DIR",
        )

    def _search(self, path: str, description: str) -> str:
        """
        Return where the file lies that a launch description calls `path`; InputError.

        Below the base, or where there is none below the folder of the description: as the path has
        it, or by its name alone.  With `allow_outside` anywhere.
        """
        if "\0" in path or not _encodes(path):
            raise MalformedError(f"{path[:60]!r} is not a file name", at=description)
        beside = os.path.curdir if description == "-" else os.path.dirname(description)
        root = self.base or beside or os.path.curdir
        below = (os.path.join(root, n) for n in (path.lstrip("/"), os.path.basename(path)) if n)
        for found in dict.fromkeys((*below, path)):
            allowed = self.allow_outside or _is_below(root, found)
            if found in self.inputs or (os.path.isfile(found) and allowed):
                return self._alone(found, path, description)
        where = f"below {root}" if self.base else "in its folder"
        hint = "--base DIR says below which folder its files lie"
        raise InputError(f"{path}: not found {where}", at=description, hint=hint)

    def _alone(self, found: str, path: str, description: str) -> str:
        """Return the file `found` for a path; InputError where it is that of another path too."""
        other = self._searched.setdefault((description, found), path)
        if other != path:
            problem = f"{other} and {path}: both are {found} here, by their names alone"
            hint = "lay the files below --base by their whole paths"
            raise InputError(problem, at=description, hint=hint)
        return found

    def inside(self, path: str, manifest: str) -> str:
        """Return `path` beside the `manifest` that names it; ConfigError where it may not be."""
        if "\0" in path or not _encodes(path):
            raise MalformedError(f"{path!r} is not a file name", at=manifest)
        folder = os.path.curdir if manifest == "-" else os.path.dirname(manifest)
        joined = os.path.join(folder, path)
        if joined == "-" or _ships(joined):
            joined = os.path.join(os.path.curdir, path)  # a file of that name
        if not self.allow_outside and not _is_below(folder or os.path.curdir, joined):
            raise ConfigError(
                f"{path!r} is outside the manifest's folder",
                at=manifest,
                hint="--allow-outside allows it",
            )
        return joined


def _is_below(folder: str, path: str) -> bool:
    """Whether a file lies in a folder or below it, where links lead too."""
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(path)]) == root


def beside(path: str, folder: str) -> list[str]:
    """Return the files in a `folder` that lies where the file `path` does, sorted; none for "-"."""
    place = os.path.join(os.path.dirname(os.path.realpath(path)), folder)
    if path == "-" or not os.path.isdir(place):
        return []
    found = [os.path.join(place, name) for name in _names(place)]
    return [name for name in found if os.path.isfile(name)]


def own_file(name: str) -> str | None:
    """Return the path of a file of the user's own data (XDG_DATA_HOME); None without a home."""
    base = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):  # the XDG Base Directory Specification: others are ignored
        base = os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(base, "cvmplan", name) if os.path.isabs(base) else None


def is_same(one: str, other: str) -> bool:
    """Whether two paths lead to the same place."""
    return os.path.realpath(one) == os.path.realpath(other)


def is_there(path: str) -> bool:
    """Whether a path names anything, a link without an end too."""
    return os.path.lexists(path)


def _names(folder: str) -> list[str]:
    """Return what lies in `folder`, sorted; InputError when it cannot be listed."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(f"cannot list: {error.strerror}", at=folder) from None


def _ships(path: str) -> bool:
    """Whether a name is of something that ships inside, and of no file."""
    return path in EXAMPLES or path.startswith(tuple(MADE))


_read: set[tuple[int, int]] = set()  # device and number of every regular file that was opened


def forget_read() -> None:
    """Begin anew: what was opened before belongs to a different output."""
    _read.clear()


def was_read(path: str) -> bool:
    """Whether a path leads to a file that was opened for this output."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    return (status.st_dev, status.st_ino) in _read


def map_file(path: str) -> Blob:
    """Return the bytes of a file, read or mapped; InputError when it cannot be opened."""
    place = path
    for prefix, module in MADE.items():
        if path.startswith(prefix):
            made: bytes = import_module(module).contents(path.removeprefix(prefix))
            return Blob(path, memoryview(made))
    if path in EXAMPLES:
        place = os.path.join(PACKAGE, "examples", EXAMPLES[path])
    try:
        with open(place, "rb", buffering=0) as file:
            return Blob(path, _contents(file, path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        many = isinstance(error, OSError) and error.errno == errno.EMFILE
        hint = "raise the limit of open files with 'ulimit -n'" if many else ""
        raise InputError(f"cannot open: {reason}", at=path or "''", hint=hint) from None


def _contents(file: IO[bytes], path: str) -> memoryview:
    """Return what an open file holds; OSError, ValueError, InputError."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        return _bounded(file, path)
    _read.add((status.st_dev, status.st_ino))
    if status.st_size <= SMALL:
        return _bounded(file, path, MOST_UNSIZED)
    if status.st_size <= HELD and _Held.together + status.st_size <= TOGETHER:
        return _held(file, status.st_size)
    mapped = map_whole(file, path)
    return _bounded(file, path) if mapped is None else mapped


class _Held(bytearray):
    """The bytes of a file, in memory for as long as anything refers to them."""

    together = 0

    def __init__(self, size: int) -> None:
        super().__init__(size)
        _Held.together += size
        finalize(self, self._forget, size).atexit = False

    @classmethod
    def _forget(cls, size: int) -> None:
        cls.together -= size


def _held(file: IO[bytes], size: int) -> memoryview:
    """Return `size` bytes of a regular file, fewer where it was truncated meanwhile."""
    held = memoryview(_Held(size))
    done = 0
    while done < size and (count := file.readinto(held[done:])):  # type: ignore[attr-defined]  # a raw file has it
        done += count
    return held[:done].toreadonly()


def _encodes(path: str) -> bool:
    """Whether `path` can be a file name at all."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _stdin() -> Blob:
    """Return what standard input holds; InputError."""
    if sys.stdin is None:
        raise InputError("standard input is closed", at="-")
    try:
        return Blob("-", _bounded(sys.stdin.buffer, "-"))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", at="-") from None


def _bounded(file: IO[bytes], name: str, most: int = MOST_UNMAPPED) -> memoryview:
    """Return what can be read up to the end, at most so many bytes; InputError, OSError."""
    data = bytearray()
    while len(data) <= most:
        piece: bytes | None = file.read(PIECE)
        if piece is None:  # not the end: it was opened not to block, and has nothing yet
            select.select([file], [], [])
            continue
        if not piece:
            return memoryview(data).toreadonly()
        data += piece
    raise InputError(f"more than {most >> 20} MiB that cannot be mapped", at=name)
