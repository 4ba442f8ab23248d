"""`reference --to`: what a verifier is given, fed to the verifier where it can be had."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sevsnpmeasure import guest, vcpu_types, vmm_types
from sevsnpmeasure.sev_mode import SevMode

from cvmplan.core.blob import Blob
from cvmplan.core.platform import SNP, TDX, VBS, Platform
from cvmplan.documents import model
from cvmplan.emit.references import corim, go_tdx_guest, predicate
from cvmplan.evidence import certificates, cose
from cvmplan.reference.targets import TARGETS
from cvmplan.reference.values import Reference, Value, Wanted
from tests.build.evidence import certify
from tests.build.ovmf import example
from tests.consumers import build, check, python, rust, unpacked
from tests.run import run

SHARED: Final = Path("../shared")
# sev-snp-measure 0.0.13 and the example; the first vCPUs of EPYC-v4.
ONE: Final = (
    "3af4e7650248a9717a1ceb61496e5a40206060a10fefdb7cd537b0f61ec15619"
    "e73a7e8e15760bd7e463fd3ab33229b1"
)
MRTD: Final = (
    "616d319349bda871d549b6a9e054e549cfde0ace2e625557c745a4c551d5c710"
    "d01eeb4748147dda4e4f4801a145c0fc"
)
RTMR: Final = "5a" * 48


def by_the_peer(image: Path, vcpus: int, cpu: str) -> str:
    """The launch digest by sev-snp-measure."""
    digest: bytes = guest.calc_launch_digest(
        SevMode.SEV_SNP, vcpus, vcpu_types.CPU_SIGS[cpu], str(image), None, None, None, 0x1,
        vmm_type=vmm_types.VMMType.QEMU,
    )  # fmt: skip
    return digest.hex()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(example("snp"))
    return path


def out(*arguments: str) -> str:
    told = run("reference", *arguments)
    assert told.code == 0, told.err
    return told.out


def payload(message: str) -> Any:
    """What Trustee's `sample` extractor reads: version, type, standard base64 with padding."""
    held = json.loads(message)
    assert (held["version"], held["type"]) == ("0.1.0", "sample")
    return json.loads(base64.b64decode(held["payload"], validate=True))


# --- Trustee -------------------------------------------------------------------------------------


def test_rvps_has_all_values_of_a_name_in_one_list_and_each_is_the_peers(image: Path) -> None:
    options = ("--platform", "snp", "--vcpus", "1-32", "--cpu", "EPYC-Milan,EPYC-Genoa")
    held = payload(out(str(image), *options, "--to", "rvps"))
    wanted = {
        by_the_peer(image, n, cpu) for n in range(1, 33) for cpu in ("EPYC-Milan", "EPYC-Genoa")
    }
    assert list(held) == ["snp_launch_measurement"]
    assert len(held["snp_launch_measurement"]) == 64
    assert {*held["snp_launch_measurement"]} == wanted


def test_values_of_several_platforms_are_in_one_message() -> None:
    told = out("example:snp", "example:tdx", "--to", "rvps", "--rtmr1", RTMR, "--xfam", "0x602e7")
    assert payload(told) == {
        "snp_launch_measurement": [ONE],
        "mr_td": [MRTD],
        "rtmr_1": [RTMR],
        "xfam": ["e702060000000000"],  # outputs.md 1.1: as in the quote
    }


def test_a_name_that_the_usual_storage_refuses_has_a_warning() -> None:
    told = run("reference", "--example", "snp", "--to", "rvps", "--name", "rvps:///snp:1")
    assert told.code == 0
    assert [*payload(told.out)] == ["rvps:///snp:1"]
    assert "warning: --name: rvps:///snp:1: Trustee's LocalFs" in told.err
    told = run("reference", "--example", "snp", "--to", "rvps", "--name", "a/b_c.d-1")
    assert (told.code, told.err) == (0, "")


_REGO: Final = """
import json, sys
import regorus
policy, values, claims = sys.argv[1:]
engine = regorus.Engine()
engine.add_policy("p.rego", policy)
engine.set_input_json(claims)
held = json.loads(values)
engine.add_extension("query_reference_value", 1, lambda name: held.get(name))
print(json.dumps(engine.eval_rule("data.policy.trust_claims")))
"""
SNP_CLAIMS: Final = {"policy_debug_allowed": False, "policy_migrate_ma": False}


def claims(policy: str, values: Any, given: Any) -> Any:
    return python(_REGO, policy, json.dumps(values), json.dumps(given), needs="regorus")


@pytest.mark.parametrize("contained", [(), ("--self-contained",)])
def test_the_policy_affirms_accepted_values_and_no_others(contained: tuple[str, ...]) -> None:
    """Run by regorus, Trustee's engine."""
    options = ("--example", "snp", "--vcpus", "1-3")
    policy = out(*options, "--to", "rego", *contained)
    values = payload(out(*options, "--to", "rvps"))
    for digest in values["snp_launch_measurement"]:
        good = {"snp": {**SNP_CLAIMS, "measurement": digest}}
        assert claims(policy, values, good) == {"executables": 3, "configuration": 2}
    for wrong in (ONE.upper(), ONE[:-1] + "0", ""):
        bad = {"snp": {**SNP_CLAIMS, "measurement": wrong}}
        assert claims(policy, values, bad)["executables"] == 33
    debug = {"snp": {**SNP_CLAIMS, "policy_debug_allowed": True, "measurement": ONE}}
    assert claims(policy, values, debug) == {"executables": 3, "configuration": 36}
    assert claims(policy, values, {}) == {"executables": 33, "configuration": 36}


def test_the_policy_of_a_td() -> None:
    policy = out("--example", "tdx", "--to", "rego")
    body = {"quote": {"body": {"mr_td": MRTD}}, "td_attributes": {"debug": False}}
    values = payload(out("--example", "tdx", "--to", "rvps"))
    assert claims(policy, values, {"tdx": body}) == {"executables": 3, "configuration": 2}
    assert claims(policy, {}, {"tdx": body})["executables"] == 33


def test_another_policy_takes_the_message_as_well() -> None:
    """../shared/consumers: a policy of another hand."""
    path = SHARED / "consumers/examples/policy/snp_tdx.rego"
    if not path.exists():
        pytest.skip("../shared is absent")
    values = payload(out("example:snp", "example:tdx", "--to", "rvps"))
    good = {"snp": {**SNP_CLAIMS, "measurement": ONE}}
    assert claims(path.read_text(), values, good)["executables"] == 3
    assert claims(path.read_text(), values, {"snp": {"measurement": MRTD}})["executables"] == 33


def test_a_plugin_prints_the_hex_alone() -> None:
    assert out("--example", "tdx", "--to", "coco") == f"{MRTD}\n"


def test_the_script_of_a_plugin_computes_the_value() -> None:
    script = out("example:snp", "--vcpus", "2", "--to", "coco", "--script")
    words = shlex.split(script.splitlines()[-1])
    assert script.startswith("#!/bin/sh\n")
    assert words[:3] == ["exec", "cvmplan", "measure"]
    assert f"{run(*words[2:]).out}\n" == out("example:snp", "--vcpus", "2", "--to", "coco")


# --- go-sev-guest and go-tdx-guest ---------------------------------------------------------------


def test_a_configuration_for_each_value_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    options = ("--example", "snp", "--vcpus", "1-3", "--to", "go-sev-guest")
    assert out(*options, "-o", str(folder)) == ""
    files = sorted(folder.iterdir())
    assert [path.name for path in files] == ["001.textproto", "002.textproto", "003.textproto"]
    escaped = re.findall(r'measurement: "((?:\\x[0-9a-f]{2}){48})"', files[0].read_text())
    assert [one.replace("\\x", "") for one in escaped] == [ONE]
    beside = tmp_path / "provenance.json"
    refused = run("reference", *options, "--provenance", str(beside))
    assert (refused.code, refused.out, beside.exists()) == (2, "", False)
    assert refused.err.splitlines()[-1] == "hint: -o FOLDER"


GO_SEV_GUEST: Final = "github.com/google/go-sev-guest"


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report that go-sev-guest's own test package signs, under a chain that it makes."""
    folder = tmp_path_factory.mktemp("reported")
    driver = build(
        SHARED / "consumers/harness/mkreport.go",
        (f"{GO_SEV_GUEST}@v0.15.0", f"{GO_SEV_GUEST}/testing@v0.15.0"),
        folder,
    )
    made = subprocess.run(
        [str(driver), ONE, "0x30000", "r.bin", "chain.pem", "certs"], cwd=folder, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return folder


@pytest.mark.slow
def test_snpguest_accepts_a_report_with_the_value_and_no_other(reported: Path) -> None:
    told = out("--example", "snp", "--to", "snpguest").strip()
    folder = reported / "certs"
    words = ("verify", "attestation", str(folder), str(folder / "report.bin"), "-p", "milan", "-m")
    good = rust("snpguest", *words, told)
    assert good.returncode == 0, good.stdout + good.stderr
    other = "0" if told[-1] != "0" else "1"
    for wrong in (told[:-1] + other, told.removeprefix("0x")):
        assert rust("snpguest", *words, wrong).returncode == 1


@pytest.mark.slow
def test_go_sev_guest_accepts_a_report_with_the_value_and_no_other(
    reported: Path, tmp_path: Path
) -> None:
    report, chain, config = reported / "r.bin", reported / "chain.pem", tmp_path / "c.textproto"
    told = out("--example", "snp", "--to", "go-sev-guest")
    root = f'root_of_trust {{ cabundle_paths: "{chain}" disallow_network: true }}\n'
    config.write_text(told[: told.index("root_of_trust")] + root)
    words = ("-in", str(report), "-product_name", "Milan-B0", "-network=false", "-config")
    assert check("go-sev-guest", *words, str(config)).returncode == 0
    for old, new, code in (
        (r"\x3a\xf4", r"\x3b\xf4", 5),  # one bit of the measurement
        ("policy: 196608", "policy: 65536", 1),  # bit 17 is not set
        ("value: 0", "value: 1", 5),
    ):
        config.write_text((told[: told.index("root_of_trust")] + root).replace(old, new))
        assert check("go-sev-guest", *words, str(config)).returncode == code, new


def of_quote(quote: Path, wanted: Wanted) -> str:
    data = quote.read_bytes()
    value = Value(TDX, "MRTD", "sha384", data[184:232], "image", "0" * 64, {})
    (told,) = go_tdx_guest.reference(Reference((value,), wanted, "test"))
    return told


def test_go_tdx_guest_accepts_the_quote_with_the_value_and_no_other(tmp_path: Path) -> None:
    """A quote of hardware; its register and ATTRIBUTES are the reference."""
    quote = SHARED / "vectors/tdx/gtg-tdx_prod_quote_SPR_E4.dat"
    if not quote.exists():
        pytest.skip("../shared is absent")
    data, config = quote.read_bytes(), tmp_path / "c.textproto"
    attributes = int.from_bytes(data[168:176], "little")
    rtmrs = (None, data[424:472], None, None)
    told = of_quote(quote, Wanted(td_attributes=attributes, rtmrs=rtmrs))
    words = ("-in", str(quote), "-inform", "bin", "-config", str(config))
    config.write_text(told)
    good = check("go-tdx-guest", *words)
    assert good.returncode == 0, good.stderr
    for old, new in (
        (f"\\x{data[184]:02x}\\x{data[185]:02x}", f"\\x{data[184] ^ 1:02x}\\x{data[185]:02x}"),
        (f"\\x{data[424]:02x}\\x{data[425]:02x}", f"\\x{data[424] ^ 1:02x}\\x{data[425]:02x}"),
    ):
        assert old in told
        config.write_text(told.replace(old, new))
        assert check("go-tdx-guest", *words).returncode == 4
    config.write_text(of_quote(quote, Wanted(td_attributes=attributes ^ 1)))
    assert check("go-tdx-guest", *words).returncode == 4


def test_several_mrtds_are_one_list_and_without_attributes_debug_is_refused(
    tmp_path: Path,
) -> None:
    other = tmp_path / "tdx.fd"
    changed = bytearray(example("tdx"))
    changed[-64] ^= 1
    other.write_bytes(changed)
    told = out("example:tdx", str(other), "--to", "go-tdx-guest")
    assert told.count("any_mr_td:") == 2
    assert "enable_td_debug_check: true" in told
    assert "header_policy {" in told  # without it the tool panics
    assert "newer than 0.3.1" in told


# --- statements and texts ------------------------------------------------------------------------

_STATEMENT: Final = """
import json, sys
from google.protobuf.json_format import ParseDict
import in_toto_attestation.v1.statement_pb2 as pb
from in_toto_attestation.v1.statement import Statement
held = json.loads(sys.argv[1])
made = ParseDict(held, pb.Statement())
Statement.copy_from_pb(made).validate()
print(json.dumps([one.name for one in made.subject]))
"""


def test_the_statement_is_valid_and_names_the_images() -> None:
    told = out("example:snp", "example:tdx", "--vcpus", "1", "--to", "in-toto")
    names = python(_STATEMENT, told, needs="in_toto_attestation")
    assert names == ["example:snp", "example:tdx"]
    held = json.loads(told)
    assert held["_type"] == "https://in-toto.io/Statement/v1"
    model("reference").model_validate(held["predicate"])


def test_cosign_verifies_the_statement_for_the_image_and_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "")
    monkeypatch.chdir(tmp_path)
    image = tmp_path / "snp.fd"
    image.write_bytes(example("snp"))

    def cosign(*arguments: str) -> int:
        return unpacked("cosign", "cosign", *arguments).returncode

    def verified(kind: str = predicate.TYPE) -> int:
        key = ("--key", "key.pub", "--bundle", "bundle.json", "--insecure-ignore-tlog")
        return cosign("verify-blob-attestation", *key, "--type", kind, image.name)

    told = out(image.name, "--platform", "snp", "--vcpus", "1-2", "--to", "in-toto")
    (tmp_path / "statement.json").write_text(told)
    assert cosign("generate-key-pair", "--output-key-prefix", "key") == 0
    signed = ("--key", "key.key", "--statement", "statement.json", "--bundle", "bundle.json")
    offline = ("-y", "--use-signing-config=false", "--tlog-upload=false")
    assert cosign("attest-blob", *offline, *signed) == 0
    assert verified() == 0
    assert verified("https://example.org/other") == 1
    image.write_bytes(image.read_bytes()[::-1])
    assert verified() == 1


def test_the_predicate_alone_and_the_provenance_beside_are_one_document(tmp_path: Path) -> None:
    beside = tmp_path / "provenance.json"
    out("--example", "snp", "--to", "rvps", "--provenance", str(beside))
    told = out("--example", "snp", "--to", "predicate")
    assert beside.read_text() == told
    (value,) = model("reference").model_validate_json(told).values
    assert (value.digest, value.register_, value.settings["vcpus"]) == (ONE, "MEASUREMENT", 1)


def test_the_texts_of_other_tools() -> None:
    """outputs.md 0.1: 0x and hex; standard base64 of the raw bytes."""
    assert out("--example", "snp", "--to", "snpguest") == f"0x{ONE}\n"
    text = base64.b64encode(bytes.fromhex(ONE)).decode()
    assert out("--example", "snp", "--to", "sev-snp-measure") == f"{text}\n"


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "corim"])
def test_the_same_input_gives_the_same_bytes(target: str) -> None:
    options = ("--example", "tdx" if TDX in TARGETS[target].platforms else "snp", "--to", target)
    assert out(*options) == out(*options)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--to", "nothing"), "--to: unknown target 'nothing'"),
        (("--to", "coco", "--vcpus", "1-2"), "--to: coco takes one value, and these are 2"),
        (("--to", "go-tdx-guest"), "--to: go-tdx-guest takes no values of snp"),
        (("--to", "rvps", "--policy", "0x30000"), "--policy: is not supported by --to rvps"),
        (("--to", "snpguest", "--rtmr3", RTMR), "--rtmr3: is not supported by --to snpguest"),
        (("--to", "rvps", "--rtmr1", "aa"), "--rtmr1: 'aa' is not 48 bytes"),
        (("--to", "rego", "--script"), "--script: is not supported by --to rego"),
    ],
)
def test_what_a_target_has_no_room_for_is_refused(options: tuple[str, ...], problem: str) -> None:
    told = run("reference", "--example", "snp", *options)
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith(f"error: {problem}")


def test_a_combination_that_is_no_launch_writes_nothing_and_all_are_listed(tmp_path: Path) -> None:
    target = tmp_path / "values.json"
    options = ("example:snp", "--platform", "snp,tdx", "--vcpus", "1-2", "--to", "rvps")
    told = run("reference", *options, "-o", str(target))
    assert (told.code, told.out, target.exists()) == (1, "", False)
    assert "2 of 4 cannot be launched" in told.err
    assert told.err.count("example:snp --") == 2


def test_every_platform_of_a_target_is_measured() -> None:
    assert {SNP, TDX} <= {one for target in TARGETS.values() for one in target.platforms}
    assert all(one.measured for target in TARGETS.values() for one in target.platforms)


# --- CoRIM ---------------------------------------------------------------------------------------

CORIM: Final = SHARED / "consumers/examples/corim"


@pytest.mark.parametrize("platform", [SNP, TDX, VBS])
def test_a_corim_is_that_of_the_profile(platform: Platform) -> None:
    """The examples are of another program: digests of 0xAA, SVN 1."""
    example = CORIM / f"profile-a-{platform}.cbor"
    if not example.exists():
        pytest.skip("../shared is absent")
    digest = b"\xaa" * platform.digest_size
    value = Value(platform, "", platform.algorithm, digest, "image", "0" * 64, {})
    assert corim.reference(Reference((value,), Wanted(svn=1))) == [example.read_bytes()]
    other = corim.reference(Reference((value,), Wanted(svn=2)))
    assert other != [example.read_bytes()]


def keys(folder: Path) -> dict[str, tuple[Path, Path]]:
    """A key and its certificate in PEM, of each kind that signs."""
    made = {}
    for name, kind in (("es384", "P-384"), ("ps384", "RSA")):
        signer = certify(f"{name} signer", kind, ca=False)
        key, cert = folder / f"{name}.key", folder / f"{name}.pem"
        text = signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        key.write_bytes(text)
        cert.write_bytes(signer.pem)
        made[name] = key, cert
    return made


def corim_of(folder: Path, *more: str) -> Path:
    target = folder / "out.corim"
    args = ("--example", "snp", "--to", "corim", "--svn", "3", "-o", str(target))
    result = run("reference", *args, *more)
    assert (result.code, result.out) == (0, ""), result.err
    return target


def test_a_corim_is_the_same_each_time_and_has_the_digest(tmp_path: Path) -> None:
    one = corim_of(tmp_path).read_bytes()
    assert corim_of(tmp_path).read_bytes() == one
    assert bytes.fromhex(ONE) in one


@pytest.mark.parametrize("kind", ["es384", "ps384"])
def test_a_signed_corim_is_verified_by_its_certificate_alone(kind: str, tmp_path: Path) -> None:
    key, cert = keys(tmp_path)[kind]
    data = corim_of(tmp_path, "--key", str(key), "--cert", str(cert)).read_bytes()
    found = cose.read(Blob("c", memoryview(data)))
    (own,) = certificates.read_all([Blob("p", memoryview(cert.read_bytes()))]).certificates
    assert cose.is_signed(found, own)
    assert found.payload == corim_of(tmp_path).read_bytes()
    spoiled = data.replace(bytes.fromhex(ONE), b"\0" * 48)
    assert not cose.is_signed(cose.read(Blob("c", memoryview(spoiled))), own)
    other = keys(tmp_path)["ps384" if kind == "es384" else "es384"][1]
    (stranger,) = certificates.read_all([Blob("p", memoryview(other.read_bytes()))]).certificates
    assert not cose.is_signed(found, stranger)


@pytest.mark.parametrize("name", ["signed-es384", "signed-es384-leaf", "signed-ps384"])
def test_signatures_of_another_program_are_verified(name: str) -> None:
    path = CORIM / f"{name}.cose"
    if not path.exists():
        pytest.skip("../shared is absent")
    found = cose.read(Blob(name, memoryview(path.read_bytes())))
    chain = certificates.read_all(
        [Blob("x5chain", memoryview(one)) for one in found.chain]
    ).certificates
    assert cose.is_signed(found, chain[0])
    changed = found._replace(payload=found.payload + b"\0")
    assert not cose.is_signed(changed, chain[0])


def test_the_crate_corim_takes_it_and_refuses_it_spoiled(tmp_path: Path) -> None:
    unsigned = corim_of(tmp_path).read_bytes()
    paths = {"unsigned": unsigned}
    for name, (key, cert) in keys(tmp_path).items():
        paths[name] = corim_of(tmp_path, "--key", str(key), "--cert", str(cert)).read_bytes()
    for name, data in paths.items():
        (tmp_path / name).write_bytes(data)
        assert rust("corim", str(tmp_path / name)).returncode == 0, name
        tag, kind = (b"\xd9\x01\xfa", b"\xd9\x01\xfb"), (b"rim+cbor", b"rim+cbox")
        wrong = data.replace(*(tag if name == "unsigned" else kind))
        (tmp_path / name).write_bytes(wrong)
        assert rust("corim", str(tmp_path / name)).returncode == 1, name
        (tmp_path / name).write_bytes(data[:-1])
        assert rust("corim", str(tmp_path / name)).returncode == 1, name


@pytest.mark.parametrize(
    ("args", "at"),
    [
        ((), "--svn: missing"),
        (("--svn", "1", "--vcpus", "1-2"), "--to: corim takes one value"),
        (("--svn", "1", "--key", "k"), "--cert: missing"),
        (("--svn", "1", "--cert", "c"), "--key: missing"),
        (("--svn", "1", "--key", "es384.key", "--cert", "ps384.pem"), "--cert: the first"),
    ],
)
def test_a_corim_that_cannot_be_made_is_refused(
    args: tuple[str, ...], at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = run("reference", "--example", "snp", "--to", "corim", "-o", "o", *args)
    assert (result.code, result.out, Path("o").exists()) == (2, "", False)
    assert result.err.startswith(f"error: {at}")
    assert run("reference", "--example", "snp", "--to", "rvps", "--key", "es384.key").code == 2
