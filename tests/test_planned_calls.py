"""What stands in the calls of a plan: every field of every struct, registers, and a VMM's way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan.calls.registers import XSAVE
from cvmplan.documents import model
from cvmplan.kvm.layouts import STRUCTS, Struct
from cvmplan.simulator.vcpu_state import Registers, vmsa_of
from tests.build.igvm import good_snp
from tests.docs import SHARED
from tests.run import run

Call = dict[str, Any]
RECORDINGS: Final = SHARED / "vectors" / "recordings"
PAGE: Final = 4096

# What only a process knows: its memory, its files, its descriptors, and what it asks KVM for.
SYMBOL: Final = re.compile(
    r"&(memory|gmem|input)\[\d+\](\+0x[0-9a-f]+)?|&op\[\d+\]\.source|gmem\[\d+\]|sev_fd"
    r"|&(data|zeros|firmware|secrets|cpuid|cpuid2|hob|parameters|capabilities|measurement)"
    r"|&(sregs2|regs|xsave|xcrs|msrs|debugregs)\[\d+\]"
    r"|&id_(block|auth)|KVM_SET_MEMORY_ATTRIBUTES2_PRESERVE"
)
# The reserved fields of the kernel's headers, and what the kernel writes: nobody gives them.
RESERVED: Final = {
    "kvm_enable_cap": {"pad"},
    "kvm_create_guest_memfd": {"reserved"},
    "kvm_userspace_memory_region2": {"pad1", "pad2"},
    "kvm_pre_fault_memory": {"padding"},
    "kvm_memory_attributes2": {"reserved"},
    "kvm_sev_cmd": {"pad0", "error"},
    "kvm_tdx_cmd": {"hw_error"},
    "kvm_sev_init": {"pad1", "pad2"},
    "kvm_sev_launch_start": {"pad0", "pad1"},
    "kvm_sev_launch_update_data": {"pad0"},
    "kvm_sev_launch_measure": {"pad0"},
    "kvm_sev_snp_launch_start": {"pad0", "pad1"},
    "kvm_sev_snp_launch_update": {"pad0", "pad1", "pad2"},
    "kvm_sev_snp_launch_finish": {"pad0", "pad1"},
    "kvm_tdx_init_vm": {"reserved"},
    "kvm_debugregs": {"reserved"},
    "kvm_xcrs": {"padding"},
    "kvm_xsave": {"reserved", "reserved_header"},
    "kvm_msrs": {"pad"},
}
PLATFORMS: Final = ("snp", "tdx", "sev", "sev-es", "sw-protected", "default")
MORE: Final[dict[str, tuple[str, ...]]] = {
    "snp": ("--vcpus", "3", "--host-data", "ab" * 32, "--id-block", "11" * 96, "--id-auth",
            "22" * 4096, "--vcek-disabled"),
    "tdx": ("--vcpus", "2", "--mrowner", "11" * 48, "--gpaw", "52"),
    "sev": ("--es-init", "init2"),
    "sev-es": ("--es-init", "init2", "--vcpus", "2"),
    "sw-protected": ("--prefault", "0x800000+0x2000"),
    "default": ("--backing", "guest-memfd"),
}  # fmt: skip


def planned(*args: str) -> list[Call]:
    result = run("plan", *args, "--format", "calls")
    assert result.code == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def example(platform: str, *options: str, abi: str = "kvm-7.1") -> list[Call]:
    image = "tdx" if platform == "tdx" else "snp"
    return planned("--example", image, "--platform", platform, "--abi", abi, *options)


def named(made: list[Call], name: str) -> list[Call]:
    return [c for c in made if name in (c["call"], c.get("command"))]


def structs(made: list[Call]) -> Iterator[Call]:
    for call in made:
        if "struct" in call:
            yield call
        if "data" in call:
            yield call["data"]


def layout(struct: Call) -> Struct:
    """The layout by which a struct is checked; the entries of kvm_msrs follow it."""
    if struct["struct"] == "kvm_xsave":
        return XSAVE
    if struct["struct"] == "kvm_tdx_init_vm" and len(struct["bytes"]) > 2 * 256:
        return STRUCTS["kvm_tdx_init_vm"]._replace(size=len(struct["bytes"]) // 2)
    return STRUCTS[struct["struct"]]


@pytest.mark.parametrize("abi", ["kvm-6.18", "kvm-7.1", "kvm-in-place"])
@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_field_of_every_struct_is_given(platform: str, more: bool, abi: str) -> None:
    made = example(platform, *(MORE[platform] if more else ()), abi=abi)
    found = [*structs(made)]
    assert found
    for struct in found:
        fields, laid = struct["fields"], layout(struct)
        names = {f.name for f in laid.fields}
        silent = names - set(fields)
        assert silent == RESERVED.get(struct["struct"], set()) & names, struct["struct"]
        size = laid.size
        if struct["struct"] == "kvm_msrs":
            size += 16 * int(fields["nmsrs"], 16)
        assert len(struct["bytes"]) == 2 * size


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_only_the_vmm_knows_is_a_relocation_and_zero_in_the_bytes(platform: str) -> None:
    made = example(platform, *MORE[platform])
    for struct in structs(made):
        words = {v for v in struct["fields"].values() if isinstance(v, str)}
        symbols = {w for w in words if not re.fullmatch(r"0x[0-9a-f]+|([0-9a-f]{2})*", w)}
        places = struct.get("relocations", [])
        assert symbols == {place["address"] for place in places}
        data = bytes.fromhex(struct["bytes"])
        for place in places:
            assert SYMBOL.fullmatch(place["address"]), place
            assert data[place["offset"] : place["offset"] + 4] == bytes(4)
    for call in made:
        if isinstance(call.get("argument"), str):
            assert SYMBOL.fullmatch(call["argument"]), call


def test_what_is_made_for_a_call_is_printed_with_it(tmp_path: Path) -> None:
    """One page with the hash table at its place, and what an ID block's addresses point at."""
    (tmp_path / "kernel").write_bytes(b"kernel")
    block = ("--id-block", "11" * 96, "--id-auth", "22" * 4096)
    made = example("snp", "--kernel", str(tmp_path / "kernel"), *block)
    held = {name: one for call in made for name, one in call.get("contents", {}).items()}
    (hashes,) = [one for name, one in held.items() if name.startswith("&op[")]
    assert (hashes["at"], hashes["size"]) == (0xC00, "0x1000")
    assert sha256(b"kernel").hexdigest() in hashes["hex"]
    assert held["&id_block"] == {"hex": "11" * 96, "size": "0x60"}
    assert held["&id_auth"] == {"hex": "22" * 4096, "size": "0x1000"}
    assert all(model("call").model_validate(call) for call in made)


# --- the registers of vCPUs ----------------------------------------------------------------------

SET: Final = {
    "KVM_SET_REGS": "regs", "KVM_SET_SREGS2": "sregs", "KVM_SET_DEBUGREGS": "debugregs",
    "KVM_SET_XCRS": "xcrs", "KVM_SET_XSAVE": "xsave",
}  # fmt: skip


def registers(made: list[Call], vcpu: int) -> Registers:
    """What the printed bytes set on a vCPU; MSRs by index."""
    calls = [c for c in made if c.get("fd") == f"vcpu:{vcpu}" and "bytes" in c]
    held = {SET[c["call"]]: bytes.fromhex(c["bytes"]) for c in calls if c["call"] in SET}
    assert set(held) == set(SET.values())
    (msrs,) = [bytes.fromhex(c["bytes"]) for c in calls if c["call"] == "KVM_SET_MSRS"]
    entries = [msrs[at : at + 16] for at in range(8, len(msrs), 16)]
    assert len(entries) == int.from_bytes(msrs[:4], "little")
    numbers = {int.from_bytes(e[:4], "little"): int.from_bytes(e[8:], "little") for e in entries}
    return Registers(**held, msrs=numbers)


def states(*args: str) -> dict[int, bytes]:
    """The VMSAs that a plan measures, by vCPU."""
    document = json.loads(run("plan", *args, "--format", "json").out)
    found: dict[int, bytes] = {}
    for op in document["ops"]:
        for state in op.get("vmsas", []):
            low, _, high = state["vcpus"].partition("-")
            for vcpu in range(int(low), int(high or low) + 1):
                found[vcpu] = bytes.fromhex(state["hex"]).ljust(PAGE, b"\0")
    return found


def assert_registers_make(*args: str, fpu: bool = True, features: int) -> None:
    wanted, made = states(*args), planned(*args)
    assert wanted
    for vcpu, page in wanted.items():
        assert vmsa_of(registers(made, vcpu), features, fpu=fpu) == page, vcpu


@pytest.mark.parametrize("vmm", ["qemu", "ec2", "gce", "qemu-2023"])
def test_the_registers_of_snp_make_the_vmsa_that_is_measured(vmm: str) -> None:
    options = ("--example", "snp", "--platform", "snp", "--vmm", vmm, "--vcpus", "3")
    fpu = vmm == "qemu"  # the others are measured without
    wanted, made = states(*options, "--abi", "kvm-6.18"), planned(*options, "--abi", "kvm-6.18")
    for vcpu, page in wanted.items():
        built = vmsa_of(registers(made, vcpu), 1, fpu=True)
        if fpu:
            assert built == page
        assert built[:0x400] == page[:0x400]


@pytest.mark.parametrize(("init", "fpu"), [("legacy", False), ("init2", True)])
def test_the_registers_of_sev_es_make_the_vmsa_that_is_measured(init: str, fpu: bool) -> None:
    options = ("--example", "snp", "--platform", "sev-es", "--es-init", init, "--vcpus", "2")
    assert_registers_make(*options, "--abi", "kvm-6.18", fpu=fpu, features=0)


@pytest.mark.parametrize("vmm", ["qemu", "cloud-hypervisor", "openvmm"])
def test_the_registers_of_an_igvm_file_make_its_vmsa(vmm: str, tmp_path: Path) -> None:
    path = tmp_path / "guest.igvm"
    path.write_bytes(good_snp().build())
    options = (str(path), "--platform", "snp", "--vmm", vmm, "--abi", "kvm-6.18", "--vcpus", "2")
    assert_registers_make(*options, features=1)


def test_vcpus_whose_state_is_not_planned_are_symbols() -> None:
    """Kernels with SVSM measure the boot vCPU alone; what the other one has is not known."""
    made = example("snp", "--vcpus", "2", abi="kvm-svsm")
    others = [c for c in made if c.get("fd") == "vcpu:1" and c["call"].startswith("KVM_SET_")]
    assert len(others) == 7
    assert all("bytes" not in c and c["argument"].startswith("&") for c in others)
    assert registers(made, 0).known


# --- a VMM's way ---------------------------------------------------------------------------------


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def enabled(made: list[Call]) -> dict[str, int]:
    """Capability to the argument with which it is enabled."""
    found = named(made, "KVM_ENABLE_CAP")
    return {
        c["capability"]: int.from_bytes(bytes.fromhex(c["bytes"])[8:16], "little") for c in found
    }


def recorded(name: str) -> list[Call]:
    if not RECORDINGS.exists():
        pytest.skip(f"there is no {RECORDINGS}")
    return [json.loads(line) for line in (RECORDINGS / f"{name}.jsonl").read_text().splitlines()]


def test_qemu_enables_for_a_td_what_it_was_recorded_to_enable() -> None:
    made = example("tdx", "--vmm", "qemu")
    ours = enabled(made)
    numbers = {int(c["fields"]["cap"], 16) for c in named(made, "KVM_ENABLE_CAP")}
    calls = [bytes.fromhex(c["in"]) for c in recorded("tdx-sid-1") if c["req"] == "0x4068aea3"]
    theirs = {number(data[:4]): number(data[8:16]) for data in calls}
    assert "KVM_CAP_MAX_VCPUS" not in ours
    assert numbers <= set(theirs)
    assert {n: theirs[n] for n in numbers} == {0xC9: 0x1000, 0x79: 24, 0xED: 40}
    assert sorted(ours.values()) == [24, 40, 0x1000]


def test_qemu_sets_the_tsc_of_a_td_and_reads_its_cpuid_back() -> None:
    made = example("tdx", "--vmm", "qemu", "--vcpus", "2")
    theirs = recorded("tdx-sid-1")
    (khz,) = [c["arg"] for c in theirs if c["req"].endswith("aea2") and "arg" in c]
    assert [c["argument"] for c in named(made, "KVM_SET_TSC_KHZ")] == [khz] == [0]
    assert [c["fd"] for c in named(made, "KVM_TDX_GET_CPUID")] == ["vcpu:0", "vcpu:1"]
    assert len([c for c in theirs if c.get("cmd") == 5]) == 1  # one vCPU
    document = json.loads(run("plan", "--example", "tdx", "--format", "json").out)
    assert document["assumed"]["tsc_khz"] == 0


def test_other_vmms_make_the_calls_of_the_kernels_documentation() -> None:
    """linux Documentation/virt/kvm/x86/intel-tdx.rst."""
    made = example("tdx", "--vmm", "td-shim", "--vcpus", "3")
    assert enabled(made) == {
        "KVM_CAP_MAX_VCPUS": 3, "KVM_CAP_SPLIT_IRQCHIP": 24, "KVM_CAP_X86_APIC_BUS_CYCLES_NS": 40,
    }  # fmt: skip
    assert not named(made, "KVM_TDX_GET_CPUID")
    assert not named(made, "KVM_SET_TSC_KHZ")


@pytest.mark.parametrize(("gpaw", "eax"), [("48", 0x300000), ("52", 0x340000)])
def test_the_width_of_guest_addresses_reaches_the_cpuid(gpaw: str, eax: int) -> None:
    """linux arch/x86/kvm/vmx/tdx.c setup_tdparams_cpuids: CPUID 0x80000008 EAX[23:16]."""
    made = example("tdx", "--gpaw", gpaw)
    given = [c["cpuid"] for c in made if "cpuid" in c]
    bits = {"function": "0x80000008", "register": "eax", "mask": "0xff0000", "value": hex(eax)}
    assert given == [[bits], [bits]]
    assert {c.get("command") or c["call"] for c in made if "cpuid" in c} == {
        "KVM_TDX_INIT_VM", "KVM_SET_CPUID2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "vm_type", "command", "begins"),
    [((), 0, "KVM_SEV_INIT", "00000000"), (("--es-init", "init2"), 2, "KVM_SEV_INIT2", "16000000")],
)
def test_plain_sev_is_opened_as_qemu_does(
    options: tuple[str, ...], vm_type: int, command: str, begins: str
) -> None:
    """Recorded: QEMU 10.0.13 and 11.1.3, legacy-vm-type=auto and off."""
    made = example("sev", *options)
    assert named(made, "KVM_CREATE_VM")[0]["argument"] == vm_type
    (init,) = named(made, command)
    assert init["bytes"].startswith(begins)
    document = json.loads(
        run("plan", "--example", "snp", "--platform", "sev", "--format", "json").out
    )
    assert document["assumed"]["es_init"] == "legacy"


def test_memory_without_a_guest_memfd_is_set_by_the_older_call() -> None:
    """spec/recording-vmms.md, 4."""
    for platform in ("sev", "sev-es", "default"):
        (call, *_) = [c for c in example(platform) if "USER_MEMORY_REGION" in c["call"]]
        assert (call["ioctl"], len(call["bytes"])) == ("0x4020ae46", 64), platform
        asked = {c["capability"] for c in example(platform) if "wants" in c}
        assert "KVM_CAP_USER_MEMORY2" not in asked
    (call, *_) = [c for c in example("default", "--backing", "guest-memfd")
                  if "USER_MEMORY_REGION" in c["call"]]  # fmt: skip
    assert (call["ioctl"], len(call["bytes"])) == ("0x40a0ae49", 320)


@pytest.mark.parametrize(
    ("platform", "init", "found"),
    [("sev", "legacy", False), ("sev", "init2", False), ("sev-es", "legacy", False),
     ("sev-es", "init2", True)],
)  # fmt: skip
def test_firmware_as_pflash_without_read_only_memory_is_said(
    platform: str, init: str, found: bool
) -> None:
    """Recorded: "pflash with kvm requires KVM readonly memory support"."""
    options = ("--example", "snp", "--platform", platform, "--vmm", "qemu", "--es-init", init)
    result = run("check", *options, "--format", "json")
    rules = [f["rule"] for f in json.loads(result.out)["findings"]]
    assert (result.code, "pflash" in rules) == (0, found)


def test_a_plan_that_is_read_again_has_the_calls_of_its_own_vmm(tmp_path: Path) -> None:
    profile = json.loads(run("profiles", "qemu", "--format", "json").out)
    profile["name"] = "mine"
    profile["practices"]["tdx"] = {
        "repeats": ["EBUSY"], "enables": {"MAX_VCPUS": "vcpus", "SPLIT_IRQCHIP": 12},
        "reads_cpuid": False, "tsc_khz": 2500000,
    }  # fmt: skip
    (tmp_path / "mine.json").write_text(json.dumps(profile))
    options = ("--example", "tdx", "--vmm", str(tmp_path / "mine.json"), "--abi", "kvm-6.18")
    first = planned(*options)
    assert enabled(first) == {"KVM_CAP_MAX_VCPUS": 1, "KVM_CAP_SPLIT_IRQCHIP": 12}
    assert [c["argument"] for c in named(first, "KVM_SET_TSC_KHZ")] == [2500000]
    path = tmp_path / "plan.json"
    path.write_text(run("plan", *options, "--format", "json").out)
    assert planned(str(path)) == first
