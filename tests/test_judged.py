"""Evidence alone: what it says, pins and policy files, CRLs, values that a plan only assumed."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from cvmplan import verify as judge
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, CvmplanError
from cvmplan.documents.policy import SnpPolicy, TdxPolicy
from cvmplan.evidence import revocation
from cvmplan.evidence.pins import PINS
from cvmplan.platforms.snp import bulletins
from cvmplan.platforms.snp.report import read
from tests.build import intel
from tests.build.evidence import PSS, Signer, amd, certify, new_key, snp_report
from tests.forgeries import MEASUREMENT, TCB, Quoted, Report, table
from tests.oracles import shared
from tests.run import run
from tests.test_forgeries import judged

CASES: Final = "cases/evidence"


def answer(*args: str) -> tuple[int, dict[str, Any]]:
    result = run("verify", *args, "--format", "json")
    assert result.err == "", result.err
    return result.code, json.loads(result.out)


def lines(document: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {one["name"]: one for one in document["lines"]}


def certificates(folder: str, *names: str) -> list[str]:
    return [word for name in names for word in ("--certs", str(shared(f"{folder}/{name}")))]


# --- the cases: evidence of hardware, and what its folder says ---------------------------------


def test_a_report_alone_says_all_its_fields_and_whether_it_is_signed() -> None:
    path = str(shared(f"{CASES}/report-alone/turin_attestation_report.bin"))
    names = ("turin_vcek.pem", "turin_ask.pem", "turin_ark.pem")
    code, said = answer(path, *certificates(f"{CASES}/report-alone", *names), "--at", "2026-11-01")
    assert (code, said["verdict"], said["planned"]) == (0, "ok", False)
    found = lines(said)
    assert found["reported_tcb"]["found"] == "fmc 1, bootloader 1, tee 1, snp 4, microcode 81"
    assert found["policy"]["why"] == "ABI 0.31, SMT"
    assert found["current_version"]["found"] == "1.55 build 65"
    assert found["cpu"]["found"] == "0xb00f21"
    assert found["platform_info"]["why"] == "SMT_EN ECC_EN ALIAS_CHECK_COMPLETE bit 6"
    shown = run("inspect", path, "--format", "json")
    rows = {row["field"]: row for row in json.loads(shown.out)["tables"][0]["rows"]}
    assert set(rows) <= set(found)
    assert rows["launch_mitigations"]["value"] == found["launch_mitigations"]["found"] == "0x3f"


def test_the_level_of_a_certificate_is_a_number_and_a_sentence() -> None:
    folder = f"{CASES}/vcek-of-another-tcb"
    pin = shared(f"{folder}/pin").read_text().strip()
    certs = certificates(folder, "vcek.pem", "ask.pem", "ark.pem")
    code, said = answer(str(shared(f"{folder}/report.bin")), "--pin", pin, *certs)
    line = lines(said)["certificates_snp_spl"]
    assert (code, line["status"], line["expected"], line["found"]) == (1, "differs", "5", "14")
    told = "the certificate is for snp 14; the report says reported TCB 5, current TCB 14"
    assert line["why"] == told


REGISTERS: Final = {  # ../shared/cases/README.md, quote-alone
    "mrtd": "eea8b6a8", "rtmr0": "5aca07b1", "rtmr1": "7fc19ed7", "rtmr2": "35b87e05",
    "rtmr3": "00000000",
}  # fmt: skip


def test_a_quote_alone_is_read_replayed_and_pinned() -> None:
    quote, log = (str(shared(f"{CASES}/quote-alone/{name}")) for name in ("quote.dat", "CCEL"))
    args = (quote, "--event-log", log, "--at", "2026-11-01")
    code, said = answer(*args)
    found = lines(said)
    assert (code, said["verdict"]) == (0, "ok")
    assert {n: found[n]["found"][:8] for n in REGISTERS} == REGISTERS
    assert {found[n]["status"] for n in REGISTERS if n != "mrtd"} == {"ok"}
    for name in REGISTERS:
        right, wrong = found[name]["found"], "ff" * 48
        assert answer(*args, f"--{name}", right)[0] == 0
        assert answer(*args, f"--{name}", wrong, f"--{name}", right)[0] == 0  # one of several
        code, said = answer(*args, f"--{name}", wrong)
        assert (code, lines(said)[name]["status"]) == (1, "differs")


def test_a_pin_is_before_a_log_that_lacks_what_was_extended_at_run_time() -> None:
    folder = "cases/events/rtmr3-extended-at-run-time"
    quote, log = (str(shared(f"{folder}/{name}")) for name in ("quote.dat", "CCEL"))
    args = (quote, "--event-log", log, "--at", "2026-11-01")
    code, said = answer(*args)
    value = lines(said)["rtmr3"]["found"]
    assert (code, value[:8]) == (1, "5d65d032")
    code, said = answer(*args, "--rtmr3", value)
    differing = {one["name"] for one in said["lines"] if one["status"] == "differs"}
    assert differing == {"signature"}  # the quote of the case was changed by hand
    assert lines(said)["rtmr3"]["why"].startswith("the log does not: ")


@pytest.mark.parametrize("name", ["q-1.bin", "q-5.bin", "q-all.bin"])
def test_attributes_that_no_td_has_differ_alone_too(name: str) -> None:
    folder = f"{CASES}/td-attributes"
    pin = shared(f"{folder}/pin").read_text().strip()
    code, said = answer(str(shared(f"{folder}/{name}")), "--pin", pin)
    found = lines(said)
    assert code == 1
    assert "differs" in (found["attributes"]["status"], found["debug"]["status"])


# --- what is asked for -------------------------------------------------------------------------


def test_the_keys_of_a_policy_file_are_the_pins() -> None:
    how = {"provisional", "accept"}
    for model, kind in ((SnpPolicy, "report"), (TdxPolicy, "quote")):
        assert set(model.model_fields) - how == {n for n, p in PINS.items() if kind in p.kinds}


POLICIES: Final = {
    "p.toml": 'schema = "cvmplan.policy/1"\n[snp]\nmeasurement = ["{other}", "{right}"]\n'
    'policy = "0x30000"\nvmpl = 0\n[snp.min_tcb]\nsnp = 24\nmicrocode = 219\n',
    "p.json": '{{"schema": "cvmplan.policy/1", "snp": {{"measurement": "{right}", "min_tcb": '
    '"snp=24", "min_version": "1.55", "min_build": 29, "platform_info": "0x0"}}, "tdx": '
    '{{"mrtd": "{other}"}}}}',
}


def policy(folder: Path, name: str, right: str = MEASUREMENT.hex()) -> str:
    path = folder / name
    path.write_text(POLICIES[name].format(other="00" * 48, right=right))
    return str(path)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_file_is_all_pins_at_once(name: str, tmp_path: Path) -> None:
    result, statuses = judged(tmp_path, Report(), "--policy-file", policy(tmp_path, name))
    assert result.code == 0
    assert {statuses["measurement"], statuses["min_tcb"]} == {"ok"}
    wrong = policy(tmp_path, name, "11" * 48)
    result, statuses = judged(tmp_path, Report(), "--policy-file", wrong)
    assert (result.code, statuses["measurement"]) == (1, "differs")
    option = ("--policy-file", wrong, "--measurement", MEASUREMENT.hex())
    assert judged(tmp_path, Report(), *option)[0].code == 0  # an option is before the file
    lower = Report({n: bytes([*TCB[:6], 23, 219]) for n in (0x38, 0x180, 0x1E0, 0x1F0)})
    result, statuses = judged(tmp_path, lower, "--policy-file", policy(tmp_path, name))
    assert (result.code, statuses["min_tcb"]) == (1, "differs")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('schema = "cvmplan.policy/1"\n[snp]\nmeasurement = "00"\n', 3),
        ('schema = "cvmplan.policy/1"\n[snp]\nmrtd = "00"\n', 3),
        ('schema = "cvmplan.policy/1"\n[snp.min_tcb]\nmicrocod = 1\n', 3),
        ('schema = "cvmplan.policy/1"\n[snp]\nmin_version = "1"\n', 3),
        ('schema = "cvmplan.policy/1"\n[snp]\npolicy_mask = 1\n', 2),
        ('schema = "cvmplan.policy/1"\n[tdx]\nmrtd = "00"\n', 1),
        ('schema = "cvmplan.policy/2"\n', 3),
        ("[snp]\n", 3),
    ],
)
def test_a_policy_that_is_wrong_is_one_line(text: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(Report().build()[0])
    (tmp_path / "p").write_text(text)
    result = run("verify", str(tmp_path / "r"), "--policy-file", str(tmp_path / "p"))
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--mrtd", "00" * 48), "--mrtd: is not supported for evidence of snp"),
        (("--min-tcb", "snp"), "--min-tcb: 'snp' is not an integer (decimal or 0x…)"),
        (("--min-tcb", "snp=1,"), "--min-tcb: 'snp=1,' is not NAME=LEVEL,…"),
        (("--min-tcb", "snp=300"), "--min-tcb: 300 is not between 0 and 255"),
        (("--min-version", "1.x"), "--min-version: '1.x' is not a version, MAJOR.MINOR"),
        (("--policy-mask", "1"), "--policy-mask: needs --policy"),
        (("--vmpl", "4"), "--vmpl: '4' is not between 0 and 3"),
        (("--vcpus", "2"), "--vcpus: needs IMAGE"),
        (("--accept", "Fine"), "--accept: 'Fine' is not a status to accept"),
        (("--accept", "UpToDate"), "--accept: is about TDX quotes"),
    ],
)
def test_an_option_that_is_wrong_is_named(args: tuple[str, ...], told: str, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(Report().build()[0])
    result = run("verify", str(tmp_path / "r"), *args)
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[0] == f"error: {told}"


def test_pins_are_parameters_of_python() -> None:
    data, chain = Report().build()
    own: dict[str, Any] = {"pin": [chain[-1].pin], "at": "2026-01-01"}
    assert judge(data, **own, pins={"measurement": [MEASUREMENT.hex()], "vmpl": 0}).holds
    assert not judge(data, **own, pins={"min_tcb": {"snp": 25}}).holds
    assert not judge(data, at="2026-01-01").holds
    for pins in ({"mrtd": "00" * 48}, {"measuremnt": "00"}, {"vmpl": 9}):
        with pytest.raises(ConfigError) as caught:
            judge(data, **own, pins=pins)
        assert caught.value.at == next(iter(pins))


def test_provisional_firmware_is_accepted_where_that_is_asked_for(tmp_path: Path) -> None:
    lower = Report({0x1E0: bytes([*TCB[:6], 23, 219])})
    assert judged(tmp_path, lower)[1]["tcb_order"] == "differs"
    assert judged(tmp_path, lower, "--provisional")[0].code == 0


# --- what a plan only assumed ------------------------------------------------------------------


def planned(folder: Path, evidence: Any, example: str, *more: str) -> dict[str, str]:
    measured = bytes.fromhex(run("measure", "--example", example, "--bare").out)
    if isinstance(evidence, Report):
        return judged(folder, evidence, "--example", example, *more)[1]
    fields = {**evidence.fields, "mrtd": measured}
    return judged(folder, Quoted(fields), "--example", example, *more)[1]


def test_an_assumed_policy_does_not_differ_and_a_given_one_does(tmp_path: Path) -> None:
    report = Report({0x08: (0x130000).to_bytes(8, "little")})
    assert planned(tmp_path, report, "snp")["policy"] == "assumed"
    assert planned(tmp_path, report, "snp", "--policy", "0x30000")["policy"] == "differs"
    assert planned(tmp_path, report, "snp", "--policy", "0x130000")["policy"] == "ok"
    assert planned(tmp_path, report, "snp")["measurement"] == "differs"  # always counts
    masked = ("--policy", "0x30000", "--policy-mask", "0x30000")
    assert planned(tmp_path, report, "snp", *masked)["policy"] == "ok"
    for weaker in (0xB0000, 0x70000):
        report = Report({0x08: weaker.to_bytes(8, "little")})
        assert planned(tmp_path, report, "snp")["policy"] == "differs"
        assert planned(tmp_path, report, "snp", "--policy", hex(weaker))["policy"] == "ok"


def test_the_assumed_settings_of_a_td_do_not_differ(tmp_path: Path) -> None:
    quote = Quoted({"td_attributes": (0x50000000).to_bytes(8, "little"), "mrowner": b"\1" * 48})
    found = planned(tmp_path, quote, "tdx")
    assert {found["attributes"], found["mrowner"]} <= {"assumed", "not in plan"}
    assert found["mrtd"] == "ok"
    told = planned(tmp_path, quote, "tdx", "--attributes", "0x10000000")
    assert told["attributes"] == "differs"


def test_a_vmpl_above_0_differs_unless_it_is_pinned(tmp_path: Path) -> None:
    report = Report({0x30: b"\2"})
    assert judged(tmp_path, report)[1]["vmpl"] == "differs"
    assert judged(tmp_path, report, "--vmpl", "2")[0].code == 0


# --- revocation --------------------------------------------------------------------------------


def crl(
    issuer: Signer,
    serials: tuple[int, ...] = (),
    days: int = 30,
    key: Any = None,
    extension: x509.ExtensionType | None = None,
) -> bytes:
    """A list like AMD's: signed by the ARK, RSASSA-PSS with SHA-384."""
    begin = intel.AT - timedelta(days=1)
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.load_der_x509_certificate(issuer.der).subject)
        .last_update(begin)
        .next_update(begin + timedelta(days=days))
    )
    for serial in serials:
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin)
        made = made.add_revoked_certificate(one.build())
    if extension is not None:
        made = made.add_extension(extension, critical=False)
    signed = made.sign(key or issuer.key, hashes.SHA384(), rsa_padding=PSS)
    return signed.public_bytes(Encoding.DER)


REVOCATIONS: Final[dict[str, tuple[Any, str]]] = {
    "none of the chain": (lambda ark: crl(ark, (8, 9)), "ok"),
    "the ASK": (lambda ark: crl(ark, (7,)), "differs"),
    "expired": (lambda ark: crl(ark, days=0), "differs"),
    "by another key": (lambda ark: crl(ark, key=new_key("RSA", "a stranger")), "differs"),
    "of changes": (lambda ark: crl(ark, extension=x509.DeltaCRLIndicator(1)), "differs"),
    "of another authority": (lambda _: crl(amd(line="Genoa")[-1]), "differs"),
}


@pytest.mark.parametrize("name", REVOCATIONS)
def test_the_chain_is_held_against_a_list_of_revocations(name: str, tmp_path: Path) -> None:
    make, status = REVOCATIONS[name]
    data = make(amd()[-1])
    pem = x509.load_der_x509_crl(data).public_bytes(Encoding.PEM)
    for form in (data, pem, data.hex().encode()):
        (tmp_path / "crl").write_bytes(form)
        result, found = judged(tmp_path, Report(), "--crl", str(tmp_path / "crl"))
        assert (found["revocation"], result.code) == (status, int(status == "differs"))
    assert "revocation" not in judged(tmp_path, Report())[1]


@pytest.mark.parametrize("name", REVOCATIONS)
def test_a_chain_without_its_root_cannot_be_held_against_a_list(name: str, tmp_path: Path) -> None:
    """RFC 5280, 6.3.3: without a list of the issuer the status of a certificate is not known."""
    data, made = Report().build()
    (tmp_path / "crl").write_bytes(REVOCATIONS[name][0](made[-1]))
    (tmp_path / "r").write_bytes(data[:1184] + table(made[:2], "VCEK"))
    keys = ("--pin", made[1].pin, "--at", "2026-01-01", "--format", "json")
    told = run("verify", str(tmp_path / "r"), *keys, "--crl", str(tmp_path / "crl"))
    found = {one["name"]: one["status"] for one in json.loads(told.out)["lines"]}
    assert (found["certificate_chain"], found["revocation"], told.code) == ("ok", "differs", 1)


@pytest.mark.parametrize("data", [b"", b"x", b"0" * 64, b"\x30\x80", amd()[0].der])
def test_what_is_no_list_of_revocations_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(Report().build()[0])
    (tmp_path / "crl").write_bytes(data)
    result = run("verify", str(tmp_path / "r"), "--crl", str(tmp_path / "crl"))
    assert (result.code, result.out) == (3, "")


# --- AMD's bulletins ---------------------------------------------------------------------------


def of_cpu(cpu: bytes, **levels: int) -> Any:
    parts = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}
    if cpu[0] != 0x1A:
        parts = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
    tcb = bytearray(8)
    for name, level in levels.items():
        tcb[parts[name]] = level
    data = snp_report(None, 3, at={0x180: bytes(tcb), 0x188: cpu})
    return read(Blob("report", memoryview(data)))


@pytest.mark.parametrize(
    ("cpu", "levels", "missed"),
    [
        # microsoft/CCF issue 6812: TCB[SNP] 0x18 on Milan and 0x17 on Genoa (AMD-SB-3019).
        (b"\x19\1\1", {"snp": 0x17}, {"AMD-SB-3019", "AMD-SB-3016", "AMD-SB-3030"}),
        (b"\x19\1\1", {"snp": 0x18}, {"AMD-SB-3016", "AMD-SB-3030"}),
        (b"\x19\1\1", {"snp": 0x1D}, set()),
        (b"\x19\x11\1", {"snp": 0x17, "microcode": 0x54},
         {"AMD-SB-3020", "AMD-SB-3016", "AMD-SB-3027"}),
        (b"\x19\x11\1", {"snp": 0x1B, "microcode": 0x56}, set()),
        (b"\x19\x11\2", {"snp": 0x1B, "microcode": 0x51}, set()),  # Genoa-X counts otherwise
        (b"\x1a\2\1", {"snp": 3, "microcode": 0x51}, {"AMD-SB-3020"}),
        (b"\x1a\2\1", {"snp": 4, "microcode": 0x51}, set()),
        (b"\x17\1\1", {"snp": 0}, set()),
    ],
)  # fmt: skip
def test_bulletins_ask_for_levels_of_a_product(
    cpu: bytes, levels: dict[str, int], missed: set[str]
) -> None:
    assert {one.bulletin for one in bulletins.missed(of_cpu(cpu, **levels))} == missed


def test_bulletins_are_a_note_and_an_error_where_that_is_asked_for(tmp_path: Path) -> None:
    result, _ = judged(tmp_path, Report())
    told = json.loads(result.out)["notes"]
    assert any("AMD-SB-3030 snp 29" in note for note in told)
    assert result.code == 0
    assert judged(tmp_path, Report(), "--min-tcb", "bulletin")[0].code == 1
    high = bytes([*TCB[:6], 0x1D, 219])
    from tests.forgeries import chain

    at = dict.fromkeys((0x38, 0x180, 0x1E0, 0x1F0), high)
    evidence = Report(at, chain=lambda: chain(said={"3.3": b"\2\1\x1d"}))
    result, found = judged(tmp_path, evidence, "--min-tcb", "bulletin")
    assert (result.code, found["min_tcb"]) == (0, "ok")


# --- which firmware it was ---------------------------------------------------------------------


def test_firmware_of_the_catalogue_is_named_where_nothing_is_pinned(tmp_path: Path) -> None:
    measured = bytes.fromhex(run("measure", "--example", "tdx", "--bare").out)
    result, _ = judged(tmp_path, Quoted({"mrtd": measured}))
    assert json.loads(result.out)["launched"]["name"] == "example-tdx"
    for more in (("--mrtd", measured.hex()), ("--budget", "0")):
        result, _ = judged(tmp_path, Quoted({"mrtd": measured}), *more)
        assert json.loads(result.out)["launched"] is None
    result, _ = judged(tmp_path, Quoted())
    told = json.loads(result.out)["launched"]
    assert (told["name"], told["command"], told["complete"]) == ("", [], True)
    assert result.code == 0


# --- folders and pieces ------------------------------------------------------------------------


def test_the_certificates_of_a_folder_are_taken(tmp_path: Path) -> None:
    data, chain = Report().build()
    folder = tmp_path / "certs"
    (folder / "below").mkdir(parents=True)
    for number, one in enumerate(chain):
        (folder / f"{number}.pem").write_bytes(one.pem)
    (folder / "README").write_text("these are the certificates")
    (tmp_path / "r").write_bytes(data[:1184])
    args = (str(tmp_path / "r"), "--pin", chain[-1].pin, "--at", "2026-01-01")
    code, said = answer(*args, "--certs", str(folder))
    assert (code, said["verdict"]) == (0, "ok")
    assert any("README: not a certificate" in note for note in said["notes"])
    for number in range(300):
        (folder / f"n{number}").write_bytes(b"")
    result = run("verify", *args, "--certs", str(folder))
    assert (result.code, result.out) == (3, "")


def test_explain_takes_one_piece_of_several(tmp_path: Path) -> None:
    measured = run("measure", "--example", "snp", "--vcpus", "2", "--bare").out
    right = snp_report(None, 3, measurement=bytes.fromhex(measured))
    other = snp_report(None, 3, measurement=b"\1" * 48)
    (tmp_path / "two").write_text(json.dumps({"a": other.hex(), "b": right.hex()}))
    args = ("explain", "--example", "snp", "--report", str(tmp_path / "two"))
    assert run(*args).code == 2
    found = run(*args, "--select", "b", "--format", "json")
    assert (found.code, json.loads(found.out)["changes"][0]["typed"]) == (0, "--vcpus 2")
    assert run("explain", "--example", "snp", "--expect", measured, "--select", "b").code == 2


def test_a_tdx_module_is_named_by_its_mrseam() -> None:
    """MRSEAM 7bf06328… is 1.5.16: tinfoilsh/verifier, attestation/tdx.go."""
    told = run("inspect", str(shared("vectors/rtmr/dstack-quote-report.json")), "--format", "json")
    rows = {row["field"]: row for row in json.loads(told.out)["tables"][0]["rows"]}
    assert rows["mrseam"]["meaning"] == "TDX module 1.5.16"
    assert rows["tee_tcb_svn"]["meaning"] == "module TDX_01 with SVN 11, late microcode SVN 4"


def test_a_pin_counts_beside_the_measurement_of_a_plan(tmp_path: Path) -> None:
    """The plan's measurement is another one than that of the evidence, whatever is pinned."""
    pin = ("--measurement", MEASUREMENT.hex())
    result, _ = judged(tmp_path, Report(), "--example", "snp", *pin)
    told = [one for one in json.loads(result.out)["lines"] if one["name"] == "measurement"]
    assert [one["status"] for one in told] == ["differs", "ok"]
    assert result.code == 1
    assert judged(tmp_path, Report(), *pin)[0].code == 0


# --- what is asked for is looked at --------------------------------------------------------------


def of_td(tmp_path: Path, *more: str) -> tuple[int, str]:
    quote, made = Quoted().build()
    (tmp_path / "q").write_bytes(quote)
    pin = ("--pin", made[-1].pin, "--at", "2026-01-01")
    told = run("verify", str(tmp_path / "q"), *pin, *more)
    return told.code, told.err.splitlines()[0] if told.err else ""


def test_a_status_is_asked_for_with_what_intel_publishes(tmp_path: Path) -> None:
    code, said = of_td(tmp_path, "--accept", "UpToDate")
    assert (code, said) == (2, "error: --accept: needs --collateral")
    (tmp_path / "p").write_text('schema = "cvmplan.policy/1"\n[tdx]\naccept = ["UpToDate"]\n')
    code, said = of_td(tmp_path, "--policy-file", str(tmp_path / "p"))
    assert (code, said) == (2, f"error: {tmp_path / 'p'}: accept: needs --collateral")


def test_an_empty_list_of_values_accepts_nothing(tmp_path: Path) -> None:
    (tmp_path / "p").write_text('schema = "cvmplan.policy/1"\n[tdx]\nmrtd = []\n')
    code, said = of_td(tmp_path, "--policy-file", str(tmp_path / "p"))
    assert (code, said.endswith("tdx.mrtd: has no values")) == (3, True)
    with pytest.raises(ConfigError, match="has no values"):
        judge(Quoted().build()[0], pins={"mrtd": []})


def test_an_empty_event_log_is_no_absent_one(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"")
    assert of_td(tmp_path, "--event-log", str(tmp_path / "log"))[0] in (1, 3, 4)


def test_lists_are_held_against_the_chain_of_a_quote_without_collateral(tmp_path: Path) -> None:
    quote, made = Quoted().build()
    (tmp_path / "q").write_bytes(quote)
    words: list[str] = []
    for number, issuer in enumerate(made[1:]):
        (tmp_path / str(number)).write_bytes(intel.revocations(issuer, []))
        words += ["--crl", str(tmp_path / str(number))]
    pin = ("--pin", made[-1].pin, "--at", "2026-01-01", "--format", "json")
    told = run("verify", str(tmp_path / "q"), *pin, *words)
    found = {one["name"]: one["status"] for one in json.loads(told.out)["lines"]}
    assert found.get("revocation") == "ok"
    told = run("verify", str(tmp_path / "q"), *pin, *words[:2])
    found = {one["name"]: one["status"] for one in json.loads(told.out)["lines"]}
    assert (found["revocation"], told.code) == ("differs", 1)


def test_a_revoked_authority_cannot_certify_itself_anew(tmp_path: Path) -> None:
    """Who has the ASK's key signs a certificate of that key with it, which no list names."""
    data, made = Report().build()
    own = certify("SEV-Milan", "RSA", place=True)
    assert own.pin == made[1].pin
    (tmp_path / "r").write_bytes(data[:1184] + table([made[0], own], "VCEK"))
    (tmp_path / "crl").write_bytes(crl(made[-1], (7,)))
    keys = ("--pin", own.pin, "--pin", made[-1].pin, "--at", "2026-01-01", "--format", "json")
    told = run("verify", str(tmp_path / "r"), *keys, "--crl", str(tmp_path / "crl"))
    found = {one["name"]: one["status"] for one in json.loads(told.out)["lines"]}
    assert (found["certificate_chain"], found["revocation"], told.code) == ("ok", "differs", 1)


@pytest.mark.parametrize("last", [b"\0", b" ", b"\n", b"\r", b"\t"])
def test_a_list_whose_last_byte_is_a_blank_is_read_whole(last: bytes) -> None:
    """A signature may end with any byte."""
    data = crl(amd()[-1])[:-1] + last
    assert revocation.read(Blob("crl", memoryview(data))).parsed.signature[-1:] == last
    padded = revocation.read(Blob("crl", memoryview(data + bytes(100))))
    assert padded.parsed.signature[-1:] == last


def test_a_mask_does_not_ask_for_debug(tmp_path: Path) -> None:
    """DEBUG counts as asked for where the policy and its mask both have it."""
    report = Report({0x08: (0xB0000).to_bytes(8, "little")})
    asked: list[tuple[str, str | None, int]] = [
        ("0xb0000", "0x30000", 1),
        ("0x80000", "0", 1),
        ("0xb0000", "0xb0000", 0),
        ("0xb0000", None, 0),
    ]
    for policy, mask, code in asked:
        words = ("--policy", policy, *(() if mask is None else ("--policy-mask", mask)))
        result, found = judged(tmp_path, report, *words)
        assert (result.code, found["policy"]) == (code, "differs" if code else "ok")


def test_levels_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(Report().build()[0])
    (tmp_path / "p").write_text('schema = "cvmplan.policy/1"\n[snp]\nmin_tcb = {}\n')
    told = run("verify", str(tmp_path / "r"), "--policy-file", str(tmp_path / "p"))
    assert (told.code, "has no levels" in told.err) == (3, True)


def test_a_key_of_several_lines_is_one_line_of_error() -> None:
    policy = b'schema = "cvmplan.policy/1"\n[snp]\n"k\\npcy" = 1\n'
    with pytest.raises(CvmplanError) as told:
        judge(Report().build()[0], policy_file=policy)
    assert str(told.value).splitlines() == ["policy:2: snp.k\\npcy: unknown key"]
