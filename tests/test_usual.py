"""What is usual: cvmplan.toml and CVMPLAN_ variables, beneath options and documents."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan.cli import VERBS, command_of
from cvmplan.cli import usual as usual_module
from cvmplan.cli.usual import KNOWN
from cvmplan.launch.settings import SETTINGS, TOP
from tests.build.igvm import good_snp as good_igvm
from tests.build.ovmf import good_snp, good_tdx
from tests.manifests import document
from tests.oracles.peer import Machine, theirs
from tests.run import Result, assert_refused, run

MEASURE: Final = ("measure", "snp.fd")


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [n for n in os.environ if n.startswith("CVMPLAN_")]:
        monkeypatch.delenv(name)
    root = tmp_path / "repository"
    inside = root / "images" / "deep"
    inside.mkdir(parents=True)
    (root / ".git").mkdir()
    (inside / "snp.fd").write_bytes(good_snp().build())
    (inside / "tdx.fd").write_bytes(good_tdx().build())
    (inside / "image.igvm").write_bytes(good_igvm().build())
    monkeypatch.chdir(inside)
    return root


def usual(text: str, folder: str | Path = ".") -> None:
    (Path(folder) / "cvmplan.toml").write_text(text)


def measured(*args: str) -> dict[str, Any]:
    result = run(*args, "--format", "json")
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def test_a_file_gives_what_is_assumed_and_says_so() -> None:
    usual('cpu = "epyc-milan"\nvcpus = 3\nsev-features = 0x21\n')
    found = measured(*MEASURE)
    assert found["digest"] == theirs(
        "snp.fd", "", "", Machine(vcpus=3, cpu="EPYC-Milan", features=0x21)
    )
    assert found["given"] == {}
    assert found["places"] == dict.fromkeys(
        ("cpu", "cpu_signature", "vcpus", "sev_features"), "cvmplan.toml"
    )
    text = run(*MEASURE).out
    assert "vcpus          3           assumed (cvmplan.toml)\n" in text
    assert "policy         0x30000     assumed\n" in text


def test_options_beat_variables_which_beat_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    usual('cpu = "EPYC-Milan"\nvcpus = 2\nvmm = "ec2"')
    monkeypatch.setenv("CVMPLAN_CPU", "EPYC-Genoa")
    monkeypatch.setenv("CVMPLAN_VMM", "QEMU")
    found = measured(*MEASURE, "--vcpus", "4")
    assert found["digest"] == theirs("snp.fd", "", "", Machine(vcpus=4, cpu="EPYC-Genoa"))
    assert found["given"] == {"vcpus": 4}
    assert found["places"]["cpu"] == "CVMPLAN_CPU"
    assert "cpu            EPYC-Genoa  assumed (CVMPLAN_CPU)\n" in run(*MEASURE).out


def test_a_document_beats_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVMPLAN_VCPUS", "7")
    usual('vcpus = 6\ncpu = "EPYC-Milan"\nplatform = "tdx"')
    manifest = document(firmware={"file": "snp.fd"}, guest={"vcpus": 2}, platform="snp")
    Path("m.json").write_text(json.dumps(manifest))
    found = measured("measure", "m.json")
    assert found["digest"] == theirs("snp.fd", "", "", Machine(vcpus=2, cpu="EPYC-Milan"))
    plain = run("plan", *MEASURE[1:], "--format", "json").out
    Path("p.json").write_text(plain)
    assert run("measure", "p.json", "--bare").out == json.loads(plain)["measurement"]["digest"]


@pytest.mark.parametrize(
    "typed",
    [("--cpu", "EPYC-Genoa"), ("--cpu", "0xa10f10"), ("--vcpu-sig", "0xa10f10"),
     ("--family", "25", "--model", "17", "--stepping", "0")],
)  # fmt: skip
def test_each_way_to_name_a_cpu_beats_a_usual_one(typed: tuple[str, ...]) -> None:
    usual('cpu = "EPYC-Milan"')
    wanted = theirs("snp.fd", "", "", Machine(cpu="EPYC-Genoa"))
    assert measured(*MEASURE, *typed)["digest"] == wanted
    usual("family = 25\nmodel = 1\nstepping = 1\n")
    assert measured(*MEASURE, *typed)["digest"] == wanted


def test_a_signature_may_be_a_number() -> None:
    usual("cpu = 0xa00f11")
    assert measured(*MEASURE)["digest"] == theirs("snp.fd", "", "", Machine(cpu="EPYC-Milan"))


def test_the_nearest_file_up_to_the_root_of_the_repository(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual("vcpus = 9", repository.parent)
    assert measured(*MEASURE)["assumed"]["vcpus"] == 1
    usual("vcpus = 2", repository)
    found = measured(*MEASURE)
    assert (found["assumed"]["vcpus"], found["places"]["vcpus"]) == (2, "../../cvmplan.toml")
    usual("vcpus = 3", repository / "images")
    assert measured(*MEASURE)["places"] == {"vcpus": "../cvmplan.toml"}
    monkeypatch.chdir(repository)
    assert measured("measure", "images/deep/snp.fd")["places"] == {"vcpus": "cvmplan.toml"}


def test_without_a_repository_the_current_folder_counts(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / ".git").rmdir()
    usual("vcpus = 9", repository)
    assert measured(*MEASURE)["assumed"]["vcpus"] == 1
    usual("vcpus = 3")
    assert measured(*MEASURE)["assumed"]["vcpus"] == 3
    monkeypatch.chdir(repository)
    Path("cvmplan.toml").unlink()
    Path("cvmplan.toml").mkdir()
    assert measured("measure", "images/deep/snp.fd")["assumed"]["vcpus"] == 1


def test_what_a_launch_has_no_use_for_is_left_out() -> None:
    usual('cpu = "EPYC-Milan"\npolicy = 0x30000\nvmm = "ec2"\nabi = "kvm-6.11"\nappend = "quiet"')
    found = measured("measure", "tdx.fd")
    assert "places" not in found
    assert found["vmm"] == "qemu"
    usual("vcpus = 9\nsev_features = 0x21\nreset_eip = 0x1000\nkernel = 'none'\nc_bit = 51")
    before = measured("measure", "image.igvm", "--platform", "snp")
    Path("cvmplan.toml").unlink()
    after = measured("measure", "image.igvm", "--platform", "snp")
    assert before["digest"] == after["digest"]


def test_a_platform_is_usual_where_the_image_allows_it() -> None:
    both = good_tdx()
    both.sev_sections = good_snp().sev_sections
    Path("both.fd").write_bytes(both.build())
    assert_refused(run("measure", "both.fd", "--bare", "--vmm", "nothing"), {2})
    usual('platform = "SNP"')
    assert measured("measure", "tdx.fd")["platform"] == "tdx"
    found = measured(*MEASURE)
    assert (found["platform"], found["places"]) == ("snp", {"platform": "cvmplan.toml"})


def test_files_lie_beside_the_file_that_names_them(repository: Path) -> None:
    (repository / "kernel").write_bytes(b"kernel" * 999)
    usual('kernel = "kernel"\nappend = "quiet"', repository)
    found = measured(*MEASURE)
    wanted = run(*MEASURE, "--kernel", "../../kernel", "--append", "quiet", "--bare").out
    assert found["digest"] == wanted
    assert found["places"]["kernel"] == "../../cvmplan.toml"
    assert measured(*MEASURE, "--kernel", "snp.fd")["given"]["kernel"] == "snp.fd"
    for outside in ("../kernel", "/etc/passwd"):
        usual(f'kernel = "{outside}"', repository)
        refused = run(*MEASURE)
        assert_refused(refused, {2})
        assert "../../cvmplan.toml: kernel" in refused.err


@pytest.mark.parametrize("verb", ["check", "plan", "map", "trace", "sweep", "reference"])
def test_each_verb_that_launches_takes_them(verb: str) -> None:
    more = ("--to", "coco") if verb == "reference" else ()
    typed = run(verb, "snp.fd", *more, "--vcpus", "3", "--cpu", "EPYC-Milan").out
    usual('vcpus = 3\ncpu = "EPYC-Milan"')
    shown = run(verb, "snp.fd", *more)
    assert shown.code == 0, shown.err
    digests = {word for word in typed.replace('"', " ").split() if len(word) == 96}
    assert digests == {word for word in shown.out.replace('"', " ").split() if len(word) == 96}
    assert digests or verb in ("check", "map")


def test_a_command_to_paste_has_them() -> None:
    usual('cpu = "EPYC-Milan"')
    refused = run(*MEASURE, "--expect", "00" * 48)
    assert_refused(refused, {1})
    assert "--cpu=0xa00f11" in refused.err
    Path("cvmplan.toml").unlink()
    assert "--cpu=0xa00f11" in run(*MEASURE, "--cpu", "EPYC-Milan", "--expect", "00" * 48).err


def test_a_command_of_explain_has_them_too(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual('cpu = "EPYC-Milan"\nvcpus = 3')
    wanted = theirs("snp.fd", "", "", Machine(vcpus=3, cpu="EPYC-Milan", features=0x21))
    found = measured("explain", "snp.fd", "--expect", wanted)["command"]
    assert found[found.index("--cpu") + 1] == "EPYC-Milan"
    monkeypatch.chdir(repository)
    found[2] = "images/deep/snp.fd"
    assert run(*found[1:], "--bare").out == wanted


def test_a_sweep_takes_the_only_platform_without_errors() -> None:
    both = good_tdx()
    both.sev_sections = good_snp().sev_sections
    Path("both.fd").write_bytes(both.build())
    assert_refused(run("sweep", "both.fd"), {2})
    line = ("sweep", "both.fd", "--vcpus", "1-2", "--cpu", "EPYC-Milan,EPYC")
    found = [json.loads(row) for row in run(*line).out.splitlines()]
    assert [(row["platform"], row["digest"]) for row in found] == [
        ("snp", theirs("both.fd", "", "", Machine(vcpus=n, cpu=cpu)))
        for cpu in ("EPYC-Milan", "EPYC")
        for n in (1, 2)
    ]


def test_jobs_and_quiet_can_be_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    usual("jobs = 2\nquiet = true\nverbose = true")
    loud = run(*MEASURE, "--bare")
    assert "image: snp.fd, 32768 bytes" in loud.err
    monkeypatch.setenv("CVMPLAN_VERBOSE", "0")
    assert run(*MEASURE, "--bare").err == ""
    monkeypatch.setenv("CVMPLAN_JOBS", "99")
    assert "CVMPLAN_JOBS: '99' is not between 1 and 64" in run(*MEASURE).err
    assert run(*MEASURE, "--jobs", "1").code == 0


NEVER: Final = ("output", "allow-outside", "certs", "cert", "key", "expect", "against",
                "policy-file", "measurement", "mrtd", "rtmr0", "report-data", "collateral", "crl",
                "format", "bare")  # fmt: skip


@pytest.mark.parametrize("key", NEVER)
def test_what_decides_about_trust_has_no_default(key: str) -> None:
    for written in (key, key.replace("-", "_")):
        usual(f'{written} = "x"')
        refused = run(*MEASURE)
        assert_refused(refused, {2})
        assert f"cvmplan.toml: {written}: has no default" in refused.err


@pytest.mark.parametrize("option", ["OUTPUT", "ALLOW_OUTSIDE", "EXPECT", "CERTS", "AGAINST"])
def test_nor_by_a_variable(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"CVMPLAN_{option}", "x")
    refused = run(*MEASURE)
    assert_refused(refused, {2})
    assert f"CVMPLAN_{option}: has no default" in refused.err
    monkeypatch.delenv(f"CVMPLAN_{option}")
    monkeypatch.setenv("CVMPLAN_SOMETHING_ELSE", "x")
    assert run(*MEASURE).code == 0


def test_every_option_that_is_no_setting_of_a_launch_is_refused() -> None:
    names = {p.name for verb in VERBS for p in command_of(verb).params}
    assert {name for name in names if name in KNOWN} <= {
        *TOP,
        *SETTINGS,
        "jobs",
        "quiet",
        "verbose",
    }
    assert not {key.replace("-", "_") for key in NEVER} & {*KNOWN}


DEEP: Final = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("cpu = ", 3, "cvmplan.toml: not TOML"),
        ("cpu = 'EPYC'\ncpu = 'EPYC'", 3, "not TOML"),
        (f"prefault = {DEEP}", 3, "nested too deep"),
        ("a." * 200 + "b = 1", 3, "nested too deep"),
        ("cpu = 'a\0'", 3, "NUL"),
        ("#" * (65 << 10), 3, "larger than 64 KiB"),
        ("cppu = 'EPYC'", 2, "did you mean cpu?"),
        ("zzzzzz = 1", 2, "cvmplan.toml: zzzzzz: unknown setting"),
        ("sev_features = 1\nsev-features = 1", 2, "more than once"),
        ("[measure]\ncpu = 'EPYC'", 2, "unknown setting 'measure'"),
        ("cpu = {a = 1}", 2, "cvmplan.toml: cpu: "),
        ("cpu = 1.5", 2, "cvmplan.toml: cpu: "),
        ("cpu = true", 2, "cvmplan.toml: cpu: "),
        ("cpu = 'EPYC-Millan'", 2, "cvmplan.toml: cpu: unknown CPU model"),
        ("cpu = 'host'", 2, "cvmplan.toml: cpu: 'host' names no model"),
        ("vcpus = 5000", 2, "cvmplan.toml: vcpus: 5000 is not between 1 and 4096"),
        ("vcpus = 'x'", 2, "cvmplan.toml: vcpus: 'x' is not an integer"),
        ("vmm = 'qmeu'", 2, "cvmplan.toml: vmm: unknown VMM profile"),
        ("vmm = '../p.json'", 2, "cvmplan.toml: vmm: '../p.json' is outside"),
        ("vmm = 'p.json'", 3, "cvmplan.toml: vmm"),
        ("platform = 3", 2, "cvmplan.toml: platform: unknown platform '3'"),
        ("abi = 'kvm'", 2, "cvmplan.toml: abi: unknown kernel interface"),
        ("mrowner = 'file:../x'", 2, "cvmplan.toml: mrowner: '../x' is outside"),
        ("vcek-disabled = 'yes'", 2, "cvmplan.toml: vcek_disabled: 'yes' is not true or false"),
        ("jobs = 0", 2, "cvmplan.toml: jobs: 0 is not between 1 and 64"),
        ("firmware-digest = 'ab'", 2, "has no default"),
        ('cpu = "\\u001b[31m"', 2, "\\x1b[31m"),
    ],
    ids=lambda value: ascii(value)[:30] if isinstance(value, str) else None,
)  # fmt: skip
def test_a_malformed_file_is_one_line(text: str, code: int, said: str) -> None:
    usual(text)
    refused = run(*MEASURE)
    assert_refused(refused, {code})
    assert said in refused.err
    assert len(refused.err) < 600


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("VCPUS", "0", "CVMPLAN_VCPUS: '0' is not between 1 and 4096"),
        ("CPU", "EPYC-Millan", "CVMPLAN_CPU: unknown CPU model"),
        ("PLATFORM", "sev-snp", "CVMPLAN_PLATFORM: unknown platform"),
        ("VCEK_DISABLED", "maybe", "CVMPLAN_VCEK_DISABLED: 'maybe' is not true or false"),
        ("PREFAULT", "1,2", "CVMPLAN_PREFAULT: '1' is not a range"),
    ],
)
def test_a_wrong_variable_is_one_line(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CVMPLAN_{name}", value)
    refused: Result = run(*MEASURE)
    assert_refused(refused, {2})
    assert said in refused.err


def test_nothing_is_usual_where_it_is_ignored_or_another_tool_is_meant() -> None:
    plain = run("measure", "--example", "snp", "--vcpus", "1", "--bare").out
    usual('vcpus = 3\ncpu = "EPYC-Milan"\n')
    told = run("measure", "--example", "snp", "--bare")
    assert told.out != plain
    assert told.err.splitlines() == [
        "vcpus 3: assumed (cvmplan.toml)", "cpu EPYC-Milan: assumed (cvmplan.toml)",
        "cpu_signature 0xa00f11: assumed (cvmplan.toml)",
    ]  # fmt: skip
    ignored = run("measure", "--example", "snp", "--bare", "--no-defaults")
    assert (ignored.out, ignored.err) == (plain, "")
    Path("snp.fd").write_bytes(good_snp().build())
    words = ("--mode", "snp", "--ovmf", "snp.fd", "--vcpus", "1", "--vcpu-type", "EPYC-v4")
    own = run("measure", "snp.fd", "--vcpus", "1", "--platform", "snp", "--bare", "--no-defaults")
    assert run(*words).out.split()[-1] == own.out


def test_explain_looks_for_a_launch_without_a_usual_kernel() -> None:
    """Its command says so, and gives the digest also where the file is."""
    Path("kernel").write_bytes(b"kernel")
    usual('kernel = "kernel"\nappend = "quiet"\nvcpus = 3\nvmm = "qemu"')
    wanted = theirs("snp.fd", "", "", Machine(vcpus=2))
    found = measured("explain", "snp.fd", "--expect", wanted)["command"]
    assert found[-1] == "--no-defaults"
    assert run(*found[1:], "--bare").out == wanted


@pytest.mark.parametrize(
    "words", [("check",), ("map",), ("plan", "--format", "calls"), ("igvm", "-o", "x.igvm")]
)
def test_an_output_without_them_has_them_beside_it(words: tuple[str, ...]) -> None:
    Path("cvmplan.toml").write_text("vcpus = 3\n")
    told = run(*words, "--example", "snp")
    assert told.err.splitlines()[0] == "vcpus 3: assumed (cvmplan.toml)"


def test_a_file_of_a_different_user_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    usual("vcpus = 3\n")
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    monkeypatch.setattr(usual_module, "SYSTEM", -1)
    told = run("measure", "--example", "snp", "--format", "json")
    assert json.loads(told.out)["assumed"]["vcpus"] == 1
    assert told.err.startswith("warning: cvmplan.toml: belongs to a different user")
