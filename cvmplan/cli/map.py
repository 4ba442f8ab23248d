"""cvmplan map."""

from __future__ import annotations

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Format, Output, Request, launch_verb, write
from cvmplan.core.findings import has_errors

app = make_app()


@app.command()
@launch_verb
def map(request: Request, format: Format = "text", output: Output = None) -> None:  # noqa: A001
    """Print who owns which guest pages, in address order; exit 1 when the map is not valid."""
    from cvmplan.emit import emitter
    from cvmplan.planning import build

    layout, found = build.findings(request.launch())
    write(emitter(format, "guest_map").guest_map(layout.regions, found), output)
    if has_errors(found):
        raise typer.Exit(1)
