"""The verifiers and libraries that read our output; `.ci/consumers` fetches them into a cache."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

import pytest

from tests.recorder.record import consumers

SECONDS = 240  # that a build of Go may take


def python(script: str, *inputs: str, needs: str, folder: str = "python") -> Any:
    """Return what a script prints as JSON; it can import what was fetched from PyPI."""
    packages = consumers() / folder
    if not (packages / needs).exists():
        pytest.skip(f"{packages} has no {needs}: .ci/consumers fetches it")
    told = subprocess.run(
        [sys.executable, "-c", script, *inputs], env={"PYTHONPATH": str(packages)},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def check(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program `check` of a Go module."""
    program = consumers() / "go" / module / "check"
    if not program.exists():
        pytest.skip(f"{program} is absent: .ci/consumers builds it where Go is")
    return subprocess.run(
        [str(program), *arguments], check=False, capture_output=True, text=True, timeout=60
    )


def rust(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a reader in Rust."""
    program = consumers() / "rust" / name
    if not program.exists():
        pytest.skip(f"{program} is absent: .ci/consumers builds it where cargo is")
    return subprocess.run(
        [str(program), *arguments], check=False, capture_output=True, text=True, timeout=60
    )


def build(source: Path, modules: tuple[str, ...], folder: Path) -> Path:
    """Return a program in Go, built against modules; skipped where they are not to be had."""
    if shutil.which("go") is None:
        pytest.skip("there is no Go")
    if not source.exists():
        pytest.skip("../shared is absent: a driver of the verifier is not at hand")
    (folder / "main.go").write_bytes(source.read_bytes())
    steps = (["mod", "init", "driver"], ["get", *modules], ["build", "-o", "driver", "."])
    for step in steps:
        try:
            told = subprocess.run(
                ["go", *step], cwd=folder, check=False, capture_output=True, text=True,
                timeout=SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            pytest.skip("Go's registry is slow")
        if told.returncode:
            pytest.skip(f"go {step[0]}: {told.stderr.strip()[-200:]}")
    return folder / "driver"


def unpacked(root: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the Debian packages that were unpacked to `root`."""
    folder = consumers() / root
    if not (folder / "packages").exists():
        pytest.skip(f"{folder} is absent: .ci/consumers fetches it")
    loader = folder / "usr/lib64/ld-linux-x86-64.so.2"
    command = [loader, "--library-path", folder / "usr/lib/x86_64-linux-gnu"]
    return subprocess.run(
        [*map(str, command), str(folder / "usr/bin" / program), *arguments], check=False,
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def qmp(vmm: str, *commands: dict[str, Any], arguments: tuple[str, ...] = ()) -> Spoken:
    """Return what a QEMU without a machine answers, started with arguments."""
    folder = consumers() / vmm
    if not (folder / "packages").exists():
        pytest.skip(f"{folder} is absent: .ci/consumers fetches it")
    told = [{"execute": "qmp_capabilities"}, *commands]
    share = [word for name in ("qemu", "seabios") for word in ("-L", folder / "usr/share" / name)]
    command = [
        folder / "usr/lib64/ld-linux-x86-64.so.2", "--library-path",
        folder / "usr/lib/x86_64-linux-gnu", folder / "usr/bin/qemu-system-x86_64", *share,
        "-machine", "none", "-display", "none", "-nodefaults", "-qmp", "stdio", *arguments,
    ]  # fmt: skip
    with subprocess.Popen(
        [*map(str, command)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as made:  # fmt: skip
        limit = Timer(60, made.kill)
        limit.start()
        answers = [answer for one in told if (answer := _asked(made, one)) is not None]
        _, said = made.communicate(json.dumps({"execute": "quit"}))
        limit.cancel()
    return Spoken(made.returncode, answers[1:], said)


def _asked(made: subprocess.Popen[str], command: dict[str, Any]) -> Any:
    """
    Return what QEMU answers a command, None for an error or where it has ended.

    The whole answer is read before the next command: on "quit" it drops what it has not written.
    """
    assert made.stdin is not None
    assert made.stdout is not None
    with suppress(BrokenPipeError):
        made.stdin.write(json.dumps(command))
        made.stdin.flush()
        for line in made.stdout:
            found = json.loads(line)
            if "return" in found or "error" in found:
                return found.get("return")
    return None


class Spoken(NamedTuple):
    """How QEMU ended, what it returned for each command, and what it said on stderr."""

    code: int
    answers: list[Any]
    said: str
