"""cvmplan plan."""

from __future__ import annotations

from cvmplan.cli import make_app
from cvmplan.cli.options import Format, Output, Request, launch_verb, write

app = make_app()


@app.command()
@launch_verb
def plan(request: Request, format: Format = "text", output: Output = None) -> None:
    """Print the ordered operations of the launch, and the measurement that they lead to."""
    from cvmplan.emit import emitter

    write(emitter(format, "plan").plan(request.plan()), output)
