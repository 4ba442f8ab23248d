"""cvmplan explain."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import (
    Output,
    Request,
    Shared,
    digest_option,
    format_of,
    launch_options,
    option,
    request,
    with_options,
    write,
)
from cvmplan.cli.progress import bar
from cvmplan.cli.typed import Typed
from cvmplan.core.errors import ConfigError
from cvmplan.core.files import Files
from cvmplan.emit import EXPLANATION
from cvmplan.evidence.evidence import Evidence
from cvmplan.explanation import ask, explain_measurement
from cvmplan.images import edk2_tables

app = make_app()
Format = Annotated[str, format_of(EXPLANATION)]
BUDGET = 60
Expect = Annotated[
    Optional[str], typer.Option("--expect", metavar="HEX", help="Measurement to explain.")
]
Report = Annotated[
    Optional[str],
    typer.Option(
        "--report",
        metavar="FILE",
        help="SNP attestation report or TDX quote that contains the measurement.",
    ),
]
Try = Annotated[
    Optional[list[str]],
    typer.Option(
        "--try", metavar="FILE", help="Alternative image, kernel or initrd to try (repeatable)."
    ),
]
Budget = Annotated[
    float, typer.Option("--budget", metavar="SECONDS", min=0.1, help="Time limit of the search.")
]


class Wanted(NamedTuple):
    """The request, and further command lines to try."""

    request: Request
    lines: tuple[str, ...]


def _request(typed: Typed) -> Wanted:
    """Return the request; firmware of which only a digest is known needs no image."""
    lines = typed.texts("append")
    for path in typed.texts("append_file"):
        blob = Files().open(path, "command line")
        if len(blob) > MOST_LINE:
            raise ConfigError(f"the command line is longer than {MOST_LINE} bytes", at=path)
        lines.append(bytes(blob.data).decode("utf-8", "surrogateescape"))
    launch = typed.without("append_file")
    launch["append"] = lines[0] if lines else None
    if not launch.given("path", "example") and launch.text("firmware_digest"):
        launch["path"] = edk2_tables.PREFIX + next(iter(edk2_tables.TABLES))
    return Wanted(request(launch), tuple(lines[1:]))


def _shared() -> Shared:
    """Return the options of a launch, several command lines among them; in one process."""
    shared = {name: option for name, option in launch_options().items() if name != "jobs"}
    many = Optional[list[str]]
    lines = "Kernel command line, used byte for byte; repeat to try several."
    files = "File that contains the command line; repeat to try several."
    shared["append"] = (option(many, "append", "TEXT", lines), None)
    shared["append_file"] = (option(many, "append_file", "FILE", files), None)
    return shared


MOST_LINE = 1 << 16  # bytes of a command line


@app.command()
@partial(with_options, shared=_shared(), make=_request)
def explain(
    asked_for: Wanted,
    expect: Expect = None,
    report: Report = None,
    others: Try = None,
    budget: Budget = BUDGET,
    format: Format = "text",
    output: Output = None,
) -> None:
    """
    Find the settings that produce a measurement; exit 1 if none do.

    The search starts with the given settings and varies everything that the digest depends on,
    likely and cheap changes first.  Without IMAGE, --firmware-digest is tried with the section
    tables of the edk2 releases.
    """
    from cvmplan.api.request import clock

    request = asked_for.request
    if (expect is None) == (report is None):
        raise ConfigError("missing --expect HEX or --report FILE (exactly one)", at="explain")
    printer = EXPLANATION.printer(format)
    wanted: bytes | Evidence
    if report is not None:
        from cvmplan.evidence import evidence

        wanted = evidence.read(request.files.open(report, "report"))
    else:
        wanted = digest_option(expect or "")
    tries = [request.files.open(path, "image") for path in others or ()]
    files = request.files
    asked = ask(request.image, request.options, files.open, tries, wanted, asked_for.lines)
    with bar("searching", budget, quiet=request.quiet) as advance:
        answer = explain_measurement(asked, wanted, clock(budget, advance))
    write(printer.explanation(answer), output)
    if not answer.explained:
        raise typer.Exit(1)
