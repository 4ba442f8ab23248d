"""Several files written into one folder: all of them or none, and none over another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import NamedTuple

from cvmplan.core.errors import ConfigError, InputError
from cvmplan.core.mapped import confirm_all
from cvmplan.core.outputs import file_beside, new_mode


class Contents(NamedTuple):
    """The bytes of a file; only its owner may read one that is secret."""

    data: bytes
    secret: bool = False


def write_folder(folder: str, files: Mapping[str, Contents], *, force: bool) -> None:
    """
    Write `files` (name to contents) into `folder`, which is made where it is absent.

    ConfigError where one exists, unless `force`; InputError where they cannot be written.
    """
    targets = {name: os.path.join(folder, name) for name in files}
    for target in targets.values():
        if os.path.lexists(target) and not force:
            raise _taken(target)
        if os.path.isdir(target):
            raise ConfigError("is a directory", at=target)
    try:
        with ExitStack() as undo:
            if not os.path.isdir(folder):
                os.mkdir(folder)
                undo.callback(os.rmdir, folder)
            _write(files, targets, undo, force=force)
            undo.pop_all()
    except OSError as error:
        problem = f"cannot be written: {error.strerror}"
        raise InputError(problem, at=error.filename2 or error.filename or folder) from None


def _write(
    files: Mapping[str, Contents], targets: Mapping[str, str], undo: ExitStack, *, force: bool
) -> None:
    """Write each file under another name, then give all of them theirs."""
    with ExitStack() as temporaries:
        beside = {}
        for name, contents in files.items():
            beside[name] = temporaries.enter_context(file_beside(targets[name]))
            _fill(beside[name], contents)
        confirm_all()
        for name, target in targets.items():
            if force:
                os.replace(beside[name], target)
                continue
            try:
                os.link(beside[name], target)
            except FileExistsError:
                raise _taken(target) from None
            undo.callback(_remove, target)


def _fill(path: str, contents: Contents) -> None:
    with open(path, "wb") as file:
        file.write(contents.data)
    if not contents.secret:
        os.chmod(path, new_mode())


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _taken(target: str) -> ConfigError:
    return ConfigError("file exists", at=target, hint="--force replaces it")
