"""
What a system installs beside the program: a man page, and completion for shells.

The man page is the help of the program and its verbs, written by a formatter of roff instead of
the one of terminals; the completions are typer's.  `python -m tests.docs` writes them anew.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import typer

from cvmplan import __version__
from cvmplan.cli import COMPLETE, VERBS, app

ROOT: Final = Path(__file__).parent.parent
FOLDER: Final = ROOT / "cvmplan" / "share"
EXIT_CODES: Final = ROOT / "cvmplan" / "docs" / "exit-codes.md"
ENVIRONMENT: Final = (
    ("COLUMNS", "Width of help and tables, in place of the terminal's."),
    ("CVMPLAN_<OPTION>", "Default of an option, which beats cvmplan.toml: 'cvmplan help shell'."),
    ("NO_COLOR", "No colours, where it is set and not empty."),
    ("FORCE_COLOR", "Colours where standard error is not a terminal too."),
    ("XDG_DATA_HOME", "Folder of the user's own catalogue, cvmplan/firmware.json."),
)
_ROW: Final = re.compile(r"^\| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def escaped(text: str) -> str:
    """Return text as roff has it: hyphens that can be copied, no requests at the start."""
    text = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    text = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in text)
    return f"\\&{text}" if text[:1] in (".", "'") else text


class Roff:
    """Takes what a command's help consists of, and has it as lines of roff."""

    def __init__(self, heading: str = ".SH") -> None:
        self.lines: list[str] = []
        self._heading = heading

    def write_usage(self, program: str, args: str = "", prefix: str | None = None) -> None:
        """Take the usage."""
        del prefix
        self.lines += [".PP", f"\\fB{escaped(program)}\\fR {escaped(args)}"]

    def write_paragraph(self) -> None:
        """Take an empty line."""
        self.lines.append(".PP")

    def write_text(self, text: str) -> None:
        """Take paragraphs."""
        for paragraph in text.split("\n\n"):
            self.lines += [".PP", escaped(paragraph)]

    def write_dl(self, rows: Iterable[tuple[str, str]], **_: Any) -> None:
        """Take terms with their definitions."""
        for term, text in rows:
            self.lines += [".TP", f"\\fB{escaped(term)}\\fR", escaped(text)]

    @contextmanager
    def section(self, title: str) -> Iterator[None]:
        """Take a section."""
        self.lines.append(f"{self._heading} {escaped(title)}")
        yield

    @contextmanager
    def indentation(self) -> Iterator[None]:
        """Take what a terminal has indented."""
        yield


def help_of(command: Any, name: str, roff: Roff) -> list[str]:
    """Return the help of a command as lines of roff."""
    with command.make_context(name, [], resilient_parsing=True) as context:
        command.format_help(context, roff)
    return roff.lines


def man() -> str:
    """Return the man page."""
    group: Any = typer.main.get_command(app)
    lines = [f'.TH CVMPLAN 1 "" "cvmplan {__version__}"', ".SH NAME"]
    lines += ["cvmplan \\- plan, check and measure the launch of a confidential VM", ".SH SYNOPSIS"]
    lines += help_of(group, "cvmplan", Roff())
    with group.make_context("cvmplan", [], resilient_parsing=True) as context:
        for verb in VERBS:
            lines.append(f".SH cvmplan {escaped(verb)}")
            lines += help_of(group.get_command(context, verb), f"cvmplan {verb}", Roff(".SS"))
    end = Roff()
    with end.section("Exit status"):
        end.write_dl(_ROW.findall(EXIT_CODES.read_text())[2:])
    with end.section("Environment"):
        end.write_dl(ENVIRONMENT)
    with end.section("See also"):
        end.write_text("'cvmplan help' lists the pages of the documentation.")
    return "".join(f"{line}\n" for line in (*lines, *end.lines))


def completion(shell: str) -> Callable[[], str]:
    """Return what makes the script of a shell."""

    def make() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cvmplan"],
            env={**os.environ, COMPLETE: f"source_{shell}"},
            capture_output=True,
            text=True,
            check=True,
        )
        return f"{done.stdout.strip()}\n"

    return make


FILES: Final[Mapping[str, Callable[[], str]]] = {
    "cvmplan.1": man,
    "cvmplan.bash": completion("bash"),
    "_cvmplan": completion("zsh"),
    "cvmplan.fish": completion("fish"),
}


def write() -> Iterator[Path]:
    """Write the files anew, and yield those that changed."""
    for name, make in FILES.items():
        path, text = FOLDER / name, make()
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            yield path
