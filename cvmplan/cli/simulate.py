"""cvmplan simulate."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, Request, chosen_platform, format_of, launch_verb, write
from cvmplan.core.errors import ConfigError, UnsupportedError
from cvmplan.core.findings import has_errors
from cvmplan.emit import SIMULATION
from cvmplan.launch.given import Given

if TYPE_CHECKING:
    from cvmplan.simulator.answers import Simulation
    from cvmplan.simulator.replay import Image

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
    from cvmplan.readers import plan, recorded

    printer = SIMULATION.printer(format)
    if plan.recognises(request.image):
        outcome = _simulated(request, image)
    elif recorded.recognises(request.image):
        outcome = _replayed(request, image)
    else:
        hint = "'cvmplan plan IMAGE --format json' makes a plan"
        at = request.image.name
        raise UnsupportedError("neither a plan nor a recorded launch", at=at, hint=hint)
    write(printer.simulation(outcome), output)
    refused = any(r.answer.result == "error" for r in outcome.results)
    if refused or has_errors(outcome.findings):
        raise typer.Exit(1)


def _simulated(request: Request, image: str | None) -> Simulation:
    from cvmplan.kvm.abi import find
    from cvmplan.readers import calls
    from cvmplan.simulator.simulate import compared
    from cvmplan.simulator.simulate import simulate as run

    others = [name for name in request.options if name != "abi"]
    if image is not None or others:
        at = f"--{(others or ['image'])[0].replace('_', '-')}"
        raise ConfigError("a plan takes no settings", at=at)
    read = calls.read(request.image, request.files.find)
    abi = find(request.options.text("abi") or read.abi)
    outcome = run(read.platform, abi, read.calls, read.gpaw)
    return compared(outcome, read.digest, "the plan") if read.digest else outcome


def _replayed(request: Request, image: str | None) -> Simulation:
    from cvmplan.kvm.abi import find, newest
    from cvmplan.readers import recorded
    from cvmplan.simulator.replay import replay

    options = request.options
    recording = recorded.read(request.image, chosen_platform(options))
    named = options.text("abi")
    options = options.without("abi") | {"platform": recording.platform}
    abi = find(named) if named else newest(recording.platform)
    if image is None:
        others = [name for name in options if name not in ("platform", "gpaw")]
        if others:
            raise ConfigError("goes with --image", at=f"--{others[0].replace('_', '-')}")
        return replay(recording, abi, options.number("gpaw") or 48, None)
    known, gpaw, digest = _image(request, image, options, abi.name if abi.plans else None)
    outcome = replay(recording, abi, gpaw, known)
    return _compared(outcome, digest)


def _image(
    request: Request, path: str, options: Given, abi: str | None
) -> tuple[Image, int, str | None]:
    """Return what the plan of the image knows of pages and vCPUs, its GPAW and its digest."""
    from cvmplan.operations.measure import measure
    from cvmplan.readers import calls
    from cvmplan.simulator.replay import Image

    files = request.files
    chosen = options | ({"abi": abi} if abi else {})
    launch = Request(files.open(path, "image"), chosen, files, request.quiet)
    plan = launch.plan()
    read = calls.of_plan(plan, measure(plan) if plan.platform.measured else None)
    pages = [(op.gpa, op.size, source) for op, source in read.calls if source is not None]
    finish = [op for op, _ in read.calls if op.vmsas]
    count = next(op.count for op, _ in read.calls if op.op == "create-vcpu")
    vmsas = finish[0].vmsas if finish else ()
    return Image(pages, vmsas, count), read.gpaw, read.digest


def _compared(outcome: Simulation, digest: str | None) -> Simulation:
    from cvmplan.simulator.simulate import compared

    return compared(outcome, digest, "the image") if digest else outcome
