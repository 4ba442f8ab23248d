"""cvmplan verify."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple, Optional, TypeVar

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import (
    Output,
    Request,
    Shared,
    assume_platform,
    format_of,
    launch_options,
    option,
    read_value,
    request,
    with_options,
    write,
)
from cvmplan.cli.progress import watch_for
from cvmplan.cli.typed import Typed
from cvmplan.core import values
from cvmplan.core.errors import ConfigError
from cvmplan.core.platform import Platform
from cvmplan.core.values import Json
from cvmplan.emit import VERIFICATION

if TYPE_CHECKING:
    from cvmplan.eventlog.event import EventLog
    from cvmplan.evidence.evidence import Evidence
    from cvmplan.evidence.planned import Wanted
    from cvmplan.evidence.signatures import Trust

T = TypeVar("T")
app = make_app()
Format = Annotated[str, format_of(VERIFICATION)]
_TEXT, _MANY = Optional[str], Optional[list[str]]
EVIDENCE = "SNP report, TDX quote or TDREPORT, raw or wrapped; - for stdin."
_CERTS = "Certificates, PEM or DER, the signer's first, each signed by the next; repeats."
_PIN = "SHA-256 of a public key (SPKI) to trust in place of the vendor's; repeats."
OWN: Shared = {
    "plan": (option(_TEXT, "plan", "PLAN", "The plan, in place of IMAGE."), None),
    "certs": (option(_MANY, "certs", "FILE", _CERTS), None),
    "pin": (option(_MANY, "pin", "HEX", _PIN), None),
    "at": (
        option(_TEXT, "at", "TIME", "When certificates have to be valid.  [assumed: now]"),
        None,
    ),
    "ignore_trailing": (option(bool, "ignore_trailing", "", "Bytes may follow a quote."), False),
    "report_data": (option(_TEXT, "report_data", "HEX", "REPORT_DATA, 64 bytes."), None),
    "vmpl": (option(_TEXT, "vmpl", "N", "VMPL of who asked for the report."), None),
    "mrseam": (option(_TEXT, "mrseam", "HEX", "MRSEAM, the TDX module, 48 bytes."), None),
    "mrservicetd": (option(_TEXT, "mrservicetd", "HEX", "MRSERVICETD, 48 bytes."), None),
    "event_log": (
        option(_TEXT, "event_log", "FILE", "CCEL or JSON event log, replayed into the RTMRs."),
        None,
    ),
    "format": (Format, "text"),
    "output": (Output, None),
}


class Asked(NamedTuple):
    """The evidence, what launches the guest, and the verb's own options by their names."""

    evidence: Evidence
    request: Request
    own: Typed
    path: str


def _shared() -> Shared:
    argument = Annotated[str, typer.Argument(metavar="EVIDENCE", help=EVIDENCE)]
    return {"evidence": (argument, ...), **launch_options(), **OWN}


def _asked(typed: Typed) -> Asked:
    """Return what is asked; the platform is that of the evidence where none is given."""
    from cvmplan.core.files import Files
    from cvmplan.evidence import evidence

    own, launch = typed.only(*OWN), typed.without(*OWN, "evidence")
    path = typed.text("evidence") or "-"
    if path == "-" and "-" in (launch.text("path"), own.text("plan")):
        raise ConfigError("only one of both can be standard input", at="-")
    blob = Files().open(path, "evidence")
    found = evidence.read(blob, trailing=own.flag("ignore_trailing"))
    if own.text("plan") is not None:
        if launch.given("path", "example"):
            raise ConfigError("goes without an image", at="--plan")
        launch["path"] = own.text("plan")
    return Asked(found, assume_platform(request(launch), found.platform), own, path)


@app.command()
@partial(with_options, shared=_shared(), make=_asked)
def verify(asked: Asked) -> None:
    """
    Print what a report or a quote says beside what was planned; exit 1 when anything differs.

    Signatures are checked with the certificates that are given or come with the evidence;
    nothing is fetched.  A chain has to end at a key of AMD or Intel that is known here, or at
    one that --pin names.
    """
    from cvmplan.evidence import verify as stage
    from cvmplan.operations.measure import measure

    printer = VERIFICATION.printer(asked.own.text("format") or "text")
    trust, wanted = _trust(asked), _wanted(asked.own, asked.evidence.platform)
    log = _log(asked)
    plan = asked.request.plan()
    result = measure(plan, watch_for(plan, quiet=asked.request.quiet))
    path = None if asked.path == "-" else asked.path
    found = stage.verify(plan, result, asked.evidence, trust, wanted, log, path)
    write(printer.verification(found), asked.own.text("output"))
    if not found.holds:
        raise typer.Exit(1)


def _trust(asked: Asked) -> Trust:
    """Return the chain that is checked, the keys at which it may end, and the time."""
    from cvmplan.evidence import chains
    from cvmplan.evidence.anchors import PINNED
    from cvmplan.evidence.signatures import Trust
    from cvmplan.evidence.verify import chain_of

    given = [
        one
        for path in asked.own.texts("certs")
        for one in chains.read(asked.request.files.open(path, "certificate"))
    ]
    pins: Mapping[str, str] = PINNED[asked.evidence.platform.evidence]
    pinned = asked.own.texts("pin")
    if pinned:
        read = values.octets(32)
        pins = {read_value(read, one, "--pin").hex(): f"--pin {one}" for one in pinned}
    if given and asked.evidence.mac is not None:
        raise ConfigError("sign no TDREPORT: it has a MAC", at="--certs")
    chain = chain_of(asked.evidence, given)
    if pinned and not chain:
        raise ConfigError("goes with certificates", at="--pin", hint="--certs FILE")
    return Trust(chain, pins, _time(asked.own.text("at")))


def _time(written: str | None) -> datetime:
    if written is None:
        return datetime.now(UTC)
    try:
        time = datetime.fromisoformat(written)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        hint = "2026-01-31, or 2026-01-31T12:00:00Z"
        raise ConfigError(f"{written!r} is no time", at="--at", hint=hint) from None


def _wanted(own: Typed, platform: Platform) -> Wanted:
    from cvmplan.evidence.planned import Wanted

    for name in {"report": ("mrseam", "mrservicetd"), "quote": ("vmpl",)}[platform.evidence]:
        if own.given(name):
            raise ConfigError(f"means nothing for evidence of {platform}", at=f"--{name}")
    return Wanted(
        report_data=_optional(own, "report_data", values.octets(64)),
        vmpl=_optional(own, "vmpl", values.within(0, 3)),
        mrseam=_optional(own, "mrseam", values.octets(48)),
        mrservicetd=_optional(own, "mrservicetd", values.octets(48)),
    )


def _optional(own: Typed, name: str, reader: Callable[[Json], T]) -> T | None:
    written = own.text(name)
    flag = f"--{name.replace('_', '-')}"
    return None if written is None else read_value(reader, written, flag)


def _log(asked: Asked) -> EventLog | None:
    """Return the event log that is given, or comes with the evidence; ConfigError for SNP."""
    blob = asked.evidence.source.event_log
    path = asked.own.text("event_log")
    if path is not None:
        if asked.evidence.td is None:
            raise ConfigError("is of a TD, and the evidence is of none", at="--event-log")
        blob = asked.request.files.open(path, "event log")
    if blob is None:
        return None
    from cvmplan.eventlog.ccel import read

    return read(blob)
