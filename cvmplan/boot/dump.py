"""
`python -m cvmplan.boot.dump -o FOLDER -- qemu-system-x86_64 …`: what a guest would read of fw_cfg.

The emulator is started with the arguments of the TD, those for TDX left out, on any machine. By
default no instruction runs: the two registers that firmware sets before it reads tables are set
here.  Devices with 64-bit BARs change the tables once firmware has placed them: then --run SECONDS
lets the firmware that is named by -bios run first.

Sources: Debian's qemu 10.0.13+ds-0+deb13u1, system/qtest.c (the protocol), docs/specs/fw_cfg.rst,
hw/i386/acpi-build.c; edgelesssys/contrast 624b52d, dump.go sets the same registers.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from struct import iter_unpack
from types import TracebackType
from typing import IO, Final, Self

from cvmplan.core.errors import CvmplanError, InputError, MalformedError

SELECTOR, DATA = 0x510, 0x511
DIRECTORY: Final = 0x19
BOOT_MENU: Final = 0x0E
MOST_FILES: Final = 1024
MOST_BYTES: Final = 16 << 20
AT_ONCE: Final = 512  # reads in one go: their answers have to fit into a pipe
CONFIGURED: Final = (
    (0x80000064, 0), (0x80000060, 0xE0000001),  # PCIEXBAR: where MCFG points to
    (0x8000F840, 0x601), (0x8000F844, 0x80),  # PMBASE, and ACPI enabled: what FACP says
)  # fmt: skip
"""Address and value of the configuration registers that OVMF sets on q35, in order."""
FILES: Final = {
    "etc/acpi/tables": "acpi-tables.bin",
    "etc/acpi/rsdp": "acpi-rsdp.bin",
    "etc/table-loader": "table-loader.bin",
    "etc/smbios/smbios-tables": "smbios-tables.bin",
    "bootorder": "bootorder.bin",
    "etc/extra-pci-roots": "extra-pci-roots.bin",
    "etc/boot-menu-wait": "boot-menu-wait.bin",
    "etc/reserved-memory-end": "reserved-memory-end.bin",
}
"""Item to the file that it is written to."""


class Machine:
    """A running emulator, spoken to by its test protocol on its standard input and output."""

    def __init__(self, command: Sequence[str], run: float) -> None:
        stopped = [] if run else ["-S"]
        more = ["-qtest", "stdio", "-qtest-log", "/dev/null", "-display", "none"]
        arguments = [*command, *stopped, *more, "-monitor", "none", "-serial", "none"]
        try:
            self._process = subprocess.Popen(  # noqa: S603 the user's own command
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        except OSError as error:
            raise InputError(str(error.strerror), at=command[0]) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, lines: Sequence[str]) -> list[str]:
        """Send commands and return what is answered to each; InputError."""
        out, answers = self._pipes()
        try:
            out.write("".join(f"{line}\n" for line in lines).encode())
            out.flush()
        except OSError as error:
            raise InputError("the emulator ended", at="qtest") from error
        return [self._answer(answers) for _ in lines]

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        out, answers = self._process.stdin, self._process.stdout
        if out is None or answers is None:
            raise InputError("no pipes", at="qtest")
        return out, answers

    @staticmethod
    def _answer(answers: IO[bytes]) -> str:
        while line := answers.readline(4096):
            word, _, rest = line.decode("latin-1").strip().partition(" ")
            if word == "OK":
                return rest
            if word in ("FAIL", "ERR"):
                raise InputError(f"the emulator answers {rest!r}", at="qtest")
        hint = "start its command line alone: it says why"
        raise InputError("the emulator ended", at="qtest", hint=hint)

    def configure(self) -> None:
        """Set the registers that firmware sets before it reads tables."""
        for address, value in CONFIGURED:
            self.ask([f"outl 0xcf8 {address:#x}", f"outl 0xcfc {value:#x}"])

    def read(self, selector: int, size: int) -> bytes:
        """Return the first `size` bytes of an item."""
        self.ask([f"outw {SELECTOR:#x} {selector:#x}"])
        found = bytearray()
        while len(found) < size:
            count = min(AT_ONCE, size - len(found))
            found += bytes(int(a, 16) for a in self.ask([f"inb {DATA:#x}"] * count))
        return bytes(found)

    def files(self) -> dict[str, tuple[int, int]]:
        """Return selector and size of each file by name; MalformedError."""
        count = int.from_bytes(self.read(DIRECTORY, 4), "big")
        if count > MOST_FILES:
            raise MalformedError(f"a directory of {count} files", at="fw_cfg")
        raw = self.read(DIRECTORY, 4 + 64 * count)[4:]
        return {
            name.partition(b"\0")[0].decode("latin-1"): (selector, size)
            for size, selector, name in iter_unpack(">IH2x56s", raw)
        }


def dump(command: Sequence[str], run: float = 0) -> dict[str, bytes]:
    """
    Return the items that firmware measures, by name; those that are not there left out.

    `run`: seconds for which the firmware runs first, 0 for none.  InputError, MalformedError.
    """
    with Machine(command, run) as machine:
        if run:
            time.sleep(run)
        else:
            machine.configure()
        found = {"BootMenu": machine.read(BOOT_MENU, 2)}
        for name, (selector, size) in machine.files().items():
            if name in FILES and size > MOST_BYTES:
                raise MalformedError(f"{size} bytes", at=f"fw_cfg {name}")
            if name in FILES:
                found[name] = machine.read(selector, size)
        # tables are built anew when one of them is selected: their sizes may have changed
        sizes = machine.files()
        for name, (selector, size) in sizes.items():
            if name in found and size != len(found[name]):
                found[name] = machine.read(selector, size)
        return found


def main(arguments: Sequence[str]) -> int:
    """Write what `arguments` ask for, and say on standard output which file is which."""
    own, _, command = _split(arguments)
    options = dict(zip(own[::2], own[1::2], strict=False))
    if not command or len(own) % 2 or set(options) - {"-o", "--run"}:
        sys.stderr.write(
            "usage: python -m cvmplan.boot.dump [-o FOLDER] [--run SECONDS] -- EMULATOR …\n"
        )
        return 2
    folder = Path(options.get("-o", "."))
    try:
        found = dump(command, float(options.get("--run", "0")))
        for name, data in found.items():
            path = folder / FILES.get(name, f"{name}.bin")
            path.write_bytes(data)
            sys.stdout.write(f"{name}: {len(data)} bytes in {path}\n")
    except CvmplanError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _split(arguments: Sequence[str]) -> tuple[list[str], str, list[str]]:
    words = list(arguments)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], "--", words[at + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
