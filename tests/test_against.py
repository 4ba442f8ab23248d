"""Reference values read back: every form, of this program and of others, in the set or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from cvmplan.core.blob import Blob
from cvmplan.core.errors import CvmplanError, MismatchError
from cvmplan.core.platform import SNP, TDX, VBS
from cvmplan.evidence import certificates
from cvmplan.reference.found import Found
from cvmplan.reference.read import read
from cvmplan.reference.targets import TARGETS
from tests.build.evidence import BEGIN, Signer, certify
from tests.build.evidence import END as LATE
from tests.forgeries import MEASUREMENT, Report
from tests.run import Result, run
from tests.test_forgeries import judged

EXAMPLES: Final = Path("../shared/consumers/examples")
AA, BB, CC = (bytes([n]) * 48 for n in (0xAA, 0xBB, 0xCC))


def found(path: Path, *anchors: Path) -> Found:
    if not path.exists():
        pytest.skip("../shared is absent")
    given = certificates.read_all(Blob(str(p), memoryview(p.read_bytes())) for p in anchors)
    return read(Blob(str(path), memoryview(path.read_bytes())), given.certificates)


def digests(told: Found, platform: Any = SNP) -> set[bytes]:
    return {one.digest for one in told.of(platform)}


# What the examples of others have, as their README and their own text say.
OTHERS: Final = {
    "rvps/snp.json": (SNP, 1), "rvps/tdx.json": (TDX, 1), "corim/profile-a-snp.cbor": (SNP, 1),
    "corim/profile-a-tdx.cbor": (TDX, 1), "corim/profile-a-vbs.cbor": (VBS, 1),
    "corim/signed-es384.cose": (SNP, 1), "corim/signed-ps384.cose": (SNP, 1),
    "corim/veraison-snp.cbor": (SNP, 1), "textproto/snp.textproto": (SNP, 1),
    "textproto/tdx.textproto": (TDX, 1), "contrast/reference-values.json": (SNP, 1),
    "contrast/snp-launch-digests.json": (SNP, 2), "azure/reference_info.json": (SNP, 1),
    "azure/reference_info.cose": (SNP, 1), "igvmfilegen/identity-snp.json": (SNP, 1),
    "gce/endorsement.binarypb": (SNP, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_the_forms_of_others_are_read(name: str) -> None:
    platform, least = OTHERS[name]
    told = found(EXAMPLES / name)
    assert len(told.of(platform)) >= least
    assert not told.checked
    assert bool(told.signature) is name.endswith((".cose", ".binarypb"))


def test_names_and_settings_of_others_are_kept() -> None:
    told = found(EXAMPLES / "contrast/reference-values.json")
    assert {one.name for one in told.of(SNP)} == {"snp[0].TrustedMeasurement"}
    assert {one.name for one in told.of(TDX)} == {"tdx[0].MrTd"}  # and no RTMR, no MRSEAM
    told = found(EXAMPLES / "gce/endorsement.binarypb")
    assert {one.settings.get("vcpus") for one in told.of(SNP)} >= {1, 2}


@pytest.mark.parametrize(
    ("name", "root"),
    [("corim/signed-es384.cose", "corim/root.pem"), ("corim/signed-ps384.cose", "corim/root.pem"),
     ("gce/endorsement.binarypb", "gce/root.pem")],
)  # fmt: skip
def test_a_signature_holds_under_its_root_and_no_other(
    name: str, root: str, tmp_path: Path
) -> None:
    assert found(EXAMPLES / name, EXAMPLES / root).checked
    other = "gce/root.pem" if root.startswith("corim") else "corim/root.pem"
    with pytest.raises(MismatchError, match="vouches for"):
        found(EXAMPLES / name, EXAMPLES / other)
    data = bytearray((EXAMPLES / name).read_bytes())
    at = data.find(b"\xaa" * 48)
    data[at if at >= 0 else 60] ^= 1
    (tmp_path / "spoiled").write_bytes(data)
    with pytest.raises(CvmplanError):
        found(tmp_path / "spoiled", EXAMPLES / root)


# --- what is written is read back ----------------------------------------------------------------

NO_VALUES: Final = ("coco --script", "rego")


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_read_back(target: str, tmp_path: Path) -> None:
    """The digests are those of `measure`, each with its own vCPU count."""
    path = tmp_path / "values"
    takes = TARGETS[target].platforms
    example = "snp" if SNP in takes else "tdx"
    counts = "1" if TARGETS[target].single or target == "go-sev-guest" else "1-3"
    more = {"corim": ["--svn", "1"], "rego": ["--self-contained"]}.get(target, [])
    args = ("--example", example, "--vcpus", counts, "--to", target, *more)
    written = run("reference", *args, "-o", str(path))
    assert written.code == 0, written.err
    own = ("measure", "--example", example, "--against", str(path))
    same = run(*own)
    assert (same.code, "reference: " in same.err) == (0, True), same.err
    changed = ("--sev-features", "0x9") if example == "snp" else ("--page-order", "two-pass")
    other = run(*own, *changed)
    assert (other.code, other.out) == (1, "")
    assert "is none of" in other.err
    if counts == "1-3" and example == "snp":
        assert run(*own, "--vcpus", "3").code == 0
        assert run(*own, "--vcpus", "4").code == 1


def test_a_value_with_settings_says_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "predicate.json"
    run("reference", "--example", "snp", "--vcpus", "2,4", "--to", "predicate", "-o", str(path))
    told = run("measure", "--example", "snp", "--vcpus", "3", "--against", str(path))
    assert told.code == 1
    assert told.err.splitlines()[-1] == "hint: vcpus 2, not 3"


def test_a_policy_of_names_alone_has_no_values(tmp_path: Path) -> None:
    path = tmp_path / "p.rego"
    run("reference", "--example", "snp", "--to", "rego", "-o", str(path))
    told = run("measure", "--example", "snp", "--against", str(path))
    assert (told.code, told.out) == (4, "")


def test_a_signed_corim_is_checked_where_certificates_are_given(tmp_path: Path) -> None:
    signer = certify("signer", "P-384", ca=False)
    (tmp_path / "key").write_bytes(
        signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (tmp_path / "cert").write_bytes(signer.pem)
    path = str(tmp_path / "c.cose")
    keys = ("--key", str(tmp_path / "key"), "--cert", str(tmp_path / "cert"))
    run("reference", "--example", "snp", "--to", "corim", "--svn", "1", *keys, "-o", path)
    own = ("measure", "--example", "snp", "--against", path)
    assert "signed by CN=signer, not checked" in run(*own).err
    assert "its signature was checked" in run(*own, "--certs", str(tmp_path / "cert")).err
    (tmp_path / "other").write_bytes(certify("other", "P-384").pem)
    told = run(*own, "--certs", str(tmp_path / "other"))
    assert (told.code, told.out) == (1, "")


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_without_signature_is_refused_where_certificates_are_given(
    target: str, tmp_path: Path
) -> None:
    """Who can replace the file could otherwise replace a signed one by a list of hex."""
    (tmp_path / "cert").write_bytes(certify("root", "P-384").pem)
    path, certs = tmp_path / "f", str(tmp_path / "cert")
    path.write_text(run("measure", "--example", "snp", "--bare").out)
    if target != "rego":
        svn = ("--svn", "1") if target == "corim" else ()
        run("reference", "--example", "snp", "--to", target, *svn, "-o", str(path))
    told = run("measure", "--example", "snp", "--against", str(path), "--certs", certs)
    assert (told.code, told.out) == (1, "")
    assert "that is not signed" in told.err
    report, made = Report().build()
    (tmp_path / "r").write_bytes(report)
    pin = ("--pin", made[-1].pin, "--at", "2026-01-01")
    with_file = ("--reference", str(path), "--reference-certs", certs)
    assert run("verify", str(tmp_path / "r"), *pin, *with_file).code == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", 4), (b"hello", 4), (b"{}", 4), (b'{"measurement": "00"}', 4), (b"{", 3),
        (AA.hex().encode() + b"\nhello\n", 3), (b"\xd2\x84", 3), (b"\xd9\x01\xf5\xa0", 3),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 3), (b"\x0a\x01a", 3),
        (b'{"version": "0.1.0", "type": "sample", "payload": "!"}', 3),
    ],
)  # fmt: skip
def test_what_has_no_values_is_refused(data: bytes, code: int, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(data)
    told = run("measure", "--example", "snp", "--against", str(tmp_path / "f"))
    assert (told.code, told.out) == (code, ""), told.err
    assert told.err.startswith("error: ")


# --- evidence against reference values -----------------------------------------------------------


def test_evidence_is_held_against_reference_values(tmp_path: Path) -> None:
    path = tmp_path / "values"
    path.write_text(f"{AA.hex()}\n0x{MEASUREMENT.hex()}\n")
    result, statuses = judged(tmp_path, Report(), "--reference", str(path))
    assert (result.code, statuses["measurement"]) == (0, "ok")
    many = [bytes([n]).hex() * 48 for n in range(100, 120)]
    path.write_text("\n".join(many))
    result, statuses = judged(tmp_path, Report(), "--reference", str(path))
    assert (result.code, statuses["measurement"]) == (1, "differs")
    line = next(o for o in json.loads(result.out)["lines"] if o["name"] == "measurement")
    assert line["expected"].endswith("or 16 more")
    (tmp_path / "r").write_bytes(Report().build()[0])
    both = run("verify", str(tmp_path / "r"), "--reference", str(path), "--measurement", AA.hex())
    assert both.code == 2
    path.write_text(b"\1".hex() * 32)
    assert run("verify", str(tmp_path / "r"), "--reference", str(path)).code == 1


# --- signatures that do not hold -----------------------------------------------------------------

cbor2 = pytest.importorskip("cbor2")
USAGE: Final = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
    "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip
OLD, END = datetime(2025, 1, 1), datetime(2026, 1, 2)  # noqa: DTZ001 as certificates have them


def usage(one: str) -> tuple[x509.ExtensionType, bool]:
    """A key usage of one purpose."""
    return x509.KeyUsage(**{name: name == one for name in USAGE}), True


ROOT: Final = certify("root", "P-384")
UNKNOWN: Final = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True
SERVER: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), True


def leaf(issuer: Signer = ROOT, *extensions: tuple[x509.ExtensionType, bool]) -> Signer:
    return certify("leaf", "P-384", issuer, ca=False, extensions=extensions)


def below(root: Signer, *extensions: tuple[x509.ExtensionType, bool]) -> list[Signer]:
    middle = certify("middle", "P-384", root, extensions=extensions)
    return [leaf(middle), middle, root]


SHORT: Final = certify("root", "P-384", path_length=0)
CHAINS: Final[dict[str, tuple[list[Signer], str]]] = {
    "as it should be": ([leaf(), ROOT], ""),
    "with one between": (below(ROOT), ""),
    "expired root": ([leaf(old := certify("root", "P-384", end=OLD)), old], "valid from"),
    "too long for its root": (below(SHORT), "exceeds its path length"),
    "issuer that may not sign certificates": (
        below(ROOT, usage("digital_signature")), "key usage does not allow"
    ),
    "signer that may only encipher": (
        [leaf(ROOT, usage("key_encipherment")), ROOT], "is not one to sign with"
    ),
    "unknown critical extension": ([leaf(ROOT, UNKNOWN), ROOT], "1.2.3.4 is not known"),
    "certificate of a server": ([leaf(ROOT, SERVER), ROOT], "2.5.29.37 is not known"),
}  # fmt: skip
"""RFC 5280, 6.1.4, and what of a chain is wrong by it."""


def cose(
    payload: bytes,
    chain: list[Signer],
    header: dict[Any, Any] = {},  # noqa: B006 never changed
    meta: dict[int, Any] = {},  # noqa: B006
) -> bytes:
    """A COSE_Sign1 with ES384, RFC 9052, 4.4."""
    told = {1: -35, 3: "application/rim+cbor", 8: cbor2.dumps({0: {0: "s"}, **meta})}
    told |= {33: [one.der for one in chain]} | header
    protected = cbor2.dumps({name: value for name, value in told.items() if value is not None})
    message = cbor2.dumps(["Signature1", protected, b"", payload])
    der = chain[0].key.sign(message, ec.ECDSA(hashes.SHA384()))
    r, s = (number.to_bytes(48, "big") for number in decode_dss_signature(der))
    return bytes(cbor2.dumps(cbor2.CBORTag(18, [protected, {}, payload, r + s])))


def corim(
    environment: Any = None, key: Any = "MEASUREMENT", number: int = 7, tag: int = 506,
    digest: Any = MEASUREMENT, validity: Any = None,
) -> bytes:  # fmt: skip
    """An unsigned CoRIM with one digest; draft-ietf-rats-corim-11."""
    of = {1: "AMD", 2: "SEV-SNP"} if environment is None else environment
    comid = {1: {0: "x"}, 4: {0: [[{0: of}, [{0: key, 1: {2: [[number, digest]]}}]]]}}
    more = {} if validity is None else {4: validity}
    document = {0: "id", 1: [cbor2.CBORTag(tag, cbor2.dumps(comid))], **more}
    return bytes(cbor2.dumps(cbor2.CBORTag(501, document)))


def against(data: bytes, tmp_path: Path, root: Signer | None = ROOT) -> Result:
    (tmp_path / "values").write_bytes(data)
    (tmp_path / "r").write_bytes(Report().build()[0])
    pin = ("--pin", Report().build()[1][-1].pin, "--at", "2026-01-01")
    vouched: tuple[str, ...] = ()
    if root is not None:
        (tmp_path / "root").write_bytes(root.pem)
        vouched = ("--reference-certs", str(tmp_path / "root"))
    values = ("--reference", str(tmp_path / "values"))
    return run("verify", str(tmp_path / "r"), *pin, *values, *vouched)


@pytest.mark.parametrize("name", CHAINS)
def test_the_signer_of_reference_values_is_vouched_for(name: str, tmp_path: Path) -> None:
    chain, problem = CHAINS[name]
    told = against(cose(corim(), chain), tmp_path, chain[-1])
    assert told.code == (1 if problem else 0), told.err
    assert problem in told.err


def ending(day: int) -> dict[int, Any]:
    return {0: cbor2.CBORTag(1, 1700000000), 1: cbor2.CBORTag(1, day)}


_1_JANUARY_2026: Final = 1767225600
SIGNED: Final[dict[str, tuple[Callable[[], bytes], int]]] = {
    "both valid": (
        lambda: cose(corim(validity=ending(_1_JANUARY_2026)), [leaf()],
                     meta={1: ending(_1_JANUARY_2026)}), 0),
    "document that has expired": (lambda: cose(corim(validity=ending(1767139200)), [leaf()]), 1),
    "signature that has expired": (
        lambda: cose(corim(), [leaf()], meta={1: ending(1767139200)}), 1),
    "validity that is none": (lambda: cose(corim(validity={0: "x"}), [leaf()]), 3),
    "unknown critical header": (lambda: cose(corim(), [leaf()], {2: [-70001], -70001: b"x"}), 4),
    "text": (lambda: cose(corim(), [leaf()], {3: "text/plain"}), 3),
    "another product": (lambda: corim({1: "NVIDIA", 2: "H100"}), 4),
    "another key": (lambda: corim(key="mrseam"), 4),
    "another kind of tag": (lambda: corim(tag=505), 4),
    "another algorithm": (lambda: corim(number=1), 4),
    "chain that is a number": (lambda: cose(corim(), [leaf()], {33: 5}), 4),
    "bytes behind it": (lambda: cose(corim(), [leaf()]) + b"\0", 3),
    "JSON that is signed as text": (
        lambda: cose(b'{"measurement": "' + MEASUREMENT.hex().encode() + b'"}', [leaf()],
                     {3: "text/plain"}), 3),
    "a number": (lambda: corim(digest=48), 4),
    "a class by its OID": (
        lambda: corim({0: cbor2.CBORTag(111, bytes.fromhex("2b060104019c780301"))}, 641), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNED)
def test_what_a_corim_says_of_itself_is_held(name: str, tmp_path: Path) -> None:
    """draft-ietf-rats-corim-11: rim-validity, signature-validity; RFC 9052, 3.1: crit."""
    make, code = SIGNED[name]
    data = make()
    assert against(data, tmp_path, ROOT if data[:1] == b"\xd2" else None).code == code


@pytest.mark.parametrize(
    "spoil", [lambda d: d[:-1] + bytes([d[-1] ^ 1]), lambda d: d[:-49] + d[-48:]]
)
def test_a_signature_that_its_certificate_contradicts_is_never_taken(
    spoil: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    told = against(spoil(cose(corim(), [leaf()])), tmp_path, None)
    assert told.code in (1, 3)


def test_values_are_vouched_for_at_the_time_that_is_asked_for(tmp_path: Path) -> None:
    later = certify("leaf", "P-384", ROOT, ca=False, begin=END)
    assert "valid from 2026-01-02" in against(cose(corim(), [later]), tmp_path).err


REFUSING: Final = {
    "comment": (f'package p\n# not: "{MEASUREMENT.hex()}"\nallow if {{ x == "{"11" * 48}" }}\n', 1),
    "rule": (f'package p\ndeny if {{ x == "{MEASUREMENT.hex()}" }}\n', 4),
    "negation": (f'package p\nallow if {{ not x == "{MEASUREMENT.hex()}" }}\n', 4),
    "member": (json.dumps({"revoked": {"measurement": [MEASUREMENT.hex()]}}), 4),
}


@pytest.mark.parametrize("name", REFUSING)
def test_values_that_are_refused_are_none_to_accept(name: str, tmp_path: Path) -> None:
    data, code = REFUSING[name]
    told = against(data.encode(), tmp_path, None)
    assert (told.code, "OK: signed" in told.out) == (code, False)


@pytest.mark.parametrize(
    "data",
    [
        b"\n" * 8_000_000, b"measurement:" + b" " * 400_000 + b"\n" * 4_000_000,
        b'{"a":[' + b"0," * 3_900_000 + b"0]}", b'{"a":[' + b"[0]," * 1_000_000 + b"0]}",
    ],
    ids=["newlines", "blanks", "numbers", "lists"],
)  # fmt: skip
def test_a_file_of_eight_megabytes_is_one_line(data: bytes) -> None:
    """Without a limit of time: what took the square of its size would not end."""
    with pytest.raises(CvmplanError):
        read(Blob("values", memoryview(data)))


@pytest.mark.parametrize(
    ("given", "problem"),
    [(SHORT, "exceeds its path length"), (certify("root", "P-384", end=OLD), "valid from")],
)
def test_a_copy_of_the_anchors_key_is_not_the_anchor(
    given: Signer, problem: str, tmp_path: Path
) -> None:
    """Somebody certifies the root's public key anew, without what the root says of itself."""
    stranger, old = certify("stranger", "P-384"), x509.load_der_x509_certificate(given.der)
    builder = x509.CertificateBuilder(
        x509.load_der_x509_certificate(stranger.der).subject, old.subject, old.public_key(), 9,
        BEGIN.replace(tzinfo=None), LATE.replace(tzinfo=None),
    ).add_extension(x509.BasicConstraints(True, None), True)  # fmt: skip
    made = builder.sign(stranger.key, hashes.SHA384()).public_bytes(Encoding.DER)
    chain = [*below(given)[:2], Signer("root", given.key, made, False), stranger]
    told = against(cose(corim(), chain), tmp_path, given)
    assert (told.code, problem in told.err) == (1, True)
