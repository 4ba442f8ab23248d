"""
Launch descriptions: what starts a VMM, as people have it, read as the launch that it means.

Each is recognised by content.  What it says counts as given, with its place, and an option beats
it.  Nothing is executed.
"""

from __future__ import annotations

from hashlib import sha256
from importlib import import_module
from types import ModuleType
from typing import Final, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.platform import find
from cvmplan.images.inspection import Inspection
from cvmplan.launch.command_line import VCPUS, for_vcpus
from cvmplan.launch.given import Given, Value
from cvmplan.launch.model import Declared, Opener
from cvmplan.launch.settings import SETTINGS
from cvmplan.readers.descriptions.described import FILES, Description, Said, wrong

KINDS: Final = {b"<": ("libvirt",), b"{": ("tdx_measure", "dstack")}
"""The first letter of a text to the modules that may read it."""
OTHERS: Final = ("qemu", "kata")
SIZE: Final = 4 << 20  # bytes assumed of firmware that is known by its digest


def recognises(blob: Blob) -> bool:
    """Whether the file is a launch description."""
    return _kind(blob) is not None


def _kind(blob: Blob) -> ModuleType | None:
    first = bytes(blob.data[:64]).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    for name in KINDS.get(first, OTHERS):
        module = import_module(f"{__name__}.{name}")
        if module.recognises(blob):
            return module
    return None


def read(blob: Blob, open_file: Opener, options: Given) -> Declared:
    """
    Return what a description declares, its files looked for beside it or below the base.

    `options` are those of the launch: the platform, and what only one kind of description reads.
    MalformedError with the place, InputError for a file that is not there, UnsupportedError.
    """
    said = _describe(blob, open_file, options)
    given: dict[str, Value] = {}
    for name, one in said.settings.items():
        if name not in FILES:
            given[name] = _read(blob, name, one)
    files = {
        name: open_file(_path(blob, said.settings[name]), name, blob.name, searched=True)
        for name in FILES
        if name in said.settings and name not in options and f"{name}_hash" not in options
    }
    _as_it_stands(given, said)
    page = files.pop("firmware", None)
    if said.tables is not None:
        from cvmplan.readers import firmware as by_digest

        firmware = by_digest.Firmware("", "", "", "", b"", SIZE, said.tables, {})
        made = by_digest.declared(firmware, by_digest.tables(firmware, blob.name))
        given |= dict(made.settings.items())
        page = made.firmware
    return Declared(
        Given(given | files), firmware=page, findings=said.findings, uncovered=said.uncovered,
        reads=said.reads,
        places={name: one.place for name, one in said.settings.items()},
    )  # fmt: skip


def _as_it_stands(given: dict[str, Value], said: Description) -> None:
    """Hash a command line that has what is a template elsewhere: the VMM takes it as it stands."""
    line = given.get("append")
    if isinstance(line, str) and VCPUS in line and not said.reads:
        given["append_hash"] = sha256(line.encode() + b"\0").digest()
        del given["append"]


class Booted(NamedTuple):
    """What a TD is started with, None where the description does not say it; `memory` in bytes."""

    firmware: Blob
    memory: int | None
    kernel: Blob | None
    initrd: Blob | None
    append: str | None


def booted(blob: Blob, open_file: Opener, options: Given) -> Booted:
    """
    Return what a description starts a TD with; errors as `read`.

    UnsupportedError for a description of another platform.  `options` may have `vcpus`.
    """
    declared, said = read(blob, open_file, options), _describe(blob, open_file, options)
    if not find(declared.settings.text("platform") or "").secure_ept or declared.firmware is None:
        raise UnsupportedError("describes no TD, which alone has RTMRs", at=blob.name)
    files = {
        name: open_file(_path(blob, said.boot[name]), name, blob.name, searched=True)
        for name in ("kernel", "initrd")
        if name in said.boot
    }
    line = said.boot.get("append")
    told = Given({"append": str(line.value)}) if line is not None else Given()
    (settled,) = for_vcpus(told | declared.settings.only("vcpus") | options.only("vcpus"))
    return Booted(
        declared.firmware,
        declared.settings.number("memory"),
        files.get("kernel"),
        files.get("initrd"),
        settled.text("append"),
    )


def _describe(blob: Blob, open_file: Opener | None, options: Given) -> Description:
    kind = _kind(blob)
    if kind is None:
        raise MalformedError("not a launch description", at=blob.name)
    found: Description = kind.describe(blob, open_file, options)
    return found


def _read(blob: Blob, name: str, said: Said) -> Value:
    """Return a setting as its kind has it; MalformedError."""
    if name in ("platform", "vmm"):
        return str(said.value)
    try:
        return SETTINGS[name].read(said.value)
    except ValueError as error:
        raise wrong(blob, said.place, str(error)) from None


def _path(blob: Blob, said: Said) -> str:
    if not isinstance(said.value, str) or not said.value:
        raise wrong(blob, said.place, "names no file")
    return said.value


def inspect(blob: Blob) -> Inspection:
    """Return what a description says, its files not opened."""
    said = _describe(blob, None, Given())
    rows = [
        {"setting": name, "value": _shown(one.value), "place": one.place}
        for name, one in said.settings.items()
    ]
    beside = [{"name": name} for name in said.uncovered]
    return {
        "format": said.format,
        "allows": [str(one.value) for name, one in said.settings.items() if name == "platform"],
        "tables": [{"name": "settings", "rows": rows}, {"name": "not measured", "rows": beside}],
        "findings": said.findings,
    }


def _shown(value: object) -> str:
    return hex(value) if type(value) is int and value > 0xFFFF else str(value)
