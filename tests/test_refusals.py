"""
What `abis NAME` says is modelled is: each row has a launch here that is refused so.

The answers are those of ../shared/spec/kvm.md 1.3 to 2.6, 6.3, 8, of real-kernels.md and of
corrections.md 2 and 3.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan.kvm.abi import ABIS
from cvmplan.kvm.refusals import BOTH, CHECK, NOT, READ, SIMULATE, WARNS
from cvmplan.kvm.refusals import REFUSALS as OF_KERNELS
from cvmplan.profiles.refusals import REFUSALS as OF_VMMS
from tests.build.ovmf import good_snp
from tests.manifests import document, region, run_on
from tests.plans import PAGE, guest, memory, op, plan, simulate, update
from tests.plans import region as td_region
from tests.run import run

REFUSALS: Final = (*OF_KERNELS, *OF_VMMS)
Document = dict[str, Any]
Witness = tuple[str, str, list[Document], str, str | None, int | None]
MIB: Final = 1 << 20
SLOTS: Final = "KVM_SET_USER_MEMORY_REGION2"
UPDATE, REGION = "SNP_LAUNCH_UPDATE", "KVM_TDX_INIT_MEM_REGION"
SEV: Final = [op("create-vm", vm_type="sev"), op("init", vmsa_features="0x0"),
              op("set-memslot", 0, MIB, slot=0)]  # fmt: skip
START: Final = op("sev-launch-start", policy="0x1")
DATA: Final = op("sev-launch-update-data", 0, PAGE, source={"zeros": True})
STATE: Final = [{"vcpus": "0", "gpa": "0xfffffffff000", "hex": ""}]


def opened(*ops: Document, platform: str = "default") -> list[Document]:
    return [op("create-vm", vm_type=platform), *ops]


def begun(*ops: Document) -> list[Document]:
    """An SNP guest that was initialised, and what follows."""
    return opened(op("init", vmsa_features="0x0"), *ops, platform="snp")


def started(*ops: Document, policy: str = "0x30000") -> list[Document]:
    return begun(op("snp-launch-start", policy=policy), *ops)


def finished(**fields: Any) -> list[Document]:
    """An SNP launch whose last call has these fields."""
    *ops, finish = guest("snp", update(0))
    return [*ops, {**finish, **fields}]


def td(*ops: Document, **masks: str) -> list[Document]:
    init = op("tdx-init-vm", attributes="0x0", xfam="0x3") | masks
    return opened(init, *ops, platform="tdx")


GMEM: Final = op("create-gmem", size=MIB, gmem=0)
SLOT: Final = op("set-memslot", 0, MIB, slot=0, gmem=0)
PLAIN: Final = op("set-memslot", 0, MIB, slot=0)
BREAKPOINT: Final = [{**STATE[0], "hex": f"{'00' * 0x160}01040000{'00' * 0x24C}01"}]
WITNESSES: Final[dict[tuple[str, str], list[Witness]]] = {
    # situation: interface, platform, calls, the one that is refused, errno, fw_error
    ("KVM_CREATE_VM", "a VM type that the kernel does not have"): [
        ("kvm-6.11", "tdx", opened(platform="tdx"), "create-vm", "EINVAL", None)],
    ("KVM_CREATE_GUEST_MEMFD", "size 0 or unaligned"): [
        ("kvm-7.3", "snp", begun({**GMEM, "size": size}), "create-gmem", "EINVAL", None)
        for size in ("0x0", "0x800")],
    ("KVM_CREATE_GUEST_MEMFD", "2^63 bytes and more"): [
        ("kvm-7.3", "snp", begun({**GMEM, "size": hex(1 << 63)}), "create-gmem", "EINVAL", None)],
    ("KVM_CREATE_GUEST_MEMFD", "flags that the kernel does not have"): [
        ("kvm-6.11", "snp", begun({**GMEM, "flags": ["mmap"]}), "create-gmem", "EINVAL", None)],
    (SLOTS, "unaligned, or past 2^52"): [
        ("kvm-7.3", "default", opened({**PLAIN, "gpa": gpa}), "set-memslot", "EINVAL", None)
        for gpa in ("0x800", hex(1 << 52))],
    (SLOTS, "a slot above 32763"): [
        ("kvm-7.3", "snp", begun({**PLAIN, "slot": 32764}), "set-memslot", "EINVAL", None)],
    (SLOTS, "memory of a different slot"): [
        ("kvm-7.3", "default", opened(PLAIN, {**PLAIN, "slot": 1}), "set-memslot", "EEXIST", None)],
    (SLOTS, "a guest_memfd range bound twice"): [
        (abi, "snp", begun(GMEM, SLOT, {**SLOT, "slot": 1, "gpa": hex(MIB)}), "set-memslot",
         errno, None) for abi, errno in (("kvm-7.1", "EINVAL"), ("kvm-7.2", "EEXIST"))],
    (SLOTS, "past the end of the guest_memfd"): [
        ("kvm-7.3", "snp", begun(GMEM, {**SLOT, "size": hex(2 * MIB)}), "set-memslot", "EINVAL",
         None)],
    (SLOTS, "a slot with guest_memfd changed"): [
        ("kvm-7.3", "snp", begun(GMEM, SLOT, {**SLOT, "gpa": hex(4 * MIB)}), "set-memslot",
         "EINVAL", None)],
    ("KVM_SET_MEMORY_ATTRIBUTES", "unaligned or empty"): [
        ("kvm-7.3", "snp", begun(op("set-private", gpa, size)), "set-private", "EINVAL", None)
        for gpa, size in ((0x800, PAGE), (0, 0))],
    ("KVM_SET_MEMORY_ATTRIBUTES", "private memory of a default VM"): [
        ("kvm-7.3", "default", opened(op("set-private", 0, PAGE)), "set-private", "EINVAL", None)],
    ("KVM_CREATE_VCPU", "a vCPU number twice"): [
        ("kvm-7.3", "snp", begun(*[op("create-vcpu", count=1)] * 2), "create-vcpu", "EEXIST",
         None)],
    ("KVM_PRE_FAULT_MEMORY", "unaligned or empty"): [
        ("kvm-7.3", "default", opened(PLAIN, op("create-vcpu", count=1),
         op("pre-fault-memory", gpa, size)), "pre-fault-memory", "EINVAL", None)
        for gpa, size in ((0x800, PAGE), (0, 0))],
    ("KVM_PRE_FAULT_MEMORY", "before the launch is final"): [
        ("kvm-7.3", platform, guest(platform, op("pre-fault-memory", 0, PAGE)), "pre-fault-memory",
         "EOPNOTSUPP", None) for platform in ("snp", "tdx")],
    ("KVM_PRE_FAULT_MEMORY", "no memslot"): [
        ("kvm-7.3", "default", opened(PLAIN, op("create-vcpu", count=1),
         op("pre-fault-memory", MIB, PAGE)), "pre-fault-memory", "ENOENT", None)],
    ("KVM_PRE_FAULT_MEMORY", "private memory without a guest_memfd"): [
        ("kvm-7.3", "sw-protected", opened(PLAIN, op("set-private", 0, PAGE),
         op("create-vcpu", count=1), op("pre-fault-memory", 0, PAGE), platform="sw-protected"),
         "pre-fault-memory", "EFAULT", None)],
    ("KVM_SEV_INIT2", "twice, or after a vCPU"): [
        ("kvm-7.3", "snp", begun(op("init", vmsa_features="0x0")), "init", "EINVAL", None),
        ("kvm-7.3", "snp", opened(op("create-vcpu", count=1), op("init", vmsa_features="0x0"),
         platform="snp"), "init", "EINVAL", None)],
    ("KVM_SEV_INIT2", "SEV_FEATURES that the kernel does not have"): [
        (abi, "snp", opened(op("init", vmsa_features=mask), platform="snp"), "init", "EINVAL", None)
        for abi, mask in (("kvm-7.3", "0x2"), ("kvm-7.1", "0x200"))],
    ("SNP_LAUNCH_START", "a guest policy that the kernel refuses"): [
        ("kvm-7.3", "snp", started(policy="0x70000"), "snp-launch-start", "EINVAL", None)],
    ("SNP_LAUNCH_START", "policy bit 17 clear"): [
        ("map-memory", "snp", started(policy="0x10000"), "snp-launch-start", None, None)],
    ("SNP_LAUNCH_START", "twice"): [
        ("kvm-7.3", "snp", started(op("snp-launch-start", policy="0x30000")), "snp-launch-start",
         "EINVAL", None)],
    ("SNP_LAUNCH_START", "a VM that is not an SNP guest"): [
        ("kvm-7.3", "sev", [*SEV, op("snp-launch-start", policy="0x30000")], "snp-launch-start",
         "ENOTTY", None)],
    (UPDATE, "length 0"): [
        ("kvm-6.18", "snp", guest("snp", update(0, 0)), "snp-launch-update", "EINVAL", None)],
    (UPDATE, "unaligned, or of type VMSA"): [
        ("kvm-7.3", "snp", guest("snp", bad), "snp-launch-update", "EINVAL", None)
        for bad in (update(0x800), update(0, 0x800), update(0, page_type="vmsa"))],
    (UPDATE, "before the start"): [
        ("kvm-7.3", "snp", begun(*memory(), update(0)), "snp-launch-update", "EINVAL", None)],
    (UPDATE, "after the finish"): [
        ("kvm-7.3", "snp", [*guest("snp", update(0)), update(PAGE)], "snp-launch-update",
         "EIO", 2)],
    (UPDATE, "a page that was added"): [
        (abi, "snp", guest("snp", update(0), update(0)), "snp-launch-update", "EIO", None)
        for abi in ("kvm-6.11", "kvm-7.3")],
    (UPDATE, "a page that is not private"): [
        ("kvm-7.3", "snp", guest("snp", op("set-shared", 0, PAGE), update(0)), "snp-launch-update",
         "EIO", None)],
    (UPDATE, "address 0 as source"): [
        (abi, "snp", guest("snp", update(0, source=None)), "snp-launch-update", errno, None)
        for abi, errno in (("kvm-7.2", "EIO"), ("kvm-7.3", "EINVAL"))],
    ("SNP_LAUNCH_FINISH", "an ID block without ID authentication"): [
        ("kvm-7.3", "snp", finished(id_block="00" * 96), "snp-launch-finish", "EINVAL", None)],
    ("SNP_LAUNCH_FINISH", "an ID block for a different digest"): [
        ("kvm-7.3", "snp", finished(id_block="00" * 96, id_auth="00" * 4096), "snp-launch-finish",
         "EIO", 0xB)],
    ("SNP_LAUNCH_FINISH", "an ID block for a different policy"): [],  # needs the digest: below
    ("SNP_LAUNCH_FINISH", "twice"): [
        ("kvm-7.3", "snp", [*finished(), op("snp-launch-finish", vmsas=STATE)],
         "snp-launch-finish", "EINVAL", None)],
    ("SNP_LAUNCH_FINISH, SEV_LAUNCH_UPDATE_VMSA", "a vCPU with a breakpoint in DR7"): [
        ("kvm-7.3", "snp", finished(vmsas=BREAKPOINT), "snp-launch-finish", "EINVAL", None)],
    ("KVM_MEMORY_ENCRYPT_OP", "a command of SEV on an SNP guest"): [
        ("kvm-7.3", "snp", started(START), "sev-launch-start", "EPERM", None)],
    ("KVM_SEV_LAUNCH_START", "a policy whose ES bit is not the VM's"): [
        ("kvm-7.3", "sev", [*SEV, {**START, "policy": "0x5"}], "sev-launch-start", "EIO", 0xD)],
    ("KVM_SEV_LAUNCH_*", "in a different state of the launch"): [
        ("kvm-7.3", "sev", [*SEV, START, op("sev-launch-finish")], "sev-launch-finish", "EIO", 2)],
    ("KVM_SEV_LAUNCH_UPDATE_DATA", "not a multiple of 16 bytes"): [
        ("kvm-7.3", "sev", [*SEV, START, {**DATA, "size": "0xf"}], "sev-launch-update-data", "EIO",
         4)],
    ("KVM_SEV_LAUNCH_UPDATE_VMSA", "a VM without encrypted state"): [
        ("kvm-7.3", "sev", [*SEV, START, op("create-vcpu", count=1), DATA,
         op("sev-launch-update-vmsa", vmsas=[{"vcpus": "0", "hex": ""}])],
         "sev-launch-update-vmsa", "ENOTTY", None)],
    ("KVM_TDX_INIT_VM", "twice"): [
        ("kvm-7.3", "tdx", td(op("tdx-init-vm", attributes="0x0", xfam="0x3")), "tdx-init-vm",
         "EINVAL", None)],
    ("KVM_TDX_INIT_VM", "ATTRIBUTES or XFAM that the kernel does not have"): [
        ("kvm-7.3", "tdx", td(**masks), "tdx-init-vm", "EINVAL", None)
        for masks in ({"attributes": "0x1"}, {"xfam": "0x103"})],
    ("KVM_TDX_INIT_VM", "ATTRIBUTES or XFAM that every module refuses"): [
        ("map-memory", "tdx", td(**masks), "tdx-init-vm", None, None)
        for masks in ({"attributes": "0x2"}, {"xfam": "0x23"})],
    ("KVM_CREATE_VCPU", "before KVM_TDX_INIT_VM"): [
        ("kvm-7.3", "tdx", opened(op("create-vcpu", count=1), platform="tdx"), "create-vcpu", "EIO",
         None)],
    ("KVM_TDX_INIT_VCPU", "twice"): [
        ("kvm-7.3", "tdx", td(op("create-vcpu", count=1),
         *[op("tdx-init-vcpu", count=1, rcx="0x0")] * 2), "tdx-init-vcpu", "EINVAL", None)],
    (REGION, "no initialised vCPU"): [
        ("kvm-7.3", "tdx", td(*memory(), op("create-vcpu", count=1), td_region(0)),
         "tdx-init-mem-region", "EINVAL", None)],
    (REGION, "an address with the shared bit"): [
        ("kvm-7.3", "tdx", guest("tdx", td_region(1 << 47)), "tdx-init-mem-region", "EINVAL",
         None)],
    (REGION, "unaligned, empty, or not private"): [
        ("kvm-7.3", "tdx", guest("tdx", *bad), "tdx-init-mem-region", "EINVAL", None)
        for bad in ([td_region(0x800)], [td_region(0, 0)],
                    [op("set-shared", 0, PAGE), td_region(0)])],
    (REGION, "after the end"): [
        ("kvm-7.3", "tdx", [*guest("tdx", td_region(0)), td_region(PAGE)], "tdx-init-mem-region",
         "EINVAL", None)],
    (REGION, "a page that was added"): [
        (abi, "tdx", guest("tdx", td_region(0), td_region(0)), "tdx-init-mem-region", errno, None)
        for abi, errno in (("kvm-6.19", "EEXIST"), ("kvm-7.0", "EIO"))],
    (REGION, "address 0 as source"): [
        (abi, "tdx", guest("tdx", td_region(0, source=None)), "tdx-init-mem-region", errno, None)
        for abi, errno in (("kvm-6.19", "EFAULT"), ("kvm-7.2", "EOPNOTSUPP"),
                           ("kvm-7.3", "EINVAL"))],
    ("KVM_TDX_FINALIZE_VM", "twice"): [
        ("kvm-7.3", "tdx", [*guest("tdx", td_region(0)), op("tdx-finalize")], "tdx-finalize",
         "EINVAL", None)],
    ("KVM_TDX_FINALIZE_VM", "no vCPU"): [
        ("kvm-7.3", "tdx", td(op("tdx-finalize")), "tdx-finalize", "EIO", None)],
}  # fmt: skip
CALLS: Final = [(key, *one) for key, several in WITNESSES.items() for one in several]


@pytest.mark.parametrize(("row", "abi", "platform", "ops", "call", "errno", "fw_error"), CALLS)
def test_the_simulator_refuses_what_the_table_says(
    row: tuple[str, str],
    abi: str,
    platform: str,
    ops: list[Document],
    call: str,
    errno: str | None,
    fw_error: int | None,
) -> None:
    del row
    wanted = (call, "error", errno, fw_error)
    results = simulate(platform, ops, abi).results
    assert wanted in {(r["op"], r["result"], r.get("errno"), r.get("fw_error")) for r in results}
    first = next(r for r in results if r["result"] == "error")
    assert first["op"] == call  # nothing before it was refused


def test_the_simulator_compares_the_policy_of_an_id_block() -> None:
    # AMD 56860, "Structure of the ID Block": POLICY_FAILURE is 7
    digest = simulate("snp", finished(), "kvm-7.3").digest
    block = f"{digest}{'00' * 40}{(0x30001).to_bytes(8, 'little').hex()}"
    ops = finished(id_block=block, id_auth="00" * 4096)
    last = simulate("snp", ops, "kvm-7.3").results[-1]
    assert (last["errno"], last["fw_error"]) == ("EIO", 7)


# --- check ---------------------------------------------------------------------------------------

SNP: Final = ("--example", "snp")
TDX: Final = ("--example", "tdx")
CHECKED: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("KVM_CREATE_VM", "a VM type that the kernel does not have"): (*TDX, "--abi", "kvm-6.11"),
    ("KVM_SEV_INIT2", "SEV_FEATURES that the kernel does not have"): (
        *SNP, "--abi", "kvm-7.3", "--sev-features", "0x3"),
    ("SNP_LAUNCH_START", "a guest policy that the kernel refuses"): (
        *SNP, "--abi", "kvm-7.3", "--policy", "0x70000"),
    ("SNP_LAUNCH_START", "policy bit 17 clear"): (*SNP, "--policy", "0x10000"),
    ("SNP_LAUNCH_FINISH", "an ID block without ID authentication"): (
        *SNP, "--id-block", "00" * 96),
    ("KVM_SEV_LAUNCH_START", "a policy whose ES bit is not the VM's"): (
        *SNP, "--platform", "sev", "--policy", "0x5"),
    ("KVM_TDX_INIT_VM", "ATTRIBUTES or XFAM that the kernel does not have"): (
        *TDX, "--abi", "kvm-7.3", "--xfam", "0x103"),
    ("KVM_TDX_INIT_VM", "ATTRIBUTES or XFAM that every module refuses"): (*TDX, "--xfam", "0x23"),
    ("QEMU", "one of ID block and ID authentication"): (*SNP, "--id-auth", "00" * 4096),
}  # fmt: skip
ELSEWHERE: Final = {
    # row to the test that has a launch for it
    (UPDATE, "a page that was added"): "below",
    (REGION, "a page that was added"): "below",
    (REGION, "an address with the shared bit"): "below",
    ("SNP_LAUNCH_FINISH", "an ID block for a different policy"): "below",
    ("SNP_LAUNCH_FINISH", "an ID block for a different digest"): "below, and test_refused_plans.py",
    ("KVM_SEV_LAUNCH_UPDATE_DATA", "not a multiple of 16 bytes"): "below",
    ("KVM_TDX_INIT_VM", "more vCPUs than the module takes"): "test_one_answer_masks.py",
    ("SNP_LAUNCH_FINISH, SEV_LAUNCH_UPDATE_VMSA", "a vCPU with a breakpoint in DR7"): (
        "test_igvm_states.py"),
    ("QEMU", "a kernel that it does not hash, with kernel hashes"): "below",
    ("every VMM", "an image without a page, or without the vCPU state that is taken from it"): (
        "below"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "options"), CHECKED.items())
def test_no_verb_takes_what_the_table_says_is_checked(
    row: tuple[str, str], options: tuple[str, ...]
) -> None:
    del row
    for verb in ("check", "plan", "measure", "trace"):
        result = run(verb, *options)
        assert result.code in (1, 4)
        assert "error: " in result.err + result.out


@pytest.mark.parametrize(
    ("platform", "regions"),
    [
        ("snp", [region("0x1000"), region("0x1000")]),
        ("tdx", [region("0xfffff000", "unmeasured"), region("0xfffff000", "unmeasured")]),
        ("tdx", [region("0xfffff000", "unmeasured"), region(hex(1 << 47), "unmeasured")]),
        ("snp", []),
    ],
)
def test_regions_that_are_no_launch_are_refused(
    platform: str, regions: list[Document], tmp_path: Path
) -> None:
    manifest = document(*regions, platform=platform)
    for verb in ("check", "plan", "measure", "trace"):
        assert run_on(tmp_path, verb, manifest).code == 1


def test_an_id_block_with_another_policy_is_an_error_of_check_and_a_warning_of_measure() -> None:
    digest = run("measure", *SNP, "--bare").out
    block = f"{digest}{'00' * 40}{(0x30001).to_bytes(8, 'little').hex()}"
    options = (*SNP, "--id-block", block, "--id-auth", "00" * 4096)
    words = "id-block-mismatch: the ID block is for policy 0x30001, the launch has 0x30000"
    checked, measured = run("check", *options), run("measure", *options)
    assert (checked.code, measured.code) == (1, 0)
    assert words in checked.out
    assert words in measured.out


def test_an_id_block_for_another_digest_is_an_error_of_check() -> None:
    block = f"{'00' * 88}{(0x30000).to_bytes(8, 'little').hex()}"
    result = run("check", *SNP, "--id-block", block, "--id-auth", "00" * 4096)
    assert result.code == 1
    assert f"the ID block is for {'00' * 48}, the launch digest is " in result.out


def test_firmware_of_bytes_that_sev_cannot_encrypt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.fd").write_bytes(b"\1" * 8 + good_snp().build())
    assert run("measure", str(tmp_path / "f.fd"), "--platform", "sev", "--bare").code != 0


def test_a_kernel_that_is_not_hashed_is_refused(tmp_path: Path) -> None:
    # Multiboot Specification 0.6.96, 3.1: magic, flags, and the sum with both is 0
    words = (0x1BADB002, 0, -0x1BADB002 & 0xFFFFFFFF)
    header = b"".join(word.to_bytes(4, "little") for word in words)
    for head in (b"\0" * 64 + header, b"\x7fELF\x02\x01\x01"):
        (tmp_path / "kernel").write_bytes(head.ljust(16384, b"\0"))
        for verb in ("check", "plan", "measure", "trace"):
            result = run(verb, *SNP, "--kernel", str(tmp_path / "kernel"))
            assert result.code == 1
            assert "kernel-not-hashed: qemu does not hash" in result.err + result.out


# --- the table -----------------------------------------------------------------------------------


def keys(rows: Iterable[Any]) -> set[tuple[str, str]]:
    return {(r.call, r.situation) for r in rows}


def test_every_row_that_is_modelled_has_a_launch_and_no_other_has() -> None:
    assert keys(r for r in REFUSALS if r.where in (SIMULATE, BOTH, WARNS)) == {*WITNESSES}
    checked = keys(r for r in REFUSALS if r.where.startswith(CHECK))
    assert checked == {*CHECKED, *ELSEWHERE}
    assert {r.where for r in REFUSALS} == {
        CHECK, SIMULATE, BOTH, NOT, READ, WARNS, "check, as a note",
    }  # fmt: skip
    assert len(keys(REFUSALS)) == len(REFUSALS)
    assert all(r.source for r in REFUSALS)


@pytest.mark.parametrize("abi", ABIS)
def test_abis_prints_the_table_with_sources(abi: str) -> None:
    met = [r for r in REFUSALS if {*r.platforms} & {*ABIS[abi].vm_types}]
    assert met
    printed = json.loads(run("abis", abi, "--format", "json").out)["refusals"]
    assert printed == [{**r._asdict(), "platforms": list(r.platforms)} for r in met]
    text = run("abis", abi).out
    for row in met:
        assert any(all(part in line for part in row[:5]) for line in text.splitlines())


def test_a_plan_of_calls_is_made_here() -> None:
    """What the witnesses are made of is accepted where nothing is wrong."""
    for platform, middle in (("snp", update(0)), ("tdx", td_region(0))):
        assert simulate(platform, guest(platform, middle), "kvm-7.3").errors() == []
    document = plan("sev", [*SEV, START, op("create-vcpu", count=1), DATA], "kvm-7.3")
    result = run("simulate", "-", "--format", "json", stdin=json.dumps(document).encode())
    assert all(r["result"] == "ok" for r in json.loads(result.out)["results"])
