"""`check --on-host` in a booted machine: Python, the package and what both need, in its archive."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import cvmplan
from tests.kernels.boot import output

ENV: Final = "/usr/bin/env"
ARGUMENTS: Final = ("check", "--example", "snp", "--on-host", "--format", "json")
_RUN: Final = """
import runpy, sys
sys.argv = ["cvmplan", *{arguments!r}]
try:
    runpy.run_module("cvmplan", run_name="__main__")
except SystemExit as ended:
    code = ended.code or 0
"""
_LISTED: Final = """
import sys
for one in [*sys.modules.values()]:
    if getattr(one, "__file__", None):
        print(one.__file__, file=sys.stderr)
print(sys.executable and sys._base_executable, file=sys.stderr)
"""
_LIBRARY: Final = re.compile(r"(/\S+) \(0x")


def _loaded() -> list[str]:
    """Return the files that the command loads on this machine, the interpreter last."""
    program = _RUN.format(arguments=ARGUMENTS) + _LISTED
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return told.stderr.splitlines()


def files() -> dict[str, bytes]:
    """Return what the command needs, by its path; CalledProcessError."""
    found = [ENV, *_loaded()]
    binaries = [name for name in found if name.endswith(".so")] + [ENV, found[-1]]
    told = subprocess.run(["ldd", *binaries], check=True, capture_output=True, text=True)
    package = Path(cvmplan.__file__).parent
    beside = [str(package / "__main__.py"), *map(str, package.glob("examples/*"))]
    names = {*found, *beside, *_LIBRARY.findall(told.stdout)}
    paths = ":".join(dict.fromkeys(path for path in ("", *sys.path) if path))
    python = str(Path(found[-1]).resolve())
    command = (
        ENV, f"PYTHONPATH={paths}", f"PYTHONHOME={sys.base_prefix}", "PYTHONDONTWRITEBYTECODE=1",
        python, "-S", "-m", "cvmplan", *ARGUMENTS,
    )  # fmt: skip
    made = {name: Path(name).read_bytes() for name in {*names, python}}
    return {**made, "/command": "\n".join(command).encode() + b"\n"}


def findings(kernel: Path, program: Path, folder: Path) -> list[dict[str, str]]:
    """Return what `check --on-host` finds on a kernel; TimeoutExpired, ValueError."""
    console = output(kernel, program, folder, {**files(), "/cases": b""})
    start, end = console.find("{"), console.rfind("}")
    if start < 0:
        raise ValueError(console[-500:])
    found: list[dict[str, str]] = json.loads(console[start : end + 1])["findings"]
    return found
