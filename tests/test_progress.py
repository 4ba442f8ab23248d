"""Progress: nothing for a second, then a bar on a terminal, and lines where there is none."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.manifests import document, region
from tests.run import run

PROGRAM: Final = """
import sys
from cvmplan.cli import main, process, progress
process.TELL, process.DRAW, progress.BEGIN, progress.LONG = 0.1, 0.1, 0.1, {long}
sys.exit(main(sys.argv[1:]))
"""
SIZE: Final = 192 << 20
"""Bytes that take several tenths of a second, on fast machines too."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TD whose contents are one serial stream of SHA-384."""
    folder = tmp_path_factory.mktemp("long")
    with (folder / "pages").open("wb") as file:
        file.write(b"\x5a" * SIZE)
    pages = region("0x1000000", "measured", source={"file": "pages"})
    path = folder / "m.json"
    path.write_text(json.dumps(document(pages, platform="tdx")))
    return path


def command(*args: str, long: int) -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(long=long), *args]


def piped(*args: str, long: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args, long=long), capture_output=True, text=True, check=True)


def shown(*args: str, long: int = 1) -> tuple[str, str]:
    """What a run prints to a pipe, and to a terminal that is its standard error."""
    terminal, its = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(
        command(*args, long=long), stdout=subprocess.PIPE, stderr=its, text=True, env=env
    ) as run:
        os.close(its)
        said = b""
        while piece := read(terminal):
            said += piece
        out = run.communicate()[0]
    os.close(terminal)
    assert run.returncode == 0
    return out, said.decode()


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""


def test_lines_say_how_much_is_measured(manifest: Path) -> None:
    done = piped("measure", str(manifest), "--bare")
    assert re.fullmatch(r"(?:measure: \d+ s\n)*(?:measuring: \d+%\n)+", done.stderr), done.stderr
    told = [int(n) for n in re.findall(r"(\d+)%", done.stderr)]
    assert told == sorted(told)
    assert done.stdout == run("measure", str(manifest), "--bare").out


@pytest.mark.parametrize("verb", ["plan", "trace"])
def test_lines_say_that_a_verb_still_runs(manifest: Path, verb: str) -> None:
    done = piped(verb, str(manifest))
    assert re.fullmatch(rf"(?:{verb}: \d+ s\n)+", done.stderr), done.stderr
    assert done.stdout == run(verb, str(manifest)).out


def test_a_bar_is_on_the_terminal_and_goes(manifest: Path) -> None:
    out, said = shown("measure", str(manifest), "--bare")
    assert len(out) == 96
    assert "measuring" in said
    assert said.count("%") > 1
    assert said.rstrip().endswith(("\x1b[2K", "\x1b[?25h"))


def test_a_verb_that_still_runs_has_one_line_of_the_terminal(manifest: Path) -> None:
    out, said = shown("trace", str(manifest), "-o", "/dev/null")
    assert out == ""
    assert re.fullmatch(r"(?:\rtrace: \d+ s\x1b\[K)+\r\x1b\[K", said), repr(said)


@pytest.mark.parametrize("verb", ["measure", "plan"])
def test_quiet_shows_nothing(manifest: Path, verb: str) -> None:
    assert piped(verb, str(manifest), "--quiet").stderr == ""
    assert shown(verb, str(manifest), "--quiet")[1] == ""


def test_hashing_in_several_processes_has_progress_too(tmp_path: Path) -> None:
    (tmp_path / "pages").write_bytes(b"\x5a" * SIZE)
    pages = region("0x1000000", "normal", source={"file": "pages"})
    path = tmp_path / "m.json"
    path.write_text(json.dumps(document(pages)))
    done = piped("measure", str(path), "--bare", "--jobs", "2")
    assert "measuring: " in done.stderr
    assert done.stdout == run("measure", str(path), "--bare").out


def test_a_sweep_has_lines(tmp_path: Path) -> None:
    line = ("sweep", "--example", "snp", "--vcpus", "1-4096", "--cpu", "EPYC,EPYC-Milan,EPYC-Rome")
    done = piped(*line, "-o", str(tmp_path / "values"))
    assert re.fullmatch(r"(?:sweep: \d+ s\n)*(?:measuring: \d+%\n)*", done.stderr)
    assert (tmp_path / "values").read_text().count("\n") == 3 * 4096


def test_what_is_quick_shows_nothing() -> None:
    for verb in ("measure", "plan", "check"):
        done = subprocess.run(
            [sys.executable, "-m", "cvmplan", verb, "--example", "snp"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
