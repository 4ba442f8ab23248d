"""Ask kernels, print their answers to cases, or how those are the simulator's."""

from __future__ import annotations

import argparse
import datetime as dt
import errno
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cvmplan.host.cases import CASES
from cvmplan.host.compared import VMS, Answer
from tests.kernels import kept
from tests.kernels.boot import boot, compiled, kernels
from tests.kernels.compare import compare


def asked(words: list[str]) -> dict[str, kept.Kept]:
    """Return the answers of all kernels, or of those that are named."""
    found = {}
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = compiled(folder)
        for kernel, path in kernels().items():
            if words and kernel not in words:
                continue
            begun = time.monotonic()
            try:
                told = boot(path, program, folder)
            except (ValueError, subprocess.TimeoutExpired) as error:
                print(f"{kernel}: {error}", file=sys.stderr)
                continue
            found[kernel] = kept.Kept(told.release, today, told.answers)
            print(f"{kernel}: {told.release}, {time.monotonic() - begun:.0f} s", flush=True)
    return found


def table(name: str) -> None:
    """Print what each kernel answered to a case, one line a call: errno, rest, pages by size."""
    for number, case in enumerate(CASES):
        if case.name != name:
            continue
        for line, words in enumerate(case.lines, start=1):
            said: dict[str, list[str]] = {}
            for kernel, one in kept.read().items():
                if (told := one.answers.get((number, line))) is not None:
                    said.setdefault(_shown(told), []).append(kernel)
            print(f"{name} ({VMS[case.vm]}): {words}")
            for answer, kernels_of in said.items():
                print(f"    {answer}: {', '.join(kernels_of)}")


def _shown(told: Answer) -> str:
    name = errno.errorcode[told.errno] if told.errno else str(told.ret)
    ended = told.last[0] if told.last[0] != told.errno else 0
    loop = f", in the end {errno.errorcode[ended]}" if ended else ""
    return f"{name}{loop}, pages {told.pages}"


def main() -> int:
    """Run; 1 where an answer differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    parser.add_argument("--write", action="store_true", help="ask kernels, and keep their answers")
    parser.add_argument("words", nargs="*", help="names of kernels, or of cases; all")
    parser.add_argument("--answers", action="store_true", help="print the answers to cases WORDS")
    told = parser.parse_args()
    if told.answers:
        for name in told.words or dict.fromkeys(case.name for case in CASES):
            table(name)
        return 0
    if told.write:
        others = kept.read() if told.words else {}
        size = kept.write({**others, **asked(told.words)})
        kept.read.cache_clear()
        print(f"{size} bytes written to {kept.FILE}")
    wrong = 0
    for name, one in kept.read().items():
        tally = compare(name, one.answers)
        wrong += len(tally.differing)
        print(f"{name} ({one.release}): {tally.equal} equal, {len(tally.differing)} differ, "
              f"{tally.unasked} that no plan has")  # fmt: skip
        for line in tally.differing:
            print(f"  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
