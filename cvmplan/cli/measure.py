"""cvmplan measure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, digest_option, format_of, launch_verb, write
from cvmplan.cli.process import tell, tell_warnings
from cvmplan.cli.progress import Watch, watch_for
from cvmplan.cli.request import Request
from cvmplan.core.errors import ConfigError, MismatchError
from cvmplan.core.files import Files
from cvmplan.core.values import printable
from cvmplan.emit import MEASUREMENT
from cvmplan.operations.plan import Plan

if TYPE_CHECKING:
    from cvmplan.emit.protocols import MeasurementPrinter
    from cvmplan.operations.measure import Measurement
    from cvmplan.reference.found import Found

app = make_app()
Format = Annotated[str, format_of(MEASUREMENT)]
Against = Annotated[
    Optional[str],
    typer.Option(
        "--against",
        metavar="FILE",
        help="Reference values to compare with (any form of 'reference --to').",
    ),
]
Certs = Annotated[
    Optional[list[str]],
    typer.Option(
        "--certs", metavar="FILE", help="Certificates that vouch for --against (repeatable)."
    ),
]
OutputFormat = Annotated[Optional[str], typer.Option("--output-format", hidden=True)]
Title = Annotated[str, typer.Option("--title", hidden=True)]
FirmwareOnly = Annotated[bool, typer.Option("--firmware-only", hidden=True)]
DumpVmsa = Annotated[bool, typer.Option("--dump-vmsa", hidden=True)]


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
    against: Against = None,
    certs: Certs = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Print only the digest: lower-case hex, no newline.")
    ] = False,
    format: Format = "text",
    output: Output = None,
    output_format: OutputFormat = None,
    title: Title = "",
    firmware_only: FirmwareOnly = False,
    dump_vmsa: DumpVmsa = False,
) -> None:
    """
    Compute the launch measurement: SNP launch digest, MRTD, SEV or SEV-ES launch digest.

    The output lists every input of the digest and marks each as given or assumed.  Where it is
    not the expected one, only the JSON document is printed.
    """
    wanted = None if expect is None else digest_option(expect)
    references = _references(against, certs or [])
    printer = _printer(format, "--bare" if bare else "--output-format" if output_format else "")
    plan = replace(request, marks=printer is not None).plan()
    plan, result = _measured(request, plan)
    if printer is None and plan.places:  # it is of a launch description
        tell_warnings(plan.findings)
    text = printer.measurement(plan, result) if printer else result.digest.hex()
    if output_format or firmware_only or dump_vmsa:
        from cvmplan.cli import familiar

        result = familiar.firmware_only(plan, result) if firmware_only else result
        text = familiar.as_printed(result, output_format or "hex", title)
    if format == "json":
        write(text, output)
    _check(wanted, plan, result, request)
    if references is not None:
        _compare(references, plan, result)
    if format != "json":
        write(text, familiar.dump_states(plan, output) if dump_vmsa else output)


def _measured(request: Request, plan: Plan) -> tuple[Plan, Measurement]:
    """Return the plan with all that is found about it, and its measurement."""
    from cvmplan.operations.measure import announced, measure

    with _watch(request, plan) as watch:
        result = measure(plan, watch)
    return announced(plan, result), result


def _printer(format: str, alone: str) -> MeasurementPrinter | None:
    """Return what prints the measurement, None for a digest `alone`; ConfigError."""
    if not alone:
        return MEASUREMENT.printer(format)
    if format != "text":
        raise ConfigError("cannot be combined with --format", at=alone)
    return None


def _check(wanted: bytes | None, plan: Plan, result: Measurement, request: Request) -> None:
    """Raise MismatchError where a digest was expected, and it is not that of `result`."""
    if wanted is None or wanted == result.digest:
        return
    from cvmplan.launch.commands import explain_command

    raise MismatchError(
        f"{result.register} is {result.digest.hex()}, expected {wanted.hex()}",
        at=request.image.name,
        hint=shlex.join([*explain_command(plan, request.files.base), "--expect", wanted.hex()]),
    )


def _references(path: str | None, certs: list[str]) -> Found | None:
    """Return the reference values of a file, None without one; ConfigError, InputError."""
    if path is None:
        if certs:
            raise ConfigError("needs --against FILE", at="--certs")
        return None
    from cvmplan.evidence import certificates
    from cvmplan.reference.read import read

    files = Files()
    anchors = certificates.read_given([files.open(one, "certificate") for one in certs])
    return read(files.open(path, "reference values"), anchors.certificates)


def _compare(found: Found, plan: Plan, result: Measurement) -> None:
    """Say which reference value it is; MismatchError where it is none."""
    from cvmplan.reference.found import nearest

    values = found.of(plan.platform)
    checked = " (its signature was checked)" if found.checked else ""
    signed = f", signed by {printable(found.signature)}, not checked" if found.signature else ""
    kind = f"{found.kind}{checked or signed}"
    for number, one in enumerate(values, 1):
        if one.digest == result.digest:
            tell(f"reference: {printable(one.name)}, value {number} of {len(values)}; {kind}")
            return
    settings = {**plan.assumed, **plan.given}
    near = nearest(values, {n: v for n, v in settings.items() if isinstance(v, str | int)})
    problem = f"{result.register} {result.digest.hex()} is none of {len(values)} reference values"
    raise MismatchError(f"{problem} ({kind})", at="--against", hint=near)


@contextmanager
def _watch(request: Request, plan: Plan) -> Iterator[Watch | None]:
    """Yield what sees the steps: other processes that hash, or the progress bar."""
    if request.jobs > 1 and plan.platform.page_info:
        from cvmplan.platforms.snp.parallel import hashing

        with hashing(request.jobs) as hashed:
            yield watch_for(plan, quiet=request.quiet, first=hashed)
    else:
        yield watch_for(plan, quiet=request.quiet)
