"""cvmplan check."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Optional

import typer

from cvmplan.cli import complain, make_app
from cvmplan.cli.options import Output, format_of, write
from cvmplan.cli.several import Several, several_verb
from cvmplan.core.errors import ConfigError
from cvmplan.core.findings import RULES, Finding
from cvmplan.core.values import one_of
from cvmplan.emit import CHECKS
from cvmplan.operations.checked import SEVERITIES, Checks
from cvmplan.operations.plan import Plan
from cvmplan.planning.read import read_value

app = make_app()
Format = Annotated[str, format_of(CHECKS)]
FailOn = Annotated[
    str,
    typer.Option(
        "--fail-on", metavar="|".join(SEVERITIES), help="Mildest finding that gives exit code 1."
    ),
]
ExpectFile = Annotated[
    Optional[str],
    typer.Option(
        "--expect-file",
        metavar="FILE",
        help="Expected measurements (cvmplan.expect/1).  [assumed: FILE.expect.json, if it exists]",
    ),
]
OnHost = Annotated[
    bool,
    typer.Option("--on-host", help="Also ask /dev/kvm: the mapping half of the launch, and cases."),
]


@app.command()
@several_verb
def check(
    asked: Several,
    fail_on: FailOn = "error",
    expect_file: ExpectFile = None,
    on_host: OnHost = False,
    format: Format = "text",
    output: Output = None,
) -> None:
    """
    Check images and their launches, and print every finding.

    Each page must be mapped and added exactly once, over everything that the launch contains.
    Launches in a file of expectations must also have the measurement that it states.
    Exit 1 if a finding is an error. A file that cannot be checked does not hide the others: the
    exit code is the greatest of all files.
    """
    from cvmplan.api.checks import Check, images, read_expectations

    gravity = read_value(one_of(*SEVERITIES), fail_on, "--fail-on")
    printer = CHECKS.printer(format)
    names = images(asked.names)
    expectations = None if expect_file is None else read_expectations(expect_file)
    if expectations and not any(expectations.of(name) for name in names):
        raise ConfigError("expects nothing of any FILE", at=f"--expect-file {expect_file}")
    plain = format == "text"
    beyond = _on_host if on_host else lambda _: ()
    one_by_one = Check(asked.opened, expectations, beyond, lines=not plain)
    made = Checks(tuple(map(one_by_one.check, names)), RULES, gravity)
    errors = [one.error for one in made.files if one.error]
    grave = [f for one in made.files for f in one.findings if f.severity == "error"]
    if not (plain and len(names) == 1 and errors and len(grave) == 1):
        write(printer.checks(made), output)
    if len(names) == 1 and errors:
        raise errors[0]
    for error in errors:
        complain(error)
    if made.exit_code:
        raise typer.Exit(made.exit_code)


def _on_host(plan: Plan) -> Iterable[Finding]:
    """Return what /dev/kvm of this machine answers to a plan."""
    from cvmplan.host.ask import ask
    from cvmplan.host.check import check as on_this_machine

    return (*on_this_machine(plan), *ask())
