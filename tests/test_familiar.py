"""The options of sev-snp-measure: all of them are taken, and print what that tool prints."""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Final

import pytest

from cvmplan.cli import VERBS, command_of, familiar, words
from tests.build.ovmf import good_snp
from tests.build.svsm import good_svsm
from tests.consumers import rust
from tests.run import Result, assert_refused, run

peer = pytest.importorskip("sevsnpmeasure.cli", reason="sev-snp-measure is not installed")
cpu_types = pytest.importorskip("sevsnpmeasure.vcpu_types")
SEED: Final = "ab" * 48
V4: Final = ("--vcpu-type", "EPYC-v4")
SVSM: Final = ("--mode", "snp:svsm", "--svsm", "svsm.bin", *V4)
BOOT: Final = ("--kernel", "kernel", "--initrd", "initrd", "--append", "console=ttyS0 --quiet")
LAUNCHES: Final = [
    ("--mode", "snp", "--vcpus", "1", *V4),
    ("--mode=snp", "--vcpus=4", "--vcpu-type=EPYC-Milan", "-v"),
    ("--mode", "snp", "--vcpus", "2", "--vcpu-sig", "0xa10f11", "--verbose"),
    ("--mode", "snp", "--vcpus", "2", "--vcpu-sig", "8392466", "--output-format", "base64"),
    ("--mode", "snp", "--vcpus", "3", "--vcpu-family", "25", "--vcpu-model", "17",
     "--vcpu-stepping", "0", "--guest-features", "0x21"),
    ("--mode", "snp", "--vcpus", "2", *V4, *BOOT),
    ("--mode", "snp", "--vcpus", "2", *V4, "--kernel", "kernel"),
    ("--mode", "snp", "--vcpus", "2", *V4, "--snp-ovmf-hash", SEED),
    ("--mode", "snp", "--vcpus", "2", "--vmm-type", "ec2"),
    ("--mode", "snp", "--vcpus", "2", "--vmm-type", "gce", *V4),
    ("--mode", "snp", "--vcpus", "2", "--vmm-type", "QEMU", *V4, "--dump-vmsa", "-o", "states"),
    ("--mode", "seves", "--vcpus", "3", *V4),
    ("--mode", "seves", "--vcpus", "3", *V4, "--guest-features", "0x21", *BOOT, "-v"),
    ("--mode", "sev"),
    ("--mode", "sev", "--vcpus", "4", *BOOT, "--output-format", "base64", "-v"),
    ("--mode", "snp:ovmf-hash"),
    ("--mode", "snp:ovmf-hash", "--output-format", "base64"),
    ("--mode", "snp", "--vcpus", "2", *V4, "--kernel", "kernel", "--append", "n={vcpus}"),
    (*SVSM, "--vcpus", "2", "--vars-file", "vars"),
    (*SVSM, "--vcpus", "2", "--vars-size", "131072", "-v", "--vmm-type", "QEMU"),
]  # fmt: skip
OURS: Final = {"-o", "states"}
"""What stands beside --dump-vmsa in our command lines: the tool writes into its own folder."""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, data in {
        "ovmf.fd": good_snp().build(),
        "svsm.bin": good_svsm().build(),
        "vars": bytes(0x20000),
        "kernel": b"kernel" * 999,
        "initrd": b"initrd" * 99,
    }.items():
        (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def theirs(monkeypatch: pytest.MonkeyPatch, *args: str) -> Result:
    """Run the tool itself."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "argv", ["sev-snp-measure", *args])
    with redirect_stdout(out), redirect_stderr(err):
        code = peer.main()
    return Result(code, out.getvalue(), err.getvalue())


def their_options(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Action]:
    """Return what the tool's own --help is made from."""
    held: list[argparse.ArgumentParser] = []

    def stop(parser: argparse.ArgumentParser) -> None:
        held.append(parser)
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(SystemExit):
        peer.main()
    return held[0]._actions


def test_every_option_of_its_help_is_in_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = {word.partition("=")[0] for launch in LAUNCHES for word in launch} | {"--ovmf"}
    actions = [a for a in their_options(monkeypatch) if a.dest not in ("help", "version")]
    assert len(actions) == 20
    assert [a.dest for a in actions if not typed & {*a.option_strings}] == []
    assert {mode for a in actions if a.dest == "mode" for mode in a.choices or ()} == {
        *familiar.MODES
    }


@pytest.mark.parametrize("launch", LAUNCHES, ids=" ".join)
def test_it_prints_what_the_tool_prints(
    files: Path, launch: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = (*launch, "--ovmf", "ovmf.fd")
    own = run(*line)
    assert own.code == 0, own.err
    states = files / "their-states"
    states.mkdir()
    for name in ("ovmf.fd", "kernel", "initrd", "svsm.bin", "vars"):
        (states / name).symlink_to(files / name)
    with chdir(states):
        assert own.out == theirs(monkeypatch, *(w for w in line if w not in OURS)).out
    dumped = {p.name: p.read_bytes() for p in states.glob("vmsa*.bin")}
    assert dumped == {p.name: p.read_bytes() for p in files.glob("states/*")}
    assert bool(dumped) == ("--dump-vmsa" in line)


GUEST_LAUNCHES: Final = [
    ("--vcpu-type", "EPYC-Turin"),
    ("--vcpus", "3", "--vcpu-type", "epyc-milan-v2", "--guest-features", "0x21"),
    ("--vcpus", "2", "--vcpu-sig", str(0xA10F10), "--vmm-type", "QEMU"),
    ("--vcpu-family", "25", "--vcpu-model", "1", "--vcpu-stepping", "1", *BOOT),
]


def test_options_of_snpguest_are_taken() -> None:
    page = rust("snpguest", "generate", "measurement", "--help").stdout
    options = {*re.findall(r"(?<!\S)--[a-z-]+", page)} - {"--help"}
    assert len(options) == 15
    known = {*words.declared(command_of("measure").params), *familiar.RENAMED}
    assert options <= known


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("launch", GUEST_LAUNCHES, ids=" ".join)
def test_they_have_the_digest_of_snpguest(launch: tuple[str, ...]) -> None:
    line = ("--ovmf", "ovmf.fd", *launch)
    told = rust("snpguest", "generate", "measurement", *line)
    assert told.returncode == 0, told.stderr
    own = run("measure", "--mode", "snp", *line, "--output-format", "hex")
    assert f"0x{own.out}" == told.stdout, own.err


@pytest.mark.usefixtures("files")
def test_what_snpguest_calls_ec2_is_an_earlier_profile() -> None:
    line = ("--ovmf", "ovmf.fd", "--vcpus", "2", *V4, "--vmm-type")
    told = rust("snpguest", "generate", "measurement", *line, "ec2").stdout
    assert f"0x{run('measure', '--mode', 'snp', *line, 'ec2-rdx-0', '--bare').out}\n" == told


@pytest.mark.parametrize("cpu", cpu_types.CPU_SIGS)
def test_each_type_of_vcpu_has_the_digest_of_the_tool(
    files: Path, cpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("--mode", "snp", "--ovmf", str(files / "ovmf.fd"), "--vcpus", "2", "--vcpu-type", cpu)
    assert run(*line).out == theirs(monkeypatch, *line).out


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("verb", ["measure", "plan", "check", "map", "trace", "sweep"])
def test_a_verb_takes_them_too(verb: str) -> None:
    theirs = ("--mode", "snp", "--ovmf", "ovmf.fd", "--vcpu-type", "epyc-milan", "--vcpus", "2")
    ours = ("ovmf.fd", "--platform", "snp", "--cpu", "EPYC-Milan", "--vcpus", "2")
    taken = run(verb, *theirs)
    assert taken.code == 0, taken.err
    assert taken.out.lower() == run(verb, *ours).out.lower()


@pytest.mark.usefixtures("files")
def test_a_mode_is_named_in_the_output_as_our_platform() -> None:
    out = run("measure", "--mode", "seves", "--ovmf", "ovmf.fd", "--format", "json").out
    assert json.loads(out)["given"] == {"platform": "sev-es", "es_init": "init2"}


@pytest.mark.parametrize("verb", VERBS)
def test_no_page_of_help_lists_them(verb: str) -> None:
    page = run(verb, "--help").out
    hidden = {*familiar.RENAMED, "--mode", "--output-format", "--dump-vmsa", "--firmware-only"}
    assert not {word for word in page.replace("=", " ").split() if word in hidden}


SNP: Final = ("--mode", "snp", "--ovmf", "ovmf.fd")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ((*SNP, *V4), 2, "missing --vcpus"),
        ((*SNP, "--vcpus", "1"), 2, "missing --vcpu-type"),
        (("--ovmf", "ovmf.fd"), 2, "missing --mode"),
        (("--mode", "snp", "--vcpus", "1", *V4), 2, "missing --ovmf"),
        (("--mode", "snq", "--ovmf", "ovmf.fd"), 2, "did you mean snp?"),
        (("--mode", "x" * 999, "--ovmf", "ovmf.fd"), 2, "choose from sev, seves"),
        ((*SNP, *V4, "--vcpus", "many"), 2, "--vcpus: 'many' is not an integer"),
        ((*SNP, "--vcpus", "1", "--vcpu-type", "EPYC-Milano"), 2, "--vcpu-type: unknown CPU"),
        ((*SNP, "--vcpus", "1", "--vcpu-sig", "5x"), 2, "--vcpu-sig: '5x' is not an integer"),
        ((*SNP, "--vcpus", "1", *V4, "--guest-features", "-1"), 2, "--guest-features: '-1'"),
        ((*SNP, "--vcpus", "1", *V4, "--snp-ovmf-hash", "ab"), 2, "--snp-ovmf-hash: 'ab'"),
        ((*SNP, "--vcpus", "1", *V4, "--vcpu-sig", "1"), 2, "--vcpu-sig: was given more than once"),
        ((*SNP, "--vcpus", "1", *V4, "--output-format", "hexx"), 2, "--output-format: 'hexx'"),
        ((*SNP, "--vcpus", "1", *V4, "--vmm-type", "qemux"), 2, "--vmm-type: unknown VMM"),
        ((*SNP, "--vcpus", "1", *V4, "--dump-vmsa"), 2, "--dump-vmsa: needs a folder"),
        ((*SNP, "--vcpus", "1", *V4, "--nothing"), 2, "No such option: --nothing"),
        ((*SNP, "--vcpus", "1", "--vcpu-type"), 2, "--vcpu-type"),
        (("--mode", "sev", "--ovmf", "ovmf.fd", "--dump-vmsa", "-o", "d"), 4, "no vCPU states"),
        ((*SVSM, "--ovmf", "ovmf.fd", "--vcpus", "1", "--vars-file", "none"), 3, "none: cannot"),
        ((*SVSM, "--ovmf", "ovmf.fd", "--vcpus", "1", "--vmm-type", "ec2"), 2, "--vmm-type: 'ec2'"),
        (("plan", "--mode", "snp:ovmf-hash", "--ovmf", "ovmf.fd"), 2, "only supported by measure"),
        (("measure", *SNP, "--output-format", "hex", "--format", "json"), 2, "--output-format:"),
        (("schema", "--mode", "snp"), 2, "No such option: --mode"),
    ],
    ids=lambda value: " ".join(value)[-60:] if isinstance(value, tuple) else None,
)
def test_refused(files: Path, line: tuple[str, ...], code: int, said: str) -> None:
    assert (files / "ovmf.fd").exists()
    result = run(*line)
    assert_refused(result, {code})
    assert said in result.err
    assert len(result.err) < 400


def test_an_option_that_takes_one_value_is_given_once() -> None:
    for repeated in (
        ("--vcpus", "1", "--vcpus", "2"), ("--vcpus=1", "--vcpus", "1"),
        ("-o", "a", "--output", "b"), ("-oa", "-o", "b"), ("--cpu", "EPYC", "--vcpu-sig", "3"),
    ):  # fmt: skip
        result = run("measure", "--example", "snp", *repeated)
        assert_refused(result, {2})
        assert "was given more than once" in result.err


def test_what_may_be_repeated_still_may() -> None:
    line = ("--vcpus", "1", "--vcpus", "2", "--cpu", "EPYC", "--cpu", "EPYC-Milan")
    assert run("sweep", "--example", "snp", *line).out.count("\n") == 4
    assert run("measure", "--example", "snp", "--quiet", "--quiet", "--bare").code == 0


@pytest.mark.usefixtures("files")
def test_a_value_that_looks_like_an_option_is_a_value() -> None:
    for append in ("--vcpus", "--mode", "-v", "--", "a=b --vcpus 3"):
        boot = ("--platform", "snp", "--kernel", "kernel", "--append", append)
        out = run("measure", "ovmf.fd", *boot, "--format", "json").out
        assert json.loads(out)["given"]["append"] == append


def test_what_follows_two_dashes_is_a_file(files: Path) -> None:
    (files / "--mode").write_bytes(good_snp().build())
    plain = run("measure", "ovmf.fd", "--platform", "snp", "--bare").out
    assert run("measure", "--platform", "snp", "--bare", "--", "--mode").out == plain
