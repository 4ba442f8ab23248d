"""cvmplan report."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import (
    Output,
    Shared,
    launch_options,
    option,
    request,
    with_options,
    write,
)
from cvmplan.cli.request import Request
from cvmplan.cli.typed import Typed
from cvmplan.core.errors import ConfigError
from cvmplan.core.files import Files
from cvmplan.emit import REPORT

if TYPE_CHECKING:
    from cvmplan.planning.report import Report

app = make_app()
_TEXT, _MANY = Optional[str], Optional[list[str]]
EVIDENCE = "SNP report or TDX quote to compare with the launch, as 'verify' does."
_CERTS = "Certificates of the evidence, or their folder (repeatable)."
_PIN = "SHA-256 of a public key to trust instead (repeatable)."
_AT = "Time at which certificates must be valid.  [assumed: now]"
_LOG = "CCEL or JSON event log to replay into the RTMRs."
OWN: Shared = {
    "evidence": (option(_TEXT, "evidence", "FILE", EVIDENCE), None),
    "certs": (option(_MANY, "certs", "PATH", _CERTS), None),
    "pin": (option(_MANY, "pin", "HEX", _PIN), None),
    "at": (option(_TEXT, "at", "TIME", _AT), None),
    "event_log": (option(_TEXT, "event_log", "FILE", _LOG), None),
}


class Asked(NamedTuple):
    """A launch, and what evidence is judged with, as it was typed."""

    request: Request
    evidence: Typed


def _asked(typed: Typed) -> Asked:
    return Asked(request(typed.without(*OWN)), typed.only(*OWN))


@app.command()
@partial(with_options, shared=launch_options() | OWN, make=_asked)
def report(asked: Asked, output: Output = None) -> None:
    """
    Write one HTML page about the launch for reviewers; exit 1 if it is not valid.

    The page has inputs with hashes, settings, findings, the map as a picture, the operations and
    the measurement, and the RTMRs where IMAGE is the launch description of a TD.  It loads nothing
    and has no script.  With --evidence it also has what 'verify' says, and the exit code is 1 if
    anything differs or nothing shows that hardware signed it.
    """
    found = _made(asked.request, asked.evidence)
    write(REPORT.printer("html").report(found), output)
    if not found.holds:
        raise typer.Exit(1)


def _made(request: Request, typed: Typed) -> Report:
    """Return the report, with what becomes of the evidence where that is given; ConfigError."""
    from cvmplan.planning.report import make_report

    given = typed.text("evidence")
    if given is None:
        for name in typed.given():
            raise ConfigError("needs --evidence FILE", at=f"--{name.replace('_', '-')}")
        return make_report(request)
    from cvmplan.api.evidence import Judging, judge
    from cvmplan.cli.verify import open_certificates
    from cvmplan.evidence import evidence as reader
    from cvmplan.planning.request import assume_platform

    files = Files()
    read = reader.read(files.open(given, "evidence"))
    log = typed.text("event_log")
    named, beside = open_certificates(files, typed.texts("certs"))
    judging = Judging(
        certificates=named,
        beside=beside,
        keys=typed.texts("pin"),
        at=typed.text("at"),
        event_log=None if log is None else files.open(log, "event log"),
    )
    found = make_report(assume_platform(request, read.platform))
    path = None if given == "-" else given
    return found._replace(verification=judge(read, judging, found.launched, path))
