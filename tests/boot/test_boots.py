"""Six boots with Debian's QEMU and OVMF: each event that can be computed is the logged one."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cvmplan.boot import event_data, firmware
from cvmplan.boot.inputs import Inputs
from cvmplan.boot.node import ACTION, AUTHORITY, CONFIG, HANDOFF, SEPARATOR, TAG, Node
from cvmplan.boot.predict import predict
from cvmplan.boot.template import key_of
from cvmplan.core import guids
from cvmplan.core.blob import Blob
from cvmplan.eventlog.event import Event
from cvmplan.readers import recognise
from tests.boot.places import APPEND, VECTORS, blob, kernel, needs_vectors, ovmf, package, uki

pytestmark = needs_vectors
DIRECT = {
    "q100-ovmf2211-1024": ("2022.11", 1024, "10.0.13", "off"),
    "q100-ovmf2502-512": ("2025.02", 512, "10.0.13", None),
    "q72-ovmf2202.11-512": ("2022.11", 512, "7.2.22", "off"),
    "q72-ovmf2502": ("2025.02", 512, "7.2.22", None),
}
DISK = {"disk-q100-ovmf2502": "2025.02", "disk-q111-ovmf2608": "2026.08"}
DISK_PATH = bytes.fromhex("02010c00d041030a000000000101060000017fff0400")
VIRTIO = bytes.fromhex("4eac0881119f594d850ee21a522c59b2")
SHELL = guids.of("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1")


def facts(version: str) -> firmware.Firmware:
    """Return the facts of a build, which is said to measure: the log has a TPM for RTMRs."""
    image = blob(ovmf(version))
    found = firmware.read(recognise(image)[1].read(image, "tdx"))
    told = {f.name: getattr(found, f.name) for f in fields(found)}
    return firmware.Firmware(**{**told, "measures": True})


def logged(name: str) -> list[Event]:
    """Return the events of a TPM's log that a TD would have too, separators left out."""
    found = []
    for number, one in enumerate(json.loads((VECTORS / "made/tpm-logs.json").read_text())[name]):
        pcr, kind = one["pcr"], int(one["type"], 16)
        index = 1 if pcr in (1, 7) else 2 if pcr < 8 else 3
        only_tpm = pcr == 0 or kind == SEPARATOR or (pcr, kind) == (5, TAG)
        if not only_tpm:
            digest, data = bytes.fromhex(one["sha384"]), bytes.fromhex(one["event"])
            found.append(Event(number, name, index, kind, digest, data))
    return found


def of_firmware(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Leave out what a boot without TDX does not measure: hand-off blocks and store."""
    return tuple(n for n in nodes if n.type not in (0x8000000A, 0x8000000B))


def assert_equal(nodes: tuple[Node, ...], log: list[Event], unknown: set[int]) -> None:
    """Each event of the log is predicted in its place; those of types `unknown` are not."""
    for register in range(3):
        mine = [n for n in nodes if n.register == register and n.type not in {SEPARATOR, *unknown}]
        theirs = [e for e in log if e.mr_index == register + 1 and e.type not in unknown]
        told = [(n.type, n.digest and n.digest.hex()) for n in mine]
        assert told == [(e.type, e.digest.hex()) for e in theirs]
        assert [n.key for n in mine if n.type == ACTION] == [
            key_of(e) for e in theirs if e.type == ACTION
        ]


@pytest.mark.parametrize("name", DIRECT)
def test_a_direct_boot_is_predicted_as_it_was_logged(name: str) -> None:
    version, memory, qemu, secure_boot = DIRECT[name]
    initrd = blob(VECTORS / "made/initrd-300000.bin")
    nodes = predict(
        Inputs(
            firmware=facts(version),
            memory=memory << 20,
            kernel=blob(kernel()),
            initrd=initrd,
            append=APPEND,
            header=qemu,
            secure_boot=secure_boot,
            separator=1,
        )
    )
    assert_equal(of_firmware(nodes), logged(name), {CONFIG})


@pytest.mark.parametrize("qemu", [None, "unpatched"])
def test_a_kernel_that_an_old_qemu_patched_is_never_called_known(qemu: str | None) -> None:
    old = logged("q72-ovmf2502")
    nodes = predict(Inputs(firmware=facts("2025.02"), kernel=blob(kernel()), header=qemu))
    application = next(n for n in nodes if n.type == 0x80000003)
    theirs = next(e.digest for e in old if e.type == 0x80000003)
    assert application.digest is None if qemu is None else application.digest != theirs


def disk_image(name: str, folder: Path) -> Blob:
    """Return a disk that has the logged table, and entries of which the header's checksum is."""
    table = next(e.data for e in logged(name) if e.type == 0x80000006)
    image = bytearray(512 * 34)
    image[512 : 512 + 92] = table[:92]
    image[1024 : 1024 + 128] = table[100:]
    path = folder / "disk.img"
    path.write_bytes(image)
    return blob(path)


def boot_variables(version: str) -> dict[str, Blob]:
    disk = event_data.load_option(1, "UEFI Misc Device", DISK_PATH, VIRTIO)
    path = event_data.application_path(SHELL)
    if version == "2025.02":
        shell = event_data.load_option(1, "EFI Internal Shell", path)
        values = {"Boot0001": disk, "Boot0000": event_data.UI_OPTION, "Boot0002": shell}
        order: tuple[int, ...] = (1, 0, 2)
    else:
        shell = event_data.load_option(0x101, "EFI Internal Shell", path)
        values = {
            "Boot0002": disk, "Boot0000": event_data.MENU_OPTION,
            "Boot0001": event_data.SETUP_OPTION, "Boot0003": shell,
        }  # fmt: skip
        order = (2, 0, 1, 3)
    values["BootOrder"] = event_data.boot_order(order)
    return {name: Blob(name, memoryview(value)) for name, value in values.items()}


@pytest.mark.parametrize("name", DISK)
def test_a_boot_from_disk_is_predicted_as_it_was_logged(name: str, tmp_path: Path) -> None:
    version = DISK[name]
    loader = package("systemd-boot-efi*/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
    nodes = predict(
        Inputs(
            firmware=facts(version),
            memory=1 << 30,
            uki=blob(uki(tmp_path)),
            loader=blob(loader),
            disk=disk_image(name, tmp_path),
            boot_vars=boot_variables(version),
        )
    )
    log = logged(name)
    failure = [i for i, e in enumerate(log) if e.data == event_data.EXIT_FAILURE]
    assert len(failure) == (version == "2026.08"), "the condition that is printed"
    for at in failure:
        del log[at : at + 2]
    assert_equal(of_firmware(nodes), log, {CONFIG, HANDOFF})


def test_with_secure_boot_on_the_key_is_unknown_and_so_is_the_register() -> None:
    image = blob(package("ovmf_2025.02*/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd"))
    told: dict[str, Any] = {
        f.name: getattr(facts("2025.02"), f.name) for f in fields(firmware.Firmware)
    }
    from cvmplan.images import variable_store

    told.update(store=variable_store.read(image), cfv=image, secure_boot=True)
    nodes = predict(Inputs(firmware=firmware.Firmware(**told), secure_boot="on"))
    assert next(n for n in nodes if n.type == AUTHORITY).digest is None
