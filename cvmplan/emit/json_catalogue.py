"""Firmware of a catalogue, as cvmplan.firmware/1."""

from __future__ import annotations

from collections.abc import Sequence

from cvmplan.emit.json import dumps
from cvmplan.readers.firmware import Firmware, document_of


def catalogue(known: Sequence[Firmware]) -> str:
    """Return all firmware as one document."""
    return dumps(document_of(known))


def firmware(one: Firmware) -> str:
    """Return one firmware as a document, which may be an image."""
    return dumps(document_of([one]))
