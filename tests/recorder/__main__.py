"""Record the matrix anew, or print what the recordings show."""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.recorder import kept
from tests.recorder.judge import judge
from tests.recorder.launches import LAUNCHES, NEW, OLD
from tests.recorder.record import compiled, compiler, consumers, package, record, write_files


def recorded(folder: Path, only: list[str], kvm: str) -> Iterator[kept.Kept]:
    """Yield the launches of the matrix, or those whose names have one of the words."""
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    library = compiled(folder)
    for launch in LAUNCHES.values():
        if only and not any(word in launch.name for word in only):
            continue
        for vmm in launch.vmms:
            made = record(vmm, launch, library, folder, kvm=kvm)
            said = " ".join(made.said.split())
            yield kept.Kept(
                launch.name, vmm, package(vmm), today, said, made.code, tuple(made.lines)
            )


def main() -> int:
    """Run; 1 where a launch is not what was planned."""
    parser = argparse.ArgumentParser(prog="python -m tests.recorder", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep what is recorded now")
    parser.add_argument("--now", action="store_true", help="record, and judge that")
    parser.add_argument("--kvm", default="", choices=["", "real"], help="plain calls: /dev/kvm")
    parser.add_argument("words", nargs="*", help="of the names of launches")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_files(Path(name))
        return done(asked, Path(name))


def done(asked: argparse.Namespace, folder: Path) -> int:
    """Do what was asked for."""
    begun = time.monotonic()
    if asked.write or asked.now:
        missing = [vmm for vmm in (OLD, NEW) if not package(vmm)]
        if missing or not compiler():
            sys.exit(f"run .ci/consumers first: {consumers()} lacks {missing}, or cc is missing")
        found = [*recorded(folder, asked.words, asked.kvm)]
        print(f"{len(found)} launches recorded in {time.monotonic() - begun:.0f} s")
    else:
        found = [*kept.read().values()]
    if asked.write:
        print(f"{kept.write(found)} bytes written to {kept.FILE}")
    wrong = 0
    for one in found:
        if not asked.words or any(word in one.launch for word in asked.words):
            verdict = judge(one, LAUNCHES[one.launch], folder)
            wrong += not verdict.right
            print(f"{one.vmm:9} {one.launch:22} {verdict.words}", flush=True)
    print(f"{len(found)} launches, {wrong} not as planned, {time.monotonic() - begun:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
