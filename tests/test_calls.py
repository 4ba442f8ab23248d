"""`plan --format calls`: the numbers and bytes that a VMM hands to the kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cvmplan import documents
from tests.manifests import document, region, write
from tests.run import run

Call = dict[str, Any]
PLATFORMS = ("snp", "tdx", "sev", "sev-es", "sw-protected", "default")


def calls(*args: str) -> list[Call]:
    result = run("plan", *args, "--format", "calls")
    assert result.code == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def example(platform: str, abi: str, *options: str) -> list[Call]:
    image = "tdx" if platform == "tdx" else "snp"
    return calls("--example", image, "--platform", platform, "--abi", abi, *options)


def named(made: list[Call], name: str) -> list[Call]:
    return [c for c in made if name in (c["call"], c.get("command"))]


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("abi", ["map-memory", "kvm-6.18", "kvm-in-place"])
def test_each_line_has_the_documents_shape(platform: str, abi: str) -> None:
    model = documents.model("call")
    made = example(platform, abi)
    assert made
    for call in made:
        assert model.model_validate(call)


def test_an_snp_launch_is_the_sequence_of_the_specification() -> None:
    """spec/kvm.md 2.1 and 2.3: numbers, and the order of the calls; QEMU has its vCPUs first."""
    made = example("snp", "kvm-6.11", "--vcpus", "2")
    order = [c.get("command") or c["call"] for c in made]
    wanted = [
        "KVM_CREATE_VM", "KVM_SEV_INIT2", "KVM_ENABLE_CAP", "KVM_SEV_SNP_LAUNCH_START",
        "KVM_CREATE_VCPU", "KVM_CREATE_GUEST_MEMFD", "KVM_SET_USER_MEMORY_REGION2",
        "KVM_SET_MEMORY_ATTRIBUTES", "KVM_SEV_SNP_LAUNCH_UPDATE", "KVM_SEV_SNP_LAUNCH_FINISH",
    ]  # fmt: skip
    first = [order.index(name) for name in wanted]
    assert first == sorted(first)
    assert order.count("KVM_CREATE_VCPU") == 2
    numbers = {c["call"]: c["ioctl"] for c in made}
    assert numbers["KVM_CREATE_VM"] == "0xae01"
    assert numbers["KVM_SET_USER_MEMORY_REGION2"] == "0x40a0ae49"
    assert numbers["KVM_MEMORY_ENCRYPT_OP"] == "0xc008aeba"
    assert numbers["KVM_SET_MEMORY_ATTRIBUTES"] == "0x4020aed2"
    assert numbers["KVM_CREATE_GUEST_MEMFD"] == "0xc040aed4"
    assert named(made, "KVM_CREATE_VM")[0]["argument"] == 4
    checked = {c["argument"] for c in named(made, "KVM_CHECK_EXTENSION")}
    assert {201, 231, 233, 234, 235} <= checked


def test_the_bytes_of_an_update_are_those_of_the_c_struct(tmp_path: Path) -> None:
    """spec/kvm.md 2.3: gfn_start, uaddr, len, type at 24, flags at 26; 64 bytes."""
    (tmp_path / "kernel.bin").write_bytes(b"k" * 0x3000)
    source = {"file": "kernel.bin", "offset": 0x1000, "length": "0x2000"}
    path = write(
        tmp_path,
        document(region("0x1000000", "normal", source=source), region("0x80d000", "secrets"),
                 region("0x80e000", "cpuid"), abi="kvm-6.18"),
    )  # fmt: skip
    update = named(calls(path), "KVM_SEV_SNP_LAUNCH_UPDATE")[0]
    assert update["bytes"] == (101).to_bytes(4, "little").hex() + "00" * 20
    assert [r["offset"] for r in update["relocations"]] == [8, 20]
    data = update["data"]
    assert len(data["bytes"]) == 128
    wanted = (0x1000).to_bytes(8, "little") + bytes(8) + (0x2000).to_bytes(8, "little") + b"\x01"
    assert data["bytes"] == wanted.hex().ljust(128, "0")
    assert data["relocations"] == [{"offset": 8, "address": "&input[1]+0x1000"}]


def test_host_data_is_at_byte_19_of_the_finish() -> None:
    made = example("snp", "kvm-6.11", "--host-data", "ab" * 32, "--vcek-disabled")
    data = bytes.fromhex(named(made, "KVM_SEV_SNP_LAUNCH_FINISH")[0]["data"]["bytes"])
    assert len(data) == 88
    assert data[18] == 1
    assert data[19:51] == b"\xab" * 32
    assert data[:18] + data[51:] == bytes(55)


def test_a_td_is_the_sequence_of_the_specification() -> None:
    made = example("tdx", "kvm-6.16", "--vcpus", "2", "--mrowner", "11" * 48)
    order = [c.get("command") or c["call"] for c in made]
    wanted = [
        "KVM_CREATE_VM", "KVM_TDX_CAPABILITIES", "KVM_ENABLE_CAP", "KVM_TDX_INIT_VM",
        "KVM_CREATE_VCPU", "KVM_TDX_INIT_VCPU", "KVM_TDX_INIT_MEM_REGION", "KVM_TDX_FINALIZE_VM",
    ]  # fmt: skip
    first = [order.index(name) for name in wanted]
    assert first == sorted(first)
    init = named(made, "KVM_TDX_INIT_VM")[0]
    data = bytes.fromhex(init["data"]["bytes"])
    assert (init["data"]["followed_by"], len(data)) == ("&cpuid2", 256)
    assert data[64:112] == b"\x11" * 48
    region_call = named(made, "KVM_TDX_INIT_MEM_REGION")[0]
    assert region_call["fd"] == "vcpu:0"
    assert region_call["fields"]["flags"] in ("0x0", "0x1")
    assert len(region_call["data"]["bytes"]) == 48
    finalize = bytes.fromhex(named(made, "KVM_TDX_FINALIZE_VM")[0]["bytes"])
    assert finalize == (4).to_bytes(4, "little") + bytes(20)
    assert [c["fd"] for c in named(made, "KVM_TDX_INIT_VCPU")] == ["vcpu:0", "vcpu:1"]


def test_measured_sections_have_the_flag_and_the_others_not() -> None:
    made = example("tdx", "kvm-6.16")
    plan = json.loads(run("plan", "--example", "tdx", "--abi", "kvm-6.16", "--format", "json").out)
    measured = [op["measured"] for op in plan["ops"] if op["op"] == "tdx-init-mem-region"]
    flags = [c["fields"]["flags"] == "0x1" for c in named(made, "KVM_TDX_INIT_MEM_REGION")]
    assert flags == measured
    assert len(set(flags)) == 2


def test_the_patches_of_2024_map_and_extend() -> None:
    made = example("tdx", "kvm-tdx-v19")
    assert named(made, "KVM_CREATE_VM")[0]["argument"] == 2
    mapping = named(made, "KVM_MEMORY_MAPPING")[0]
    assert (mapping["ioctl"], mapping["fd"]) == ("0xc020aed5", "vcpu:0")
    extend = named(made, "KVM_TDX_EXTEND_MEMORY")[0]
    assert (extend["fd"], extend["fields"]["id"]) == ("vm", "0x3")


def test_an_interface_that_no_kernel_has_is_symbolic() -> None:
    made = example("snp", "map-memory")
    adds = [c for c in made if c["op"] in ("map-memory", "snp-launch-update")]
    assert adds
    assert all("ioctl" not in c and "bytes" not in c and c["symbolic"] for c in adds)


def test_in_place_pages_are_written_converted_and_added_without_a_source() -> None:
    made = example("snp", "kvm-in-place")
    order = [c.get("command") or c["call"] for c in made]
    assert order.index("memcpy") < order.index("KVM_SET_MEMORY_ATTRIBUTES2")
    assert order.index("KVM_SET_MEMORY_ATTRIBUTES2") < order.index("KVM_SEV_SNP_LAUNCH_UPDATE")
    convert = named(made, "KVM_SET_MEMORY_ATTRIBUTES2")[0]
    assert (convert["ioctl"], convert["fd"]) == ("0xc080aed2", "gmem:0")
    assert len(convert["bytes"]) == 256
    update = named(made, "KVM_SEV_SNP_LAUNCH_UPDATE")[0]
    assert update["data"]["fields"]["uaddr"] == "0x0"
    assert "relocations" not in update["data"]


@pytest.mark.parametrize(
    ("options", "vm_type", "command"),
    [((), 0, "KVM_SEV_ES_INIT"), (("--es-init", "init2"), 3, "KVM_SEV_INIT2")],
)
def test_sev_es_is_opened_as_its_state_wants(
    options: tuple[str, ...], vm_type: int, command: str
) -> None:
    """spec/kvm.md 2.5: ES_INIT goes with a default VM, INIT2 with VM type 3."""
    made = example("sev-es", "kvm-6.11", *options)
    assert named(made, "KVM_CREATE_VM")[0]["argument"] == vm_type
    assert len(named(made, command)) == 1
    assert len(named(made, "KVM_MEMORY_ENCRYPT_REG_REGION")) == 1


def test_prefault_is_the_struct_of_the_kernel() -> None:
    made = example("sw-protected", "kvm-6.11", "--prefault", "0x200000+0x3000")
    call = named(made, "KVM_PRE_FAULT_MEMORY")[-1]
    wanted = (0x200000).to_bytes(8, "little") + (0x3000).to_bytes(8, "little") + bytes(48)
    assert (call["ioctl"], call["fd"], call["bytes"]) == ("0xc040aed5", "vcpu:0", wanted.hex())
