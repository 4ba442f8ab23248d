"""cvmplan report."""

from __future__ import annotations

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, Request, launch_verb, write
from cvmplan.emit import REPORT

app = make_app()


@app.command()
@launch_verb
def report(request: Request, output: Output = None) -> None:
    """
    Write one HTML page about the launch for reviewers; exit 1 if it is not valid.

    The page has inputs with hashes, settings, findings, the map as a picture, the operations and
    the measurement.  It loads nothing and has no script.
    """
    from cvmplan.planning.report import make_report

    found = make_report(request)
    write(REPORT.printer("html").report(found), output)
    if not found.is_valid:
        raise typer.Exit(1)
