"""cvmplan simulate."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, format_of, launch_verb, write
from cvmplan.cli.request import Request
from cvmplan.core.findings import has_errors
from cvmplan.emit import SIMULATION

if TYPE_CHECKING:
    pass

app = make_app()
Format = Annotated[str, format_of(SIMULATION)]
Plan = Annotated[
    Optional[str],
    typer.Argument(metavar="PLAN", help="Plan or recorded launch; - reads stdin."),
]
ImageOf = Annotated[
    Optional[str],
    typer.Option("--image", metavar="FILE", help="Image whose pages a recorded launch adds."),
]


HostWidth = Annotated[
    int,
    typer.Option(
        "--host-width",
        metavar="BITS",
        help="Width of the host's physical addresses: no memslot is beyond it.",
        show_default=True,
    ),
]


@app.command()
@partial(launch_verb, path=Plan)
def simulate(
    request: Request,
    image: ImageOf = None,
    host_width: HostWidth = 52,
    format: Format = "text",
    output: Output = None,
) -> None:
    """
    Print what a kernel answers to each call of a plan, and the resulting digest.

    A recorded launch is what bpftrace, strace or the VMM logs of its calls ('cvmplan help
    recording').  --image gives the contents that a recording
    lacks; the other options then describe its launch.  Exit 1 if a call is refused or a page is
    measured twice.
    """
    from cvmplan.api import answers

    printer = SIMULATION.printer(format)
    known = None
    if image is not None:
        known = replace(request, image=request.files.open(image, "image"))
    outcome = answers.simulate(request, known, host_width)
    write(printer.simulation(outcome), output)
    if outcome.refused or has_errors(outcome.findings):
        raise typer.Exit(1)
