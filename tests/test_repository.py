"""The pages for contributors, the metadata and the set-up of CI: true to the tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

import cvmplan
from cvmplan.cli import VERBS
from cvmplan.core import errors
from tests import rooms
from tests.test_layers import MODULES, imports
from tests.test_readme import SHELL

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = sorted((ROOT / ".github").glob("*.md"))
TOP_LEVEL: Final = {"pyproject.toml", "README.md", "LICENSE", "cvmplan", "schemas", "tests"}
TO_ADD: Final = {
    "a CPU model", "a VMM profile", "a kernel interface", "a setting", "an image format",
    "an output format", "an evidence wrapper", "a platform", "a rule", "a test vector",
}  # fmt: skip
OUTSIDE_NAMES: Final = {"yaml": "PyYAML", "dask": "distributed"}
"""Module to the package that is declared for it; dask comes with distributed."""
_CODE = re.compile(r"`([^`\n]+)`")
_PLACEHOLDER = re.compile(r"\b(?:CLAIM|FORMAT_OUTPUT|NAME|PLATFORM)\b|(?<=_)NAME\b")
_LINK = re.compile(r"\]\(([^)#\s]+)\)")
_PATH = re.compile(r"[\w.-]*(?:/[\w.-]+)*/?")
_SYMBOLS = re.compile(r"((?:`\w+`(?:,| and| or)? )+)(?:there )?in `([\w/.-]+\.py)`")
_REQUIREMENT = re.compile(r"[\w.-]+")
_PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40}")


def text(page: Path) -> str:
    return page.read_text("utf-8")


def table(page: str, heading: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading."""
    lines = text(ROOT / ".github" / page).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" |")])
    return rows


def looks_like_a_path(code: str) -> bool:
    """Whether a piece of code is a path of this repository, from its root or from a room's."""
    first = code.partition("/")[0]
    known = {p.name for p in ROOT.iterdir()} | {*rooms.ROOMS}
    return "/" in code and first in known and _PATH.fullmatch(code) is not None


def exists(path: str) -> bool:
    """Whether a path, or one of its form, is there; one of a room may leave out the package."""
    form = _PLACEHOLDER.sub("*", path)
    return any(True for folder in (ROOT, ROOT / "cvmplan") for _ in folder.glob(form))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_path_in_a_page_exists(page: Path) -> None:
    paths = {code for code in _CODE.findall(text(page)) if looks_like_a_path(code)}
    assert [path for path in sorted(paths) if not exists(path)] == []
    links = [link for link in _LINK.findall(text(page)) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_pages_are_there() -> None:
    names = ("ARCHITECTURE", "CHANGELOG", "COMPATIBILITY", "CONTRIBUTING", "SECURITY")
    assert [p.name for p in PAGES] == [f"{name}.md" for name in names]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_name_that_is_said_to_be_in_a_module_is_there(page: Path) -> None:
    for names, path in _SYMBOLS.findall(text(page)):
        tree = ast.parse(text(ROOT / path))
        defined = {n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
            defined |= {ast.unparse(target) for target in targets}
        assert set(_CODE.findall(names)) <= defined, path


def test_names_in_modules_are_found() -> None:
    found = [n for page in PAGES for n, _ in _SYMBOLS.findall(text(page))]
    assert {"`SETTINGS` ", "`Platform`, `Facts` and `FACTS` "} <= set(found)


def test_rooms_in_the_architecture_are_those_of_the_tree() -> None:
    assert rooms.in_page() == rooms.made(), "run: python -m tests.rooms --write"


def test_arrows_that_follow_from_others_are_left_out() -> None:
    arrows = {"a": {"b", "c"}, "b": {"c"}, "c": set[str]()}
    assert rooms.needed(arrows) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_errors_in_the_architecture_have_their_exit_codes() -> None:
    wanted = {
        name: str(kind.exit_code)
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, errors.CvmplanError)
        and kind.__base__ is errors.CvmplanError
    }
    assert {row[0].strip("`"): row[-1] for row in table("ARCHITECTURE.md", "error")} == wanted


def test_there_is_a_row_for_each_thing_that_can_be_added() -> None:
    rows = {row[0]: row[1:] for row in table("CONTRIBUTING.md", "to add")}
    assert set(rows) == TO_ADD
    for name, (new, edited, true) in rows.items():
        paths = [c for c in _CODE.findall(new + edited) if looks_like_a_path(c)]
        assert paths, name
        assert true, name


def test_contributors_run_the_command_of_the_readme() -> None:
    page = text(ROOT / ".github" / "CONTRIBUTING.md")
    assert f"`{SHELL[1].text.strip()}`" in page


def test_the_changelog_has_this_version_and_every_verb() -> None:
    page = text(ROOT / ".github" / "CHANGELOG.md")
    newest = next(line for line in page.splitlines() if line.startswith("## ["))
    assert newest.startswith(f"## [{cvmplan.__version__}] - ")
    assert set(VERBS) - {code.split()[0] for code in _CODE.findall(page)} == set()


def test_the_top_level_stays_small() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if not listed.stdout:
        pytest.skip("not a git checkout")
    found = {name.split("/")[0] for name in listed.stdout.splitlines()}
    assert {name for name in found if not name.startswith(".")} == TOP_LEVEL


# --- CI and hooks ------------------------------------------------------------------------------


def workflow() -> Any:
    return yaml.safe_load(text(ROOT / ".github" / "workflows" / "ci.yml"))


def test_ci_calls_the_script_that_a_contributor_runs() -> None:
    found = workflow()
    assert found["permissions"] == {"contents": "read"}
    (job,) = found["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    for step in job["steps"]:
        assert "run" in step or _PINNED.fullmatch(step["uses"]), step


def test_ci_runs_the_versions_of_python_that_the_metadata_names() -> None:
    (job,) = workflow()["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    named = [c.rpartition(" ")[2] for c in project()["classifiers"] if "Python :: 3." in c]
    assert versions == named
    assert project()["requires-python"] == f">={versions[0]}"


def test_hooks_run_what_ci_runs() -> None:
    (local,) = yaml.safe_load(text(ROOT / ".pre-commit-config.yaml"))["repos"]
    assert local["repo"] == "local"
    hooks = [hook["entry"].removesuffix(" --force-exclude") for hook in local["hooks"]]
    script = text(ROOT / ".ci" / "run")
    assert hooks == [".venv/bin/ruff check", ".venv/bin/ruff format", ".venv/bin/mypy"]
    assert all(hook in script for hook in hooks)


# --- metadata ----------------------------------------------------------------------------------


def project() -> Any:
    return tomllib.loads(text(ROOT / "pyproject.toml"))["project"]


def test_the_metadata_is_complete() -> None:
    found = project()
    assert found["license"] == "Apache-2.0"
    assert all((ROOT / name).is_file() for name in found["license-files"])
    assert found["authors"] == [{"name": "The cvmplan authors"}]
    assert set(found["urls"]) == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    assert found["keywords"] == sorted(found["keywords"])
    assert not [c for c in found["classifiers"] if c.startswith("License")]  # PEP 639 forbids both


def declared(requirements: list[str]) -> Iterator[str]:
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        assert match, requirement
        yield match[0].lower()


def test_every_package_that_is_imported_is_declared() -> None:
    found = project()
    extras = found["optional-dependencies"]
    names = {*declared([*found["dependencies"], *extras["cbor"], *extras["yaml"], *extras["dask"]])}
    used = {name.partition(".")[0] for path in MODULES for name in imports(path)}
    outside = used - set(sys.stdlib_module_names) - {"cvmplan", ""}
    assert {OUTSIDE_NAMES.get(name, name).lower() for name in outside} == names
