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
    """List the rules of 'check' with severity and meaning."""
    write(RULES.printer(format).rules(KNOWN), output)
