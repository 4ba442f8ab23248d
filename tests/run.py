"""The command line run inside the test's own process."""

from __future__ import annotations

import io
import sys
from collections.abc import Collection
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from cvmplan.cli import main


@dataclass(frozen=True)
class Result:
    """What a user sees of one run."""

    code: int
    out: str
    err: str


def run(*args: str, stdin: bytes = b"") -> Result:
    """Run `cvmplan ARGS` with these bytes on standard input."""
    out, err = io.BytesIO(), io.BytesIO()
    stdout, stderr = _text(out), _text(err)
    before, sys.stdin = sys.stdin, _text(io.BytesIO(stdin))
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr):
            code = main(list(args))
    finally:
        sys.stdin = before
    return Result(code, out.getvalue().decode(), err.getvalue().decode())


def assert_refused(result: Result, codes: Collection[int]) -> None:
    """One of these exit codes, one `error:` line, at most one `hint:` line, and no answer."""
    lines = result.err.splitlines()
    assert result.code in codes, f"{result}"
    assert result.out == "", f"{result}"
    assert result.err.startswith("error: "), f"{result}"
    assert all(line.startswith("hint: ") for line in lines[1:]), f"{result}"
    assert len(lines) <= 2, f"{result}"


def _text(data: io.BytesIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(data, encoding="utf-8", write_through=True)
