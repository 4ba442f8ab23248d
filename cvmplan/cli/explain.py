"""cvmplan explain."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple, Optional

import typer

from cvmplan.api import answers
from cvmplan.catalogue.search import Beside
from cvmplan.cli import make_app
from cvmplan.cli.options import (
    Output,
    Shared,
    digest_option,
    format_of,
    launch_options,
    option,
    request,
    settings,
    with_options,
    write,
)
from cvmplan.cli.progress import bar
from cvmplan.cli.typed import Typed
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError
from cvmplan.core.files import Files
from cvmplan.emit import EXPLANATION
from cvmplan.evidence.evidence import Evidence
from cvmplan.explanation.search import clock
from cvmplan.images import edk2_tables
from cvmplan.launch.given import Given
from cvmplan.planning.request import choose_vmm

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
Select = Annotated[
    Optional[str],
    typer.Option("--select", metavar="NAME", help="Which of several pieces in the report's file."),
]
Try = Annotated[
    Optional[list[str]],
    typer.Option(
        "--try", metavar="FILE", help="Alternative image, kernel or initrd to try (repeatable)."
    ),
]
Catalogues = Annotated[
    Optional[list[str]],
    typer.Option(
        "--catalogue",
        metavar="FILE",
        help="Catalogue to search before the others where IMAGE is missing (repeatable).",
    ),
]
Budget = Annotated[
    float, typer.Option("--budget", metavar="SECONDS", min=0.1, help="Time limit of the search.")
]


class Wanted(NamedTuple):
    """Image (None: one of the catalogue) and settings, and further command lines to try."""

    image: Blob | None
    options: Given
    files: Files
    lines: tuple[str, ...]
    quiet: bool


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
    named = launch.given("path", "example")
    if not named and launch.text("firmware_digest"):
        launch["path"] = edk2_tables.PREFIX + next(iter(edk2_tables.TABLES))
    elif not named:
        files, options = settings(launch)
        options = choose_vmm(options, files.open)
        return Wanted(None, options, files, tuple(lines[1:]), launch.flag("quiet"))
    made = request(launch)
    return Wanted(made.image, made.options, made.files, tuple(lines[1:]), made.quiet)


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
    select: Select = None,
    others: Try = None,
    catalogues: Catalogues = None,
    budget: Budget = BUDGET,
    format: Format = "text",
    output: Output = None,
) -> None:
    """
    Find the settings that produce a measurement; exit 1 if none do.

    The search starts with the given settings and varies everything that the digest depends on,
    likely and cheap changes first.  Without IMAGE, the firmware of the catalogue is tried, or with
    --firmware-digest the section tables of the edk2 releases.
    """
    if (expect is None) == (report is None):
        raise ConfigError("missing --expect HEX or --report FILE (exactly one)", at="explain")
    printer = EXPLANATION.printer(format)
    files = asked_for.files
    wanted: bytes | Evidence
    if report is not None:
        from cvmplan.evidence import evidence

        wanted = evidence.read(files.open(report, "report"), select=select)
    elif select is not None:
        raise ConfigError("needs --report FILE", at="--select")
    else:
        wanted = digest_option(expect or "")
    tries = [files.open(path, "image") for path in others or ()]
    beside = Beside(tries, asked_for.lines, catalogues or (), files.base)
    with bar("searching", budget, quiet=asked_for.quiet) as advance:
        answer = answers.explanation(
            asked_for.image, asked_for.options, files.open, wanted, beside, clock(budget, advance)
        )
    write(printer.explanation(answer), output)
    if not answer.explained:
        raise typer.Exit(1)
