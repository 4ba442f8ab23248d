"""What hardware signed about a guest, as far as it can be compared with a launch; unverified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cvmplan.core import platform as platforms
from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.core.platform import Platform
from cvmplan.evidence.wrappers import Unwrapped, unwrap
from cvmplan.evidence.wrappers.piece import is_padding
from cvmplan.platforms.snp import report
from cvmplan.platforms.snp.report import AttestationReport
from cvmplan.platforms.tdx import quote
from cvmplan.platforms.tdx.quote import Quote, ReportMac, Td

IDENTITIES = ("attributes", "xfam", "mrconfigid", "mrowner", "mrownerconfig")


class Evidence(NamedTuple):
    """
    The platform and measurement of a guest, and what else was said of it.

    `settings` are those of the launch that evidence repeats, by their names: integers, or
    bytes.  `cpu_signature` is the host processor's, None where it is not said.  `source` is
    where the bytes came from; of `report`, `quote` and `mac` one is there, and `td` with the
    last two.  `trailing` bytes, of any value, follow what was read.  `notes` are what people
    should know about how it was read.
    """

    platform: Platform
    kind: str
    digest: bytes
    settings: Mapping[str, int | bytes]
    source: Unwrapped
    cpu_signature: int | None = None
    report: AttestationReport | None = None
    quote: Quote | None = None
    mac: ReportMac | None = None
    td: Td | None = None
    trailing: int = 0
    notes: tuple[str, ...] = ()


def read(blob: Blob, *, trailing: bool = False, select: str | None = None) -> Evidence:
    """
    Return what an SNP report, a TDX quote or a TDREPORT says; InputError, UnsupportedError.

    Wrappers around it are taken off.  Zeros may follow a quote: the buffer that the kernel fills
    is longer than the quote (Linux, TDX_CMD_GET_QUOTE).  `trailing`: so may any other bytes.
    `select` names one piece of several in one file; ConfigError where one has to be named.
    """
    source = unwrap(blob, select)
    body = source.body
    wrapped = f" in {', in '.join(reversed(source.how))}" if source.how else ""
    if len(body) == report.SIZE and not quote.is_quote(body):
        found = report.read(body)
        told: dict[str, int | bytes] = {"policy": found.policy, "host_data": found.host_data}
        kind = f"SNP report, version {found.version}{wrapped}"
        notes = source.notes
        if found.is_later:
            notes += (f"version {found.version} is later than {report.LATEST}, and read like it",)
        made = Evidence(platforms.SNP, kind, found.measurement, told, source, found.cpu_signature)
        return made._replace(report=found, notes=notes)
    if quote.is_report(body):
        td, mac = quote.read_report(body)
        return _of_td(f"TDREPORT{wrapped}", td, source)._replace(mac=mac)
    read_quote = quote.read_quote(body)
    rest = body.data[read_quote.end :]
    zeros = is_padding(rest)
    if not zeros and not trailing:
        problem = f"{len(rest)} bytes follow the quote, not all zero"
        hint = f"the quote has {read_quote.end} bytes"
        raise MalformedError(problem, at=body.where(read_quote.end), hint=hint)
    kind = f"TDX quote, version {read_quote.version}{wrapped}"
    made = _of_td(kind, read_quote.td, source)
    notes = made.notes
    if zeros and len(rest):
        notes += (f"zero bytes after the quote: {len(rest)}",)
    return made._replace(quote=read_quote, trailing=0 if zeros else len(rest), notes=notes)


def _of_td(kind: str, td: Td, source: Unwrapped) -> Evidence:
    told: dict[str, int | bytes] = {name: getattr(td, name) for name in IDENTITIES}
    return Evidence(platforms.TDX, kind, td.mrtd, told, source, td=td, notes=source.notes)
