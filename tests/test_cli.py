"""The command line: what it prints where, its exit codes, and files that survive a failure."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cvmplan.cli import VERBS
from cvmplan.core.files import HELD, map_file
from tests.build.ovmf import good_snp, good_tdx
from tests.manifests import document, region, run_on
from tests.oracles.peer import Machine, theirs
from tests.run import assert_refused, run
from tests.test_profiles import PAYLOAD, td_shim_image

SNP = ("--example", "snp")
TDX = ("--example", "tdx")
BARE = "platform snp: assumed (tdx has errors)\n"


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "f.fd"
    path.write_bytes(good_snp().build())
    return str(path)


def digest(*args: str) -> str:
    return run("measure", *args, "--bare").out


def test_bare_is_the_digest_and_nothing_else() -> None:
    bare = digest(*SNP)
    assert len(bare) == 96
    assert bare == bare.lower().strip()
    assert json.loads(run("measure", *SNP, "--format", "json").out)["digest"] == bare
    assert run("measure", *SNP).out.splitlines()[-1].endswith(bare)


def test_expect_tells_by_its_exit_code() -> None:
    right = digest(*TDX)
    assert run("measure", *TDX, "--expect", right).code == 0
    assert run("measure", *TDX, "--expect", f"0x{right.upper()}").code == 0
    assert_refused(run("measure", *TDX, "--expect", "00" * 48), {1})
    differs = run("measure", *TDX, "--expect", "00" * 48, "--format", "json")
    assert (differs.code, json.loads(differs.out)["digest"]) == (1, right)
    assert differs.err.startswith("error: example:tdx: MRTD is ")
    assert "cvmplan explain example:tdx" in differs.err
    for garbage in ("00", "", "0" * 95, "xyz", "00" * 33):
        assert_refused(run("measure", *TDX, "--expect", garbage), {2})


def test_what_was_assumed_is_said() -> None:
    printed = json.loads(run("measure", *SNP, "--vcpus", "2", "--format", "json").out)
    assert printed["given"] == {"vcpus": 2}
    assumed = printed["assumed"]
    assert assumed["cpu_signature"] == "0x800f12"
    assert {"vmm", "abi", "policy", "sev_features", "kernel_hashes", "cpu"} <= set(assumed)
    text = run("measure", *TDX).out
    assert "page_order  single-pass" in text


def test_coverage_counts_every_page() -> None:
    printed = json.loads(run("measure", *SNP, "--format", "json").out)
    coverage = printed["coverage"]
    assert coverage["contents"] == {"pages": 8, "bytes": 32768}  # the image
    assert coverage["address_only"]["pages"] == 9 + 3 + 1 + 31 + 1
    assert coverage["host_filled"]["pages"] == 2
    assert coverage["vmsas"]["pages"] == 1
    assert coverage["not_added"]["pages"] == 0
    assert printed["pages"] == 56


@pytest.mark.parametrize("platform", ["snp", "tdx"])
def test_a_plan_read_back_measures_the_same(tmp_path: Path, platform: str) -> None:
    path = tmp_path / "f.fd"
    path.write_bytes((good_snp() if platform == "snp" else good_tdx()).build())
    order = ["--page-order", "two-pass"] if platform == "tdx" else ["--vcpus", "3"]
    plan = tmp_path / "plan.json"
    assert run("plan", str(path), *order, "--format", "json", "-o", str(plan)).code == 0
    assert digest(str(plan)) == digest(str(path), *order)
    again = run("plan", str(plan), "--format", "json")
    assert json.loads(again.out) == json.loads(plan.read_text())


def test_a_plan_says_which_input_changed(tmp_path: Path, image: str) -> None:
    plan = tmp_path / "plan.json"
    run("plan", image, "--format", "json", "-o", str(plan))
    data = bytearray(Path(image).read_bytes())
    data[0] ^= 1
    Path(image).write_bytes(data)
    result = run("measure", str(plan))
    assert_refused(result, {3})
    assert "f.fd" in result.err
    assert "changed" in result.err
    Path(image).unlink()
    assert "not found" in run("measure", str(plan)).err


def test_a_plan_finds_its_inputs_beside_it_or_in_a_folder(tmp_path: Path, image: str) -> None:
    wanted = digest(image)
    (tmp_path / "sub").mkdir()
    plan = tmp_path / "sub" / "plan.json"
    run("plan", image, "--format", "json", "-o", str(plan))
    (tmp_path / "store").mkdir()
    moved = tmp_path / "store" / "f.fd"
    os.replace(image, moved)
    assert_refused(run("measure", str(plan)), {3})
    assert digest(str(plan), "--inputs", str(tmp_path / "store")) == wanted
    os.replace(moved, tmp_path / "sub" / "f.fd")
    assert digest(str(plan)) == wanted


def test_the_same_image_gives_the_same_bytes(image: str) -> None:
    first = run("plan", image, "--format", "json").out
    assert first == run("plan", image, "--format", "json").out
    told = json.loads(first)["inputs"]
    assert [i["path"] for i in told] == [image], "as it was typed: no absolute path is made of it"


def test_standard_input_is_an_image(image: str) -> None:
    data = Path(image).read_bytes()
    result = run("measure", "-", "--format", "json", stdin=data)
    assert json.loads(result.out)["digest"] == digest(image)
    assert "path" not in json.loads(result.out)["inputs"][0]


def test_an_existing_file_survives_a_failed_run(tmp_path: Path, image: str) -> None:
    target = tmp_path / "out.json"
    target.write_text("precious")
    assert_refused(run("measure", image, "--vcpus", "0", "-o", str(target)), {2})
    assert_refused(run("measure", image, "--expect", "00" * 48, "-o", str(target)), {1})
    assert target.read_text() == "precious"
    assert run("measure", image, "-o", str(target)).out == ""
    assert "MEASUREMENT" in target.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.fd", "out.json"]


def test_an_output_that_cannot_be_written_is_an_error(tmp_path: Path, image: str) -> None:
    assert_refused(run("measure", image, "-o", str(tmp_path / "no" / "out")), {3})


def test_check_says_everything_and_exits_with_1(tmp_path: Path) -> None:
    regions = (region(n * 0x1000, name=f"r{n}") for n in range(4))
    manifest = document(region(0, size="16KiB", name="all"), *regions)
    result = run_on(tmp_path, "check", manifest, "--format", "json")
    found = json.loads(result.out)["findings"]
    twice = [f for f in found if f["rule"] == "gpa-mapped-twice"]
    assert result.code == 1
    assert [(f["first"], f["last"]) for f in twice] == [(hex(n * 0x1000),) * 2 for n in range(4)]
    assert [f["origins"][1].endswith(f"r{n}") for n, f in enumerate(twice)] == [True] * 4
    assert all(f["origins"][0].endswith("all") for f in twice)


def test_verbose_says_which_files_are_read(tmp_path: Path, image: str) -> None:
    result = run("measure", image, "--kernel", image, "--vmm", "qemu", "--bare", "--verbose")
    assert result.err == f"image: {image}, 32768 bytes\n"
    (tmp_path / "k").write_bytes(b"kernel")
    result = run("measure", image, "--kernel", str(tmp_path / "k"), "--bare", "--verbose")
    assert result.err.splitlines()[1] == f"kernel: {tmp_path / 'k'}, 6 bytes"
    assert len(result.out) == 96


def test_map_shows_an_invalid_map_too(tmp_path: Path) -> None:
    manifest = document(region(0x1000, size=8192), region(0x2000), region(0x5000))
    result = run_on(tmp_path, "map", manifest)
    assert result.code == 1
    assert result.out.count("\n!") == 2
    printed = json.loads(run_on(tmp_path, "map", manifest, "--format", "json").out)
    assert printed["gaps"][0] == {"gpa": "0x3000", "size": "0x2000"}


def test_trace_gives_the_digest_after_each_command() -> None:
    lines = run("trace", *SNP, "--format", "jsonl").out.splitlines()
    commands = [json.loads(line) for line in lines]
    assert commands[-1]["digest"] == digest(*SNP)
    assert [c["command"] for c in commands].count("SNP_LAUNCH_UPDATE") == 56
    assert all(c.get("size", "0x1000") == "0x1000" for c in commands)


def test_several_platforms_must_be_chosen_from(tmp_path: Path) -> None:
    both = good_tdx()
    both.sev_sections = good_snp().sev_sections
    path = tmp_path / "both.fd"
    path.write_bytes(both.build())
    result = run("measure", str(path))
    assert_refused(result, {2})
    assert "snp and tdx" in result.err
    assert run("measure", str(path), "--platform", "tdx").code == 0


def only(platform: str, out: str, others: str) -> None:
    """The document of a measurement on the one platform that has no errors."""
    found = json.loads(out)
    assert (found["platform"], found["assumed"]["platform"]) == (platform, platform)
    assert "platform" not in found["given"]
    assert found["places"] == {"platform": f"{others} has errors"}
    told = [f for f in found["findings"] if f["rule"] == "platform-chosen"]
    assert [f["severity"] for f in told] == ["note"]


def test_the_only_platform_without_errors_is_taken_and_said(tmp_path: Path) -> None:
    path = tmp_path / "both.fd"
    both = good_tdx()
    both.sev_sections = good_snp().sev_sections
    sections = both.tdx_sections or []
    both.tdx_sections = [*sections, sections[-1]._replace(type=PAYLOAD)]
    path.write_bytes(both.build())
    out = run("measure", str(path), "--format", "json").out
    only("snp", out, "tdx")
    machine = Machine(vcpus=1)
    assert json.loads(out)["digest"] == theirs(str(path), "", "", machine)
    assert "platform       snp         assumed (tdx has errors)" in run("measure", str(path)).out
    bare = run("measure", str(path), "--bare")
    assert (bare.out, bare.err) == (json.loads(out)["digest"], BARE)
    assert "platform-chosen" in run("check", str(path)).out
    both.tdx_sections = sections
    both.sev_sections = (good_snp().sev_sections or []) * 2
    path.write_bytes(both.build())
    only("tdx", run("measure", str(path), "--format", "json").out, "snp")
    both.tdx_sections = [*sections, sections[-1]._replace(type=PAYLOAD)]
    path.write_bytes(both.build())
    assert_refused(run("measure", str(path)), {2})


def test_options_of_one_platform_choose_it(tmp_path: Path) -> None:
    path = tmp_path / "both.fd"
    both = good_tdx()
    both.sev_sections = good_snp().sev_sections
    path.write_bytes(both.build())
    for options, platform in ((("--cpu", "EPYC"), "snp"), (("--gpaw", "52"), "tdx")):
        out = run("measure", str(path), *options, "--format", "json").out
        only(platform, out, {"snp": "tdx", "tdx": "snp"}[platform])
    assert_refused(run("measure", str(path), "--cpu", "EPYC", "--gpaw", "52"), {2})


def test_a_kernel_of_a_td_is_in_other_registers() -> None:
    for option in (("--kernel", "/dev/null"), ("--initrd", "x"), ("--append", "x"),
                   ("--kernel-hash", "00" * 32)):  # fmt: skip
        result = run("measure", *TDX, *option)
        assert_refused(result, {2})
        assert all(word in result.err for word in ("RTMR1", "RTMR2", "'cvmplan rtmr'"))
    assert "RTMR" not in run("measure", *TDX, "--cpu", "EPYC").err


def test_section_types_of_td_shim_name_its_profile(tmp_path: Path) -> None:
    path = tmp_path / "shim.fd"
    image = td_shim_image()
    path.write_bytes(image.build())
    result = run("measure", str(path))
    assert_refused(result, {1})
    assert "--vmm td-shim; 4 more errors" in result.err
    assert run("measure", str(path), "--vmm", "td-shim").code == 0
    assert "hint: --vmm td-shim" in run("check", str(path)).out


REFUSED: dict[str, tuple[list[str], int]] = {
    "no_image": (["measure"], 2),
    "an_image_and_an_example": (["measure", "x.fd", *SNP], 2),
    "no_such_example": (["measure", "--example", "sev"], 2),
    "no_such_option": (["measure", *SNP, "--nonsense"], 2),
    "no_such_verb": (["measures"], 2),
    "no_such_format": (["measure", *SNP, "--format", "xml"], 2),
    "bare_and_a_format": (["measure", *SNP, "--bare", "--format", "json"], 2),
    "a_format_of_another_verb": (["measure", *SNP, "--format", "jsonl"], 2),
    "no_such_platform": (["measure", *SNP, "--platform", "sgx"], 2),
    "a_platform_without_metadata": (["measure", *SNP, "--platform", "tdx"], 4),
    "a_profile_for_another_platform": (["measure", *TDX, "--vmm", "ec2"], 4),
    "no_such_profile": (["measure", *SNP, "--vmm", "xen"], 2),
    "no_such_profile_file": (["measure", *SNP, "--vmm", "none.json"], 3),
    "no_such_abi": (["measure", *SNP, "--abi", "kvm-1"], 2),
    "no_such_cpu": (["measure", *SNP, "--cpu", "EPYC-Naples"], 2),
    "a_directory": (["measure", "/"], 3),
    "a_missing_file": (["measure", "none.fd"], 3),
    "an_empty_file": (["measure", "/dev/null"], 3),
    "a_kernel_that_is_missing": (["measure", *SNP, "--kernel", "none"], 3),
    "an_initrd_without_a_kernel": (["measure", *SNP, "--initrd", "/dev/null"], 2),
    "a_text_file": (["measure", "pyproject.toml"], 4),
    "a_schema_that_is_not_there": (["schema", "nonsense"], 2),
    "a_profile_that_is_not_there": (["profiles", "nonsense"], 2),
    "an_unmeasured_platform": (["measure", *SNP, "--platform", "default"], 4),
    "an_svsm_for_a_profile_without": (["measure", *SNP, "--svsm", "/dev/null"], 2),
    "a_profile_without_its_svsm": (["measure", *SNP, "--vmm", "svsm-qemu"], 2),
}


@pytest.mark.parametrize(("args", "code"), REFUSED.values(), ids=REFUSED)
def test_refused(args: list[str], code: int) -> None:
    assert_refused(run(*args), {code})


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    result = run(verb, "--help")
    assert result.code == 0
    assert f"cvmplan {verb}" in result.out
    assert verb in run("--help").out


def shell(script: str) -> subprocess.CompletedProcess[str]:
    program = script.replace("cvmplan", f"{sys.executable} -m cvmplan", 1)
    return subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)


def test_a_closed_pipe_ends_quietly() -> None:
    done = shell("cvmplan trace --example snp --format jsonl | true; echo ${PIPESTATUS[0]}")
    assert (done.stderr, done.stdout) == ("", "141\n")


WRITES = {
    "a_full_disk": ("cvmplan measure --example snp > /dev/full", 3),
    "a_full_disk_by_option": ("cvmplan measure --example snp -o /dev/full", 3),
    "a_folder": ("cvmplan measure --example snp -o /tmp", 3),
    "no_standard_output": ("cvmplan measure --example snp >&-", 3),
    "no_standard_input": ("cvmplan measure - <&-", 3),
    "standard_input_twice": ("cvmplan measure --example snp --kernel - --initrd - </dev/null", 2),
}


@pytest.mark.parametrize(("script", "code"), WRITES.values(), ids=WRITES)
def test_what_cannot_be_read_or_written_is_one_error(script: str, code: int) -> None:
    done = shell(script)
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_profile_of_the_users_own(tmp_path: Path, image: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(run("profiles", "gce", "--format", "json").out.replace('"gce"', '"own"'))
    assert digest(image, "--vmm", str(path)) == digest(image, "--vmm", "gce")
    document = json.loads(path.read_text())
    document["vmsa"]["boot"]["rdxx"] = "0x1"
    path.write_text(json.dumps(document))
    assert_refused(run("measure", image, "--vmm", str(path)), {3})


def test_rules_and_profiles_print_as_json() -> None:
    rules = json.loads(run("rules", "--format", "json").out)
    assert {"gpa-mapped-twice", "loader-refuses"} <= {r["rule"] for r in rules}
    assert json.loads(run("profiles", "--format", "json").out)[0]["name"] == "qemu"
    assert json.loads(run("abis", "--format", "json").out)[0]["name"] == "map-memory"


@pytest.mark.parametrize("args", [SNP, TDX])
def test_inspect_names_file_offsets(args: tuple[str, str]) -> None:
    tables = json.loads(run("inspect", *args, "--format", "json").out)["tables"]
    assert all("+0x" in row["at"] for table in tables for row in table["rows"])


def test_a_file_that_cannot_be_mapped_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_device(*_: object, **__: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    data = bytes(range(256)) * (HELD // 256 + 1)
    (tmp_path / "CCEL").write_bytes(data)
    monkeypatch.setattr("cvmplan.core.mapped.mmap.mmap", no_device)
    assert bytes(map_file(str(tmp_path / "CCEL")).data) == data
