"""cvmplan plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, format_of, launch_verb, write
from cvmplan.cli.request import Request
from cvmplan.emit import PLAN

app = make_app()
MARKED = ("text", "json")  # formats that show which values are assumed, and from where
Format = Annotated[str, format_of(PLAN, "Output format; calls: each system call.")]


@app.command()
@launch_verb
def plan(request: Request, format: Format = "text", output: Output = None) -> None:
    """Print the ordered operations of the launch and the resulting measurement."""
    from cvmplan.calls.planned import Planned

    printer = PLAN.printer(format)
    made = replace(request, marks=format in MARKED).plan()
    write(printer.plan(Planned(made)), output)
