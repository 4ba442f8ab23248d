"""Ask kernels, or print how the answers that are kept are those of the simulator."""

from __future__ import annotations

import argparse
import datetime as dt
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def main() -> int:
    """Run; 1 where an answer differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    parser.add_argument("--write", action="store_true", help="ask kernels, and keep their answers")
    parser.add_argument("words", nargs="*", help="names of kernels; without any, all")
    told = parser.parse_args()
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
