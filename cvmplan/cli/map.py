"""cvmplan map."""

from __future__ import annotations

from typing import Annotated

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, format_of, launch_verb, write
from cvmplan.cli.request import Request
from cvmplan.core.findings import has_errors
from cvmplan.emit import MAP

app = make_app()
Format = Annotated[str, format_of(MAP)]


@app.command()
@launch_verb
def map(request: Request, format: Format = "text", output: Output = None) -> None:  # noqa: A001
    """Print which region owns each guest page, in address order; exit 1 if the map is invalid."""
    from cvmplan.api import answers

    found = answers.guest_map(request)
    write(MAP.printer(format).guest_map(found), output)
    if has_errors(found.findings):
        raise typer.Exit(1)
