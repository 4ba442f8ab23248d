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


def test_an_emulator_that_does_not_start_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dump.main(["-o", str(tmp_path), "--", str(tmp_path / "none")]) == 3
    assert dump.main(["--", sys.executable, "-c", "pass"]) == 3
    assert dump.main(["--wrong", "1", "--", "x"]) == 2
    assert capsys.readouterr().out == ""
