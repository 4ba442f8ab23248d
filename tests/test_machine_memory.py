"""Memory as a VMM's machine has it: memslots as recorded, the same digest for every size."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan.core import values
from cvmplan.core.errors import PlanError
from cvmplan.core.platform import TDX
from cvmplan.core.spans import Spans
from cvmplan.kvm.memory import SetMemslot
from cvmplan.operations.lowering import Lowering
from tests.docs import SHARED
from tests.manifests import document, region
from tests.recorder import kept
from tests.recorder.launches import FILES
from tests.run import assert_refused, run

EXAMPLE: Final = ("--example", "snp", "--vmm", "qemu", "--abi", "kvm-6.18", "--platform")
SIZES: Final = ("512M", "2G", "3G", "5G")
REGION, REGION2 = "0x4020ae46", "0x40a0ae49"  # KVM_SET_USER_MEMORY_REGION, and 2
SMM: Final = 1 << 16
MIB: Final = 1 << 20
Placed = set[tuple[int, int, int, int]]
"""Slot, address, bytes, and offset in the guest_memfd."""


def planned(*args: str) -> dict[str, Any]:
    result = run("plan", *args, "--format", "json")
    assert result.code == 0, result.err
    made: dict[str, Any] = json.loads(result.out)
    return made


def named(plan: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    return [op for op in plan["ops"] if op["op"] in names]


def number(op: dict[str, Any], name: str) -> int:
    return int(str(op.get(name) or "0"), 0)


def slots_of(plan: dict[str, Any]) -> Placed:
    """Return the memslots with which the guest of a plan runs."""
    found: dict[int, tuple[int, int, int, int]] = {}
    for op in named(plan, "set-memslot"):
        slot, size = op["slot"], number(op, "size")
        found[slot] = (slot, number(op, "gpa"), size, number(op, "gmem_offset"))
        if not size:
            del found[slot]
    return set(found.values())


def slots_recorded(lines: list[dict[str, Any]]) -> Placed:
    """Return the memslots in the end of a recording: kvm_userspace_memory_region, and 2."""
    found: dict[int, tuple[int, int, int, int]] = {}
    for line in lines:
        if line.get("req") in (REGION, REGION2):
            data = bytes.fromhex(line["in"])
            slot, gpa, size, offset = (
                int.from_bytes(data[at : at + length], "little")
                for at, length in ((0, 4), (8, 8), (16, 8), (32, 8))
            )
            found[slot] = (slot, gpa, size, offset)
            if not size:
                del found[slot]
    return {held for slot, held in found.items() if slot < SMM}


# --- as recorded ---------------------------------------------------------------------------------

RECORDED: Final = {
    "snp-3": ("snp.fd", "snp", "512M"), "snp-5G": ("snp.fd", "snp", "5G"),
    "sev-auto-bios": ("snp.fd", "sev", "512M"), "sev-off-pflash": ("snp.fd", "sev", "512M"),
    "sev-es-auto-bios": ("snp.fd", "sev-es", "512M"),
    "tdx-1": ("tdx.fd", "tdx", "512M"), "tdx-5G": ("tdx.fd", "tdx", "5G"),
}  # fmt: skip
OF_DEBIAN: Final = {
    "snp-sid-EPYC-v4-3": ("OVMF.amdsev.fd", "snp", "512M"),
    "snp-sid-kernel": ("OVMF.amdsev.fd", "snp", "3G"),
    "snp-trixie-EPYC-Milan-v2-1": ("OVMF.amdsev.fd", "snp", "512M"),
    "sev-sid-off": ("OVMF.amdsev.fd", "sev", "512M"),
    "es-sid-bios": ("OVMF.amdsev.fd", "sev-es", "512M"),
    "tdx-sid-1": ("OVMF.inteltdx.ms.fd", "tdx", "512M"),
    "tdx-sid-big": ("OVMF.inteltdx.ms.fd", "tdx", "5G"),
}


@pytest.mark.parametrize("name", RECORDED)
def test_memslots_are_those_of_the_recorded_vmm(name: str, tmp_path: Path) -> None:
    image, platform, size = RECORDED[name]
    (tmp_path / image).write_bytes(FILES[image])
    plan = planned(str(tmp_path / image), "--platform", platform, "--memory", size)
    recorded = kept.read()["qemu-11.1", name]
    assert slots_of(plan) == slots_recorded(list(recorded.lines))


@pytest.mark.skipif(not SHARED.exists(), reason=f"there is no {SHARED}")
@pytest.mark.parametrize("name", OF_DEBIAN)
def test_memslots_are_those_of_debians_qemu_with_its_firmware(name: str) -> None:
    image, platform, size = OF_DEBIAN[name]
    path = str(SHARED / "firmware" / image)
    plan = planned(path, "--platform", platform, "--memory", size, "--abi", "kvm-6.18")
    text = (SHARED / "vectors" / "recordings" / f"{name}.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert slots_of(plan) == slots_recorded(lines)
    if platform == "tdx":  # the TD HOB, by its SHA-256
        (hob,) = [o for o in named(plan, "tdx-init-mem-region") if o["gpa"] == "0x809000"]
        held = bytes.fromhex(hob["source"]["hex"]).ljust(0x2000, b"\0")
        sources = {line["source"]["sha256"] for line in lines if line.get("source")}
        assert sha256(held).hexdigest() in sources


# --- by themselves -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("platform", ["snp", "tdx", "sev", "sev-es"])
def test_no_digest_depends_on_the_size(platform: str, size: str) -> None:
    image = ("--example", "tdx" if platform == "tdx" else "snp", "--platform", platform)
    for abi in ("map-memory", "kvm-6.18", "kvm-in-place"):
        options = (*image, "--vmm", "qemu", "--abi", abi)
        usual, plan = planned(*options), planned(*options, "--memory", size)
        assert plan["measurement"] == usual["measurement"]
        assert plan["assumed"]["layout"] == "q35"
        assert usual["assumed"]["layout"] == "minimal"
        adds = [[o for o in p["ops"] if o["kind"] == "add"] for p in (usual, plan)]
        assert [a.get("gpa") for a in adds[0]] == [a.get("gpa") for a in adds[1]]


@pytest.mark.parametrize("platform", ["snp", "tdx", "sev", "sev-es"])
@pytest.mark.parametrize("abi", ["map-memory", "kvm-6.18", "kvm-in-place"])
def test_a_kernel_takes_the_memory_of_a_machine(platform: str, abi: str) -> None:
    image = ("--example", "tdx" if platform == "tdx" else "snp", "--platform", platform)
    options = (*image, "--vmm", "qemu", "--abi", abi, "--memory", "5G")
    made = run("plan", *options, "--format", "json").out.encode()
    answers = json.loads(run("simulate", "-", "--format", "json", stdin=made).out)
    digest = json.loads(made)["measurement"]["digest"]
    assert (answers["digest"], answers["finalized"], answers["findings"]) == (digest, True, [])
    assert not [r for r in answers["results"] if r["result"] == "error"]


def test_ram_of_a_q35_is_cut_where_devices_begin() -> None:
    """qemu hw/i386/pc_q35.c pc_q35_init: 2.75 GiB, or beside more above 4 GiB 2 GiB."""
    below = {}
    for size in (0xAFFFE000, 0xB0000000):
        plan = planned(*EXAMPLE, "snp", "--memory", hex(size))
        below[size] = [s for s in slots_of(plan) if s[1] not in (0, 0xC0000, 0xE0000)]
    assert [gpa >> 20 for _, gpa, _, _ in below[0xAFFFE000] if gpa >= 1 << 32] == []
    (above,) = [s for s in below[0xB0000000] if s[1] >= 1 << 32]
    assert above[1:] == (1 << 32, 0x30000000, 0x80000000)


@pytest.mark.parametrize(
    ("size", "code", "words"),
    [
        ("0x20001000", 2, "not a multiple of 8 KiB"), ("512", 2, "not a multiple of 8 KiB"),
        ("1000000001", 2, "not a multiple"), ("0", 2, "has more than 0x100000"),
        ("1M", 2, "has more than 0x100000"), ("x", 2, "is not an integer"),
        ("-5G", 2, "is not an integer"), ("5P", 2, "is not an integer"),
        ("1T", 4, "0x10000000000 bytes of RAM"), ("99999999T", 2, "is not between"),
    ],
)  # fmt: skip
def test_a_size_that_the_machine_does_not_have_is_refused(size: str, code: int, words: str) -> None:
    result = run("plan", *EXAMPLE, "snp", f"--memory={size}")
    assert_refused(result, [code])
    assert words in result.err
    assert result.err.startswith("error: --memory: ")


@pytest.mark.parametrize("written", ["512M", "512m", "512MiB", "0x20000000", "536870912"])
def test_sizes_are_written_as_vmms_take_them(written: str) -> None:
    assert planned(*EXAMPLE, "snp", "--memory", written)["given"]["memory"] == "0x20000000"
    assert values.memory(written) == 512 * MIB


def test_more_firmware_than_ram_is_outside_it() -> None:
    result = run("check", *EXAMPLE, "snp", "--memory", "8M", "--format", "json")
    found = json.loads(result.out)["findings"]
    assert (result.code, {f["rule"] for f in found if f["severity"] == "error"}) == (
        1, {"outside-memory"},
    )  # fmt: skip
    assert run("check", "--example", "tdx", "--memory", "8M").code == 1


# --- other VMMs, other descriptions --------------------------------------------------------------


def test_a_vmm_whose_memory_is_not_known_keeps_the_fewest_memslots_and_says_so() -> None:
    options = ("--example", "snp", "--platform", "snp", "--vmm", "ec2")
    plan = planned(*options, "--memory", "2G")
    assert (plan["given"]["memory"], plan["assumed"]["layout"]) == ("0x80000000", "minimal")
    assert slots_of(plan) == slots_of(planned(*options))
    notes = [f["message"] for f in plan["findings"] if f["rule"] == "not-checked"]
    assert [n for n in notes if "where ec2 has the memory" in n and "minimal layout" in n]


def test_a_machine_of_another_type_is_not_this_one() -> None:
    options = ("--example", "tdx", "--vmm", "qemu", "--memory", "2G", "--machine")
    assert planned(*options, "pc-i440fx-10.0")["assumed"]["layout"] == "minimal"
    assert planned(*options, "pc-q35-10.0")["assumed"]["layout"] == "q35"


def test_what_has_no_memslots_has_no_memory() -> None:
    result = run("plan", "--example", "snp", "--platform", "snp", "--abi", "isolated-import",
                 "--memory", "2G")  # fmt: skip
    assert_refused(result, [2])
    assert "isolated-import has no memslots" in result.err
    plan = planned("--example", "snp", "--platform", "snp", "--abi", "map-memory")
    assert plan["assumed"]["layout"] == "minimal"


def crossing(tmp_path: Path, **more: Any) -> Path:
    path = tmp_path / "image.json"
    low = region("0x80000", "normal", size="512KiB", source={"zeros": True}, name="low")
    path.write_text(json.dumps(document(low, platform="snp", vmm="qemu", **more)))
    return path


def test_a_region_over_the_end_of_a_memslot_is_said(tmp_path: Path) -> None:
    """The kernel adds up to the end of a memslot without an error."""
    path = str(crossing(tmp_path))
    assert "slot-crossed" not in run("check", path, "--abi", "kvm-6.18").out
    options = ("--abi", "kvm-6.18", "--memory", "1G")
    found = json.loads(run("check", path, *options, "--format", "json").out)["findings"]
    (warning,) = [f for f in found if f["rule"] == "slot-crossed"]
    assert "low continues where a memslot ends: 0xc0000, 0xe0000" in warning["message"]
    made = run("plan", path, *options, "--format", "json").out.encode()
    answers = json.loads(run("simulate", "-", "--format", "json", stdin=made).out)
    assert [f["rule"] for f in answers["findings"]] == ["slot-crossed"]


def test_the_memory_of_a_manifest_counts_unless_the_option_is_given(tmp_path: Path) -> None:
    path = str(crossing(tmp_path, memory=[{"gpa": "0x0", "size": "16MiB"}]))
    plan = planned(path)
    assert slots_of(plan) == {(0, 0, 16 * MIB, 0)}
    assert "layout" not in plan["assumed"]
    given = planned(path, "--memory", "1G")
    assert {gpa for _, gpa, _, _ in slots_of(given)} == {0, 0xC0000, 0xE0000}


# --- order ---------------------------------------------------------------------------------------


def first_places(plan: dict[str, Any], *names: str) -> list[int]:
    ops = [op["op"] for op in plan["ops"]]
    return [ops.index(name) for name in names]


@pytest.mark.parametrize("platform", ["snp", "tdx", "sev", "sev-es", "default", "sw-protected"])
def test_qemu_creates_vcpus_before_memslots(platform: str) -> None:
    image = "tdx" if platform == "tdx" else "snp"
    plan = planned("--example", image, "--platform", platform, "--vmm", "qemu")
    vcpus, slots = first_places(plan, "create-vcpu", "set-memslot")
    assert vcpus < slots
    if platform.startswith("sev"):
        assert first_places(plan, "sev-launch-start") < [slots]


def test_the_order_of_calls_is_the_profiles(tmp_path: Path) -> None:
    profile = json.loads(run("profiles", "qemu", "--format", "json").out)
    assert profile["order"]["vcpus_first"] is profile["order"]["start_first"] is True
    assert profile["machine"] == "q35"
    profile |= {"name": "mine", "machine": "", "order": {}}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(profile))
    options = ("--example", "snp", "--platform", "sev", "--memory", "2G", "--vmm", str(path))
    plan = planned(*options)
    slots, start, vcpus = first_places(plan, "set-memslot", "sev-launch-start", "create-vcpu")
    assert slots < start < vcpus
    assert plan["assumed"]["layout"] == "minimal"
    both = planned("--example", "snp", "--platform", "sev", "--memory", "2G")
    assert plan["measurement"] == both["measurement"]


# --- calls ---------------------------------------------------------------------------------------


def calls(*args: str) -> list[dict[str, Any]]:
    result = run("plan", *args, "--format", "calls")
    assert result.code == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def test_memslots_of_one_memory_say_where_in_it_they_begin() -> None:
    made = [c["fields"] for c in calls(*EXAMPLE, "snp", "--memory", "512M")
            if c["call"] == "KVM_SET_USER_MEMORY_REGION2"]  # fmt: skip
    last = made[-1]
    assert last["userspace_addr"] == "&memory[0]+0xe0000"
    assert (last["guest_memfd"], last["guest_memfd_offset"]) == ("gmem[0]", "0xe0000")
    assert [c["memory_size"] for c in made if c["slot"] == "0x0"] == [
        "0x20000000", "0x0", "0xc0000",
    ]  # fmt: skip


def test_sev_pins_memory_once_and_has_read_only_memslots() -> None:
    made = calls(*EXAMPLE, "sev", "--memory", "3G")
    pinned = [c["fields"] for c in made if c["call"] == "KVM_MEMORY_ENCRYPT_REG_REGION"]
    sizes: dict[str, int] = {}
    for one in pinned:
        block = one["addr"].partition("+")[0]
        sizes[block] = sizes.get(block, 0) + int(one["size"], 16)
    assert sizes["&memory[0]"] == 3 << 30
    flags = {c["fields"]["guest_phys_addr"]: c["fields"]["flags"] for c in made
             if c["call"] == "KVM_SET_USER_MEMORY_REGION"}  # fmt: skip
    assert {gpa for gpa, flag in flags.items() if flag == "0x2"} == {"0xc0000"}


def test_attributes_of_a_guest_memfd_are_at_its_offsets() -> None:
    options = ("--example", "snp", "--platform", "snp", "--abi", "kvm-in-place", "--memory", "3G")
    made = [c for c in calls(*options) if c["call"] == "KVM_SET_MEMORY_ATTRIBUTES2"]
    assert sorted((c["fd"], c["fields"]["offset"], c["fields"]["size"]) for c in made)[:3] == [
        ("gmem:0", "0x0", "0xc0000"), ("gmem:0", "0x80000000", "0x40000000"),
        ("gmem:0", "0xe0000", "0x7ff20000"),
    ]  # fmt: skip


def test_a_deleted_memslot_shows_nothing_any_more() -> None:
    state = Lowering(TDX, {})
    again = SetMemslot(1, 0x1000, 0x1000, gmem=0)
    [*SetMemslot(0, 0, 0x1000, gmem=0).lower(state)]
    with pytest.raises(PlanError, match="bound at two addresses"):
        [*again.lower(state)]
    [*SetMemslot(0, 0, 0).lower(state)]
    assert [*again.lower(state)] == []


def test_addresses_leave_a_set_from_all_sides() -> None:
    spans = Spans([(0, 10), (20, 30), (40, 50)])
    spans.remove(5, 25)
    assert [*spans] == [(0, 5), (25, 30), (40, 50)]
    spans.remove(42, 44)
    assert [*spans] == [(0, 5), (25, 30), (40, 42), (44, 50)]
    spans.remove(0, 60)
    assert [*spans] == []
