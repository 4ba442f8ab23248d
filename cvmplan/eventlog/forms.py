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
    if len(blob) > MOST_LOG:
        raise MalformedError(f"a log of more than {MOST_LOG >> 20} MiB", at=blob.name)
    for name, form in FORMS.items():
        if form.recognises(blob):
            return EventLog(name, form.read(blob))
    return ccel.read(blob)
