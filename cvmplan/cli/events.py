"""cvmplan events."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, Shared, format_of, option, with_options, write
from cvmplan.cli.typed import Typed
from cvmplan.core.blob import Blob
from cvmplan.core.errors import UnsupportedError
from cvmplan.emit import EVENTS
from cvmplan.planning.read import read_value

app = make_app()
Format = Annotated[str, format_of(EVENTS)]
Log = Annotated[
    str,
    typer.Argument(
        metavar="LOG",
        help="Data of a CCEL table, JSON of dstack or Trustee, or text of tdeventlog.",
    ),
]
_RTMRS = tuple(f"rtmr{number}" for number in range(4))


def _shared() -> Shared:
    """Return an option for each register."""
    return {
        name: (
            option(
                Optional[str], name, "HEX", f"Expected {name.upper()}, for example from the quote."
            ),
            None,
        )
        for name in _RTMRS
    }


def _expected(typed: Typed) -> dict[int, bytes]:
    """Return the registers that were given; ConfigError."""
    from cvmplan.core.values import octets

    found = {}
    for number, name in enumerate(_RTMRS):
        written = typed.text(name)
        if written is None:
            continue
        found[number] = read_value(octets(48), written, f"--{name}")
    return found


@app.command()
@partial(with_options, shared=_shared(), make=_expected)
def events(
    expected: dict[int, bytes], log: Log, format: Format = "text", output: Output = None
) -> None:
    """
    Replay a TD's event log, and print its events and RTMR0 to RTMR3.

    For each event, check whether its digest is the SHA-384 of its data; some events only
    describe what was hashed and cannot be checked.  Linux provides the log as
    /sys/firmware/acpi/tables/data/CCEL.  Exit 1 if a digest does not match its data, or if a
    register differs from --rtmr0 to --rtmr3; the output then names the event up to which the
    register matches, or the one event that has to be removed, added or moved.

    Of evidence in JSON the log inside is read, and compared with the registers of its quote.
    """
    from cvmplan.core.files import Files
    from cvmplan.eventlog.forms import read
    from cvmplan.eventlog.rtmr import replayed

    printer = EVENTS.printer(format)
    blob = Files().open(log, "event log")
    inside = _inside(blob)
    if inside is not None:
        blob, registers = inside
        expected = {**registers, **expected}
    told = replayed(read(blob), expected)
    write(printer.events(told), output)
    if any(one.differs for one in told.compared) or told.wrong:
        raise typer.Exit(1)


def _inside(blob: Blob) -> tuple[Blob, dict[int, bytes]] | None:
    """Return the log inside evidence, and the registers of its quote; None for a log itself."""
    from cvmplan.eventlog.forms import recognises

    if recognises(blob) or bytes(blob.data[:64]).lstrip()[:1] != b"{":
        return None
    from cvmplan.evidence import evidence

    try:
        found = evidence.read(blob, trailing=True)
    except UnsupportedError:
        return None  # other JSON: the reader of logs says what it expects
    if found.source.event_log is None:
        raise UnsupportedError(f"{found.kind}: without an event log", at=blob.name)
    return found.source.event_log, dict(enumerate(found.td.rtmrs if found.td else ()))
