"""cvmplan report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, launch_verb, write
from cvmplan.cli.request import Request
from cvmplan.core.errors import ConfigError
from cvmplan.core.files import Files
from cvmplan.emit import REPORT

if TYPE_CHECKING:
    from cvmplan.planning.report import Report

app = make_app()
Evidence = Annotated[
    Optional[str],
    typer.Option(
        "--evidence",
        metavar="FILE",
        help="SNP report or TDX quote to compare with the launch, as 'verify' does.",
    ),
]
Certs = Annotated[
    Optional[list[str]],
    typer.Option(
        "--certs",
        metavar="PATH",
        help="Certificates of the evidence, or their folder (repeatable).",
    ),
]
Pin = Annotated[
    Optional[list[str]],
    typer.Option(
        "--pin", metavar="HEX", help="SHA-256 of a public key to trust instead (repeatable)."
    ),
]
At = Annotated[
    Optional[str],
    typer.Option(
        "--at", metavar="TIME", help="Time at which certificates must be valid.  [assumed: now]"
    ),
]
EventLog = Annotated[
    Optional[str],
    typer.Option(
        "--event-log", metavar="FILE", help="CCEL or JSON event log to replay into the RTMRs."
    ),
]


class Asked(NamedTuple):
    """What the evidence is judged with, as it was typed."""

    evidence: str | None
    certs: list[str]
    pin: list[str]
    at: str | None
    event_log: str | None


@app.command()
@launch_verb
def report(
    request: Request,
    evidence: Evidence = None,
    certs: Certs = None,
    pin: Pin = None,
    at: At = None,
    event_log: EventLog = None,
    output: Output = None,
) -> None:
    """
    Write one HTML page about the launch for reviewers; exit 1 if it is not valid.

    The page has inputs with hashes, settings, findings, the map as a picture, the operations and
    the measurement, and the RTMRs where IMAGE is the launch description of a TD.  It loads nothing
    and has no script.  With --evidence it also has what 'verify' says, and the exit code is 1 if
    anything differs or nothing shows that hardware signed it.
    """
    found = _made(request, Asked(evidence, certs or [], pin or [], at, event_log))
    write(REPORT.printer("html").report(found), output)
    if not found.holds:
        raise typer.Exit(1)


def _made(request: Request, asked: Asked) -> Report:
    """Return the report, with what becomes of the evidence where that is given; ConfigError."""
    from cvmplan.planning.report import make_report

    if asked.evidence is None:
        for name, value in asked._asdict().items():
            if value:
                raise ConfigError("needs --evidence FILE", at=f"--{name.replace('_', '-')}")
        return make_report(request)
    from cvmplan.api.evidence import Judging, judge
    from cvmplan.cli.verify import open_certificates
    from cvmplan.evidence import evidence as reader
    from cvmplan.planning.request import assume_platform

    files = Files()
    read = reader.read(files.open(asked.evidence, "evidence"))
    log = asked.event_log
    named, beside = open_certificates(files, asked.certs)
    judging = Judging(
        certificates=named,
        beside=beside,
        keys=asked.pin,
        at=asked.at,
        event_log=None if log is None else files.open(log, "event log"),
    )
    found = make_report(assume_platform(request, read.platform))
    path = None if asked.evidence == "-" else asked.evidence
    return found._replace(verification=judge(read, judging, found.launched, path))
