"""README and documentation: every block runs or says why not, and generated parts are current."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cvmplan.cli import VERBS
from cvmplan.cli import help as pages
from tests import docs
from tests.docs import MADE, PAGES, ROOT, Block, blocks, expected_code, fits, missing, prepare
from tests.page_files import digest
from tests.pages import PARTS
from tests.run import assert_refused, run

NAMES = {path: path.relative_to(ROOT).as_posix() for path in PAGES}
KINDS = {"sh", "console", "python", "json", "toml", "yaml"}
LINK = re.compile(r"\]\(([^)]+)\)")
TOPIC = re.compile(r"cvmplan help ([a-z][a-z-]*)")


@pytest.mark.parametrize("path", PAGES, ids=NAMES.get)
def test_a_page_begins_with_its_title_and_each_block_has_a_known_kind(path: Path) -> None:
    text = path.read_text()
    assert re.match(r"# \S", text)
    for block in blocks(text):
        assert block.kind in KINDS, block.text
        assert not block.info or block.file or len(block.excerpt) > 10, block.info


@pytest.mark.parametrize("path", PAGES, ids=NAMES.get)
def test_generated_parts_are_current(path: Path) -> None:
    for name, text in MADE.findall(path.read_text()):
        assert text == PARTS[name](), "'python -m tests.docs' writes it anew"


def test_every_part_is_on_a_page() -> None:
    used = {name for path in PAGES for name, _ in MADE.findall(path.read_text())}
    assert used == set(PARTS)


@pytest.mark.parametrize("path", PAGES, ids=NAMES.get)
def test_sessions_print_what_the_page_says(path: Path, tmp_path: Path) -> None:
    page = path.read_text()
    if absent := missing(page):
        pytest.skip(f"needs {', '.join(absent)} of ../shared")
    prepare(page, tmp_path)
    for block in blocks(page):
        if block.file:
            docs.run_block(block, tmp_path)
        elif block.kind == "console" and not block.excerpt and "--help" not in block.text:
            hold(block, tmp_path)


def hold(block: Block, folder: Path) -> None:
    for command, written in block.commands():
        code, output = docs.run_command(command, folder)
        assert code == expected_code(command), f"{command}\n{output}"
        renew = "'python -m tests.docs' writes this output onto the page"
        assert not written.strip() or fits(output, written), f"{renew}:\n$ {command}\n{output}"


@pytest.mark.parametrize("path", PAGES, ids=NAMES.get)
def test_python_on_a_page_runs(path: Path, tmp_path: Path) -> None:
    for block in blocks(path.read_text()):
        if block.kind == "python" and not block.excerpt:
            prepare("", tmp_path) if not (tmp_path / ".bin").exists() else None
            assert ran(block.text, tmp_path)


def ran(program: str, folder: Path) -> str:
    path = f"{folder / '.bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder, env={"PATH": path, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return done.stdout


def test_the_launch_by_hand_has_the_digests_of_the_examples(tmp_path: Path) -> None:
    page = (ROOT / "cvmplan" / "docs" / "measurement.md").read_text()
    program = next(b.text for b in blocks(page) if b.kind == "python")
    imported = {
        alias.name
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {"sha384", "Path", "pack"}  # of the package it takes a path alone
    prepare("", tmp_path)
    snp, tdx = ran(program, tmp_path).splitlines()
    assert snp.split()[-1] == digest("snp").hex()
    assert tdx.split()[-1] == digest("tdx").hex()


@pytest.mark.parametrize("path", PAGES, ids=NAMES.get)
def test_documents_on_a_page_are_well_formed(path: Path) -> None:
    for block in blocks(path.read_text()):
        if block.kind == "json":
            json.loads(block.text)
        elif block.kind == "yaml":
            yaml.safe_load(block.text)


@pytest.mark.parametrize("path", PAGES, ids=NAMES.get)
def test_links_and_topics_exist(path: Path) -> None:
    text = path.read_text()
    anchors = {re.sub(r"[^\w -]", "", t.lower()).strip().replace(" ", "-") for t in titles(text)}
    for target in LINK.findall(text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (path.parent / target).exists(), target
    for topic in TOPIC.findall(text):
        assert topic in {*pages.topics(), *VERBS}, topic


def titles(text: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", text, re.MULTILINE)


# --- cvmplan help ------------------------------------------------------------------------------


def test_help_lists_every_page() -> None:
    listed = run("help").out
    for topic in pages.topics():
        title = titles(pages.read_page(topic))[0]
        assert re.search(rf"^{topic} +{re.escape(title)}$", listed, re.MULTILINE)
    readme = (ROOT / "README.md").read_text()
    assert all(f"| `{topic}` |" in readme for topic in pages.topics())


@pytest.mark.parametrize("topic", pages.topics())
@pytest.mark.parametrize("width", [80, 120])
def test_a_page_is_as_wide_as_the_terminal(
    topic: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    result = run("help", topic)
    assert result.code == 0
    assert titles(pages.read_page(topic))[0] in result.out
    assert max(map(len, result.out.splitlines())) <= width
    assert "<!--" not in result.out
    assert "\x1b" not in result.out


def test_help_of_a_verb_is_its_own() -> None:
    assert run("help", "measure") == run("measure", "--help")


def test_an_unknown_topic_is_refused_with_the_nearest() -> None:
    result = run("help", "mesurement")
    assert_refused(result, {2})
    assert "did you mean measurement?" in result.err
    assert "'cvmplan help'" in run("help", "qqqqqq").err
    assert_refused(run("help", "../../README"), {2})
    assert_refused(run("help", ""), {2})
