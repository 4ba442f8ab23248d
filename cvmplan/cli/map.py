"""cvmplan map."""

from __future__ import annotations

from typing import Annotated

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, Request, format_of, launch_verb, write
from cvmplan.core.findings import has_errors
from cvmplan.emit import MAP

app = make_app()
Format = Annotated[str, format_of(MAP)]


@app.command()
@launch_verb
def map(request: Request, format: Format = "text", output: Output = None) -> None:  # noqa: A001
    """Print who owns which guest pages, in address order; exit 1 when the map is not valid."""
    from cvmplan.memory.owners import owners
    from cvmplan.planning import build

    layout, found = build.findings(request.launch())
    write(MAP.printer(format).guest_map(owners(layout.regions, found)), output)
    if has_errors(found):
        raise typer.Exit(1)
