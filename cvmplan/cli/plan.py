"""cvmplan plan."""

from __future__ import annotations

from typing import Annotated

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, Request, format_of, launch_verb, write
from cvmplan.emit import PLAN

app = make_app()
Format = Annotated[str, format_of(PLAN, "Output format; calls: each system call.")]


@app.command()
@launch_verb
def plan(request: Request, format: Format = "text", output: Output = None) -> None:
    """Print the ordered operations of the launch and the resulting measurement."""
    from cvmplan.calls.planned import Planned

    write(PLAN.printer(format).plan(Planned(request.plan())), output)
