"""The benchmarks run; how long anything takes is nothing that a test can claim."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = [
    "name",
    "snp fold",
    "snp fold, sparse",
    "snp fold, 2 jobs",
    "bare, 2 jobs",
    "tdx fold",
    "tdx fold, two-pass",
    "512 vcpus",
    "process",
    "description",
    "report",
    "help",
    "memory, tdx",
    "memory, snp",
    "memory, report",
    "simulate",
    "checks",
    "igvm",
    "igvm, 2 jobs",
    "igvm, memory",
    "sweep",
    "explain, snp",
    "explain, tdx",
    "quote",
    "log",
    "log, memory",
]


def test_a_quick_run_succeeds_and_prints_a_row_for_each_benchmark() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == NAMES
