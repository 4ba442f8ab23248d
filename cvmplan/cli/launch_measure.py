"""cvmplan launch-measure."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple, Optional, TypeVar

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
from cvmplan.cli.request import Request
from cvmplan.cli.typed import Typed
from cvmplan.core import values
from cvmplan.core.errors import ConfigError, MismatchError, UnsupportedError
from cvmplan.core.files import Files
from cvmplan.core.platform import FLAT, Platform, find
from cvmplan.core.values import Json
from cvmplan.emit import LAUNCH_MEASURE
from cvmplan.planning.read import read_options, read_value

if TYPE_CHECKING:
    from cvmplan.operations.plan import Plan

app = make_app()
Format = Annotated[str, format_of(LAUNCH_MEASURE)]
T = TypeVar("T")
DIGEST = "Launch digest, instead of IMAGE; needs --policy."
Tik = Annotated[
    str, typer.Option("--tik", metavar="FILE", help="Transport integrity key (TIK), 16 bytes.")
]
Nonce = Annotated[
    Optional[str],
    typer.Option(
        "--nonce",
        metavar="HEX|BASE64",
        help="MNONCE (chosen by the firmware), 16 bytes.  [assumed: from --expect]",
    ),
]
Api = Annotated[
    str, typer.Option("--api", metavar="MAJOR.MINOR", help="API version of the SEV firmware.")
]
Build = Annotated[
    str, typer.Option("--build", metavar="N", help="Build number of the SEV firmware.")
]
Expect = Annotated[
    Optional[str],
    typer.Option(
        "--expect",
        metavar="HEX|BASE64",
        help="Expected measurement: 32 bytes, or 48 with MNONCE; exit 1 if different.",
    ),
]


class _Launched(NamedTuple):
    """A launch of which the digest is known: `plan` where it was measured."""

    name: str
    platform: Platform | None
    policy: int
    digest: bytes
    plan: Plan | None
    files: Files


def _shared() -> Shared:
    """Return the options of a launch, and the digest that stands for one."""
    digest = {"digest": (option(Optional[str], "digest", "HEX", DIGEST), None)}
    return {n: o for n, o in launch_options().items() if n != "jobs"} | digest


def _asked(typed: Typed) -> Callable[[], _Launched]:
    """Return what finds the launch once the other options are known to be right."""
    digest = typed.text("digest")
    if digest is None:
        made = request(typed.without("digest"))
        return lambda: _measured(made)
    known = read_value(values.octets(32), digest, "--digest")
    return partial(_known, typed.without("digest"), known)


@app.command()
@partial(with_options, shared=_shared(), make=_asked)
def launch_measure(
    launched: Callable[[], _Launched],
    tik: Tik,
    api: Api,
    build: Build,
    nonce: Nonce = None,
    expect: Expect = None,
    format: Format = "text",
    output: Output = None,
) -> None:
    """
    Compute what SEV firmware returns for LAUNCH_MEASURE: a MAC over the launch digest.

    The key is the TIK of the guest owner's session (see 'cvmplan session'); it is read from a
    file and never printed.  VMMs and libvirt report the measurement followed by MNONCE, in
    base64: --expect accepts that.
    """
    from cvmplan.sev_session.answers import LaunchMeasure
    from cvmplan.sev_session.session import launch_measurement, read_key

    printer = LAUNCH_MEASURE.printer(format)
    wanted, mnonce = _expected(expect, nonce)
    version = read_value(_version, api, "--api")
    number = read_value(values.within(0, 0xFF), build, "--build")
    found = launched()
    key = read_key(found.files.open(tik, "TIK"))
    measurement = launch_measurement(found.digest, key, mnonce, version, number, found.policy)
    if wanted is not None and wanted != measurement:
        raise MismatchError(
            f"MEASURE is {measurement.hex()}, expected {wanted.hex()}",
            at=found.name,
            hint="check digest, policy, TIK, MNONCE, and the firmware's API version and build",
        )
    answer = LaunchMeasure(
        found.platform, found.digest, found.policy, version, number, mnonce, measurement, found.plan
    )
    write(printer.launch_measure(answer), output)


def _expected(expect: str | None, nonce: str | None) -> tuple[bytes | None, bytes]:
    """Return the measurement that is expected, if any, and MNONCE; MismatchError."""
    wanted = mnonce = None
    if expect is not None:
        both = read_value(_one_or_both, expect, "--expect")
        wanted, mnonce = both[:32], both[32:] or None
    if nonce is not None:
        given = read_value(values.octets(16), nonce, "--nonce")
        if mnonce not in (None, given):
            raise MismatchError(
                f"MNONCE is {given.hex()}, expected {both[32:].hex()}", at="--nonce"
            )
        mnonce = given
    if mnonce is None:
        hint = "--expect with 48 bytes contains it too"
        raise ConfigError(
            "missing --nonce (MNONCE, chosen by the firmware)", at="--nonce", hint=hint
        )
    return wanted, mnonce


def _measured(asked: Request) -> _Launched:
    """Return the launch of an image, measured; UnsupportedError for other platforms."""
    from cvmplan.operations.measure import measure
    from cvmplan.platforms.sev.ops import SevLaunchStart

    plan, name = asked.plan(), asked.image.name
    if plan.platform not in FLAT:
        problem = f"LAUNCH_MEASURE is a command of {' and '.join(FLAT)}, not {plan.platform}"
        raise UnsupportedError(problem, at=name, hint="--platform sev or --platform sev-es")
    digest = measure(plan).digest
    policy = next(op.policy for op in plan.ops if isinstance(op, SevLaunchStart))
    return _Launched(name, plan.platform, policy, digest, plan, asked.files)


def _known(typed: Typed, digest: bytes) -> _Launched:
    """Return a launch of which only the digest is known; ConfigError for settings beside it."""
    policy, platform = typed.text("policy"), typed.text("platform")
    platform = None if platform is None else find(platform)
    for name in typed.without("policy", "platform", "quiet", "verbose").given():
        at = "IMAGE" if name == "path" else f"--{name.replace('_', '-')}"
        raise ConfigError("cannot be combined with --digest", at=at)
    if platform not in (None, *FLAT):
        problem = f"LAUNCH_MEASURE is a command of {' and '.join(FLAT)}, not {platform}"
        raise UnsupportedError(problem, at="--platform")
    if policy is None:
        raise ConfigError("missing --policy (required with --digest)", at="--policy")
    read = read_options({"policy": policy}).number("policy") or 0
    return _Launched("--digest", platform, read, digest, None, Files())


_VERSION = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})")


def _version(written: Json) -> tuple[int, int]:
    """Return major and minor version of the firmware's API."""
    found = _VERSION.fullmatch(str(written))
    numbers = tuple(map(int, found.groups())) if found else (0x100,)
    if max(numbers) > 0xFF:
        raise ValueError(f"{str(written)[:60]!r} is not an API version: MAJOR.MINOR, as 1.51")
    return numbers[0], numbers[1]


def _one_or_both(written: Json) -> bytes:
    """Return 32 bytes of measurement, or 48 with MNONCE behind it."""
    for length in (32, 48):
        try:
            return values.octets(length)(written)
        except ValueError:
            continue
    raise ValueError(f"{str(written)[:60]!r} is neither 32 nor 48 bytes in hex or base64")
