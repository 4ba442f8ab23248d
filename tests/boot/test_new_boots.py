"""A boot made here: Debian's QEMU, OVMF and swtpm, the log taken out of the guest's memory."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from cvmplan.boot.inputs import Inputs
from cvmplan.boot.node import CONFIG
from cvmplan.boot.predict import predict
from tests.boot import tpm_log
from tests.boot.places import PACKAGES, blob, kernel, ovmf
from tests.boot.test_boots import assert_equal, facts, of_firmware

MEMORY = 512 << 20
LINE = "console=ttyS0 earlyprintk=ttyS0 a new  boot"
LONGEST = 300  # seconds
END = b"end Kernel panic"


def program(name: str) -> str:
    found = shutil.which(str(PACKAGES / name))
    if found is None:
        pytest.skip(f"{PACKAGES / name}: absent; .ci/boot fetches it")
    return found


def boot(folder: Path, initrd: Path) -> bytes:
    """Boot until Linux finds no root file system; return the memory of the guest."""
    serial, memory = folder / "serial", folder / "memory"
    (folder / "tpm").mkdir()
    tpm = subprocess.Popen([
        program("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={folder / 'tpm'}",
        "--ctrl", f"type=unixio,path={folder / 'socket'}", "--terminate",
        "--flags", "startup-clear",
    ])  # fmt: skip
    end = time.monotonic() + LONGEST
    while not (folder / "socket").exists() and time.monotonic() < end:
        time.sleep(0.1)
    machine = subprocess.Popen([
        program("qemu"), "-M", "q35,smm=off", "-m", "512", "-accel", "tcg", "-cpu", "max",
        "-nodefaults", "-display", "none", "-serial", f"file:{serial}", "-monitor", "stdio",
        "-bios", str(ovmf("2025.02")), "-kernel", str(kernel()), "-initrd", str(initrd),
        "-append", LINE, "-chardev", f"socket,id=t,path={folder / 'socket'}",
        "-tpmdev", "emulator,id=tpm0,chardev=t", "-device", "tpm-crb,tpmdev=tpm0",
    ], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)  # fmt: skip
    try:
        while time.monotonic() < end and machine.poll() is None:
            if serial.exists() and END in serial.read_bytes():
                break
            time.sleep(1)
        command = f'pmemsave 0 {MEMORY:#x} "{memory}"\nquit\n'
        machine.communicate(command.encode(), timeout=60)
    finally:
        machine.kill()
        machine.wait()
        tpm.kill()
        tpm.wait()
    return memory.read_bytes()


@pytest.mark.slow
def test_a_new_direct_boot_measures_what_was_predicted(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"no archive at all" * 1000)
    nodes = predict(
        Inputs(
            firmware=facts("2025.02"),
            memory=MEMORY,
            kernel=blob(kernel()),
            initrd=blob(initrd),
            append=LINE,
            header="10.0.13",
        )
    )
    log = tpm_log.as_of_td(tpm_log.find(boot(tmp_path, initrd)))
    assert_equal(of_firmware(nodes), log, {CONFIG})
