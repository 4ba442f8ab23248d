"""cvmplan trace."""

from __future__ import annotations

from typing import Annotated

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, format_of, launch_verb, write
from cvmplan.cli.request import Request
from cvmplan.emit import TRACE

app = make_app()
Format = Annotated[str, format_of(TRACE, "How to print it; jsonl: each command alone.")]


@app.command()
@launch_verb
def trace(request: Request, format: Format = "text", output: Output = None) -> None:
    """Print the firmware commands of the launch; on SNP with the launch digest after each."""
    from cvmplan.api import answers

    write(TRACE.printer(format).trace(answers.trace(request.plan())), output)
