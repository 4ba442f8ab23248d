"""What a stopped machine hands over: loader and RSDP are those that follow from its tables."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from cvmplan.boot import acpi, dump, smbios
from cvmplan.core.errors import UnsupportedError
from tests.boot.places import PACKAGES, blob

MACHINES: dict[str, list[str]] = {
    "plain": [],
    "vcpus": ["-smp", "8,sockets=2,maxcpus=12"],
    "memory": ["-m", "3G,slots=2,maxmem=8G"],
    "no-hpet": ["-machine", "hpet=off"],
    "expander": ["-device", "pxb-pcie,id=x,bus_nr=64"],
}


def emulator() -> str:
    found = shutil.which("qemu-system-x86_64") or shutil.which(str(PACKAGES / "qemu"))
    if found is None:
        pytest.skip("qemu-system-x86_64: absent; .ci/boot fetches it")
    return found


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_derived_is_what_the_emulator_hands_over(name: str, tmp_path: Path) -> None:
    command = [emulator(), "-M", "q35,smm=off", "-m", "512", "-nodefaults", *MACHINES[name]]
    found = dump.dump(command)
    path = tmp_path / "tables"
    path.write_bytes(found["etc/acpi/tables"])
    made = acpi.derive(blob(path))
    assert made.loader == found["etc/table-loader"]
    assert made.rsdp == found["etc/acpi/rsdp"]
    assert any(t.signature == b"MCFG" for t in acpi.tables(blob(path)))
    path.write_bytes(found["etc/smbios/smbios-tables"])
    assert smbios.structures(blob(path))
    assert found["BootMenu"] == bytes(2)


def test_tables_of_a_device_that_brings_its_own_are_refused(tmp_path: Path) -> None:
    command = [emulator(), "-M", "q35", "-nodefaults", "-device", "vmgenid,guid=auto"]
    path = tmp_path / "tables"
    path.write_bytes(dump.dump(command)["etc/acpi/tables"])
    with pytest.raises(UnsupportedError, match="not covered"):
        acpi.derive(blob(path))


# An emulator with the test protocol and a fw_cfg of its own: qemu, docs/specs/fw_cfg.rst.
SPOKEN = """
import struct, sys
files = {0x20: (b"etc/acpi/tables", TABLES), 0x21: (b"bootorder", b"disk\\0")}
files[0x22] = b"other", b"x"
rows = [struct.pack(">IH2x56s", len(d), n, name) for n, (name, d) in files.items()]
items = {0x0E: b"\\1\\0", 0x19: struct.pack(">I", COUNT) + b"".join(rows)}
items |= {n: data for n, (_, data) in files.items()}
data, at, grown = b"", 0, False
for line in sys.stdin:
    words = line.split()
    if words[0] == "outw":
        data, at = items[int(words[2], 0)], 0
        print("OK")
    elif words[0] == "inb":
        print(f"OK {data[at] if at < len(data) else 0:#x}")
        at += 1
    elif words[0] == "outl":
        print("IRQ raise 1")
        print(OUTL)
    sys.stdout.flush()
"""


def speaking(folder: Path, *, count: str = "3", outl: str = "OK") -> Path:
    program = folder / "emulator.py"
    text = SPOKEN.replace("TABLES", "b'T' * 700").replace("COUNT", count)
    program.write_text(text.replace("OUTL", repr(outl)))
    return program


def test_the_items_that_are_measured_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, str(speaking(tmp_path))]
    for run in ([], ["--run", "0.1"]):
        assert dump.main(["-o", str(tmp_path), *run, "--", *command]) == 0
    out = capsys.readouterr().out
    assert "etc/acpi/tables: 700 bytes" in out
    assert "other" not in out
    assert (tmp_path / "acpi-tables.bin").read_bytes() == b"T" * 700
    assert (tmp_path / "bootorder.bin").read_bytes() == b"disk\0"
    assert (tmp_path / "BootMenu.bin").read_bytes() == b"\1\0"


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        ({"count": "2000"}, 3, "a directory of 2000 files"),
        ({"outl": "FAIL no such port"}, 3, "no such port"),
        ({"outl": "nothing"}, 3, "the emulator ended"),
    ],
)
def test_what_an_emulator_answers_wrong_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, str], code: int, text: str
) -> None:
    program = speaking(tmp_path, **more)
    if more.get("outl") == "nothing":
        program.write_text("")
    assert dump.main(["-o", str(tmp_path), "--", sys.executable, str(program)]) == code
    assert text in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, str(speaking(tmp_path))]
    assert dump.main(["-o", str(tmp_path / "none"), "--", *command]) == 2
    assert dump.main(["--run", "soon", "--", *command]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_an_emulator_that_does_not_start_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dump.main(["-o", str(tmp_path), "--", str(tmp_path / "none")]) == 3
    assert dump.main(["--", sys.executable, "-c", "pass"]) == 3
    assert dump.main(["--wrong", "1", "--", "x"]) == 2
    assert capsys.readouterr().out == ""
