"""
`python -m tests.fuzz [NAME…]`: every reader and verb on every input, cut off at 64 places.

`python -m tests.fuzz --seconds N [NAME…]`: each decoder of evidence for so long on inputs that are
changed at random.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import typer

from tests.fuzz import harness, mutated
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


def changed(seconds: float, names: list[str]) -> int:
    """Run the decoders of evidence, or those of `names`; return 1 when anything is wrong."""
    bad = False
    for name in names or mutated.READERS:
        for one in islice(mutated.wrong(name, seconds=seconds), MOST_SHOWN):
            bad = True
            typer.echo(one)
        typer.echo(f"{name}: {mutated.COUNTED.get(name, 'stopped early')} cases")
    return bool(bad)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--seconds"]:
        sys.exit(changed(float(sys.argv[2]), sys.argv[3:]))
    sys.exit(main(sys.argv[1:]))
