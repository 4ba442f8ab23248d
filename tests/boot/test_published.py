"""Registers that others published, from the firmware's image, memory and tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cvmplan.boot import acpi, event_data, extend, smbios
from cvmplan.boot.node import fold
from cvmplan.core.blob import Blob
from cvmplan.eventlog.forms import read
from cvmplan.platforms.tdx import hob
from cvmplan.profiles.machines import Q35
from tests.boot.places import VECTORS, blob, kernel, needs_vectors, ovmf
from tests.run import run

pytestmark = needs_vectors
MADE = VECTORS / "made"


@pytest.mark.parametrize(
    ("name", "memory"), [("canonical-defaults", "2048MiB"), ("runtime-capture", "16GiB")]
)
def test_rtmr0_of_a_published_fixture_is_predicted(name: str, memory: str) -> None:
    fixtures = VECTORS / "fixtures"
    wanted = json.loads((fixtures / f"{name}.expected.json").read_text())["rtmr0"]
    tables = fixtures / f"{name}.acpi_tables.bin"
    result = run(
        "rtmr", str(ovmf("2025.02")), "--memory", memory, "--acpi-tables", str(tables),
        "--kernel", str(kernel()), "--format", "json", "--expect", f"RTMR0={wanted}",
    )  # fmt: skip
    assert result.code == 0, result.err
    registers = json.loads(result.out)["registers"]
    assert registers[0]["value"] == wanted
    assert registers[1]["value"] is None


def test_loader_and_rsdp_follow_from_the_tables() -> None:
    found = acpi.derive(blob(MADE / "q35-10.0.13-tcg-ovmf2608.acpi_tables.bin"))
    assert found.loader == (MADE / "q35-10.0.13-tcg-ovmf2608.table-loader.bin").read_bytes()
    assert found.rsdp == (MADE / "q35-10.0.13-tcg-ovmf2608.rsdp.bin").read_bytes()


def test_smbios_is_filtered_as_firmware_filters_it() -> None:
    wanted = json.loads((MADE / "tpm-logs.json").read_text())["smbios"]["sha384_of_measured"]
    table = (MADE / "smbios.bin").read_bytes()
    assert event_data.digest(smbios.measured(table)).hex() == wanted


def test_smbios_as_qemu_hands_it_over_and_type_0_make_the_installed_table() -> None:
    handed = blob(MADE / "smbios-fwcfg-qemu11.1.3-512M.bin")
    bios = "Debian distribution of EDK II", "2026.08+ds-2", "09/26/2026"
    assert smbios.installed(handed, bios) == (MADE / "smbios.bin").read_bytes()


def dstack() -> list[dict[str, str]]:
    report = json.loads((VECTORS / "dstack-quote-report.json").read_text())
    log = report["event_log"]
    events: list[dict[str, str]] = json.loads(log) if isinstance(log, str) else log
    return events


OLD = [(2, 0x809000, 0x2000), (3, 0x810000, 0x10000), (3, 0x80B000, 0x2000), (3, 0x800000, 0x6000)]


@pytest.mark.parametrize("memory", [10240, 65536])
def test_the_td_hob_of_hardware_follows_from_memory_and_sections(memory: int) -> None:
    if memory == 65536:
        wanted = next(e["digest"] for e in dstack() if int(e["event_type"]) == 0x8000000B)
    else:
        log = read(blob(VECTORS / "trustee-CCEL_data_grub"))
        wanted = next(e.digest.hex() for e in log.events if e.type == 0x8000000B)
    blocks = hob.hob_list(OLD, Q35.ram(memory << 20))
    assert event_data.digest(blocks).hex() == wanted


def test_runtime_events_of_dstack_have_their_digests() -> None:
    events = [e for e in dstack() if int(e["event_type"]) == 0x08000001]
    assert len(events) == 8
    for event in events:
        payload = bytes.fromhex(event["event_payload"])
        assert extend.dstack_v1(event["event"], payload).hex() == event["digest"]


@pytest.mark.parametrize("name", ["attestrs-tdx_ccel_live2.dat", "trustee-CCEL_data_grub"])
def test_empty_variables_separators_and_actions_of_hardware_are_computed(name: str) -> None:
    log = read(blob(VECTORS / name))
    seen = 0
    for event in log.events:
        if event.type in (0x4, 0x80000007, 0x80000001, 0x800000E0, 0x80000006):
            assert event_data.digest(event.data) == event.digest
            seen += 1
    assert seen > 8


def test_events_of_guest_components_have_their_digests() -> None:
    log = read(blob(VECTORS / "trustee-CCEL_AAEL_alibabacloud"))
    found = [e for e in log.events if e.data[:4] == extend.AAEL.to_bytes(4, "little")]
    assert found
    for event in found:
        assert extend.aael(event.data[8:].decode()) == event.digest


@pytest.mark.parametrize("number", range(5))
def test_events_of_td_shim_that_can_be_computed_are(number: int) -> None:
    log = read(blob(VECTORS / "trustee-CCEL_data"))
    event = [e for e in log.events if e.extends][number]
    equal = event_data.digest(event.data[20:]) == event.digest or event.data == bytes(4)
    assert equal is (number != 3), "the payload's region is not public"


def test_a_template_with_another_initrd_changes_exactly_one_event(tmp_path: Path) -> None:
    other = tmp_path / "initrd"
    other.write_bytes(b"another initrd")
    log, quote = VECTORS / "attestrs-tdx_ccel_live2.dat", VECTORS / "attestrs-tdx_quote_live.dat"
    more = ["--qemu", "unpatched", "--format", "json"]
    args = ["rtmr", "--template", str(log), "--quote", str(quote), "--initrd", str(other), *more]
    result = run(*args)
    assert result.code == 6, result.err
    document = json.loads(result.out)
    replaced = [e for e in document["events"] if e["verdict"] == "replaced"]
    assert [(e["register"], e["what"]) for e in replaced] == [("RTMR2", "initrd")]
    assert replaced[0]["digest"] == event_data.digest(b"another initrd").hex()
    digests = [bytes.fromhex(e["digest"]) for e in document["events"] if e["register"] == "RTMR2"]
    assert document["registers"][2]["value"] == fold(digests).hex()


def test_a_template_whose_kernel_may_depend_on_the_initrd_is_unknown(tmp_path: Path) -> None:
    other = tmp_path / "initrd"
    other.write_bytes(b"another initrd")
    log = VECTORS / "attestrs-tdx_ccel_live2.dat"
    result = run("rtmr", "--template", str(log), "--initrd", str(other), "--format", "json")
    assert result.code == 5
    assert json.loads(result.out)["registers"][1]["value"] is None


def test_a_template_that_is_not_the_log_of_its_quote_is_refused() -> None:
    log, quote = VECTORS / "trustee-CCEL_data_grub", VECTORS / "attestrs-tdx_quote_live.dat"
    result = run("rtmr", "--template", str(log), "--quote", str(quote))
    assert (result.code, result.out) == (1, "")
    assert "its quote has" in result.err


def test_a_predicted_log_is_replayed_to_the_predicted_registers(tmp_path: Path) -> None:
    path = tmp_path / "log"
    args = [
        "rtmr", str(ovmf("2025.02")), "--memory", "2GiB", "--kernel", str(kernel()),
        "--qemu", "10.2", "--append", "quiet",
        "--acpi-tables", str(VECTORS / "fixtures/canonical-defaults.acpi_tables.bin"),
    ]  # fmt: skip
    predicted = json.loads(run(*args, "--format", "json").out)["registers"]
    assert run(*args, "--format", "ccel", "-o", str(path)).code == 0
    replayed = json.loads(run("events", str(path), "--format", "json").out)
    assert [r["value"] for r in predicted] == [r["value"] for r in replayed["registers"]]
    assert not [e for e in replayed["events"] if e["check"] == "differs"]


def test_an_unknown_event_has_no_log() -> None:
    result = run("rtmr", str(ovmf("2025.02")), "--format", "ccel")
    assert (result.code, result.out) == (2, "")


def test_tables_that_the_rule_does_not_cover_are_refused() -> None:
    raw = bytearray((VECTORS / "fixtures/canonical-defaults.acpi_tables.bin").read_bytes())
    at = raw.index(b"WAET")
    raw[at : at + 4] = b"SSDT"
    from cvmplan.core.errors import UnsupportedError

    with pytest.raises(UnsupportedError, match="not covered"):
        acpi.derive(Blob("tables", memoryview(bytes(raw))))


def test_rtmr0_of_hardware_differs_nowhere_from_what_is_predicted() -> None:
    log = VECTORS / "attestrs-tdx_ccel_live2.dat"
    args = ["rtmr", str(ovmf("2025.02")), "--memory", "2GiB", "--kernel", str(kernel())]
    document = json.loads(run(*args, "--log", str(log), "--format", "json").out)
    assert "RTMR0" not in [one["register"] for one in document["differences"]]
    logged = {e.digest.hex() for e in read(blob(log)).events if e.mr_index == 1}
    known = [e["digest"] for e in document["events"] if e["register"] == "RTMR0" and e["digest"]]
    assert len(known) == 10
    assert set(known) <= logged
