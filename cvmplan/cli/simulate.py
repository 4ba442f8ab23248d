"""cvmplan simulate."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Format, Output, write
from cvmplan.files import Files
from cvmplan.findings import has_errors

app = make_app()
Plan = Annotated[str, typer.Argument(metavar="PLAN", help="A plan; - for stdin.")]
AbiName = Annotated[
    Optional[str],
    typer.Option("--abi", metavar="NAME", help="Host kernel ('cvmplan abis').  [assumed: plan's]"),
]
Inputs = Annotated[
    Optional[list[str]],
    typer.Option("--inputs", metavar="DIR", help="Where else inputs of a plan lie."),
]


@app.command()
def simulate(
    plan: Plan,
    abi: AbiName = None,
    inputs: Inputs = None,
    format: Format = "text",
    output: Output = None,
) -> None:
    """Print what a kernel answers to each call, and the digest reached; exit 1 for a refusal."""
    from cvmplan.emit import emitter
    from cvmplan.kvm.abi import find
    from cvmplan.kvm.simulate import compared
    from cvmplan.kvm.simulate import simulate as run
    from cvmplan.readers import calls

    files = Files(folders=tuple(inputs or ()))
    read = calls.read(files.open(plan, "image"), files.find)
    outcome = run(read.platform, find(abi or read.abi), read.calls, read.settings)
    if read.digest is not None:
        outcome = compared(outcome, read.digest, "the plan")
    write(emitter(format, "simulation").simulation(outcome), output)
    refused = any(r.answer.result == "error" for r in outcome.results)
    if refused or has_errors(outcome.findings):
        raise typer.Exit(1)
