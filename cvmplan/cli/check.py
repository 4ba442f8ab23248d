"""cvmplan check."""

from __future__ import annotations

from typing import Annotated

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, Request, format_of, launch_verb, write
from cvmplan.core.findings import Finding, has_errors
from cvmplan.emit import FINDINGS

app = make_app()
Format = Annotated[str, format_of(FINDINGS)]
OnHost = Annotated[
    bool,
    typer.Option("--on-host", help="Also ask /dev/kvm: the mapping half of the launch, and cases."),
]


@app.command()
@launch_verb
def check(
    request: Request, on_host: OnHost = False, format: Format = "text", output: Output = None
) -> None:
    """
    Check an image and its launch, and print every finding.

    Each page must be mapped and added exactly once, over everything that the launch contains.
    Exit 1 if a finding is an error.
    """
    from cvmplan.api import answers

    found: tuple[Finding, ...] = answers.check(request)
    if on_host and not has_errors(found):
        from cvmplan.host.ask import ask
        from cvmplan.host.check import check as on_this_machine

        found = (*found, *on_this_machine(request.plan()), *ask())
    write(FINDINGS.printer(format).findings(found), output)
    if has_errors(found):
        raise typer.Exit(1)
