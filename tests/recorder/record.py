"""
One launch recorded: the library compiled, the VMM started with it, what it wrote packed.

Contents that calls took are kept as their SHA-256; the bytes themselves where they are no part of
the image and fit in 8 KiB.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from tests.recorder.launches import FILES, Launch

SOURCE: Final = Path(__file__).parent / "recorder.c"
SECONDS: Final = 60  # a launch takes a tenth of one
MOST_KEPT: Final = 8192
Line = dict[str, Any]


def consumers() -> Path:
    """Return the folder that `.ci/consumers` fills."""
    default = Path.home() / ".cache" / "cvmplan" / "consumers"
    return Path(os.environ.get("CVMPLAN_CONSUMERS") or default)


def package(vmm: str) -> str:
    """Return the Debian package of a binary, with its version; "" where it is not there."""
    path = consumers() / vmm / "packages"
    names = path.read_text().split() if path.exists() else []
    return next((n for n in names if n.startswith("qemu-system-x86_")), "")


def compiler() -> str | None:
    """Return the machine's C compiler."""
    return shutil.which("cc") or shutil.which("gcc")


def compiled(folder: Path) -> Path:
    """Return the library, compiled into `folder`; CalledProcessError where it has a warning."""
    library = folder / "recorder.so"
    flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    command = [compiler() or "cc", *flags, "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


@cache
def c_bit(folder: Path) -> int:
    """Return the C-bit that QEMU wants on this host; the program is compiled into `folder`."""
    program = folder / "cbit"
    source = str(SOURCE.with_name("cbit.c"))
    subprocess.run([compiler() or "cc", "-o", str(program), source], check=True)
    return int(subprocess.run([program], check=True, capture_output=True, text=True).stdout)


@dataclass(frozen=True)
class Recorded:
    """What a VMM did: its calls, what it printed, and how it ended."""

    lines: list[Line]
    said: str
    code: int


def command_of(vmm: str, library: Path) -> list[str]:
    """Return how a binary is started from the folder it was unpacked to, with the library."""
    root = consumers() / vmm
    libraries = root / "usr/lib/x86_64-linux-gnu"
    loader = (root / "usr/lib64/ld-linux-x86-64.so.2", "--preload", library)
    share = root / "usr/share"
    data = ("-L", share / "qemu", "-L", share / "seabios")
    program = ("--library-path", libraries, root / "usr/bin/qemu-system-x86_64")
    return [str(word) for word in (*loader, *program, *data)]


def write_files(folder: Path) -> None:
    """Write what launches are made of."""
    for name, data in FILES.items():
        (folder / name).write_bytes(data)


def started(
    command: list[str], folder: Path, *, vmm: str = "", fault: str = "", kvm: str = ""
) -> Recorded:
    """Return what a program did that was started in `folder`; TimeoutExpired after a minute."""
    path = folder / "recording.jsonl"
    path.unlink(missing_ok=True)
    environment = {
        **os.environ, "CVMPLAN_RECORDING": str(path), "CVMPLAN_RECORDER_FAULT": fault,
        "CVMPLAN_RECORDER_KVM": kvm,
        "QEMU_MODULE_DIR": str(consumers() / vmm / "usr/lib/x86_64-linux-gnu/qemu"),
    }  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    beside = path.with_name(path.name + ".contents")
    contents = beside.read_bytes() if beside.exists() else b""
    return Recorded([*packed(lines, contents)], done.stderr, done.returncode)


def record(vmm: str, launch: Launch, library: Path, folder: Path, *, kvm: str = "") -> Recorded:
    """Return what a binary did at a launch, in a folder with the files of `write_files`."""
    quiet = ("-nodefaults", "-nographic", "-accel", "kvm")
    bit = f"cbitpos={c_bit(library.parent)},"
    told = (word.replace("cbitpos=0,", bit) for word in launch.qemu)
    command = [*command_of(vmm, library), *quiet, *told]
    return started(command, folder, vmm=vmm, fault=launch.fault, kvm=kvm)


def models(vmm: str, library: Path) -> list[str]:
    """Return the names of the EPYC models that a binary knows."""
    told = subprocess.run(
        [*command_of(vmm, library), "-cpu", "help"], capture_output=True, text=True, check=True,
        timeout=SECONDS,
    )  # fmt: skip
    words = (line.split() for line in told.stdout.splitlines())
    return [found[0] for found in words if found and found[0].startswith("EPYC")]


def packed(lines: list[Line], contents: bytes) -> Iterator[Line]:
    """Yield lines with the SHA-256 of contents in place of where these are."""
    images = [data for name, data in FILES.items() if name.endswith(".fd")]
    for line in lines:
        for key, value in line.items():
            if isinstance(value, dict):
                data = contents[value["at"] : value["at"] + value["size"]]
                line[key] = _taken(data, images)
        yield line


def _taken(data: bytes, images: list[bytes]) -> Line:
    made: Line = {"size": len(data), "sha256": sha256(data).hexdigest(), "zeros": not any(data)}
    known = any(data in image for image in images)
    if any(data) and len(data) <= MOST_KEPT and not known:
        made["hex"] = data.rstrip(b"\0").hex()
    return made
