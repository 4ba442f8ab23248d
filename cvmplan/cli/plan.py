"""cvmplan plan."""

from __future__ import annotations

from typing import Annotated

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, Request, launch_verb, write

app = make_app()
Format = Annotated[
    str,
    typer.Option(
        "--format", metavar="text|json|calls", help="How to print it; calls: each system call."
    ),
]


@app.command()
@launch_verb
def plan(request: Request, format: Format = "text", output: Output = None) -> None:
    """Print the ordered operations of the launch, and the measurement that they lead to."""
    from cvmplan.emit import emitter

    write(emitter(format, "plan").plan(request.plan()), output)
