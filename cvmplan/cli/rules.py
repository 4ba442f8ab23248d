"""cvmplan rules."""

from __future__ import annotations

from typing import Annotated

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, format_of, write
from cvmplan.core.findings import RULES as KNOWN
from cvmplan.emit import RULES

app = make_app()
Format = Annotated[str, format_of(RULES)]


@app.command()
def rules(format: Format = "text", output: Output = None) -> None:
    """Print every rule that 'check' knows, its severity, and what it means."""
    write(RULES.printer(format).rules(KNOWN), output)
