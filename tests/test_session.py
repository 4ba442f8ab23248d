"""SEV sessions and what LAUNCH_MEASURE returns: made here, and checked here."""

from __future__ import annotations

import hmac
import json
import struct
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan import documents
from cvmplan.sev_session.session import Certificate, Session, kdf, launch_measurement, policy_mac
from tests.run import assert_refused, run

# virtee/sev, src/session/mod.rs, test `verify`.
TIK: Final = bytes.fromhex("66320db73158a35a255d051758e95ed4")
LD: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
MNONCE: Final = "4fbe0bedbad6c86ae8f68971d103e554"
MEASURE: Final = "6faab2daae389bcd3405a05d6cafe33c0414f7bedd0bae19ba5f38b7fd1664ea"


def openssl(*args: str | Path, data: bytes = b"") -> bytes:
    command = ["openssl", *map(str, args)]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key pairs of an owner and of a platform, the TIK of the vector, and a session."""
    made = tmp_path_factory.mktemp("session")
    for name in ("owner", "platform"):
        pem = made / f"{name}.pem"
        openssl("ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", pem)
        openssl("ec", "-in", pem, "-pubout", "-out", made / f"{name}.pub")
    (made / "tik").write_bytes(TIK)
    assert session(made, "-o", str(made / "out")).code == 0
    return made


def session(folder: Path, *more: str, pdh: str = "platform.pub", key: str = "owner.pem") -> Any:
    keys = ("--pdh", str(folder / pdh), "--godh-key", str(folder / key))
    return run("session", *keys, "--policy", "0x5", *more)


def measure(folder: Path, *more: str, **changed: str) -> Any:
    given = {
        "digest": LD, "platform": "sev", "policy": "0", "tik": str(folder / "tik"),
        "nonce": MNONCE, "api": "0.18", "build": "15", **changed,
    }  # fmt: skip
    return run("launch-measure", *(f"--{n}={v}" for n, v in given.items() if v), *more)


def test_the_records_are_as_long_as_the_specification_says() -> None:
    assert [r.LAYOUT.size for r in (Session, Certificate)] == [128, 2084]


def test_the_measurement_of_a_peer_is_computed(folder: Path) -> None:
    told = bytes.fromhex(LD), TIK, bytes.fromhex(MNONCE), (0, 18), 15, 0
    assert launch_measurement(*told).hex() == MEASURE
    document = json.loads(measure(folder, "--format", "json").out)
    documents.model("launch-measure").model_validate(document)
    assert MEASURE in json.dumps(document)


def test_the_measurement_is_the_mac_that_openssl_makes(folder: Path) -> None:
    image = ("launch-measure", "--example", "snp", "--platform", "sev-es", "--vcpus", "2")
    more = ("--tik", str(folder / "tik"), "--nonce", MNONCE, "--api", "1.55", "--build", "8")
    shown = run(*image, *more, "--policy", "0x7")
    digest = run("measure", *image[1:], "--bare").out
    message = bytes([4, 1, 55, 8]) + struct.pack("<I", 7) + bytes.fromhex(digest + MNONCE)
    key = f"hexkey:{TIK.hex()}"
    made = openssl("dgst", "-sha256", "-mac", "HMAC", "-macopt", key, "-binary", data=message)
    assert made.hex() in shown.out
    both = b64encode(made + bytes.fromhex(MNONCE)).decode()
    assert both in shown.out
    without = (*more[:2], *more[4:])
    assert run(*image, *without, "--policy", "0x7", "--expect", both).code == 0
    refused = run(*image, *without, "--policy", "0x5", "--expect", both)
    assert_refused(refused, {1})
    assert made.hex() in refused.err


@pytest.mark.parametrize(
    "changed",
    [
        {"digest": "00" * 32},
        {"policy": "1"},
        {"nonce": "00" * 16},
        {"api": "0.19"},
        {"build": "16"},
    ],
)
def test_each_thing_that_is_measured_changes_it(folder: Path, changed: dict[str, str]) -> None:
    assert measure(folder, "--expect", MEASURE).code == 0
    assert_refused(measure(folder, "--expect", MEASURE, **changed), {1})


@pytest.mark.parametrize(
    "changed",
    [{"platform": "snp"}, {"api": "1"}, {"api": "256.0"}, {"api": "0.16"}, {"build": "256"},
     {"nonce": "00"}, {"nonce": ""}, {"policy": "0x100000000"}, {"policy": ""}, {"tik": ""},
     {"digest": "00"}, {"tik": "absent"}],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(folder: Path, changed: dict[str, str]) -> None:
    assert_refused(measure(folder, **changed), {2, 3, 4})


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_a_tik_has_16_bytes(folder: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "tik").write_bytes(bytes(size))
    assert_refused(measure(folder, tik=str(tmp_path / "tik")), {3})


def test_keys_are_derived_and_authenticated_as_a_peer_does() -> None:
    # virtee/sev, src/session/key.rs, tests `derive` and `mac`.
    derived = kdf(bytes(16), 16, "sev-master-secret", bytes(16))
    assert derived.hex() == "ab4d269fcc62bedb4511d56c386ce706"
    mac = policy_mac(bytes(16), 0).hex()
    assert mac == "aa7855e13839dd767cd5da7c1ff5036540c9264b7a803029315e55375287b4af"


def derive(key: bytes, label: bytes, context: bytes = b"") -> bytes:
    """SP 800-108 in counter mode as AMD 55766 has it: one block."""
    message = struct.pack("<I", 1) + label + b"\0" + context + struct.pack("<I", 128)
    return hmac.digest(key, message, "sha256")[:16]


def test_a_session_is_what_openssl_and_the_specification_make(folder: Path) -> None:
    out = folder / "out"
    data = (out / "session.bin").read_bytes()
    nonce, wrapped, iv, wrap_mac, mac = struct.unpack("<16s32s16s32s32s", data)
    keys = ("-inkey", folder / "platform.pem", "-peerkey", folder / "owner.pub")
    shared = openssl("pkeyutl", "-derive", *keys)
    master = derive(shared, b"sev-master-secret", nonce)
    kek, kik = derive(master, b"sev-kek"), derive(master, b"sev-kik")
    assert hmac.digest(kik, wrapped, "sha256") == wrap_mac
    cipher = ("enc", "-d", "-aes-128-ctr", "-K", kek.hex(), "-iv", iv.hex())
    both = openssl(*cipher, data=wrapped)
    assert both == (out / "tek.bin").read_bytes() + (out / "tik.bin").read_bytes()
    assert hmac.digest(both[16:], struct.pack("<I", 5), "sha256") == mac
    assert (out / "tik.bin").stat().st_mode & 0o777 == 0o600
    assert b64encode(data) == (out / "session.b64").read_bytes().strip()


def test_the_owners_certificate_has_the_owners_key(folder: Path) -> None:
    data = (folder / "out" / "godh.cert").read_bytes()
    public = openssl("ec", "-in", folder / "owner.pem", "-pubout", "-outform", "DER")[-96:]
    assert (len(data), struct.unpack_from("<I", data, 0x10)[0]) == (2084, 2)
    assert data[0x14 : 0x14 + 48][::-1] + data[0x5C : 0x5C + 48][::-1] == public


def test_both_sides_read_the_session(folder: Path) -> None:
    read = ("--read", str(folder / "out" / "session.bin"), "--tik", str(folder / "out" / "tik.bin"))
    assert session(folder, *read).code == 0
    assert session(folder, *read, pdh="out/godh.cert", key="platform.pem").code == 0
    assert session(folder, "--read", str(folder / "out" / "session.b64")).code == 0
    other = ("--tik", str(folder / "tik"))
    assert_refused(session(folder, *read[:2], *other), {1})
    assert_refused(run("session", *read[:2], "--pdh", str(folder / "platform.pub"), "--godh-key",
                       str(folder / "owner.pem"), "--policy", "4"), {1})  # fmt: skip


@pytest.mark.parametrize(("at", "name"), [(0, "WRAP_MAC"), (16, "WRAP_MAC"), (48, "POLICY_MAC"),
                                          (64, "WRAP_MAC"), (96, "POLICY_MAC")])  # fmt: skip
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_of_a_session_is_named(
    folder: Path, tmp_path: Path, at: int, name: str, bit: int
) -> None:
    data = bytearray((folder / "out" / "session.bin").read_bytes())
    data[at + (16 if at == 48 else 0)] ^= 1 << bit
    if at == 48:
        data[48 + 16] ^= 1 << bit
        data[48 + 15] ^= 1 << bit  # the last byte of the IV: the TIK that comes out is another
    (tmp_path / "s").write_bytes(data)
    refused = session(folder, "--read", str(tmp_path / "s"))
    assert_refused(refused, {1})
    assert name in refused.err


def test_sessions_and_certificates_of_other_lengths_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    whole = {n: (folder / "out" / n).read_bytes() for n in ("session.bin", "godh.cert")}
    for end in (*range(0, 128, 9), 127, 129):
        (tmp_path / "s").write_bytes(whole["session.bin"].ljust(end, b"\0")[:end])
        assert_refused(session(folder, "--read", str(tmp_path / "s")), {3})
    for end in (*range(0, 2084, 97), 2083, 2085):
        (tmp_path / "c").write_bytes(whole["godh.cert"].ljust(end, b"\0")[:end])
        read = ("--read", str(folder / "out" / "session.bin"))
        assert_refused(session(folder, *read, pdh=str(tmp_path / "c")), {2, 3, 4})


@pytest.mark.parametrize(
    ("at", "codes"),
    [(0, {4}), (6, {3}), (8, {3}), (0xC, {3}), (0x10, {3}), (0x14, {3}), (0x14 + 48, {3}),
     (0xA4, {3}), (0x414, {3}), (0x41C, {3}), (0x61C, {3}), (2083, {3})],
)  # fmt: skip
def test_a_certificate_with_one_byte_spoiled_is_refused(
    folder: Path, tmp_path: Path, at: int, codes: set[int]
) -> None:
    data = bytearray((folder / "out" / "godh.cert").read_bytes())
    data[at] ^= 0x40
    (tmp_path / "c").write_bytes(data)
    read = ("--read", str(folder / "out" / "session.bin"))
    refused = session(folder, *read, pdh=str(tmp_path / "c"), key="platform.pem")
    assert_refused(refused, codes)


def test_secrets_are_never_overwritten_unasked(folder: Path) -> None:
    before = (folder / "out" / "tik.bin").read_bytes()
    assert_refused(session(folder, "-o", str(folder / "out")), {2})
    assert (folder / "out" / "tik.bin").read_bytes() == before


def test_no_secret_is_printed(folder: Path, tmp_path: Path) -> None:
    for form in ("text", "json"):
        result = session(folder, "-o", str(tmp_path / form), "--format", form)
        assert result.code == 0
        for name in ("tek.bin", "tik.bin"):
            secret = (tmp_path / form / name).read_bytes()
            assert secret.hex() not in result.out + result.err
            assert b64encode(secret).decode().rstrip("=") not in result.out + result.err
        if form == "json":
            documents.model("session").model_validate_json(result.out)
