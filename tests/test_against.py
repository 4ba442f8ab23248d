"""Reference values read back: every form, of this program and of others, in the set or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cvmplan.core.blob import Blob
from cvmplan.core.errors import CvmplanError, MismatchError
from cvmplan.core.platform import SNP, TDX, VBS
from cvmplan.evidence import certificates
from cvmplan.reference.found import Found
from cvmplan.reference.read import read
from cvmplan.reference.targets import TARGETS
from tests.build.evidence import certify
from tests.forgeries import MEASUREMENT, Report
from tests.run import run
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
