"""cvmplan check."""

from __future__ import annotations

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Format, Output, Request, launch_verb, write
from cvmplan.errors import MapError
from cvmplan.findings import Finding, has_errors

app = make_app()


@app.command()
@launch_verb
def check(request: Request, format: Format = "text", output: Output = None) -> None:
    """Print every finding about the exactly-once map and the launch; exit 1 for an error."""
    from cvmplan.emit import emitter

    found = _findings(request)
    write(emitter(format, "findings").findings(found), output)
    if has_errors(found):
        raise typer.Exit(1)


def _findings(request: Request) -> tuple[Finding, ...]:
    """Return the findings of the map; a launch without errors there is lowered as well."""
    try:
        plan = request.plan()
    except MapError as error:
        return error.findings
    for _ in plan.trace():
        pass
    return plan.findings
