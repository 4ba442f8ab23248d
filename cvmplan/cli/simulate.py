"""cvmplan simulate."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, Request, format_of, launch_verb, write
from cvmplan.core.findings import has_errors
from cvmplan.emit import SIMULATION

if TYPE_CHECKING:
    pass

app = make_app()
Format = Annotated[str, format_of(SIMULATION)]
Plan = Annotated[
    Optional[str],
    typer.Argument(metavar="PLAN", help="A plan, or a recorded launch; - for stdin."),
]
ImageOf = Annotated[
    Optional[str],
    typer.Option("--image", metavar="FILE", help="What the pages of a recorded launch hold."),
]


@app.command()
@partial(launch_verb, path=Plan)
def simulate(
    request: Request,
    image: ImageOf = None,
    format: Format = "text",
    output: Output = None,
) -> None:
    """
    Print what a kernel answers to each call of a plan, and the digest that is reached.

    A recorded launch is taken too: a log with the VMM's SNP trace events, or JSON Lines
    ('cvmplan schema recorded').  Its digest is known with --image only, whose launch the
    other options describe.  Exit 1 when a call is refused, or a page is measured twice.
    """
    from cvmplan.api import answers

    printer = SIMULATION.printer(format)
    known = None
    if image is not None:
        known = replace(request, image=request.files.open(image, "image"))
    outcome = answers.simulate(request, known)
    write(printer.simulation(outcome), output)
    if outcome.refused or has_errors(outcome.findings):
        raise typer.Exit(1)
