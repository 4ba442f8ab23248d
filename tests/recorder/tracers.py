"""Tracers run on a program: bpftrace with the script that is shipped, and strace."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.recorder.record import consumers

SCRIPT: Final = Path(__file__).parents[2] / "cvmplan" / "docs" / "recording.bt"
SECONDS: Final = 60
CONDITION: Final = "/@vmm == 0 || @vmm == pid/"
TRACEPOINT: Final = "events/syscalls/sys_enter_ioctl"
MOUNT: Final = (
    "mount -t tracefs none /sys/kernel/tracing && mount -t debugfs none /sys/kernel/debug && "
    'exec "$@"'
)
"""In a mount namespace of its own: nothing changes on the machine."""


def bpftrace() -> list[str]:
    """Return how bpftrace is started, installed or unpacked by `.ci/consumers`; [] without it."""
    if found := shutil.which("bpftrace"):
        return [found]
    root = consumers() / "bpftrace"
    libraries = root / "usr/lib/x86_64-linux-gnu"
    loader = root / "usr/lib64/ld-linux-x86-64.so.2"
    if not (root / "packages").exists():
        return []
    return [str(word) for word in (loader, "--library-path", libraries, root / "usr/bin/bpftrace")]


def cannot_trace() -> str:
    """Return why nothing is traced on this machine, "" where it can be."""
    if os.geteuid() != 0:
        return "only root can trace"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "there is no /dev/kvm"
    if not bpftrace():
        return "there is no bpftrace"
    if mounted("test", "-d", f"/sys/kernel/tracing/{TRACEPOINT}").returncode:
        return "the kernel has no tracepoints of system calls"
    probe = "tracepoint:syscalls:sys_enter_ioctl { exit(); } BEGIN { exit(); }"
    return "bpftrace does not run here" if mounted(*bpftrace(), "-e", probe).returncode else ""


def mounted(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command where tracefs is mounted."""
    program = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", *command]
    return subprocess.run(
        program, capture_output=True, text=True, timeout=SECONDS, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def traced(program: str, output: Path) -> str:
    """
    Return what the script records of a program, which bpftrace starts.

    The first process that creates a VM may be another one of this machine: the script is run with
    the condition that it is the program.
    """
    whole = SCRIPT.read_text()
    if whole.count(CONDITION) != 1:
        raise AssertionError(CONDITION)
    script = output.with_suffix(".bt")
    script.write_text(whole.replace(CONDITION, f"/pid == cpid && ({CONDITION.strip('/')})/"))
    done = mounted(*bpftrace(), "-q", "-o", str(output), str(script), "-c", program)
    if not output.exists():
        raise AssertionError(done.stderr)
    return output.read_text()


def straced(program: list[str], output: Path) -> str:
    """Return what strace records of a program."""
    command = ["strace", "-f", "-e", "trace=ioctl", "-o", str(output), *program]
    subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    return output.read_text()
