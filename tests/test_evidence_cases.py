"""
Evidence as people have it, read as it is: the files of ../shared/cases/evidence.

The reports and quotes are signed by hardware or by made-up chains; what each is to show stands in
../shared/cases/README.md.
"""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import suppress
from functools import partial
from hashlib import sha384
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, CvmplanError, MalformedError
from cvmplan.evidence import certificates, evidence
from cvmplan.evidence.certificates import order, read
from cvmplan.evidence.wrappers import unwrap
from tests.build.evidence import (
    amd,
    dstack_0,
    dstack_1,
    hcl,
    intel,
    snp_report,
    td_quote,
    td_report,
)
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
    assert status["signature"] == ("ok" if signed else "unsigned")


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


# --- CBOR ----------------------------------------------------------------------------------------


def shared(levels: int, times: int) -> bytes:
    """RFC 8949, tags 28 and 29: an array that refers to the next one many times, and so on."""
    value = b"\xd8\x1c\x81\x00"
    for number in range(levels, 0, -1):
        value = (
            b"\xd8\x1c\x98" + bytes([times + 1]) + value + (b"\xd8\x1d" + bytes([number])) * times
        )
    return b"\xa1\x61a" + value


@pytest.mark.parametrize(
    "data",
    [shared(12, 20), b"\xa1\x61a" + bytes.fromhex("d81c81d81d00"), b"\xa1\x61a" + b"\x81" * 9999],
)
def test_cbor_that_makes_much_of_little_is_refused(data: bytes) -> None:
    pytest.importorskip("cbor2")
    with pytest.raises(MalformedError, match=r"nested deeper|CBOR"):
        evidence.read(Blob("e.cbor", memoryview(data)))


def test_a_report_in_cbor_is_read() -> None:
    """configfs-tsm: a map with outblob; the report is signed by a chain that is made here."""
    cbor2 = pytest.importorskip("cbor2")
    data = snp_report(amd()[0], 3)
    made = cbor2.dumps({"provider": "sev_guest", "outblob": data})
    read_back = evidence.read(Blob("e.cbor", memoryview(made)))
    assert bytes(read_back.source.body.data) == data
    assert read_back.kind == "SNP report, version 3 in CBOR"


def test_one_of_two_pieces_is_selected() -> None:
    first, second = snp_report(amd()[0], 2), snp_report(amd()[0], 3)
    held = json.dumps({"a": {"report": first.hex()}, "b": {"report": second.hex()}}).encode()
    blob = Blob("two.json", memoryview(held))
    with pytest.raises(ConfigError, match=r"2 pieces of evidence: 1 a\.report; 2 b\.report"):
        unwrap(blob)
    assert bytes(unwrap(blob, "2").body.data) == second
    assert bytes(unwrap(blob, "a.report").body.data) == first
    with pytest.raises(ConfigError, match="'c' is not a piece of evidence"):
        unwrap(blob, "c")


# --- dstack's attestations ---------------------------------------------------------------------

EVENTS: Final[list[dict[str, Any]]] = [
    {"imr": 0, "event_type": 0x80000007, "digest": b"\1" * 48, "event": "", "event_payload": b""},
    {
        "imr": 3, "event_type": 0x08000001, "event": "app-id", "event_payload": b"\x42",
        "digest": sha384(b"\x01\0\0\x08:app-id:\x42").digest(),
    },
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "how"),
    [
        (dstack_0, ("dstack attestation",)),
        (dstack_1, ("dstack attestation", "MessagePack")),
        (partial(dstack_1, numbers=False), ("dstack attestation", "MessagePack")),
    ],
)
@pytest.mark.parametrize("in_hex", [True, False])
def test_an_attestation_of_dstack_has_a_quote_and_a_log(
    make: Any, how: tuple[str, ...], in_hex: bool, tmp_path: Path
) -> None:
    """The registers are SHA-384 over 48 zero bytes and the digest of the only event (PFP 1.06)."""
    registers = [sha384(bytes(48) + one["digest"]).digest() for one in EVENTS]
    chain = intel()
    quote = td_quote(chain, rtmr0=registers[0], rtmr3=registers[1])
    data = make(quote, EVENTS)
    (tmp_path / "a").write_bytes(data.hex().encode() if in_hex else data)
    found = evidence.read(Blob("a", memoryview((tmp_path / "a").read_bytes())))
    assert bytes(found.source.body.data) == quote
    assert found.source.how == (("hex",) if in_hex else ()) + how
    told = run("verify", str(tmp_path / "a"), "--pin", chain[-1].pin, "--format", "json")
    status = {one["name"]: one["status"] for one in json.loads(told.out)["lines"]}
    assert {status[f"rtmr{n}"] for n in range(4)} == {"ok"}
    for end in range(0, len(data), 97):
        with suppress(CvmplanError):
            evidence.read(Blob("a", memoryview(data[:end])))


def test_a_log_that_json_has_as_objects_is_read(tmp_path: Path) -> None:
    shown = [{n: v.hex() if isinstance(v, bytes) else v for n, v in one.items()} for one in EVENTS]
    quote = td_quote(intel(), rtmr0=sha384(bytes(48) + b"\1" * 48).digest())
    (tmp_path / "a").write_text(json.dumps({"quote": quote.hex(), "event_log": shown}))
    told = run("verify", str(tmp_path / "a"), "--format", "json")
    status = {one["name"]: one["status"] for one in json.loads(told.out)["lines"]}
    assert (status["rtmr0"], status["rtmr3"]) == ("ok", "differs")


@pytest.mark.parametrize("data", [b"\x83\xa7version", b"\x81\xa7version\x01" + b"\xc1" * 9])
def test_messagepack_that_is_none_is_one_line(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(data)
    told = run("verify", str(tmp_path / "a"))
    assert told.code in (3, 4)
    assert told.err.startswith("error: ")


def test_an_event_whose_payload_is_a_map_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(
        dstack_1(td_quote(intel()), [{**EVENTS[0], "event_payload": {"a": b"b"}}])
    )
    told = run("verify", str(tmp_path / "a"))
    assert told.code in (1, 3)
    assert "Traceback" not in told.err


# --- what stands beside takes nothing away -------------------------------------------------------


def judged_json(document: Any, tmp_path: Path, pin: str, *more: str) -> tuple[int, dict[str, str]]:
    (tmp_path / "d").write_text(json.dumps(document))
    told = run("verify", str(tmp_path / "d"), "--pin", pin, "--format", "json", *more)
    return told.code, {one["name"]: one["status"] for one in json.loads(told.out)["lines"]}


@pytest.mark.parametrize("order", ["before", "after", "below"])
def test_a_report_beside_an_hcl_report_is_held_against_it_too(order: str, tmp_path: Path) -> None:
    """The relying party reads the vTPM's keys from the HCL report (Microsoft, vTPM of a CVM)."""
    chain = amd()
    report = snp_report(chain[0])
    raw, bound = (b64encode(one).decode() for one in (report, hcl(report, 2, b'{"keys":[]}')))
    beside: dict[str, Any] = {"report": raw, "hcl_report": bound}
    if order == "after":
        beside = {"hcl_report": bound, "report": raw}
    elif order == "below":
        with_certs = {"report": raw, "certs": [b64encode(one.der).decode() for one in chain]}
        beside = {"hcl_report": bound, "x": with_certs}
    for one in chain:
        (tmp_path / one.name).write_bytes(one.pem)
    certs = [word for one in chain for word in ("--certs", str(tmp_path / one.name))]
    code, status = judged_json(beside, tmp_path, chain[-1].pin, *certs)
    assert (code, status["runtime_data"]) == (1, "differs")


def test_the_log_of_a_quote_counts_where_the_quote_stands_twice(tmp_path: Path) -> None:
    chain = intel()
    quote = td_quote(chain).hex()
    log = json.dumps([{n: v.hex() if isinstance(v, bytes) else v for n, v in EVENTS[1].items()}])
    document = {"a": {"quote": quote}, "b": {"quote": quote, "event_log": log}}
    code, status = judged_json(document, tmp_path, chain[-1].pin)
    assert (code, status["rtmr3"]) == (1, "differs")


def test_azures_quote_is_held_against_the_hcl_report_beside_it(tmp_path: Path) -> None:
    """Trustee, verifier/src/az_tdx_vtpm/mod.rs: the quote's REPORTDATA is of its runtime data."""
    chain = intel()
    quote, bound = td_quote(chain), hcl(td_report(), 4, b'{"keys":[]}')
    document = {"td_quote": b64encode(quote).decode(), "hcl_report": b64encode(bound).decode()}
    code, status = judged_json(document, tmp_path, chain[-1].pin)
    assert (code, status["runtime_data"]) == (1, "differs")
    document["hcl_report"] = b64encode(bound + b"x").decode()  # others read it all the same
    for form in (document, {"td_quote": document["td_quote"], "evidence": json.dumps(document)}):
        (tmp_path / "d").write_text(json.dumps(form))
        assert run("verify", str(tmp_path / "d"), "--pin", chain[-1].pin).code == 3


def test_evidence_that_is_two_things_is_asked_about(tmp_path: Path) -> None:
    report = snp_report(amd()[0])
    one, two = (b64encode(hcl(report, 2, told)).decode() for told in (b"{}", b'{"keys":[]}'))
    (tmp_path / "d").write_text(json.dumps({"hcl_report": one, "x": {"hcl_report": two}}))
    told = run("verify", str(tmp_path / "d"))
    assert (told.code, "2 pieces of evidence" in told.err) == (2, True)


def test_two_logs_of_one_quote_are_asked_about(tmp_path: Path) -> None:
    chain = intel()
    document = {"quote": td_quote(chain).hex(), "cc_eventlog": "[]", "event_log": "[ ]"}
    (tmp_path / "d").write_text(json.dumps(document))
    assert run("verify", str(tmp_path / "d"), "--pin", chain[-1].pin).code == 3
