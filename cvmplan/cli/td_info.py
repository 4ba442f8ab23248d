"""cvmplan td-info."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, digest_option, launch_verb
from cvmplan.cli.progress import watch_for
from cvmplan.cli.request import Request
from cvmplan.cli.td_params import MODULE, Format, answer_in
from cvmplan.core import platform as platforms
from cvmplan.core import values
from cvmplan.core.errors import ConfigError, MismatchError
from cvmplan.emit import TD_INFO
from cvmplan.planning.read import read_value
from cvmplan.planning.request import assume_platform

app = make_app()


def _rtmr(number: int) -> Any:
    text = f"RTMR{number}, 48 bytes in hex or base64.  [assumed: zeros, as at TDH.MR.FINALIZE]"
    return typer.Option(f"--rtmr{number}", metavar="HEX", help=text)


Rtmr0 = Annotated[Optional[str], _rtmr(0)]
Rtmr1 = Annotated[Optional[str], _rtmr(1)]
Rtmr2 = Annotated[Optional[str], _rtmr(2)]
Rtmr3 = Annotated[Optional[str], _rtmr(3)]
ServTd = Annotated[
    Optional[str],
    typer.Option(
        "--servtd",
        metavar="INFOHASH:TYPE:ATTR",
        help="Bound service TD: SERVTD_INFO_HASH of 48 bytes, SERVTD_TYPE, "
        "SERVTD_ATTR.  [assumed: none]",
    ),
]
ModuleName = Annotated[Optional[str], typer.Option("--module", metavar="VERSION", help=MODULE)]
Expect = Annotated[
    Optional[str],
    typer.Option("--expect", metavar="HEX", help="Expected TEE_INFO_HASH; exit 1 if different."),
]


@app.command()
@launch_verb
def td_info(
    request: Request,
    rtmr0: Rtmr0 = None,
    rtmr1: Rtmr1 = None,
    rtmr2: Rtmr2 = None,
    rtmr3: Rtmr3 = None,
    servtd: ServTd = None,
    module: ModuleName = None,
    expect: Expect = None,
    format: Format = "text",
    output: Output = None,
) -> None:
    """
    Compute TDINFO of a planned TD, and TEE_INFO_HASH, the SHA-384 of its 512 bytes.

    RTMRs that are not given are zero, as when the TD is finalized; firmware extends them when
    it runs.
    """
    from cvmplan.core.blob import pack
    from cvmplan.operations.measure import measure
    from cvmplan.platforms.tdx import modules
    from cvmplan.platforms.tdx.report import RTMRS, check_platform, identity

    wanted = None if expect is None else _digest(expect)
    typed = dict(zip(RTMRS, (rtmr0, rtmr1, rtmr2, rtmr3), strict=True))
    rtmrs = {name: _octets(f"--{name}", text) for name, text in typed.items() if text is not None}
    bound = None if servtd is None else _service_td(servtd)
    rules = modules.find(modules.DEFAULT if module is None else module)
    plan = assume_platform(request, platforms.TDX).plan()
    check_platform(plan, request.image.name)
    mrtd = measure(plan, watch_for(plan, quiet=request.quiet)).digest
    found = identity(plan, mrtd, rules, rtmrs, bound)._replace(module_given=module is not None)
    if wanted is not None and wanted != found.tee_info_hash:
        raise MismatchError(
            f"TEE_INFO_HASH is {found.tee_info_hash.hex()}, expected {wanted.hex()}",
            at=request.image.name,
        )

    def printed(name: str) -> str:
        return TD_INFO.printer(name).td_info(found)

    answer_in(format, output, printed, pack(found.info), found.findings)


def _digest(written: str) -> bytes:
    wanted = digest_option(written)
    if len(wanted) != 48:
        raise ConfigError(f"expected 48 bytes, got {len(wanted)}", at="--expect")
    return wanted


def _octets(at: str, written: str) -> bytes:
    return read_value(values.octets(48), written, at)


def _service_td(written: str) -> Any:
    """Return the service TD that --servtd names; ConfigError."""
    from cvmplan.platforms.tdx.report import ServiceTd

    parts = written.split(":")
    if len(parts) != 3:
        raise ConfigError("is not INFOHASH:TYPE:ATTR", at="--servtd", hint="the TYPE of MigTD is 0")
    info_hash = _octets("--servtd", parts[0])
    kind = read_value(values.within(0, 0xFFFF), parts[1], "--servtd")
    return ServiceTd(info_hash, kind, read_value(values.integer, parts[2], "--servtd"))
