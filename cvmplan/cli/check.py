"""cvmplan check."""

from __future__ import annotations

from typing import Annotated

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, Request, format_of, launch_verb, write
from cvmplan.core.errors import MapError
from cvmplan.core.findings import Finding, has_errors
from cvmplan.emit import FINDINGS

app = make_app()
Format = Annotated[str, format_of(FINDINGS)]
OnHost = Annotated[
    bool,
    typer.Option("--on-host", help="Also run the mapping half on /dev/kvm and compare."),
]


@app.command()
@launch_verb
def check(
    request: Request, on_host: OnHost = False, format: Format = "text", output: Output = None
) -> None:
    """Print every finding about the exactly-once map and the launch; exit 1 for an error."""
    found = _findings(request, on_host=on_host)
    write(FINDINGS.printer(format).findings(found), output)
    if has_errors(found):
        raise typer.Exit(1)


def _findings(request: Request, *, on_host: bool) -> tuple[Finding, ...]:
    """
    Return the findings of the map; a launch without errors there is lowered as well.

    Where nothing forbids the launch, those of this machine's kernel follow.
    """
    from cvmplan.operations.measure import broken_promises, measure, promises

    try:
        plan = request.plan()
    except MapError as error:
        return error.findings
    for _ in plan.trace():
        pass
    found = plan.findings
    if promises(plan):
        found += tuple(broken_promises(plan, measure(plan)))
    if on_host and not has_errors(found):
        from cvmplan.host.check import check as on_this_machine

        return (*found, *on_this_machine(plan))
    return found
