"""cvmplan abis."""

from __future__ import annotations

from cvmplan.cli import make_app
from cvmplan.cli.options import Format, Output, write

app = make_app()


@app.command()
def abis(format: Format = "text", output: Output = None) -> None:
    """Print the kernel interfaces that are built in."""
    from cvmplan.emit import emitter

    write(emitter(format, "abis").abis(), output)
