"""Reports, quotes and TDREPORTs: read, out of their wrappers, and held against a plan."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from base64 import b64decode, b64encode, encodebytes, urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509

from cvmplan import documents
from cvmplan.core.blob import Blob
from cvmplan.core.errors import CvmplanError
from cvmplan.evidence import evidence
from cvmplan.evidence.anchors import PINNED
from cvmplan.platforms.snp.report import AttestationReport
from cvmplan.platforms.tdx.enclave import EnclaveReport
from cvmplan.platforms.tdx.quote import Body, BodyTail, Header, ReportMac, TcbInfo, TdInfo
from tests.build import evidence as build
from tests.build.evidence import Signer, amd, intel, snp_report, td_quote, td_report
from tests.oracles import shared
from tests.run import assert_refused, run

AT: Final = "2026-01-01"
FIELDS: Final = {
    "mrseam": b"\1" * 48, "td_attributes": struct.pack("<Q", 0x10000000),
    "xfam": struct.pack("<Q", 0x61AE7), "mrconfigid": b"\2" * 48, "mrowner": b"\3" * 48,
    "mrownerconfig": b"\4" * 48, "rtmr0": b"\5" * 48, "rtmr1": b"\6" * 48, "rtmr2": b"\7" * 48,
    "rtmr3": b"\x08" * 48, "report_data": b"\x09" * 64,
}  # fmt: skip
GIVEN: Final = {
    "snp": (), "tdx": ("--attributes", "0x10000000", "--xfam", "0x61ae7", "--mrconfigid", "02" * 48,
                       "--mrowner", "03" * 48, "--mrownerconfig", "04" * 48),
}  # fmt: skip


def digest(platform: str) -> bytes:
    return bytes.fromhex(run("measure", "--example", platform, "--bare").out)


def read(data: bytes, **more: Any) -> evidence.Evidence:
    return evidence.read(Blob("evidence", memoryview(data)), **more)


def report(chain: list[Signer], version: int = 2, **more: Any) -> bytes:
    return snp_report(chain[0], version, **{"measurement": digest("snp"), **more})


def quote(chain: list[Signer], version: int = 4, body: int = 2, **changed: Any) -> bytes:
    return td_quote(chain, version, body, **{**FIELDS, "mrtd": digest("tdx"), **changed})


def verify(
    folder: Path, data: bytes, *more: str, chain: list[Signer] | None = None, **own: Any
) -> Any:
    """What `verify` says of evidence under the example's plan; the document, or the refusal."""
    (folder / "evidence").write_bytes(data)
    platform = own.get("platform", "snp")
    args = [str(folder / "evidence"), "--example", platform, *GIVEN[platform]]
    args += [] if "--at" in more else ["--at", AT]
    for number, one in enumerate(chain or ()):
        (folder / f"{number}.pem").write_bytes(one.pem if number % 2 else one.der)
        args += ["--certs", str(folder / f"{number}.pem")]
    if "pin" in own:
        args += ["--pin", own["pin"]]
    return run("verify", *args, *more, "--format", "json")


def statuses(result: Any) -> dict[str, str]:
    """The status of each line; the exit code says whether one differs, or nothing was signed."""
    assert result.err == "", result.err
    document = json.loads(result.out)
    documents.model("verification").model_validate_json(result.out)
    found = {line["name"]: line["status"] for line in document["lines"]}
    assert result.code == any(status in found.values() for status in ("differs", "unsigned"))
    assert document["holds"] is not bool(result.code)
    return found


def differing(result: Any) -> set[str]:
    return {name for name, status in statuses(result).items() if status == "differs"}


# --- reading -----------------------------------------------------------------------------------


def test_the_records_are_as_long_as_their_specifications_say() -> None:
    records = (
        AttestationReport, Header, Body, BodyTail, ReportMac, TcbInfo, TdInfo, EnclaveReport,
    )  # fmt: skip
    assert [r.LAYOUT.size for r in records] == [1184, 48, 584, 64, 256, 256, 512, 384]


def real_quote() -> tuple[bytes, Any]:
    answers = json.loads(shared("vectors/tdx/vectors.json").read_text())
    answer = next(a for a in answers if a["name"].startswith("quote fields "))
    return shared(f"vectors/tdx/{answer['inputs']['quote']}").read_bytes(), answer


def test_a_quote_of_hardware_has_the_fields_of_its_vector() -> None:
    data, answer = real_quote()
    found = read(data, trailing=True)
    told = answer["inputs"]
    assert found.td is not None
    assert found.digest.hex() == answer["expected_hex"]
    assert struct.pack("<Q", found.td.attributes).hex() == told["td_attributes"]
    assert struct.pack("<Q", found.td.xfam).hex() == told["xfam"]
    for name in ("mrconfigid", "mrowner", "mrownerconfig"):
        assert getattr(found.td, name).hex() == told[name]
    assert [r.hex() for r in found.td.rtmrs] == [told[f"rtmr{n}"] for n in range(4)]


def test_a_quote_of_hardware_is_signed_up_to_the_pinned_root(tmp_path: Path) -> None:
    data, _ = real_quote()
    more = ("--ignore-trailing",)
    found = statuses(verify(tmp_path, data, *more, platform="tdx"))
    signed = ("signature", "attestation_key", "qe_report", "certificate_chain")
    assert [found[name] for name in signed] == ["ok"] * 4
    assert found["mrtd"] == "differs"
    at = {"2020-01-01": "differs", "2030-01-01": "differs", "2029-01-01": "ok"}
    for time, status in at.items():
        again = verify(tmp_path, data, *more, "--at", time, platform="tdx")
        assert statuses(again)["certificate_chain"] == status
    for place in (60, 48 + 136, 636, 636 + 70, 636 + 140, 636 + 128 + 6 + 384, 636 + 600):
        spoiled = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert differing(verify(tmp_path, spoiled, *more, platform="tdx")) - {"mrtd"}, place


def test_bytes_behind_a_quote_are_refused(tmp_path: Path) -> None:
    for more in (b"\1", bytes(70) + b"\1"):
        assert_refused(verify(tmp_path, quote(intel()) + more, platform="tdx"), {3})


@pytest.mark.parametrize("version", [4, 5])
def test_zeros_behind_a_quote_are_counted(version: int) -> None:
    data = td_quote(intel(), version)
    assert read(data).notes == ()
    assert read(data + bytes(1)).notes == ("zero bytes after the quote: 1",)
    assert read(data + bytes(70)).notes == ("zero bytes after the quote: 70",)
    assert read(data + bytes(70)).digest == read(data).digest


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6, 15])
def test_a_report_of_each_version_is_read(version: int) -> None:
    found = read(snp_report(amd()[0], version, measurement=b"\1" * 48))
    assert found.digest == b"\1" * 48
    assert bool(found.notes) is (version > 5), "a later version of the same size is read, and said"


def in_json(**members: object) -> bytes:
    return json.dumps(members).encode()


WRAPPED: Final[dict[str, Callable[[bytes], bytes]]] = {
    "raw": lambda data: data,
    "hex": lambda data: data.hex().encode(),
    "0x": lambda data: b"0x" + data.hex().encode() + b"\n",
    "base64": b64encode,
    "base64 in lines": encodebytes,
    "base64url": lambda data: urlsafe_b64encode(data).rstrip(b"="),
    "base64 twice": lambda data: b64encode(b64encode(data)),
    "a quote in JSON": lambda data: in_json(quote=b64encode(data).decode(), cc_eventlog=None),
    "dstack": lambda data: in_json(quote=data.hex(), report_data="", vm_config="{}"),
    "a list of numbers": lambda data: in_json(td_quote=list(data), other=[1, 2]),
    "nested": lambda data: in_json(primary_evidence={"quote": b64encode(data).decode()}),
    "nested text": lambda data: in_json(evidence=in_json(quote=data.hex()).decode()),
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("kind", ["report", "quote", "tdreport"])
def test_evidence_is_the_same_out_of_every_wrapper(kind: str, wrapper: str) -> None:
    data = {
        "report": lambda: snp_report(amd()[0], 3, measurement=b"\x11" * 48),
        "quote": lambda: td_quote(intel(), mrtd=b"\x12" * 48),
        "tdreport": lambda: td_report(mrtd=b"\x13" * 48),
    }[kind]()
    found = read(WRAPPED[wrapper](data))
    assert bytes(found.source.body.data) == data
    assert found.digest == {"report": b"\x11", "quote": b"\x12", "tdreport": b"\x13"}[kind] * 48


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("version", [2, 3])
def test_a_report_that_was_taken_apart_is_whole_again(version: int, older: bool) -> None:
    at = {0x1E8: b"\1\2\3\0\4\5\6", 0x38: b"\1\2\0\0\0\0\3\4", 0x1A0: bytes(range(64))}
    if version == 3 and older:
        return  # the older form has no processor
    chain = amd()
    data = snp_report(chain[0], version, measurement=b"\x11" * 48, at=at)
    found = read(build.trustee_snp(data, chain, older=older))
    assert bytes(found.source.body.data) == data
    assert {bytes(c.data) for c in found.source.certificates} == {one.der for one in chain}


# virtee/sev, src/firmware/guest/types/snp.rs, tests: a report of Genoa as serde writes it.
PUBLISHED: Final = {
    "version": 3, "guest_svn": 0, "policy": 0x30000, "family_id": "00" * 16, "image_id": "00" * 16,
    "vmpl": 1, "sig_algo": 1, "plat_info": 5, "key_info": 0,
    "report_data": "003cdd1a40cfbe4ce16924e66c9335216d7e719cdcd8b9d7afff25c8e5686938be" + "00" * 31,
    "measurement": "85da279ace864a969e3bbfdcaab67ff3017402b7d22ba241529b1d4a79b9a694"
    "2b89d4e6da6747c801e272683255ae4b",
    "host_data": "00" * 32, "id_key_digest": "00" * 48, "author_key_digest": "00" * 48,
    "report_id": "00" * 32, "report_id_ma": "ff" * 32, "chip_id": "00" * 64,
    "cpuid_fam_id": 25, "cpuid_mod_id": 17, "cpuid_step": 1,
    "current": {"major": 1, "minor": 55, "build": 39},
    "committed": {"major": 1, "minor": 55, "build": 39},
    **{
        name: {"fmc": None, "bootloader": 9, "tee": 0, "snp": 23, "microcode": 72}
        for name in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")
    },
    "signature": {"r": "00" * 72, "s": "00" * 72},
}  # fmt: skip


def test_a_published_report_in_hex_is_read() -> None:
    found = read(in_json(attestation_report=PUBLISHED))
    assert found.report is not None
    assert (found.report.version, found.report.vmpl) == (3, 1)
    assert found.report.tcb == {"bootloader": 9, "tee": 0, "snp": 23, "microcode": 72}
    assert found.report.reported_tcb == 0x4817000000000009
    assert found.cpu_signature == 0x00A10F11
    assert found.digest.hex() == PUBLISHED["measurement"]


SPOILED: Final[dict[str, object]] = {
    "unknown field": PUBLISHED | {"colour": 1},
    "too large": PUBLISHED | {"version": 1 << 32},
    "short": PUBLISHED | {"measurement": "00"},
    "no number": PUBLISHED | {"vmpl": "1"},
    "no bytes": PUBLISHED | {"host_data": [256]},
    "no TCB": PUBLISHED | {"current_tcb": 1},
    "reserved": PUBLISHED | {"_reserved_1": [1]},
    "no signature": {n: v for n, v in PUBLISHED.items() if n != "launch_tcb"},
    "half a signature": PUBLISHED | {"signature": {"r": "00" * 72}},
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_report_that_cannot_be_put_together_is_refused(name: str, tmp_path: Path) -> None:
    assert_refused(verify(tmp_path, in_json(attestation_report=SPOILED[name])), {3, 4})


def nested(data: bytes) -> bytes:
    """Base64 of base64, eight times."""
    for _ in range(8):
        data = b64encode(data)
    return data


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0", b"{}", b"{", b"[]", b"null", b'{"quote": 1}', b'{"quote": ""}',
        b'{"quote": "zz"}', b'{"report": [1, 2, 300]}', b'{"evidence": ' * 9 + b"1" + b"}" * 9,
        b"HCLA", b"HCLA" + bytes(2596), b'{"quote": "00", "quote": "01"}', b"00" * 1183,
        bytes(1184), b"\x05" + bytes(1183), nested(b"x"), b'{"attestation_report": {}}',
        b'{"cert_chain": []}', "\ud800".encode("utf-8", "surrogatepass"),
    ],
)  # fmt: skip
def test_what_is_no_evidence_is_refused(data: bytes, tmp_path: Path) -> None:
    assert_refused(verify(tmp_path, data), {3, 4})


def test_every_truncation_is_refused() -> None:
    for whole in (
        snp_report(amd()[0], 2),
        td_quote(intel()),
        td_report(),
        build.hcl(snp_report(None), 2),
    ):
        ends = (
            range(len(whole)) if len(whole) < 1500 else (*range(1400), *range(1400, len(whole), 7))
        )
        for end in ends:
            if whole[:4] == b"HCLA" and end >= 1184 + 32 + 20 + 11:
                continue  # zeros behind its parts are no part of it
            with pytest.raises(CvmplanError):
                read(whole[:end])


def test_flipped_bits_never_end_in_a_traceback() -> None:
    for whole in (
        td_quote(intel()),
        build.hcl(td_report(), 4),
        in_json(attestation_report=PUBLISHED),
    ):
        for at in range(0, len(whole), 3):
            spoiled = whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]
            with suppress(CvmplanError):
                assert read(spoiled).digest


def with_byte(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


REFUSED: Final[dict[str, tuple[Callable[[], bytes], int]]] = {
    **{f"report version {n}": (lambda n=n: snp_report(None, n), 4) for n in (0, 1, 16, 1 << 31)},  # type: ignore[misc]  # bound
    "report algorithm 0": (lambda: snp_report(None, 2, at={0x34: bytes(4)}), 4),
    "report algorithm 2": (lambda: snp_report(None, 2, at={0x34: b"\2"}), 4),
    "reserved signer": (lambda: snp_report(None, 2, at={0x48: b"\x08"}), 4),
    "reserved bits": (lambda: snp_report(None, 2, at={0x48: b"\x20"}), 3),
    "quote version 3": (lambda: b"\3" + td_quote(intel())[1:], 4),
    "attestation key of type 3": (lambda: with_byte(td_quote(intel()), 2, 3), 4),
    "body of type 1": (lambda: with_byte(td_quote(intel(), 5), 48, 1), 3),
    "certification of type 7": (lambda: with_byte(td_quote(intel()), 764, 7), 4),
    "TDREPORT version 2": (lambda: td_report()[:2] + b"\2" + td_report()[3:], 4),
    "TDREPORT reserved": (lambda: td_report()[:10] + b"\2" + td_report()[11:], 3),
    "HCL version 3": (lambda: build.hcl(snp_report(None), 2).replace(b"HCLA\2", b"HCLA\3"), 4),
    "HCL of type 3": (lambda: build.hcl(snp_report(None), 3), 4),
    "HCL with more": (lambda: build.hcl(snp_report(None), 2)[:-1] + b"\1", 3),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_unknown_is_accepted(name: str, tmp_path: Path) -> None:
    make, code = REFUSED[name]
    assert_refused(verify(tmp_path, make()), {code})


# --- held against a plan -----------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3, 5])
@pytest.mark.parametrize("leaf", ["VCEK", "VLEK"])
def test_a_report_that_fits_holds(version: int, leaf: str, tmp_path: Path) -> None:
    chain = amd(leaf)
    at = {0x48: b"\x04"} if leaf == "VLEK" else {}
    data = report(chain, version, at=at)
    found = statuses(verify(tmp_path, data, chain=chain, pin=chain[-1].pin))
    names = ("signature", "certificate_chain", "signers_certificate", "measurement", "policy")
    assert [found[name] for name in names] == ["ok"] * 5
    assert found["host_data"] == found["id_key_digest"] == "not in plan"
    assert differing(verify(tmp_path, data, chain=chain[:2], pin=chain[1].pin)) == set()


@pytest.mark.parametrize(("version", "body"), [(4, 2), (5, 2), (5, 3)])
def test_a_quote_that_fits_holds(version: int, body: int, tmp_path: Path) -> None:
    chain = intel()
    more: dict[str, Any] = {"mrservicetd": b"\x0a" * 48} if body == 3 else {}
    asked = ["--mrseam", "01" * 48, "--report-data", "09" * 64]
    asked += ["--mrservicetd", "0a" * 48] if body == 3 else []
    result = verify(
        tmp_path, quote(chain, version, body, **more), *asked, platform="tdx", pin=chain[-1].pin
    )
    found = statuses(result)
    named = {"mrtd", "attributes", "xfam", "mrconfigid", "mrowner", "mrownerconfig", "signature"}
    named |= {"mrseam", "report_data", *(("mrservicetd",) if body == 3 else ())}
    assert {found[name] for name in named} == {"ok"}
    assert set(found.values()) == {"ok", "not in plan"}
    assert {found[f"rtmr{n}"] for n in range(4)} == {"not in plan"}


def test_without_certificates_nothing_is_proved(tmp_path: Path) -> None:
    found = statuses(verify(tmp_path, snp_report(None, 2, measurement=digest("snp"))))
    assert found["signature"] == "unsigned"
    assert "certificate_chain" not in found
    args = ("verify", str(tmp_path / "evidence"), "--example", "snp")
    told = run(*args)
    assert told.code == 1
    assert "not checked: the signature; revocation" in told.out
    assert "unsigned: nothing shows that hardware wrote this" in told.out
    accepted = run(*args, "--no-signature", "--format", "json")
    assert accepted.code == 0
    said = json.loads(accepted.out)
    assert (said["verdict"], said["holds"]) == ("unsigned", True)


def test_a_throw_away_chain_ends_at_no_pinned_key(tmp_path: Path) -> None:
    chain = amd()
    assert differing(verify(tmp_path, report(chain), chain=chain)) == {"certificate_chain"}
    assert differing(verify(tmp_path, quote(intel()), platform="tdx")) == {"certificate_chain"}


def test_the_pinned_keys_are_those_of_the_vendors() -> None:
    lines = shared("spec/evidence.md").read_text().splitlines()
    rows = [
        [c.strip() for c in line.split("|")[1:-1]]
        for line in lines
        if line.startswith("| A") or "Intel" in line
    ]
    told = {row[2]: row[0] for row in rows if len(row) == 3}
    ours = {**PINNED["report"], **PINNED["quote"]}
    assert set(ours) == set(told)
    assert all(ours[pin].startswith(name) for pin, name in told.items())


def spoiled_fields(platform: str) -> dict[str, tuple[int, str]]:
    """Where a field stands, and the line that names it."""
    if platform == "snp":
        return {
            "guest_svn": (0x4, "7"), "policy": (0x8, "0x30000"), "family_id": (0x10, ""),
            "image_id": (0x20, ""), "vmpl": (0x30, ""), "report_data": (0x50, ""),
            "measurement": (0x90, ""), "host_data": (0xC0, ""), "id_key_digest": (0xE0, ""),
            "author_key_digest": (0x110, ""),
        }  # fmt: skip
    at = {
        n: (48 + o, "") for n, o in build.BODY.items() if n not in ("mrservicetd", "td_attributes")
    }
    return {n: v for n, v in at.items() if not n.startswith("rtmr")} | {
        "attributes": (48 + 123, "")
    }


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, list[str]]:
    """An ID block of the example with its keys, as files have them, and as options."""
    folder = tmp_path_factory.mktemp("identity")
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    for name in ("id", "author"):
        key = ec.generate_private_key(ec.SECP384R1())
        pem = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
        (folder / name).write_bytes(pem)
    files = ["--id-key", str(folder / "id"), "--author-key", str(folder / "author")]
    ids = ["--family-id", "0f" * 16, "--image-id", "a5" * 16, "--guest-svn", "7", "-o", str(folder)]
    assert run("idblock", "--example", "snp", *files, *ids).code == 0
    block, auth = ((folder / f"id-{n}.bin").read_bytes() for n in ("block", "auth"))
    options = ["--id-block", block.hex(), "--id-auth", auth.hex(), "--author-key-enabled"]
    return block, auth, [*options, "--host-data", "0c" * 32]


def test_each_field_of_a_report_that_is_planned_is_compared(
    tmp_path: Path, identity: tuple[bytes, bytes, list[str]]
) -> None:
    from hashlib import sha384

    chain = amd()
    block, auth, options = identity
    digests = [sha384(auth[at : at + 0x404]).digest() for at in (0x240, 0x880)]
    at = {
        0x4: struct.pack("<I", 7), 0x10: block[48:80], 0x50: b"\x0d" * 64, 0xC0: b"\x0c" * 32,
        0xE0: digests[0], 0x110: digests[1], 0x30: b"\2",
    }  # fmt: skip
    more = [*options, "--vmpl", "2", "--report-data", "0d" * 64, "--policy", "0x30000"]
    whole = report(chain, at=at)
    right = statuses(verify(tmp_path, whole, *more, chain=chain, pin=chain[-1].pin))
    for name, (offset, _) in spoiled_fields("snp").items():
        assert right[name] == "ok"
        changed = {**at, offset: bytes([whole[offset] ^ 1]) + whole[offset + 1 : offset + 4]}
        measured = bytearray(digest("snp"))
        if name == "measurement":
            del changed[offset]
            measured[0] ^= 1
        if offset in at:
            changed[offset] = bytes([at[offset][0] ^ 1]) + at[offset][1:]
        if name == "image_id":
            changed = {**at, 0x10: at[0x10][:16] + bytes([at[0x10][16] ^ 1]) + at[0x10][17:]}
        data = snp_report(chain[0], 2, measurement=bytes(measured), at=changed)
        assert differing(verify(tmp_path, data, *more, chain=chain, pin=chain[-1].pin)) == {name}


def test_each_field_of_a_quote_that_is_planned_is_compared(tmp_path: Path) -> None:
    chain = intel()
    more = ["--mrseam", "01" * 48, "--report-data", "09" * 64]
    for name in ("mrseam", "xfam", "mrtd", "mrconfigid", "mrowner", "mrownerconfig", "report_data"):
        value = bytearray({**FIELDS, "mrtd": digest("tdx")}[name])
        value[3] ^= 4
        changed: dict[str, Any] = {name: bytes(value)}
        data = quote(chain, **changed)
        assert differing(verify(tmp_path, data, *more, platform="tdx", pin=chain[-1].pin)) == {name}
    for mask, lines in ((0x10000001, {"debug", "attributes"}), (0x30000000, {"attributes"})):
        data = quote(chain, td_attributes=struct.pack("<Q", mask))
        assert differing(verify(tmp_path, data, *more, platform="tdx", pin=chain[-1].pin)) == lines


def test_a_debugged_td_differs_where_the_plan_says_nothing(tmp_path: Path) -> None:
    chain = intel()
    (tmp_path / "q").write_bytes(quote(chain, td_attributes=struct.pack("<Q", 1)))
    args = (str(tmp_path / "q"), "--example", "tdx", "--at", AT, "--pin", chain[-1].pin)
    assert differing(run("verify", *args, "--format", "json")) == {"debug"}


def test_a_tdreport_has_the_hashes_of_its_parts(tmp_path: Path) -> None:
    fields = {"attributes": FIELDS["td_attributes"], "xfam": FIELDS["xfam"], "mrtd": digest("tdx")}
    (tmp_path / "r").write_bytes(td_report(**fields))
    found = run("verify", str(tmp_path / "r"), "--example", "tdx", "--format", "json")
    assert statuses(found)["tee_info_hash"] == "ok"
    assert statuses(found)["signature"] == "unsigned"
    for at, line in ((300, "tee_tcb_info_hash"), (512 + 210, "tee_info_hash")):
        data = bytearray(td_report(**fields))
        data[at] ^= 1
        (tmp_path / "r").write_bytes(data)
        again = run("verify", str(tmp_path / "r"), "--example", "tdx", "--format", "json")
        assert differing(again) == {line}


def test_a_report_in_azures_wrapper_is_bound_to_its_claims(tmp_path: Path) -> None:
    chain, claims = amd(), b'{"keys": [{"kid": "HCLAkPub"}]}'
    data = report(chain, at={0x50: sha256(claims).digest()})
    right = build.hcl(data, 2, claims)
    assert statuses(verify(tmp_path, right, chain=chain, pin=chain[-1].pin))["runtime_data"] == "ok"
    wrong = build.hcl(data, 2, claims.replace(b"Ak", b"ak"))
    found = differing(verify(tmp_path, wrong, chain=chain, pin=chain[-1].pin))
    assert found == {"runtime_data"}


def test_certificates_that_come_with_a_report_are_used(tmp_path: Path) -> None:
    chain = amd()
    data = build.trustee_snp(report(chain), chain)
    assert statuses(verify(tmp_path, data, pin=chain[-1].pin))["certificate_chain"] == "ok"
    alone = build.trustee_snp(report(chain), chain[:1])
    assert differing(verify(tmp_path, alone, pin=chain[-1].pin)) == {"certificate_chain"}
    found = statuses(verify(tmp_path, alone, chain=chain[1:], pin=chain[-1].pin))
    assert found["certificate_chain"] == "ok"


# --- signatures and chains ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "at", [*range(0x2A0, 0x2A0 + 48, 6), *range(0x2E8, 0x2E8 + 48, 6), 0x330 - 1]
)
def test_a_flipped_bit_of_a_reports_signature_is_seen(at: int, tmp_path: Path) -> None:
    chain = amd()
    data = bytearray(report(chain))
    data[at] ^= 1 << at % 8
    assert differing(verify(tmp_path, bytes(data), chain=chain, pin=chain[-1].pin)) == {"signature"}


@pytest.mark.parametrize(
    ("at", "line"),
    [(636, "signature"), (668, "signature"), (770 + 384, "qe_report"), (770 + 447, "qe_report"),
     (770 + 322, "attestation_key"), (770 + 450, "attestation_key"), (700, "attestation_key")],
)  # fmt: skip
def test_a_flipped_bit_of_a_quotes_signatures_is_seen(at: int, line: str, tmp_path: Path) -> None:
    chain = intel()
    data = bytearray(quote(chain))
    data[at] ^= 1
    assert line in differing(verify(tmp_path, bytes(data), platform="tdx", pin=chain[-1].pin))


def test_a_report_that_nobody_signed_fails(tmp_path: Path) -> None:
    data = snp_report(None, 2, measurement=digest("snp"), at={0x48: b"\x1c"})
    found = statuses(verify(tmp_path, data))
    assert (found["signature"], "differs" in found.values()) == ("unsigned", False)


def flipped(one: Signer, at: int) -> Signer:
    der = one.der[:at] + bytes([one.der[at] ^ 1]) + one.der[at + 1 :]
    return Signer(one.name, one.key, der)


def other(position: int, make: Callable[[], Signer]) -> Callable[[], list[Signer]]:
    def chain() -> list[Signer]:
        return [make() if n == position else one for n, one in enumerate(amd())]

    return chain


def ask_with(**changed: Any) -> list[Signer]:
    """A chain whose ASK is otherwise."""
    ark = amd()[2]
    ask = build.certify("SEV-Milan", "RSA", ark, **{"place": True, **changed})
    said = [build.of_amd(*one) for one in build.claims().items()]
    leaf = build.certify("SEV-VCEK", "P-384", ask, ca=False, serial=0, place=True, extensions=said)
    return [leaf, ask, ark]


LATE: Final = datetime(2025, 1, 1, tzinfo=UTC)
WRONG: Final[dict[str, Callable[[], list[Signer]]]] = {
    "without the ASK": lambda: [amd()[0], amd()[2]],
    "expired signer": lambda: amd(end=LATE),
    "signer that is not yet valid": lambda: amd(begin=datetime(2027, 1, 1, tzinfo=UTC)),
    "expired ASK": lambda: ask_with(end=LATE),
    "ASK that is no CA": lambda: ask_with(ca=False),
    "ASK with serial number 0": lambda: ask_with(serial=0),
    "ASK that may not sign": lambda: ask_with(
        extensions=[(x509.KeyUsage(True, *[False] * 8), True)]
    ),
    "critical extension": lambda: amd(
        extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)]
    ),
    "chain that is too long": lambda: [
        build.certify("SEV-VCEK", "P-384", build.certify("between", "RSA", amd()[1]), ca=False),
        build.certify("between", "RSA", amd()[1]), *amd()[1:],
    ],
    **{f"signature of certificate {n}": (lambda n=n: other(n, lambda: flipped(amd()[n], -9))())  # type: ignore[misc]  # bound
       for n in range(3)},
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_chain_that_is_wrong_fails(name: str, tmp_path: Path) -> None:
    chain = WRONG[name]()
    data = report(chain)
    result = verify(tmp_path, data, chain=chain, pin=amd()[-1].pin)
    names = {"certificates_names", "certificates_fields", "product", "signers_issuer"}
    names |= {line for line in differing(result) if line.endswith("_spl")}
    of_others = names if name in ("chain that is too long", "critical extension") else set()
    assert differing(result) - of_others - {"signers_issuer"} == {"certificate_chain"}, result.out


def test_a_signer_on_another_curve_fails(tmp_path: Path) -> None:
    chain = amd(kind="P-256")
    data = snp_report(amd()[0], 2, measurement=digest("snp"))
    found = differing(verify(tmp_path, data, chain=chain, pin=chain[-1].pin))
    assert found == {"signature", "certificate_chain"}
    wrong = intel(kind="P-384")
    body = quote(intel())
    found = differing(verify(tmp_path, body, chain=wrong, platform="tdx", pin=wrong[-1].pin))
    assert found == {"qe_report", "certificate_chain"}


def test_a_vlek_report_wants_a_vlek_certificate(tmp_path: Path) -> None:
    chain = amd()
    data = report(chain, at={0x48: b"\x04"})
    found = differing(verify(tmp_path, data, chain=chain, pin=chain[-1].pin))
    assert found >= {"signers_certificate", "signers_issuer", "certificates_fields"}


def test_what_the_certificate_says_of_the_chip_is_compared(tmp_path: Path) -> None:
    tcb = bytes([3, 0, 0, 0, 0, 0, 14, 115])
    chain = amd(said=build.claims(tcb=tcb, chip=b"\x42" * 64))
    at = {0x180: tcb, 0x1A0: b"\x42" * 64, 0x38: tcb, 0x1E0: tcb}
    right = verify(tmp_path, report(chain, at=at), chain=chain, pin=chain[-1].pin)
    assert sum(n.startswith("certificates_") for n in statuses(right)) == 8
    assert differing(right) == set()
    for place, line in ((0x180, "certificates_bootloader_spl"), (0x1A0, "certificates_chip_id")):
        data = report(chain, at={**at, place: bytes([1]) + at[place][1:]})
        assert differing(verify(tmp_path, data, chain=chain, pin=chain[-1].pin)) == {line}


@pytest.mark.parametrize(
    "data", [b"", b"x", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"]
)
def test_files_that_are_no_certificates_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(data)
    result = verify(tmp_path, report(amd()), "--certs", str(tmp_path / "c"))
    assert_refused(result, {3})


def test_a_certificate_of_an_unknown_version_is_refused(tmp_path: Path) -> None:
    chain = amd()
    der = chain[0].der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x06", 1)
    odd = [Signer("odd", chain[0].key, der), *chain[1:]]
    assert_refused(verify(tmp_path, report(chain), chain=odd), {3})


def test_every_truncation_of_a_certificate_is_refused(tmp_path: Path) -> None:
    chain = amd()
    data = report(chain)
    for end in range(0, len(chain[0].der), 37):
        short = Signer("short", chain[0].key, chain[0].der[:end])
        assert_refused(verify(tmp_path, data, chain=[short]), {3})


# --- the answer --------------------------------------------------------------------------------


def test_a_plan_does_as_well_as_an_image(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(run("plan", "--example", "snp", "--format", "json").out)
    (tmp_path / "r").write_bytes(snp_report(None, 2, measurement=digest("snp")))
    result = run("verify", str(tmp_path / "r"), "--plan", str(plan), "--no-signature")
    assert (result.code, result.err) == (0, "")
    assert "(accepted)" in result.out.splitlines()[-1]


def test_the_command_that_is_printed_finds_the_reason(tmp_path: Path) -> None:
    measured = run("measure", "--example", "snp", "--vcpus", "3", "--bare").out
    (tmp_path / "r").write_bytes(snp_report(None, 2, measurement=bytes.fromhex(measured)))
    result = run(
        "verify", str(tmp_path / "r"), "--example", "snp", "--cpu", "EPYC-v4", "--format", "json"
    )
    words = json.loads(result.out)["explain"]
    assert words[:2] == ["cvmplan", "explain"]
    assert "--vcpus 3" in run(*words[1:]).out
    text = run("verify", str(tmp_path / "r"), "--example", "snp")
    assert text.code == 1
    assert text.out.splitlines()[-1].startswith("  cvmplan explain ")


def test_evidence_of_another_platform_is_no_match(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(snp_report(None, 2))
    assert_refused(run("verify", str(tmp_path / "r"), "--example", "tdx", "--platform", "tdx"), {1})


@pytest.mark.parametrize(
    "args",
    [("--pin", "00"), ("--at", "soon"), ("--vmpl", "4"), ("--report-data", "00"), ("--mrseam", "x"),
     ("--plan", "p"), ("--event-log", "evidence"), ("--certs", "absent")],
)  # fmt: skip
def test_options_that_are_wrong_are_refused(args: tuple[str, ...], tmp_path: Path) -> None:
    assert_refused(verify(tmp_path, report(amd()), *args), {2, 3})


def test_an_event_log_is_replayed_into_the_registers(tmp_path: Path) -> None:
    from hashlib import sha384

    events = [(0, b"one"), (3, b"two"), (0, b"three")]
    registers = [bytes(48)] * 4
    for number, data in events:
        registers[number] = sha384(registers[number] + sha384(data).digest()).digest()
    log = [
        {
            "imr": n,
            "event_type": 13,
            "digest": sha384(d).hexdigest(),
            "event": "",
            "event_payload": d.hex(),
        }
        for n, d in events
    ]
    chain = intel()
    named: dict[str, Any] = {f"rtmr{n}": value for n, value in enumerate(registers)}
    data = in_json(quote=quote(chain, **named).hex(), event_log=json.dumps(log))
    result = verify(tmp_path, data, platform="tdx", pin=chain[-1].pin)
    found = statuses(result)
    assert [found[f"rtmr{n}"] for n in range(4)] == ["ok"] * 4
    assert len(json.loads(result.out)["events"]) == 3
    (tmp_path / "log").write_text(json.dumps(log[:-1]))
    again = verify(
        tmp_path,
        quote(chain, **named),
        "--event-log",
        str(tmp_path / "log"),
        platform="tdx",
        pin=chain[-1].pin,
    )
    assert differing(again) == {"rtmr0"}


def test_a_root_that_calls_its_issuer_otherwise_is_no_root(tmp_path: Path) -> None:
    data, _ = real_quote()
    pem = list(re.finditer(rb"-----BEGIN CERTIFICATE-----\n(.*?)\n-----END", data, re.DOTALL))[2]
    der = b64decode(pem[1])
    at = der.index(b"Intel SGX Root CA")
    lines = encodebytes(der[:at] + b"intel" + der[at + 5 :]).replace(b"\n", b"")
    width = pem[1].index(b"\n")
    text = b"\n".join(lines[n : n + width] for n in range(0, len(lines), width))
    spoiled = data[: pem.start(1)] + text + data[pem.end(1) :]
    assert len(spoiled) == len(data)
    result = verify(tmp_path, spoiled, "--ignore-trailing", platform="tdx")
    assert statuses(result)["certificate_chain"] == "differs"


def test_no_byte_of_what_is_signed_can_be_another(tmp_path: Path) -> None:
    chain, whole = amd(), report(amd(), 3)
    for at in range(0, 0x2A0, 11):
        spoiled = with_byte(whole, at, whole[at] ^ 1 << at % 8)
        assert verify(tmp_path, spoiled, chain=chain, pin=chain[-1].pin).code in (1, 3, 4)
    pck, signed = intel(), quote(intel())
    for at in range(0, signed.index(b"-----BEGIN"), 11):
        spoiled = with_byte(signed, at, signed[at] ^ 1 << at % 8)
        assert verify(tmp_path, spoiled, platform="tdx", pin=pck[-1].pin).code in (1, 3, 4)


@pytest.mark.parametrize(
    ("verb", "firmware"),
    [
        (["td-info"], "OVMF.inteltdx.ms.fd"),
        (["idblock", "--emit-tbs", "-"], "OVMF.amdsev.fd"),
    ],
)
def test_a_verb_of_one_platform_needs_not_be_told(verb: list[str], firmware: str) -> None:
    image = str(shared(f"firmware/{firmware}"))
    assert run("measure", image).code == 2
    tail = ["-o", "/dev/null"] if verb == ["td-info"] else []
    result = subprocess.run(
        [sys.executable, "-m", "cvmplan", verb[0], image, *verb[1:], *tail],
        capture_output=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, b"")


def test_bytes_behind_base64_are_refused(tmp_path: Path) -> None:
    text = b64encode(report(amd()))
    for more in (b"AAAAAAAA", b"=" + text[:40], b"=====", b"!"):
        assert_refused(verify(tmp_path, text + more), {3, 4})


def test_much_space_takes_no_time(tmp_path: Path) -> None:
    assert_refused(verify(tmp_path, b" " * (1 << 20) + b"!"), {4})


def test_a_guest_svn_of_129_makes_no_quote_of_a_report(tmp_path: Path) -> None:
    data = snp_report(None, 2, measurement=digest("snp"), at={4: b"\x81"})
    assert differing(verify(tmp_path, data)) == set()


def test_a_signer_that_is_no_pck_certificate_fails(tmp_path: Path) -> None:
    chain = intel()
    for wrong in (chain[2:], chain[1:]):
        found = differing(verify(tmp_path, quote(wrong), platform="tdx", pin=chain[-1].pin))
        assert found == {"certificate_chain", "signers_certificate", "pck_fmspc"}


@pytest.mark.parametrize(
    "args",
    [("--mrseam", "00" * 48), ("--pin", "00" * 32), ("--at", "0001-01-01T00:00:00+14:00")],
)
def test_what_would_be_ignored_is_refused(args: tuple[str, ...], tmp_path: Path) -> None:
    assert_refused(verify(tmp_path, report(amd()), *args), {2})


@pytest.mark.parametrize("name", ["mrsignerseam", "seam_attributes"])
def test_a_module_that_intel_did_not_sign_differs(name: str, tmp_path: Path) -> None:
    chain = intel()
    changed: dict[str, Any] = {name: b"\1"}
    result = verify(tmp_path, quote(chain, **changed), platform="tdx", pin=chain[-1].pin)
    assert differing(result) == {name}


@pytest.mark.parametrize(("leaf", "key_info"), [("VCEK", b"\0"), ("VLEK", b"\4")])
def test_a_signer_under_the_other_intermediate_fails(
    leaf: str, key_info: bytes, tmp_path: Path
) -> None:
    above = amd("VLEK" if leaf == "VCEK" else "VCEK")[1:]
    said = [build.of_amd(*one) for one in build.claims(leaf).items()]
    own: dict[str, Any] = {"ca": False, "serial": 0, "place": True, "extensions": said}
    chain = [build.certify(f"SEV-{leaf}", "P-384", above[0], **own), *above]
    data = report(chain, at={0x48: key_info})
    found = differing(verify(tmp_path, data, chain=chain, pin=chain[-1].pin))
    assert found == {"signers_issuer", "product"}
