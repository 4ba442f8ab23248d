"""cvmplan trace."""

from __future__ import annotations

from typing import Annotated

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, Request, launch_verb, write

app = make_app()
Format = Annotated[
    str,
    typer.Option(
        "--format", metavar="text|json|jsonl", help="How to print it; jsonl: each command alone."
    ),
]


@app.command()
@launch_verb
def trace(request: Request, format: Format = "text", output: Output = None) -> None:
    """Print the firmware commands beneath the operations; on SNP with the digest after each."""
    from cvmplan.emit import emitter

    write(emitter(format, "trace").trace(request.plan()), output)
