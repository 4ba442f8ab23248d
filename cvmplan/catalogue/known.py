"""
The catalogues: what ships in the package, the user's own, and others that are named.

A name that several catalogues have is that of the first: named ones, the user's, the package's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, InputError
from cvmplan.core.files import PACKAGE, is_there, map_file, own_file
from cvmplan.core.names import unknown
from cvmplan.core.outputs import make_folder_of, whole_file
from cvmplan.readers.firmware import Firmware, document_of, read_all

PREFIX: Final = "catalogue:"
SHIPPED: Final = f"{PACKAGE}/catalogue/shipped.json"
OWN: Final = "firmware.json"  # in the folder of the user's data


class Known(NamedTuple):
    """A firmware, and how it is typed where an image may be named."""

    firmware: Firmware
    shown: str


def load(paths: Iterable[str] = ()) -> list[Known]:
    """
    Return all firmware of the catalogues `paths`, the user's own and the package's, in order.

    InputError, MalformedError for a catalogue that cannot be read.
    """
    found: dict[str, Known] = {}
    for path in (*paths, *_usual()):
        beside = "" if path in _usual() else f"@{path}"
        for one in read_all(map_file(path)):
            found.setdefault(one.name, Known(one, f"{PREFIX}{one.name}{beside}"))
    return [*found.values()]


def _usual() -> tuple[str, ...]:
    """Return the catalogues that are always read: the user's own where it exists."""
    own = own_file(OWN)
    return (own, SHIPPED) if own is not None and is_there(own) else (SHIPPED,)


def find(known: Iterable[Known], name: str, at: str) -> Known:
    """Return the firmware that is called `name`, in any case; ConfigError names the nearest."""
    by_name: dict[str, Known] = {}
    for one in known:
        by_name.setdefault(one.firmware.name.lower(), one)
    if name.lower() in by_name:
        return by_name[name.lower()]
    names = [one.firmware.name for one in by_name.values()]
    raise unknown("firmware", name, names, at, "'cvmplan catalogue' lists them")


def add(firmware: Firmware, path: str | None) -> None:
    """
    Write the catalogue `path`, or the user's own, with one firmware more; completely or not at all.

    A firmware of the same name is replaced where its file is the same.  ConfigError where it is
    not, and for a name that the package's catalogue has; InputError where nothing can be written.
    """
    target = path or _own()
    held = {one.name: one for one in read_all(map_file(target))} if is_there(target) else {}
    for one in (held.get(firmware.name), *_shipped_as(firmware.name)):
        if one is not None and one.sha256 != firmware.sha256:
            problem = f"the catalogue has a different file called {one.name}"
            raise ConfigError(problem, at=target, hint="choose a name with --name")
    made = document_of([*(held | {firmware.name: firmware}).values()])
    text = json.dumps(made, indent=2) + "\n"
    read_all(Blob(firmware.name, memoryview(text.encode())))
    if path is None:
        make_folder_of(target)
    with whole_file(target) as file:
        file.write(text)


def _own() -> str:
    """Return the path of the user's own catalogue; InputError without a home."""
    path = own_file(OWN)
    if path is None:
        problem = "the home directory is not known"
        raise InputError(problem, at="catalogue", hint="--catalogue FILE")
    return path


def _shipped_as(name: str) -> list[Firmware]:
    return [one for one in read_all(map_file(SHIPPED)) if one.name == name]


def contents(named: str) -> bytes:
    """
    Return the document of one firmware: NAME, or NAME@FILE for one of another catalogue.

    ConfigError for an unknown name, InputError for the file.
    """
    name, _, path = named.partition("@")
    one = find(load([path] if path else []), name, PREFIX + named)
    return json.dumps(document_of([one.firmware])).encode()
