"""cvmplan igvm."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import launch_verb, write_bytes
from cvmplan.cli.process import tell
from cvmplan.cli.progress import watch_for
from cvmplan.cli.request import Request
from cvmplan.core.errors import ConfigError, MismatchError
from cvmplan.emit import igvm as file
from cvmplan.launch.directives import Directives, not_said, required
from cvmplan.launch.given import Given
from cvmplan.operations.measure import broken_promises, measure
from cvmplan.operations.plan import Plan, stage

app = make_app()
To = Annotated[
    str, typer.Option("--output", "-o", metavar="FILE", help="The IGVM file; - writes to stdout.")
]
Beside = Annotated[
    Optional[list[str]],
    typer.Option("--beside", metavar="PLAN", help="Also this launch of another platform."),
]
Version = Annotated[
    int, typer.Option("--igvm-version", metavar="N", help="Version of the format: 1 or 2.")
]


@app.command()
@launch_verb
def igvm(request: Request, output: To, beside: Beside = None, igvm_version: Version = 1) -> None:
    """
    Write launches as an IGVM file.

    Pages have their headers in the order in which they are added, and data that is the same is in
    the file once.  A loader may have an order of its own, and add more: 'cvmplan measure FILE
    --vmm NAME' says what NAME makes of the file.
    """
    if igvm_version not in file.VERSIONS:
        raise ConfigError(f"version {igvm_version}, there are 1 and 2", at="--igvm-version")
    others = [_beside(request, path) for path in beside or ()]
    parts = [_part(one.plan(), quiet=request.quiet) for one in (request, *others)]
    made = file.igvm(parts, igvm_version)
    write_bytes(made, output)
    for part in parts:
        for what in not_said(part.made):
            tell(f"warning: {part.platform}: not in the file: {what}")


def _beside(request: Request, path: str) -> Request:
    """Return what asks for another launch, to which no option of this one belongs."""
    return replace(request, image=request.files.open(path, "plan"), options=Given())


def _part(plan: Plan, *, quiet: bool) -> file.Part:
    """Return what the file has of a launch; PlanError, UnsupportedError, MismatchError."""
    result = measure(plan, watch_for(plan, quiet=quiet))
    for finding in broken_promises(plan, result):
        raise MismatchError(finding.message, at=finding.at)
    made: Directives = stage(plan.platform, "directives").directives(plan)
    return file.Part(plan.platform, made, required(plan))
