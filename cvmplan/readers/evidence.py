"""What hardware signed about a guest, as far as it can be compared with a launch; unverified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cvmplan.blob import Blob
from cvmplan.errors import UnsupportedError
from cvmplan.snp import report
from cvmplan.tdx import quote


class Evidence(NamedTuple):
    """
    The platform and measurement of a guest, and what else was said of it.

    `settings` are those of the launch that evidence repeats, by their names: integers, or
    bytes.  `cpu_signature` is the host processor's, None where it is not said.
    """

    platform: str
    kind: str
    digest: bytes
    settings: Mapping[str, int | bytes]
    cpu_signature: int | None = None


def read(blob: Blob) -> Evidence:
    """Return what an SNP report, a TDX quote or a TDREPORT says; InputError, UnsupportedError."""
    if len(blob) == report.SIZE:
        found = report.read(blob)
        told: dict[str, int | bytes] = {"policy": found.policy, "host_data": found.host_data}
        kind = f"SNP report, version {found.version}"
        return Evidence("snp", kind, found.measurement, told, found.cpu_signature)
    if quote.is_report(blob):
        return _of_td("TDREPORT", quote.read_report(blob))
    if quote.is_quote(blob):
        version = int.from_bytes(blob.data[:2], "little")
        return _of_td(f"TDX quote, version {version}", quote.read_quote(blob))
    hint = "it is read as the firmware wrote it: no base64, no wrapper around it"
    problem = "neither an SNP attestation report, nor a TDX quote or TDREPORT"
    raise UnsupportedError(problem, at=blob.name, hint=hint)


def _of_td(kind: str, td: quote.Td) -> Evidence:
    told: dict[str, int | bytes] = {n: v for n, v in td._asdict().items() if n != "mrtd"}
    return Evidence("tdx", kind, td.mrtd, told)
