"""Documents: our own read back, recordings of launches, and launch descriptions of others."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import InputError, UnsupportedError
from cvmplan.core.platform import FLAT

READERS: Final = {
    "igvm": "cvmplan.images.igvm",
    "ovmf": "cvmplan.images.ovmf",
    "tdvf": "cvmplan.images.tdvf",
    "description": "cvmplan.readers.descriptions",
    "plan": "cvmplan.readers.plan",
    "firmware": "cvmplan.readers.firmware",
    "manifest": "cvmplan.readers.manifest",
    "rom": "cvmplan.images.rom",
}


DOCUMENTS: Final = frozenset({"plan", "manifest", "firmware", "description"})
"""Formats that are documents, not images."""


def recognise(blob: Blob, platform: object = None) -> tuple[str, ModuleType]:
    """
    Return (format, its reader) of `blob`, by content; InputError or UnsupportedError.

    `platform` is what it was said to be launched as: plain SEV takes any whole pages.
    """
    if not len(blob):
        raise InputError("the file is empty", at=blob.name)
    for name, module in READERS.items():
        reader = import_module(module)
        if reader.recognises(blob):
            return name, reader
    rom = import_module(READERS["rom"])
    if platform in FLAT and rom.fits(blob):
        return "rom", rom
    recorded = import_module("cvmplan.readers.recorded").recognises(blob)
    raise UnsupportedError(
        "not recognised as firmware with OVMF or TDX metadata, an IGVM file, a manifest, a plan or "
        "a launch description",
        at=blob.name,
        hint="'cvmplan simulate' and 'cvmplan diff' read recorded launches" if recorded else "",
    )
