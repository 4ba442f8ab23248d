"""What CI uses of ours: the action, the hook and the container file; the commands of each run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from tests.docs import ROOT, blocks, prepare
from tests.oracles.peer import Machine, theirs
from tests.recorder.record import consumers
from tests.run import run
from tests.test_checks import CONFLICT, annotated, page, sarif

ACTION: Final = ROOT / ".github" / "actions" / "check" / "action.yml"
HOOKS: Final = ROOT / ".pre-commit-hooks.yaml"
CONTAINER: Final = ROOT / ".ci" / "Containerfile"
OURS: Final = "cvmplan/cvmplan/.github/actions/check@"
PAGE: Final = (ROOT / "cvmplan" / "docs" / "ci.md").read_text()
WORKFLOW: Final = ".github/workflows/images.yml"
_PINNED = re.compile(r"[\w-]+(?:/[\w-]+)+@[0-9a-f]{40}")
_INPUT = re.compile(r"\$\{\{ inputs\.([\w-]+) \}\}")


class Ran(NamedTuple):
    """How a step ended, and what the runner read of it."""

    code: int
    out: str
    err: str


def action() -> Any:
    return yaml.safe_load(ACTION.read_text())


def files_of_page() -> dict[str, str]:
    return {block.file: block.text for block in blocks(PAGE) if block.file}


def workflow() -> Any:
    return yaml.safe_load(files_of_page()[WORKFLOW])


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The repository of the page, on a runner that has installed this cvmplan."""
    folder = tmp_path / "repository"
    folder.mkdir()
    prepare(PAGE, folder)
    for name, text in files_of_page().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "bzImage").rename(folder / "images" / "bzImage")
    program = tmp_path / "temp" / "cvmplan" / "bin"
    program.mkdir(parents=True)
    (folder / ".bin" / "cvmplan").rename(program / "cvmplan")
    (tmp_path / "summary").touch()
    return folder


def script(text: str, folder: Path, **more: str) -> Ran:
    """Run a script as the runner does: `shell: bash`."""
    temp = folder.parent / "temp"
    path = f"{temp}/cvmplan/bin:{Path(sys.executable).parent}:/usr/bin:/bin"
    known = {
        "PATH": path, "PYTHONPATH": str(ROOT), "HOME": "/", "RUNNER_TEMP": str(temp),
        "GITHUB_ACTION_PATH": str(ACTION.parent), "GITHUB_STEP_SUMMARY": f"{folder.parent}/summary",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text],
        cwd=folder, env=known | more, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


def acted(folder: Path, **inputs: str) -> Ran:
    """Run the step of the action that checks, with its inputs."""
    known = {name: one.get("default", "") for name, one in action()["inputs"].items()}
    known |= {name.replace("_", "-"): value for name, value in inputs.items()}
    (step,) = [one for one in action()["runs"]["steps"] if one.get("name") == "Check"]
    assert "${{" not in step["run"]
    env = {n: _INPUT.sub(lambda m: known[m[1]], value) for n, value in step["env"].items()}
    return script(step["run"], folder, **env)


def steps(job: str, folder: Path) -> Iterator[tuple[dict[str, Any], Ran | None]]:
    """Yield each step of a job, and how it ended; None for an action of others."""
    for step in workflow()["jobs"][job]["steps"]:
        if "run" in step:
            yield step, script(step["run"], folder)
        elif step["uses"].startswith(OURS):
            assert set(step["with"]) <= set(action()["inputs"])
            yield step, acted(folder, **{n.replace("-", "_"): v for n, v in step["with"].items()})
        else:
            yield step, None


def line_of(path: Path, text: str) -> str:
    (number,) = [n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line]
    return str(number)


# --- the workflow ----------------------------------------------------------------------------


def test_the_workflow_passes_and_publishes_what_it_checked(repository: Path) -> None:
    for step, ran in (*steps("check", repository), *steps("publish", repository)):
        assert ran is None or ran.code == 0, (step, ran)
        for name in ("sarif_file", "subject-path", "predicate-path"):
            assert (repository / step.get("with", {}).get(name, ".")).exists(), step
    assert sarif((repository / "cvmplan.sarif").read_text())["results"] == []
    shown = page((repository.parent / "summary").read_text())
    assert "cvmplan: passed" in shown.text
    expected = json.loads(files_of_page()["images/guest.json.expect.json"])["launches"]
    payload = json.loads((repository / "predicate.json").read_text())
    published = [one["digest"] for one in payload["values"]]
    assert [one["registers"]["MEASUREMENT"] for one in expected] == published[:2]
    assert len(published) == 4
    attest = next(
        s for s, _ in steps("publish", repository) if "actions/attest@" in s.get("uses", "")
    )
    page_of_targets = (ROOT / "cvmplan" / "emit" / "references" / "predicate.py").read_text()
    assert attest["with"]["predicate-type"] in page_of_targets


def test_an_invalid_image_fails_with_an_annotation_at_its_line(repository: Path) -> None:
    (repository / "images" / "wrong.json").write_text(CONFLICT)
    (ran,) = [ran for _, ran in steps("check", repository) if ran]
    assert ran.code == 1
    kind, place, message = annotated(ran.out)[0]
    line = line_of(repository / "images" / "wrong.json", '{"gpa": "0x2000"')
    wanted = {"file": "images/wrong.json", "line": line, "col": "3", "title": "gpa-mapped-twice"}
    assert (kind, place) == ("error", wanted)
    assert "regions[1] overlaps images/wrong.json: regions[0] first" in message
    assert sarif((repository / "cvmplan.sarif").read_text())["invocations"][0]["exitCode"] == 1
    assert "cvmplan: failed" in page((repository.parent / "summary").read_text()).text


def test_a_drifted_measurement_fails_with_an_annotation_at_its_line(repository: Path) -> None:
    """One byte of the kernel changes; sev-snp-measure is not asked: no value may be right."""
    kernel = repository / "images" / "bzImage"
    kernel.write_bytes(kernel.read_bytes()[:-1] + b"\xff")
    (ran,) = [ran for _, ran in steps("check", repository) if ran]
    assert ran.code == 1
    beside = repository / "images" / "guest.json.expect.json"
    launches = json.loads(beside.read_text())["launches"]
    lines = [line_of(beside, one["registers"]["MEASUREMENT"]) for one in launches]
    found = [place for _, place, _ in annotated(ran.out) if place["title"] == "measurement-differs"]
    assert [place["line"] for place in found] == lines
    assert {place["file"] for place in found} == {"images/guest.json.expect.json"}


def test_an_annotation_has_the_measurement_of_today(repository: Path) -> None:
    """For firmware: what sev-snp-measure computes."""
    image = repository / "images" / "own.fd"
    image.write_bytes((ROOT / "cvmplan" / "examples" / "snp.fd").read_bytes())
    document = {
        "schema": "cvmplan.expect/1",
        "launches": [{"settings": {"vcpus": 2}, "registers": {"MEASUREMENT": "00" * 48}}],
    }
    Path(f"{image}.expect.json").write_text(json.dumps(document))
    ran = acted(repository, files="images/own.fd")
    today = theirs(str(image), "", "", Machine(vcpus=2))
    assert ran.code == 1
    assert f"MEASUREMENT is {today}, expected {'00' * 48}" in ran.out


# --- the action ------------------------------------------------------------------------------


def test_the_action_installs_the_cvmplan_that_it_is_part_of() -> None:
    (step,) = [one for one in action()["runs"]["steps"] if one.get("name") == "Install cvmplan"]
    found = re.search(r'install -q "\$GITHUB_ACTION_PATH/([./]+)"', step["run"])
    assert found
    assert (ACTION.parent / found[1]).resolve() == ROOT
    assert "${{" not in step["run"]


def test_everything_that_others_wrote_is_pinned() -> None:
    used = [one for job in workflow()["jobs"].values() for one in job["steps"] if "uses" in one]
    used += [one for one in action()["runs"]["steps"] if "uses" in one]
    assert len(used) > 6
    for step in used:
        assert _PINNED.fullmatch(step["uses"]) or step["uses"].startswith(OURS), step
    assert workflow()["permissions"] == {}


@pytest.mark.parametrize(
    "name", ["$(touch pwned)", "`touch pwned`", "; touch pwned", "a b'\"", "-o", "\u202e%0A,:.json"]
)
def test_a_file_name_is_never_a_command(repository: Path, name: str) -> None:
    (repository / name).write_text(CONFLICT)
    ran = acted(repository, files=name)
    assert ran.code == 1
    assert not (repository / "pwned").exists()
    assert annotated(ran.out)[0][1]["title"] == "gpa-mapped-twice"


def test_a_name_gives_the_runner_no_command_of_its_old_form(repository: Path) -> None:
    """The runner takes ##[…] anywhere in a line (actions/runner, ActionCommand.cs)."""
    ran = acted(repository, files="##[add-mask]e")
    assert ran.code == 3
    assert "##[" not in ran.err
    assert all(line.startswith("::") for line in ran.out.splitlines())


def test_wildcards_options_and_severity_are_those_of_the_inputs(repository: Path) -> None:
    (repository / "images" / "wrong.json").write_text(CONFLICT)
    both = acted(repository, files="images/guest.json\nimages/w*.json\n\nabsent.json")
    titles = [place["title"] for _, place, _ in annotated(both.out)]
    assert both.code == 3
    assert {"gpa-mapped-twice", "not-readable"} <= set(titles)
    snp = str(ROOT / "cvmplan" / "examples" / "snp.fd")
    assert acted(repository, files=snp, options="--vcpus=2\n--cpu\nEPYC-Milan").code == 0
    assert acted(repository, files=snp, fail_on="note").code == 1
    wrong = acted(repository, files=snp, options="--no-such-option")
    assert wrong.code == 2
    assert "--no-such-option" in wrong.err


def test_expectations_may_be_named(repository: Path) -> None:
    document = {"schema": "cvmplan.expect/1",
                "launches": [{"registers": {"MEASUREMENT": "00" * 48}}]}  # fmt: skip
    (repository / "all.json").write_text(json.dumps(document))
    ran = acted(repository, files="images/guest.json", expect_file="all.json")
    assert ran.code == 1
    assert {p["file"] for _, p, _ in annotated(ran.out)} == {"all.json"}


# --- the hook and the container file -----------------------------------------------------------


def test_the_hook_checks_the_files_that_it_is_given(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hook,) = yaml.safe_load(HOOKS.read_text())
    assert {"id", "name", "description", "entry", "language", "files"} <= set(hook)
    program, *words = shlex.split(hook["entry"])
    assert (program, hook["language"]) == ("cvmplan", "python")
    chosen = re.compile(hook["files"])
    for name in ("OVMF.fd", "a/b.igvm", "OVMF.fd.expect.json"):
        assert chosen.search(name)
    assert not chosen.search("package.json")
    (own,) = yaml.safe_load(files_of_page()[".pre-commit-config.yaml"])["repos"]
    assert [one["id"] for one in own["hooks"]] == [hook["id"]]
    mine = re.compile(own["hooks"][0]["files"])
    monkeypatch.chdir(repository)
    changed = [name for name in files_of_page() if mine.search(name)]
    assert changed == ["images/guest.json", "images/guest.json.expect.json"]
    assert run(*words, *changed).code == 0
    (repository / "images" / "guest.json").write_text(CONFLICT)
    assert run(*words, *changed).code == 1


def test_the_container_runs_what_it_has_installed() -> None:
    lines = CONTAINER.read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert len(set(bases)) == 1
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+-slim@sha256:[0-9a-f]{64}", bases[0])
    (made,) = [line for line in lines if line.startswith("RUN ")]
    (entry,) = [json.loads(line.partition(" ")[2]) for line in lines if line.startswith("ENTRY")]
    venv = made.split()[4]
    assert entry == [f"{venv}/bin/cvmplan"]
    assert f"COPY --from=build {venv} {venv}" in lines
    assert any(re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", line) for line in lines)


# --- by the tools of others ----------------------------------------------------------------------


def linted(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a linter that .ci/consumers has fetched."""
    folder = consumers() / "lint"
    program = folder / "bin" / tool
    if not program.exists():
        pytest.skip(f"{program} is absent: .ci/consumers fetches it")
    return subprocess.run(
        [sys.executable, str(program), *arguments] if tool != "hadolint" else
        [str(program), *arguments],
        env={"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]}, check=False,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_action_and_workflow_are_valid_by_their_schemas(repository: Path) -> None:
    """Those of SchemaStore, in check-jsonschema."""
    told = linted("check-jsonschema", "--builtin-schema", "vendor.github-actions", str(ACTION))
    assert told.returncode == 0, told.stdout
    workflows = ("--builtin-schema", "vendor.github-workflows")
    for path in (repository / WORKFLOW, ROOT / ".github" / "workflows" / "ci.yml"):
        told = linted("check-jsonschema", *workflows, str(path))
        assert told.returncode == 0, told.stdout
    assert linted("check-jsonschema", *workflows, str(ACTION)).returncode == 1


def test_actionlint_finds_nothing(repository: Path) -> None:
    program = consumers() / "go" / "actionlint" / "actionlint"
    if not program.exists():
        pytest.skip(f"{program} is absent: .ci/consumers builds it where Go is")
    told = subprocess.run(
        [str(program), "-no-color", str(repository / WORKFLOW)], check=False, cwd=repository,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout


def test_hadolint_finds_nothing() -> None:
    told = linted("hadolint", str(CONTAINER))
    assert told.returncode == 0, told.stdout
