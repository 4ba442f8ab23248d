"""A kernel booted under emulation, with a static program as /init that asks it."""

from __future__ import annotations

import lzma
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from cvmplan.host.cases import CASES, text
from cvmplan.host.compared import Answer
from tests.recorder.record import compiler, consumers

SOURCE: Final = Path(__file__).parent / "init.c"
SECONDS: Final = 60  # a boot takes ten
MODULES: Final = ("irqbypass", "ccp", "kvm", "kvm-amd")  # each needs those before it
QEMU: Final = "qemu-10.0"
COMMAND_LINE: Final = (
    "console=ttyS0 quiet panic=-1 transparent_hugepage=madvise "
    "hugepagesz=1G hugepages=1 hugepagesz=2M hugepages=16"
)


class Asked(NamedTuple):
    """A kernel's release, and its answers by case and line (0: KVM_CREATE_VM)."""

    release: str
    answers: Mapping[tuple[int, int], Answer]


def compiled(folder: Path) -> Path:
    """Return /init, compiled; CalledProcessError."""
    program = folder / "init"
    flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-static")
    command = [compiler() or "cc", *flags, "-o", str(program), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return program


def archive(files: Mapping[str, bytes]) -> bytes:
    """Return a newc archive (linux Documentation/driver-api/early-userspace/buffer-format.rst)."""
    folders = {str(up) for name in files for up in PurePosixPath(name).parents if up.name}
    rows = [(name, 0o040755, b"") for name in sorted(folders)]
    rows += [(name, 0o100755, data) for name, data in files.items()]
    made = bytearray()
    for number, (name, mode, data) in enumerate((*rows, ("TRAILER!!!", 0, b""))):
        head = (number + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        made += b"070701" + b"".join(b"%08x" % field for field in head) + name.encode() + b"\0"
        made += bytes(-len(made) % 4) + data
        made += bytes(-len(made) % 4)
    return bytes(made)


def kernels() -> dict[str, Path]:
    """Return the folders of the kernels that were fetched or built, by their name (7.3)."""
    return {path.name: path for path in sorted((consumers() / "kernels").glob("*"))}


def initramfs(root: Path, program: Path, files: Mapping[str, bytes]) -> bytes:
    """Return what a kernel unpacks: /init, `files`, and the modules that it has."""
    modules = {}
    for name in MODULES:
        for path in root.rglob(f"{name}.ko*"):
            data = path.read_bytes()
            modules[f"{name}.ko"] = lzma.decompress(data) if path.suffix == ".xz" else data
    listed = "".join(f"/{name}\n" for name in modules)
    own = {"init": program.read_bytes(), "modules": listed.encode()}
    return archive({**own, **files, **modules})


def boot(kernel: Path, program: Path, folder: Path) -> Asked:
    """Return what a kernel answers; TimeoutExpired after a minute, ValueError without an end."""
    return asked(output(kernel, program, folder, {"cases": text().encode()}))


def output(kernel: Path, program: Path, folder: Path, files: Mapping[str, bytes]) -> str:
    """Return what a machine with `files` prints on its console; TimeoutExpired."""
    image = next(kernel.rglob("vmlinuz*"))
    (folder / "initramfs").write_bytes(initramfs(kernel, program, files))
    root = consumers() / QEMU
    libraries = root / "usr/lib/x86_64-linux-gnu"
    command = [
        root / "usr/lib64/ld-linux-x86-64.so.2", "--library-path", libraries,
        root / "usr/bin/qemu-system-x86_64", "-L", root / "usr/share/qemu",
        "-L", root / "usr/share/seabios", "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", "q35,accel=tcg", "-cpu", "max,+svm,+npt", "-m", "5G", "-no-reboot",
        "-serial", "stdio", "-kernel", image, "-initrd", folder / "initramfs",
        "-append", COMMAND_LINE,
    ]  # fmt: skip
    told = subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=SECONDS, check=False, errors="replace",
    )  # fmt: skip
    return told.stdout


def asked(console: str) -> Asked:
    """Return the answers on a console; ValueError where the machine did not come to its end."""
    lines = [line.strip() for line in console.splitlines()]
    release = next((line.split()[1] for line in lines if line.startswith("# ")), "")
    if "# end" not in lines or not release:
        raise ValueError(f"the machine did not end: {' | '.join(lines[-3:])}")
    return Asked(release, dict(_answers(lines)))


def _answers(lines: list[str]) -> Iterator[tuple[tuple[int, int], Answer]]:
    for line in lines:
        if line.startswith("@ "):
            n = [int(word, 0) for word in line[2:].split()]
            case, number, ret, errno, gpa, size, last, *rest = n
            answer = Answer(ret, errno, (gpa, size), (last, *rest[:2]), tuple(rest[2:5]))  # type: ignore[arg-type]
            if case < len(CASES):
                yield (case, number), answer
