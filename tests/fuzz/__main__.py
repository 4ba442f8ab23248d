"""`python -m tests.fuzz [NAME…]`: every reader and verb on every input, cut off at 64 places."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import typer

from tests.fuzz import harness
from tests.fuzz.corpus import cut, inputs

MOST_SHOWN = 5  # of what one reader or verb does wrong


def main(names: list[str]) -> int:
    """Run all, or those of `names`; return 1 when anything is wrong."""
    total, wrong = 0, Counter[str]()
    start = time.monotonic()
    for what, data in inputs().items():
        with tempfile.TemporaryDirectory() as folder:
            for number, piece in enumerate(cut(data)):
                path = Path(folder, str(number))
                found: list[harness.Wrong] = []
                for name in harness.READERS.keys() | harness.VERBS.keys():
                    if names and name not in names:
                        continue
                    total += 1
                    if name in harness.READERS:
                        found += harness.read(name, piece)
                    if name in harness.VERBS:
                        path.write_bytes(piece)
                        found += harness.call(name, path, len(piece))
                for one in found:
                    wrong[one.who] += 1
                    if wrong[one.who] <= MOST_SHOWN:
                        typer.echo(f"{what}, cut {number}: {one}")
    told = f"{len(inputs())} inputs, {total} calls, {sum(wrong.values())} wrong"
    typer.echo(f"{told}, {time.monotonic() - start:.0f} s")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
