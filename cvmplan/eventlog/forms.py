"""
The forms that an event log comes in: one module each, recognised by its content.

Each has `recognises` and `read`; the binary log of firmware is what is none of the others.
"""

from __future__ import annotations

from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.eventlog import ccel, dstack, pasted, trustee
from cvmplan.eventlog.event import EventLog

MOST_LOG: Final = 64 << 20  # bytes; firmware sets aside 64 KiB and more
MOST_TEXT: Final = 8 << 20  # bytes of a log in a text: many small values take more memory
FORMS: Final = {"trustee": trustee, "pasted": pasted, "dstack": dstack}
"""Name of a form to its module, the most particular first."""


def recognises(blob: Blob) -> bool:
    """Whether the bytes begin as an event log of a TD does."""
    kinds = (ccel.recognises, trustee.recognises, pasted.recognises, dstack.is_log)
    return any(recognised(blob) for recognised in kinds)


def read(blob: Blob) -> EventLog:
    """
    Return the log that `blob` contains, in any form.

    TruncatedError, MalformedError, and UnsupportedError for another kind of log.
    """
    for name, form in FORMS.items():
        if form.recognises(blob):
            _bound(blob, MOST_TEXT)
            return EventLog(name, form.read(blob))
    _bound(blob, MOST_LOG)
    return ccel.read(blob)


def _bound(blob: Blob, most: int) -> None:
    if len(blob) > most:
        raise MalformedError(f"a log of more than {most >> 20} MiB", at=blob.name)
