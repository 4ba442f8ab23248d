"""cvmplan rules."""

from __future__ import annotations

from cvmplan.cli import make_app
from cvmplan.cli.options import Format, Output, write

app = make_app()


@app.command()
def rules(format: Format = "text", output: Output = None) -> None:
    """Print every rule that 'check' knows, its severity, and what it means."""
    from cvmplan.emit import emitter

    write(emitter(format, "rules").rules(), output)
