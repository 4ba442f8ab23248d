"""cvmplan verify."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import (
    Output,
    Shared,
    format_of,
    launch_options,
    option,
    request,
    with_options,
    write,
)
from cvmplan.cli.process import tell
from cvmplan.cli.progress import watch_for
from cvmplan.cli.request import Request
from cvmplan.cli.typed import Typed
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MismatchError
from cvmplan.core.files import Files
from cvmplan.core.values import printable
from cvmplan.emit import VERIFICATION
from cvmplan.evidence.pins import PINS
from cvmplan.planning.read import option as place
from cvmplan.planning.request import assume_platform

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvmplan.evidence.evidence import Evidence
    from cvmplan.operations.measure import Measurement
    from cvmplan.operations.plan import Plan

app = make_app()
Format = Annotated[str, format_of(VERIFICATION)]
_TEXT, _MANY = Optional[str], Optional[list[str]]
EVIDENCE = "SNP report, TDX quote or TDREPORT, raw or wrapped; - reads stdin."
_CERTS = "Certificates in PEM, DER or base64, or their folder (repeatable)."
_PIN = "SHA-256 of a public key (SPKI) to trust instead of the vendor's (repeatable)."
_AT = "Time at which certificates and collateral must be valid.  [assumed: now]"
_COLLATERAL = "What Intel publishes of the platform: TCB info, QE identity, CRLs (repeatable)."
_ACCEPT = "Accepted status of a TDX TCB (repeatable).  [assumed: UpToDate]"
_CATALOGUE = "Further catalogue of firmware to search without IMAGE (repeatable)."
_REFERENCE = "Reference values, one of which the measurement must be."
_VOUCHES = "Certificates that vouch for --reference (repeatable)."
_BUDGET = "Time limit of that search; 0: do not search."
BUDGET = 1.0
OWN: Shared = {
    "plan": (option(_TEXT, "plan", "PLAN", "Plan to compare with, instead of IMAGE."), None),
    "certs": (option(_MANY, "certs", "PATH", _CERTS), None),
    "pin": (option(_MANY, "pin", "HEX", _PIN), None),
    "at": (option(_TEXT, "at", "TIME", _AT), None),
    "crl": (option(_MANY, "crl", "FILE", "Certificate revocation list (repeatable)."), None),
    "collateral": (option(_MANY, "collateral", "FILE", _COLLATERAL), None),
    "accept": (option(_MANY, "accept", "STATUS", _ACCEPT), None),
    "policy_file": (
        option(_TEXT, "policy_file", "FILE", "What the evidence must say (cvmplan.policy/1)."),
        None,
    ),
    "reference": (option(_TEXT, "reference", "FILE", _REFERENCE), None),
    "reference_certs": (option(_MANY, "reference_certs", "FILE", _VOUCHES), None),
    "provisional": (
        option(bool, "provisional", "", "Accept SNP firmware that is not committed."),
        False,
    ),
    "no_signature": (
        option(bool, "no_signature", "", "Accept evidence whose signature cannot be checked."),
        False,
    ),
    "ignore_trailing": (
        option(bool, "ignore_trailing", "", "Accept bytes after the quote."),
        False,
    ),
    "select": (option(_TEXT, "select", "NAME", "Which of several pieces in one file."), None),
    "catalogue": (option(_MANY, "catalogue", "FILE", _CATALOGUE), None),
    "budget": (
        Annotated[float, typer.Option("--budget", metavar="SECONDS", min=0, help=_BUDGET)],
        BUDGET,
    ),
    "event_log": (
        option(_TEXT, "event_log", "FILE", "CCEL or JSON event log to replay into the RTMRs."),
        None,
    ),
    "format": (Format, "text"),
    "output": (Output, None),
}


class Asked(NamedTuple):
    """
    The evidence and its path, the verb's own options by their names, and pins as typed.

    `request` is what launches the guest, None for evidence alone.
    """

    evidence: Evidence
    path: str
    own: Typed
    pins: dict[str, Any]
    files: Files
    request: Request | None


def _pin_options() -> Shared:
    """Return an option for each pin that is not one of a launch."""
    made: Shared = {}
    for name, pin in PINS.items():
        kind = _MANY if pin.many else _TEXT if pin.metavar else bool
        made[name] = option(kind, name, pin.metavar, pin.text), None if pin.metavar else False
    return made


def _shared() -> Shared:
    argument = Annotated[str, typer.Argument(metavar="EVIDENCE", help=EVIDENCE)]
    return {"evidence": (argument, ...), **OWN, **_pin_options(), **launch_options()}


def _asked(typed: Typed) -> Asked:
    """
    Return what is asked; the platform is that of the evidence where none is given.

    Settings of a launch that are pins as well are pins where there is no launch.
    """
    from cvmplan.evidence import evidence

    own = typed.only(*OWN)
    path = typed.text("evidence") or "-"
    if path == "-" and "-" in (typed.text("path"), own.text("plan")):
        raise ConfigError("only one of EVIDENCE and IMAGE can be stdin", at="-")
    if own.text("plan") is not None:
        if typed.given("path", "example"):
            raise ConfigError("cannot be combined with IMAGE", at="--plan")
        typed = Typed({**typed, "path": own.text("plan")})
    alone = not typed.given("path", "example")
    settings = set(launch_options())
    pins = {n: v for n, v in typed.only(*PINS).items() if alone or n not in settings}
    launch = typed.without(*OWN, "evidence", *pins)
    if alone:
        for name in launch.given():
            if name not in ("quiet", "verbose", "jobs"):
                raise ConfigError("needs IMAGE", at=place(name))
    asked_for = None if alone else request(launch)
    files = Files() if asked_for is None else asked_for.files
    blob = Files().open(path, "evidence")
    found = evidence.read(blob, trailing=own.flag("ignore_trailing"), select=own.text("select"))
    if asked_for is not None:
        asked_for = assume_platform(asked_for, found.platform)
    return Asked(found, path, own, pins, files, asked_for)


def open_certificates(files: Files, paths: list[str]) -> tuple[list[Blob], list[Blob]]:
    """Return the files that are named, and those of the folders that are."""
    named: list[Blob] = []
    beside: list[Blob] = []
    for path in paths:
        folder = files.open_folder(path, "certificate")
        if folder is None:
            named.append(files.open(path, "certificate"))
        else:
            beside += folder
    return named, beside


def _reference(asked: Asked) -> dict[str, list[str]]:
    """Return the pins of the measurement that a file of reference values makes."""
    path, certs = asked.own.text("reference"), asked.own.texts("reference_certs")
    if path is None:
        if certs:
            raise ConfigError("needs --reference FILE", at="--reference-certs")
        return {}
    name = MEASUREMENTS[asked.evidence.platform.evidence]
    if asked.pins.get(name):
        raise ConfigError(f"cannot be combined with {place(name)}", at="--reference")
    from cvmplan.api.evidence import time_of
    from cvmplan.evidence import certificates
    from cvmplan.reference.read import read

    files = asked.files
    anchors = certificates.read_given([files.open(one, "certificate") for one in certs])
    at = time_of(asked.own.text("at"))
    found = read(files.open(path, "reference values"), anchors.certificates, at)
    values = found.of(asked.evidence.platform)
    if not values:
        problem = f"{found.kind} without values of {asked.evidence.platform}"
        raise MismatchError(problem, at=path)
    if found.signature and not found.checked:
        tell(f"note: {path}: signed by {printable(found.signature)}, not checked")
    return {name: [one.digest.hex() for one in values]}


MEASUREMENTS = {"report": "measurement", "quote": "mrtd"}


def _launched(asked: Request | None) -> Callable[[], tuple[Plan, Measurement]] | None:
    """Return a function that plans and measures with progress; None without a launch."""
    if asked is None:
        return None
    from cvmplan.operations.measure import measure

    def launched() -> tuple[Plan, Measurement]:
        plan = asked.plan()
        return plan, measure(plan, watch_for(plan, quiet=asked.quiet))

    return launched


@app.command()
@partial(with_options, shared=_shared(), make=_asked)
def verify(asked: Asked) -> None:
    """
    Verify an attestation report or a quote, alone or against a launch.

    Without IMAGE: what the evidence says, whether hardware signed it, and whether it is what the
    options, or --policy-file, ask for.  With IMAGE: whether it is of this launch.  Exit 1 if
    anything differs, or if nothing shows that hardware signed it.

    Signatures are checked with the given certificates, or with those that come with the
    evidence; nothing is fetched.  A chain must end at a built-in key of AMD or Intel, or at a
    key that --pin names.
    """
    from cvmplan.api.evidence import Judging, judge

    printer = VERIFICATION.printer(asked.own.text("format") or "text")
    own, files = asked.own, asked.files
    log, policy = own.text("event_log"), own.text("policy_file")
    certificates, beside = open_certificates(files, own.texts("certs"))
    judging = Judging(
        certificates=certificates,
        beside=beside,
        keys=own.texts("pin"),
        at=own.text("at"),
        crls=[files.open(path, "list of revocations") for path in own.texts("crl")],
        collateral=[files.open(path, "collateral") for path in own.texts("collateral")],
        pins={**asked.pins, **_reference(asked)},
        policy=None if policy is None else files.open(policy, "policy"),
        provisional=own.flag("provisional"),
        accept=own.texts("accept"),
        no_signature=own.flag("no_signature"),
        event_log=None if log is None else files.open(log, "event log"),
        catalogues=own.texts("catalogue"),
        budget=own.seconds("budget"),
    )
    path = None if asked.path == "-" else asked.path
    found = judge(asked.evidence, judging, _launched(asked.request), path)
    write(printer.verification(found), own.text("output"))
    if not found.holds:
        raise typer.Exit(1)
