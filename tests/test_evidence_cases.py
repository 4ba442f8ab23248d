"""
Evidence as people have it, read as it is: the files of ../shared/cases/evidence.

The reports and quotes are signed by hardware or by made-up chains; what each is to show stands in
../shared/cases/README.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cvmplan.core.blob import Blob
from cvmplan.evidence import certificates
from cvmplan.evidence.certificates import order, read
from tests.build.evidence import amd, intel
from tests.run import run

CASES: Final = Path("../shared/cases/evidence")
AZURE: Final = "Azure HCL report, in base64, in JSON"
READ: Final = {
    # file, certificates: how it is wrapped, whether its signature is checked
    "azure-vcek-base64url/az_snp_live-evidence.json": ((), AZURE, True),
    "azure-vcek-base64url/az_snp_milan-v3-attestation.json": ((), AZURE, True),
    "cert-chain-object/snp_live-evidence-genoa.json": (("genoa_ask.der",), "base64, in JSON", True),
    "bare-report-json/benign-report.json": (("vcek.crt",), "JSON", True),
    "bare-report-json/turin_bare.json": (("turin_vcek.pem", "turin_ask.pem"), "JSON", True),
    "extended-report/extended.bin": ((), "extended report", True),
    "extended-report/milan_attestation_report.bin": (("auxblob.bin",), "", True),
    "report-response/report_rsp.bin": ((), "MSG_REPORT_RSP", False),
    "report-response/report_4000.bin": ((), "MSG_REPORT_RSP", False),
    "other-json/ver_sevsnp-tsm-report.json": ((), "base64, in JSON", True),
    "other-json/ms_snp_report.bin": (("ms_uvm_host_amd_certificate.json",), "", True),
    "report-alone/turin_attestation_report.bin": (
        ("turin_vcek.pem", "turin_ask.pem", "turin_ark.pem"), "", True,
    ),
}  # fmt: skip


def found(path: Path, example: str, *options: str) -> Any:
    if not path.exists():
        pytest.skip("../shared is absent: the cases are not at hand")
    told = run("verify", str(path), "--example", example, "--format", "json", *options)
    assert told.code == 1, told.err  # the example's measurement is another
    return json.loads(told.out)


@pytest.mark.parametrize("name", READ)
def test_a_report_is_read_as_it_is(name: str) -> None:
    given, wrapped, signed = READ[name]
    path = CASES / name
    options = [word for one in given for word in ("--certs", str(path.parent / one))]
    held = found(path, "snp", *options)
    assert (f" in {wrapped}" if wrapped else "") == held["kind"].partition("version ")[2][1:]
    status = {one["name"]: one["status"] for one in held["lines"]}
    assert status["signature"] == ("ok" if signed else "not in plan")


@pytest.mark.parametrize(
    ("name", "zeros"),
    [("trust-authority-json/tk_tdx-v4-gcp.json", 3065), ("quote-padding/quote-5006.dat", 70)],
)
def test_a_quote_is_read_with_the_zeros_after_it(name: str, zeros: int) -> None:
    held = found(CASES / name, "tdx")
    assert held["notes"] == [f"zero bytes after the quote: {zeros}"]
    assert {one["name"]: one["status"] for one in held["lines"]}["signature"] == "ok"


# --- certificates that are made here -------------------------------------------------------------


def test_certificates_are_sorted_by_issuer_and_strangers_are_left_out() -> None:
    chain, stranger = amd(), intel()
    mixed = (stranger[1], chain[2], stranger[2], chain[1], chain[0])
    every = certificates.read_all(Blob("c", memoryview(one.der)) for one in mixed).certificates
    ordered = [one.parsed.public_bytes(Encoding.DER) for one in order(every, "")]
    assert ordered == [one.der for one in chain]


def test_one_that_cannot_be_read_is_a_line_and_not_the_end() -> None:
    good = amd()[0].der
    text = f'{{"a": "{good.hex()}", "b": "{"zz" * 200}"}}'.encode()
    told = read(Blob("certs.json", memoryview(text)))
    assert len(told.certificates) == 1
    (line,) = told.unread
    assert line.startswith("certs.json: b: not a certificate")
