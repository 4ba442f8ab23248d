"""ID blocks: made, signed here or elsewhere, and checked against a launch as firmware does."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
from base64 import b64decode
from hashlib import sha384
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils

from cvmplan import documents
from cvmplan.core.blob import Blob, pack
from cvmplan.evidence import keys
from cvmplan.platforms.snp.idblock import (
    EcdsaKey,
    EcdsaSignature,
    IdAuth,
    IdBlock,
    Signature,
    read_auth,
    read_block,
    signature_bytes,
)
from tests.build.igvm import Igvm, good_snp
from tests.consumers import rust
from tests.run import assert_refused, run

LAUNCH = ("--example", "snp")
FAMILY, IMAGE = "0f" * 16, "a5" * 16
NAMES = ["id", "author"]


def openssl(*args: str | Path, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """OpenSSL's own command line."""
    command = ["openssl", *map(str, args)]
    return subprocess.run(command, input=data, capture_output=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of an owner and an author, made by OpenSSL, and the files of a signed ID block."""
    made = tmp_path_factory.mktemp("keys")
    for name in NAMES:
        pem = made / f"{name}.pem"
        assert not openssl(
            "ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", pem
        ).returncode
        assert not openssl("ec", "-in", pem, "-pubout", "-out", made / f"{name}.pub").returncode
    result = idblock(made, "-o", str(made / "out"))
    assert (result.code, result.err) == (0, "")
    return made


def idblock(folder: Path, *more: str, **changed: str) -> Any:
    """Run the verb with both keys and IDs."""
    given = {
        "id_key": str(folder / "id.pem"), "author_key": str(folder / "author.pem"),
        "family_id": FAMILY, "image_id": IMAGE, "guest_svn": "7", **changed,
    }  # fmt: skip
    options = [f"--{n.replace('_', '-')}={v}" for n, v in given.items() if v]
    return run("idblock", *LAUNCH, *options, *more)


def digest() -> bytes:
    return bytes.fromhex(run("measure", *LAUNCH, "--bare").out)


def verify(folder: Path, block: bytes, auth: bytes, *more: str) -> Any:
    (folder / "block").write_bytes(block)
    (folder / "auth").write_bytes(auth)
    files = ("--block", str(folder / "block"), "--auth", str(folder / "auth"))
    return run("idblock", *LAUNCH, *files, "--format", "json", *more)


def written(folder: Path) -> tuple[bytes, bytes]:
    """The ID block and the ID authentication that a run left in a folder."""
    return (folder / "id-block.bin").read_bytes(), (folder / "id-auth.bin").read_bytes()


def failures(result: Any) -> dict[str, str]:
    document = json.loads(result.out)
    documents.model("idblock").model_validate_json(result.out)
    found = {line["name"]: line["why"] for line in document["checks"] if line["status"] != "ok"}
    assert result.code == (1 if found else 0)
    return found


# --- layouts -----------------------------------------------------------------------------------


def test_the_records_are_as_long_as_the_specification_says() -> None:
    sizes = [one.LAYOUT.size for one in (IdBlock, IdAuth, EcdsaKey, EcdsaSignature)]
    assert sizes == [96, 4096, 0x404, 0x200]


def test_an_id_block_has_the_bytes_that_a_peer_gives_it() -> None:
    # virtee/sev-snp-measure, tests/test_id_block.py
    ld = "076f052d08bda7a700aa2a608c5caa6b00ebad297b6d68a85a45b1e669a558b6"
    ld += "7e1b91d284a301fe63c4fa0750467eed"
    block = pack(IdBlock(bytes.fromhex(ld), bytes(16), bytes(16), 1, 0, 0x30000))
    assert block.hex() == ld + "00" * 32 + "01000000" + "00000000" + "0000030000000000"


def test_what_is_written_lies_where_the_firmware_looks(folder: Path) -> None:
    block, auth = written(folder / "out")
    assert block == digest() + bytes.fromhex(FAMILY + IMAGE) + struct.pack("<IIQ", 1, 7, 0x30000)
    assert struct.unpack_from("<II", auth) == (1, 1)
    assert not any(auth[8:0x40] + auth[0x644:0x680] + auth[0xC84:])
    for name, at in (("id", 0x240), ("author", 0x880)):
        pem = (folder / f"{name}.pub").read_bytes()
        public = serialization.load_pem_public_key(pem)
        assert isinstance(public, ec.EllipticCurvePublicKey)
        numbers = public.public_numbers()
        x, y = (n.to_bytes(72, "little") for n in (numbers.x, numbers.y))
        assert auth[at : at + 0x404] == struct.pack("<I", 2) + x + y + bytes(880)


def test_the_key_digests_are_of_the_keys_as_firmware_reads_them(folder: Path) -> None:
    _, auth = written(folder / "out")
    told = json.loads(idblock(folder, "--format", "json").out)
    assert told["id_key_digest"] == sha384(auth[0x240:0x644]).hexdigest()
    assert told["author_key_digest"] == sha384(auth[0x880:0xC84]).hexdigest()
    assert documents.model("idblock").model_validate_json(json.dumps(told))


# --- signatures --------------------------------------------------------------------------------


def der(signature: bytes) -> bytes:
    """A signature as OpenSSL wants it."""
    r, s = (int.from_bytes(signature[at : at + 72], "little") for at in (0, 72))
    assert not any(signature[144:])
    return utils.encode_dss_signature(r, s)


def openssl_accepts(public: Path, signature: bytes, message: bytes) -> bool:
    file = public.with_suffix(".sig")
    file.write_bytes(der(signature))
    done = openssl("dgst", "-sha384", "-verify", public, "-signature", file, data=message)
    return done.stdout == b"Verified OK\n"


def test_openssl_verifies_both_signatures(folder: Path) -> None:
    block, auth = written(folder / "out")
    assert openssl_accepts(folder / "id.pub", auth[0x40:0x240], block)
    assert openssl_accepts(folder / "author.pub", auth[0x680:0x880], auth[0x240:0x644])
    assert not openssl_accepts(folder / "author.pub", auth[0x40:0x240], block)


def test_what_openssl_signs_is_accepted(folder: Path, tmp_path: Path) -> None:
    tbs, author_tbs = tmp_path / "tbs", tmp_path / "author-tbs"
    public = {"id_key": "", "author_key": "", "id_public_key": str(folder / "id.pub")}
    assert idblock(folder, f"--emit-tbs={tbs}", **public).out == ""
    assert len(tbs.read_bytes()) == 96
    assert idblock(folder, f"--emit-author-tbs={author_tbs}", **public).out == ""
    for name, file in (("id", tbs), ("author", author_tbs)):
        key, to = folder / f"{name}.pem", file.with_suffix(".der")
        assert not openssl("dgst", "-sha384", "-sign", key, "-out", to, file).returncode
    public |= {"author_public_key": str(folder / "author.pub")}
    ours = {"signature": str(tbs) + ".der", "author_signature": str(author_tbs) + ".der"}
    out = tmp_path / "out"
    result = idblock(folder, "-o", str(out), **public, **ours)
    assert (result.code, result.err) == (0, "")
    assert failures(verify(folder, *written(out))) == {}
    swapped = {"signature": ours["author_signature"], "author_signature": ours["signature"]}
    refused = idblock(folder, "-o", str(tmp_path / "no"), **public, **swapped)
    assert_refused(refused, {1})
    assert "BAD_SIGNATURE" in refused.err
    assert not (tmp_path / "no").exists()


def test_short_integers_are_padded_and_verify(folder: Path) -> None:
    pem = Blob("id.pem", memoryview((folder / "id.pem").read_bytes()))
    key = keys.private_key(pem, lambda: b"")
    short = (keys.sign(key, b"message") for _ in range(20000))
    r, s = next((r, s) for r, s in short if min(r, s) < 1 << 376)
    signature = signature_bytes(Signature(r, s))
    assert openssl_accepts(folder / "id.pub", signature, b"message")
    assert keys.is_signed(b"message", (r, s), keys.point(key))


def test_a_peers_id_block_is_accepted_as_the_peers_digests_are(folder: Path) -> None:
    from base64 import b64encode

    command = [
        "snp-create-id-block", "--measurement", b64encode(digest()).decode(),
        "--idkey", str(folder / "id.pem"), "--authorkey", str(folder / "author.pem"),
    ]  # fmt: skip
    peer = Path(sys.executable).with_name(command[0])
    done = subprocess.run([str(peer), *command[1:]], capture_output=True, text=True, check=True)
    told = dict(
        re.findall(r"(id-block|id-auth|id_key_hash|author_key)[=:] ?([^,\s]+)", done.stdout)
    )
    block, auth = b64decode(told["id-block"]), b64decode(told["id-auth"])
    ours = json.loads(idblock(folder, "--format", "json").out)
    assert b64decode(told["id_key_hash"]).hex() == ours["id_key_digest"]
    assert b64decode(told["author_key"]).hex() == ours["author_key_digest"]
    assert failures(verify(folder, block, auth)) == {}


# --- what others take --------------------------------------------------------------------------


def test_the_forms_that_vmms_take_have_the_same_bytes(folder: Path) -> None:
    block, auth = written(folder / "out")
    out = folder / "out"
    assert b64decode((out / "id-block.b64").read_bytes()) == block
    assert b64decode((out / "id-auth.b64").read_bytes()) == auth
    kind, *told = (out / "qemu.txt").read_text().strip().split(",")
    properties = dict(one.split("=", 1) for one in told)
    assert kind == "sev-snp-guest"
    assert b64decode(properties.pop("id-block")) == block
    assert b64decode(properties.pop("id-auth")) == auth
    assert properties == {
        "id": "cgs0", "cbitpos": "51", "reduced-phys-bits": "1", "policy": "0x30000",
        "author-key-enabled": "on",
    }  # fmt: skip
    element = ET.fromstring((out / "libvirt.xml").read_text())  # noqa: S314 our own
    assert (element.tag, element.attrib) == (
        "launchSecurity",
        {"type": "sev-snp", "authorKey": "yes"},
    )
    values = {child.tag: child.text or "" for child in element}
    assert int(values["policy"], 16) == 0x30000
    assert (b64decode(values["idBlock"]), b64decode(values["idAuth"])) == (block, auth)


def igvm_with(directive: bytes, image: Igvm) -> bytes:
    """An IGVM file with the fields of a directive, by their offsets in the IGVM specification."""
    kind, length = struct.unpack_from("<II", directive)
    assert (kind, length, len(directive)) == (0x30B, 696, 704)
    body = directive[8:]
    version, svn, id_algorithm, author_algorithm = struct.unpack_from("<IIII", body, 88)
    return image.id_block(
        struct.unpack_from("<I", body)[0],
        author_key_enabled=body[4], ld=body[8:56], family_id=body[56:72], image_id=body[72:88],
        version=version, guest_svn=svn,
        id_key_algorithm=id_algorithm, author_key_algorithm=author_algorithm,
        id_key_signature=body[104:248], id_public_key=body[248:400],
        author_key_signature=body[400:544], author_public_key=body[544:696],
    ).build()  # fmt: skip


@pytest.mark.parametrize("author", [True, False])
def test_the_directive_verifies_in_an_igvm_file(folder: Path, tmp_path: Path, author: bool) -> None:
    plain = tmp_path / "plain.igvm"
    plain.write_bytes(good_snp().build())
    keys = ["--id-key", str(folder / "id.pem")]
    keys += ["--author-key", str(folder / "author.pem")] if author else []
    out = str(tmp_path / "out")
    made = run("idblock", str(plain), "--platform", "snp", *keys, "-o", out)
    assert (made.code, made.err) == (0, "")
    directive = (tmp_path / "out" / "igvm-id-block.bin").read_bytes()
    image = tmp_path / "with.igvm"
    image.write_bytes(igvm_with(directive, good_snp()))
    result = run("idblock", str(image), "--platform", "snp", "--verify", "--format", "json")
    assert failures(result) == {}
    at = 8 + 104
    spoiled = directive[:at] + bytes([directive[at] ^ 1]) + directive[at + 1 :]
    image.write_bytes(igvm_with(spoiled, good_snp()))
    result = run("idblock", str(image), "--platform", "snp", "--verify", "--format", "json")
    assert failures(result) == {"id_blocks_signature": "BAD_SIGNATURE"}


def test_snpguest_makes_the_same_block_and_its_signatures_verify(
    folder: Path, tmp_path: Path
) -> None:
    keys = [str(folder / f"{name}.pem") for name in NAMES]
    given = ("-p", "0x30000", "-s", "7", "-f", FAMILY, "-m", IMAGE)
    out = ("-i", str(tmp_path / "block.b64"), "-a", str(tmp_path / "auth.b64"))
    told = rust("snpguest", "generate", "id-block", *keys, f"0x{digest().hex()}", *given, *out)
    assert told.returncode == 0, told.stderr
    block, auth = (b64decode((tmp_path / f"{n}.b64").read_bytes()) for n in ("block", "auth"))
    assert block == written(folder / "out")[0]
    assert failures(verify(tmp_path, block, auth)) == {}


def test_the_identity_of_a_manifest_and_of_a_plan_is_verified(folder: Path, tmp_path: Path) -> None:
    block, auth = written(folder / "out")
    own = ("--id-block", block.hex(), "--id-auth", auth.hex(), "--author-key-enabled")
    assert failures(run("idblock", *LAUNCH, *own, "--verify", "--format", "json")) == {}
    plan = tmp_path / "plan.json"
    plan.write_text(run("plan", *LAUNCH, *own, "--format", "json").out)
    assert failures(run("idblock", str(plan), "--verify", "--format", "json")) == {}


# --- what is refused ---------------------------------------------------------------------------


def test_each_failure_has_the_name_that_firmware_has_for_it(folder: Path) -> None:
    block, auth = written(folder / "out")
    assert failures(verify(folder, block, auth)) == {}
    assert failures(verify(folder, block, auth, "--vcpus", "2")) == {
        "launch_digest": "BAD_MEASUREMENT"
    }
    assert failures(verify(folder, block, auth, "--policy", "0xb0000")) == {
        "policy": "POLICY_FAILURE"
    }
    lines = {0: "launch_digest", 0x58: "policy"}
    for at in (0, 0x30, 0x40, 0x54, 0x58):
        spoiled = block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :]
        found = failures(verify(folder, spoiled, auth))
        assert found.pop("id_blocks_signature") == "BAD_SIGNATURE"
        assert set(found) == ({lines[at]} if at in lines else set())


SIGNED = [*range(0x40, 0x40 + 144, 5), *range(0x244, 0x244 + 48, 7), *range(0x680, 0x680 + 144, 5)]


@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_of_signature_or_key_is_a_bad_signature(folder: Path, bit: int) -> None:
    block, auth = written(folder / "out")
    for at in [*SIGNED, *range(0x884, 0x884 + 48, 7)]:
        spoiled = auth[:at] + bytes([auth[at] ^ 1 << bit]) + auth[at + 1 :]
        found = failures(verify(folder, block, spoiled))
        assert set(found.values()) == {"BAD_SIGNATURE"}, hex(at)


RESERVED = [0x8, 0x3F, 0x40 + 144, 0x23F, 0x240 + 148, 0x643, 0x644, 0x67F, 0xC84, 0xFFF]


@pytest.mark.parametrize("at", RESERVED)
def test_reserved_bytes_are_zero(folder: Path, at: int) -> None:
    block, auth = written(folder / "out")
    spoiled = auth[:at] + b"\1" + auth[at + 1 :]
    assert_refused(verify(folder, block, spoiled), {3})


@pytest.mark.parametrize(
    ("at", "value"), [(0, 0), (0, 2), (4, 0), (4, 2), (0x240, 1), (0x240, 3), (0x880, 0)]
)
def test_an_unknown_algorithm_or_curve_is_refused(folder: Path, at: int, value: int) -> None:
    block, auth = written(folder / "out")
    spoiled = auth[:at] + struct.pack("<I", value) + auth[at + 4 :]
    assert_refused(verify(folder, block, spoiled), {4})


def test_another_version_of_the_block_is_refused(folder: Path) -> None:
    block, auth = written(folder / "out")
    for version in (0, 2, 1 << 31):
        spoiled = block[:0x50] + struct.pack("<I", version) + block[0x54:]
        assert_refused(verify(folder, spoiled, auth), {4})


def test_other_lengths_are_refused(folder: Path) -> None:
    block, auth = written(folder / "out")
    for length in (*range(0, 96, 7), 95, 97, 200):
        assert_refused(verify(folder, block.ljust(length, b"\0")[:length], auth), {3})
    for length in (0, 1, 4095, 4097, 9000):
        assert_refused(verify(folder, block, auth.ljust(length, b"\0")[:length]), {3})


def test_a_launch_that_wants_an_author_gets_none_from_a_block_without(folder: Path) -> None:
    out = folder / "no-author"
    assert idblock(folder, "-o", str(out), author_key="").code == 0
    block, auth = written(out)
    assert failures(verify(folder, block, auth)) == {}
    found = failures(verify(folder, block, auth, "--author-key-enabled"))
    assert found["authors_signature"].startswith("BAD_SIGNATURE")


def other_keys() -> dict[str, bytes]:
    """Keys that are none of ECDSA P-384, and files that are none at all."""

    def pem(key: Any) -> bytes:
        return bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    return {
        "P-256": pem(ec.generate_private_key(ec.SECP256R1())),
        "RSA": pem(rsa.generate_private_key(65537, 2048)),
        "empty": b"",
        "garbage": bytes(range(256)),
        "torn": pem(ec.generate_private_key(ec.SECP384R1()))[:100],
        "long": b"-----BEGIN" + bytes(1 << 17),
    }


@pytest.mark.parametrize("name", other_keys())
def test_other_keys_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(other_keys()[name])
    assert_refused(idblock(folder, id_key=str(file)), {4} if name in ("P-256", "RSA") else {3})
    public = {"id_key": "", "id_public_key": str(file), "signature": str(file)}
    assert_refused(idblock(folder, **public), {2, 3, 4})


def test_an_encrypted_key_wants_its_passphrase(folder: Path, tmp_path: Path) -> None:
    key = tmp_path / "id.pem"
    encrypt = ("pkcs8", "-topk8", "-in", folder / "id.pem", "-passout", "pass:s3cret", "-out", key)
    assert not openssl(*encrypt).returncode
    alone = idblock(folder, id_key=str(key))
    assert_refused(alone, {2})
    assert "passphrase-file" in alone.err
    secret = tmp_path / "secret"
    secret.write_text("s3cret\nmore\n")
    assert idblock(folder, id_key=str(key), passphrase_file=str(secret)).code == 0
    secret.write_text("wrong\n")
    assert_refused(idblock(folder, id_key=str(key), passphrase_file=str(secret)), {2})


def test_a_passphrase_is_asked_for_on_a_terminal(folder: Path, tmp_path: Path) -> None:
    key = tmp_path / "id.pem"
    encrypt = ("ec", "-in", folder / "id.pem", "-aes256", "-passout", "pass:s3cret", "-out", key)
    assert not openssl(*encrypt).returncode
    child, terminal = pty.fork()
    if child == 0:
        command = ["-m", "cvmplan", "idblock", *LAUNCH, "--id-key", str(key)]
        os.execv(sys.executable, [sys.executable, *command])  # noqa: S606 it has no shell
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while select.select([terminal], [], [], 30)[0]:
            shown += os.read(terminal, 4096)
            if shown.endswith(f"Passphrase of {key}: ".encode()):
                os.write(terminal, b"s3cret\n")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert b"ID key digest" in shown
    assert b"s3cret" not in shown


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--signature", "x"),
        ("--id-public-key", "id.pub"),
        ("--id-key", "id.pem", "--id-public-key", "id.pub"),
        ("--id-key", "id.pem", "--signature", "x"),
        ("--id-key", "id.pem", "--family-id", "00"),
        ("--id-key", "id.pem", "--guest-svn", "0x100000000"),
        ("--id-key", "id.pem", "--igvm-mask", "0"),
        ("--id-key", "id.pem", "--platform", "sev"),
        ("--id-key", "id.pem", "--format", "calls"),
        ("--emit-tbs", "-", "--emit-author-tbs", "-"),
        ("--emit-tbs", "-", "--id-key", "id.pem"),
        ("--emit-author-tbs", "-", "--id-key", "id.pem", "-o", "out"),
        ("--verify",),
        ("--verify", "--id-key", "id.pem"),
        ("--verify", "-o", "out"),
        ("--block", "id.pub"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    monkeypatch.chdir(folder)
    assert_refused(run("idblock", *LAUNCH, *args), {2, 3})


def test_nothing_is_signed_for_a_launch_that_is_not_legal(folder: Path, tmp_path: Path) -> None:
    region = {"gpa": "0x1000", "size": "4KiB", "type": "zero"}
    manifest = {"schema": "cvmplan.manifest/1", "platform": "snp", "regions": [region, region]}
    file = tmp_path / "twice.json"
    file.write_text(json.dumps(manifest))
    out = tmp_path / "out"
    result = run("idblock", str(file), "--id-key", str(folder / "id.pem"), "-o", str(out))
    assert_refused(result, {1})
    assert not out.exists()


def test_a_read_record_is_what_was_packed(folder: Path) -> None:
    block, auth = written(folder / "out")
    assert pack(read_block(Blob("block", memoryview(block)))) == block
    assert pack(read_auth(Blob("auth", memoryview(auth)))) == auth
