"""The program in a shell: completion, man page, colours, examples on pages of help."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from typing import Any, Final

import pytest
import typer

from cvmplan.cli import COMPLETE, VERBS, app, familiar, pages, words
from tests import share
from tests.run import run

PROGRAM: Final = [sys.executable, "-m", "cvmplan"]
BOLD: Final = "\x1b["


def program(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {n: v for n, v in os.environ.items() if n not in ("NO_COLOR", "FORCE_COLOR")}
    return subprocess.run(
        [*PROGRAM, *args],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def completed(line: str) -> list[str]:
    """What bash is answered at the end of a line."""
    typed = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    return program(**typed, **{COMPLETE: "complete_bash"}).stdout.split()


def verb_of(name: str) -> Any:
    group: Any = typer.main.get_command(app)
    return group.get_command(group.make_context("cvmplan", [], resilient_parsing=True), name)


def test_verbs_and_options_are_completed() -> None:
    assert completed("cvmplan ") == [*VERBS]
    assert completed("cvmplan mea") == ["measure"]
    assert completed("cvmplan measure --vcp") == ["--vcpus"]
    assert completed("cvmplan verify --min-tcb") == ["--min-tcb"]
    assert completed("cvmplan measure --vcpus 2 --vcpus 3 --mode x --expec") == ["--expect"]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("measure --platform s", ["snp", "sev", "sev-es", "sw-protected"]),
        ("plan --vmm ec", ["ec2", "ec2-rdx-0"]),
        ("check --abi kvm-7.", ["kvm-7.0", "kvm-7.1", "kvm-7.2", "kvm-7.3"]),
        ("sweep --cpu EPYC-Turin", ["EPYC-Turin", "EPYC-Turin-v1", "EPYC-Turin-v2"]),
        ("measure --format ", ["text", "json"]),
        ("measure --es-init ", ["legacy", "init2"]),
        ("measure --kernel ", []),  # bash offers files
    ],
)
def test_names_are_completed(typed: str, offered: list[str]) -> None:
    assert completed(f"cvmplan {typed}") == offered


def test_options_of_other_tools_are_not_offered() -> None:
    offered = set(completed("cvmplan measure --"))
    assert {"--platform", "--bare"} <= offered
    assert not offered & {*familiar.RENAMED, "--mode", "--output-format", "--dump-vmsa"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(shell: str) -> None:
    script = program(**{COMPLETE: f"source_{shell}"}).stdout
    assert f"{COMPLETE}=complete_{shell}" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_bash_completes_with_the_script_that_is_installed() -> None:
    steps = (
        f"source {share.FOLDER / 'cvmplan.bash'}",
        f'cvmplan() {{ {shlex.join(PROGRAM)} "$@"; }}; export -f cvmplan',
        "COMP_WORDS=(cvmplan simul) COMP_CWORD=1",
        f'PATH=$PWD/bin:$PATH; env() {{ command env "${{@:1:3}}" {shlex.join(PROGRAM)}; }}',
        "_cvmplan_completion cvmplan; echo ${COMPREPLY[@]}",
    )
    done = subprocess.run(
        ["bash", "-c", "\n".join(steps)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "simulate\n"


@pytest.mark.parametrize("name", share.FILES)
def test_what_is_installed_beside_the_program_is_current(name: str) -> None:
    made = share.FILES[name]()
    assert (share.FOLDER / name).read_text() == made, "run: python -m tests.docs"


def test_the_wheel_has_them_all() -> None:
    build = tomllib.loads((share.ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    put = build["targets"]["wheel"]["shared-data"]
    assert {*put} == {f"cvmplan/share/{name}" for name in share.FILES}
    assert "share/man/man1/cvmplan.1" in put.values()


def test_the_man_page_has_every_verb_and_option() -> None:
    page = (share.FOLDER / "cvmplan.1").read_text().replace("\\-", "-").replace("\\&", "")
    for name in VERBS:
        assert f"\n.SH cvmplan {name}\n" in page
        for param in verb_of(name).params:
            if param.param_type_name == "option" and not param.hidden:
                assert re.search(rf"^\\fB.*{param.opts[0]}\b", page, re.MULTILINE), param.opts


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_the_man_page_is_well_formed() -> None:
    command = ["groff", "-man", "-Tutf8", "-ww", "-b", str(share.FOLDER / "cvmplan.1")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "launch of a confidential VM" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": ""}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours_are_where_they_are_asked_for(variables: dict[str, str], coloured: bool) -> None:
    done = program("measure", **variables)
    assert done.returncode == 2
    assert (BOLD in done.stderr) == coloured
    assert BOLD not in program("measure", "--example", "snp", "--bare", **variables).stdout


def test_every_verb_has_an_example_with_options_that_it_has() -> None:
    assert {*pages.EXAMPLES} == {*VERBS}
    for verb, lines in pages.EXAMPLES.items():
        known = words.declared(verb_of(verb).params)
        for line in lines:
            program_name, named, *rest = shlex.split(line)
            assert (program_name, named) == ("cvmplan", verb)
            assert not [w for w in words.split(rest, known) if w.name and w.name not in known]
            assert line in " ".join(run(verb, "--help").out.split())
