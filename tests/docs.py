"""
The pages that users read: README.md and cvmplan/docs, their code blocks and generated parts.

    python -m tests.docs    # write the generated parts, and the outputs of commands, anew

A block that is `console` is a session: each line that begins with "$ " is run by bash in a
folder of the page's own, where a comment "# exit code N" says how it ends (0 otherwise); the
lines below are what it prints, where there are any; "?" is replaced by them.  In them "…"
stands for any text of a line, and alone on a line for any lines.  `json file=NAME` and the like are
written to a file first.  `python` is run.
A block that cannot be run says `excerpt: why`.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent
SHARED: Final = ROOT.parent / "shared"
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "cvmplan" / "docs").glob("*.md")))
FIRMWARE: Final = {
    "OVMF.amdsev.fd": "OVMF.amdsev.fd",
    "OVMF.inteltdx.fd": "OVMF.inteltdx.ms.fd",
}
"""Name in the pages to the file of ../shared/firmware."""
BLOCK: Final = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MADE: Final = re.compile(r"^<!-- made: (\w+) -->\n(.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL)
EXIT: Final = re.compile(r"# exit code (\d+)$")
VARIES: Final = re.compile(r"(?<=--pin )[0-9a-f]{64}|\d{4}(?:-\d\d){2} (?:\d\d:){2}\d\d(?= UTC)")
"""What an output has that differs from run to run."""
SECONDS: Final = 60


class Block(NamedTuple):
    """One code block: its language, what stands behind that, its text, where the text begins."""

    kind: str
    info: str
    text: str
    start: int

    @property
    def excerpt(self) -> str:
        """Why it is not run, empty where it is."""
        return self.info.removeprefix("excerpt:").strip() if "excerpt:" in self.info else ""

    @property
    def file(self) -> str:
        """The file that it is written to, empty where it is none."""
        return self.info.removeprefix("file=") if self.info.startswith("file=") else ""

    def commands(self) -> Iterator[tuple[str, str]]:
        """Yield each command of a session with the text below it."""
        starts = [m.start() for m in re.finditer(r"^\$ ", self.text, re.MULTILINE)]
        for start, end in pairwise([*starts, len(self.text)]):
            command, _, output = self.text[start + 2 : end].partition("\n")
            while command.endswith("\\"):
                more, _, output = output.partition("\n")
                command = f"{command}\n{more}"
            yield command, output


def blocks(page: str) -> Iterator[Block]:
    """Yield the code blocks of a page."""
    for found in BLOCK.finditer(page):
        yield Block(found[1], found[2].strip(), found[3], found.start(3))


def needed(page: str) -> list[str]:
    """Return the firmware images that a page's sessions use."""
    run = [b.text for b in blocks(page) if not b.excerpt]
    return [name for name in FIRMWARE if any(name in text for text in run)]


def missing(page: str) -> list[str]:
    """Return those of them that are not on this machine."""
    return [n for n in needed(page) if not (SHARED / "firmware" / FIRMWARE[n]).is_file()]


def prepare(page: str, folder: Path) -> None:
    """Put what the sessions of a page use into `folder`."""
    from tests.page_files import FILES

    for name in needed(page):
        folder.joinpath(name).symlink_to(SHARED / "firmware" / FIRMWARE[name])
    for name, make in FILES.items():
        if name in page:
            (folder / name).write_bytes(make())
    program = folder / ".bin" / "cvmplan"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cvmplan "$@"\n')
    program.chmod(0o755)


def run_command(command: str, folder: Path) -> tuple[int, str]:
    """Run one line of a session, and return its exit code and what a terminal would show."""
    path = f"{folder / '.bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder, env={"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "HOME": "/"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    newline = "" if done.stdout.endswith("\n") or not done.stdout else "\n"
    return done.returncode, done.stdout + newline


def expected_code(command: str) -> int:
    """Return the exit code that the comment of a command names."""
    found = EXIT.search(command)
    return int(found[1]) if found else 0


def fits(output: str, written: str) -> bool:
    """Whether an output is what a page says, where "…" stands for what may vary."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "…\n" else re.escape(line).replace("…", ".*?")
        for line in written.splitlines(keepends=True)
    )
    return re.fullmatch(pattern, output) is not None


def run_block(block: Block, folder: Path) -> str:
    """Run a block of a page in `folder` and return its text with the outputs of today."""
    if block.file:
        target = folder / block.file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.text)
    if block.kind != "console":
        return block.text
    made = ""
    for command, written in block.commands():
        code, output = run_command(command, folder)
        if code != expected_code(command):
            raise ValueError(f"{command}: exit code {code}\n{output}")
        told = not written.strip() or fits(output, written)
        shown = written if told else VARIES.sub("…", output)
        made += f"$ {command}\n{shown}"
    return made


def renewed(page: str, folder: Path) -> str:
    """Return a page with its generated parts and the outputs of its commands made anew."""
    from tests.pages import PARTS

    page = MADE.sub(lambda m: f"<!-- made: {m[1]} -->\n{PARTS[m[1]]()}<!-- end -->", page)
    if missing(page):
        return page
    prepare(page, folder)
    made, at = "", 0
    for block in blocks(page):
        if not block.excerpt and "--help" not in block.text:
            made += page[at : block.start] + run_block(block, folder)
            at = block.start + len(block.text)
    return made + page[at:]


def main() -> None:
    """Write all pages anew."""
    from tempfile import TemporaryDirectory

    from tests import share

    for path in PAGES:
        with TemporaryDirectory() as folder:
            before = path.read_text()
            after = renewed(before, Path(folder))
            if after != before:
                path.write_text(after)
                sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    for path in share.write():
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
