"""cvmplan verify."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple, Optional, TypeVar

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import (
    Output,
    Request,
    Shared,
    format_of,
    launch_options,
    option,
    request,
    with_options,
    write,
)
from cvmplan.cli.progress import watch_for
from cvmplan.cli.typed import Typed
from cvmplan.core.errors import ConfigError
from cvmplan.emit import VERIFICATION
from cvmplan.planning.request import assume_platform

if TYPE_CHECKING:
    from cvmplan.evidence.evidence import Evidence

T = TypeVar("T")
app = make_app()
Format = Annotated[str, format_of(VERIFICATION)]
_TEXT, _MANY = Optional[str], Optional[list[str]]
EVIDENCE = "SNP report, TDX quote or TDREPORT, raw or wrapped; - reads stdin."
_CERTS = "Certificates in PEM or DER, the signer's first, each signed by the next (repeatable)."
_PIN = "SHA-256 of a public key (SPKI) to trust instead of the vendor's (repeatable)."
OWN: Shared = {
    "plan": (option(_TEXT, "plan", "PLAN", "Plan to compare with, instead of IMAGE."), None),
    "certs": (option(_MANY, "certs", "FILE", _CERTS), None),
    "pin": (option(_MANY, "pin", "HEX", _PIN), None),
    "at": (
        option(_TEXT, "at", "TIME", "Time at which certificates must be valid.  [assumed: now]"),
        None,
    ),
    "ignore_trailing": (
        option(bool, "ignore_trailing", "", "Accept bytes after the quote."),
        False,
    ),
    "select": (option(_TEXT, "select", "NAME", "Which of several pieces in one file."), None),
    "report_data": (option(_TEXT, "report_data", "HEX", "Expected REPORT_DATA, 64 bytes."), None),
    "vmpl": (option(_TEXT, "vmpl", "N", "Expected VMPL of the requester."), None),
    "mrseam": (option(_TEXT, "mrseam", "HEX", "Expected MRSEAM (TDX module), 48 bytes."), None),
    "mrservicetd": (option(_TEXT, "mrservicetd", "HEX", "Expected MRSERVICETD, 48 bytes."), None),
    "event_log": (
        option(_TEXT, "event_log", "FILE", "CCEL or JSON event log to replay into the RTMRs."),
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
        raise ConfigError("only one of EVIDENCE and IMAGE can be stdin", at="-")
    blob = Files().open(path, "evidence")
    found = evidence.read(blob, trailing=own.flag("ignore_trailing"), select=own.text("select"))
    if own.text("plan") is not None:
        if launch.given("path", "example"):
            raise ConfigError("cannot be combined with IMAGE", at="--plan")
        launch["path"] = own.text("plan")
    return Asked(found, assume_platform(request(launch), found.platform), own, path)


@app.command()
@partial(with_options, shared=_shared(), make=_asked)
def verify(asked: Asked) -> None:
    """
    Verify an attestation report or quote against a planned launch; exit 1 if anything differs.

    Signatures are checked with the given certificates, or with those that come with the
    evidence; nothing is fetched.  A chain must end at a built-in key of AMD or Intel, or at a
    key that --pin names.
    """
    from cvmplan.api import answers
    from cvmplan.evidence import verify as stage
    from cvmplan.operations.measure import measure

    printer = VERIFICATION.printer(asked.own.text("format") or "text")
    own, evidence, files = asked.own, asked.evidence, asked.request.files
    certificates = [files.open(path, "certificate") for path in own.texts("certs")]
    trust = answers.trust(evidence, certificates, own.texts("pin"), own.text("at"))
    asked_for = {n: own.text(n) for n in ("report_data", "vmpl", "mrseam", "mrservicetd")}
    wanted = answers.wanted(evidence.platform, **asked_for)
    log = own.text("event_log")
    events = answers.event_log(evidence, None if log is None else files.open(log, "event log"))
    plan = asked.request.plan()
    result = measure(plan, watch_for(plan, quiet=asked.request.quiet))
    path = None if asked.path == "-" else asked.path
    found = stage.verify(plan, result, asked.evidence, trust, wanted, events, path)
    write(printer.verification(found), asked.own.text("output"))
    if not found.holds:
        raise typer.Exit(1)
