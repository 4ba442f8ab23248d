"""cvmplan measure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, Request, digest_option, format_of, launch_verb, write
from cvmplan.cli.progress import Watch, watch_for
from cvmplan.core.errors import ConfigError, MismatchError
from cvmplan.emit import MEASUREMENT
from cvmplan.operations.plan import Plan

app = make_app()
Format = Annotated[str, format_of(MEASUREMENT)]


@app.command()
@launch_verb
def measure(
    request: Request,
    expect: Annotated[
        Optional[str],
        typer.Option(
            "--expect",
            metavar="HEX",
            help="Expected digest (hex, base64, @FILE); exit 1 if different.",
        ),
    ] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Print only the digest: lower-case hex, no newline.")
    ] = False,
    format: Format = "text",
    output: Output = None,
) -> None:
    """
    Compute the launch measurement: SNP launch digest, MRTD, SEV or SEV-ES launch digest.

    The output lists every input of the digest and marks each as given or assumed.
    """
    from cvmplan.operations.measure import announced
    from cvmplan.operations.measure import measure as fold

    wanted = None if expect is None else digest_option(expect)
    if bare and format != "text":
        raise ConfigError("cannot be combined with --format", at="--bare")
    printer = None if bare else MEASUREMENT.printer(format)
    plan = request.plan()
    with _watch(request, plan) as watch:
        result = fold(plan, watch)
    plan = announced(plan, result)
    if wanted is not None and wanted != result.digest:
        from cvmplan.launch.commands import explain_command

        raise MismatchError(
            f"{result.register} is {result.digest.hex()}, expected {wanted.hex()}",
            at=request.image.name,
            hint=shlex.join([*explain_command(plan), "--expect", wanted.hex()]),
        )
    text = printer.measurement(plan, result) if printer else result.digest.hex()
    write(text, output)


@contextmanager
def _watch(request: Request, plan: Plan) -> Iterator[Watch | None]:
    """Yield what sees the steps: other processes that hash, or the progress bar."""
    if request.jobs > 1 and plan.platform.page_info:
        from cvmplan.platforms.snp.parallel import hashing

        with hashing(request.jobs) as watch:
            yield watch
    else:
        yield watch_for(plan, quiet=request.quiet)
