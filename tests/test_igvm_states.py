"""
vCPU states of IGVM files: what loaders on KVM set of them, and launches that have none.

Expected states are made by `tests.oracles.igvm`, which was written from the loaders' sources.
"""

from __future__ import annotations

import json
import struct
from hashlib import sha256
from pathlib import Path

import pytest

from tests.build.igvm import (
    CPUID_DATA,
    KVM_VMSA,
    PAGE,
    SEV_ES,
    SEV_SNP,
    TDX,
    VSM_ISOLATION,
    Igvm,
    filling,
    vbs_registers,
    vmsa,
)
from tests.oracles import SHARED
from tests.oracles.firmware import vmsas
from tests.oracles.igvm import EARLIER, KVM, Item, digest
from tests.run import Result, assert_refused, run

CASES = SHARED / "cases" / "check"
needs_cases = pytest.mark.skipif(not CASES.exists(), reason=f"{CASES} is absent")
DATA = filling("one")
RESET_PAGE = 0xFFFFF000


def state(**fields: int) -> bytes:
    """Return a reset VMSA with 8-byte values at `at_<hex offset>`."""
    page = bytearray(vmsa())
    for name, value in fields.items():
        struct.pack_into("<Q", page, int(name.removeprefix("at_"), 16), value)
    return bytes(page)


def snp(*states: bytes) -> Igvm:
    file = Igvm().platform(SEV_SNP, 1).policy(0x30000, 1).page(0x1000, DATA, 1)
    for number, page in enumerate(states):
        file = file.vp_context(KVM_VMSA, page, 1, vp_index=number)
    return file


def items(*states: bytes) -> list[Item]:
    return [Item("page", 0x1000, DATA), *(Item("state", KVM_VMSA, s) for s in states)]


def cvmplan(folder: Path, verb: str, file: Igvm, loader: str, *more: str) -> Result:
    path = folder / "image.igvm"
    path.write_bytes(file.build())
    platform = () if "--platform" in more else ("--platform", "snp")
    return run(verb, str(path), "--vmm", loader, *platform, *more)


@pytest.mark.parametrize("loader", KVM)
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(state(at_D0=0xD01), id="EFER without SVME"),
        pytest.param(state(at_148=0x20), id="CR4 without MCE"),
        pytest.param(state(at_170=0), id="RFLAGS 0"),
        pytest.param(state(at_158=0x80000001), id="CR0 without ET"),
        pytest.param(state(at_268=0x70106), id="PAT"),
        pytest.param(state(at_3E8=7), id="XCR0"),
        pytest.param(state(at_168=0), id="DR6"),
        pytest.param(state(at_160=0), id="DR7"),
        pytest.param(state(at_408=0), id="MXCSR"),
        pytest.param(state(at_410=0), id="FCW"),
        pytest.param(state(at_10=0x1A09B0008), id="CS attributes of 16 bits"),
        pytest.param(state(at_310=0xA00F11), id="RDX"),
    ],
)
def test_kvm_measures_the_registers_that_the_loader_sets(
    loader: str, page: bytes, tmp_path: Path
) -> None:
    masked = bytearray(page)
    masked[0x13] &= 0x0F  # KVM keeps 12 bits of a segment's attributes
    wanted = digest(loader, items(bytes(masked)), 1)
    result = cvmplan(tmp_path, "measure", snp(page), loader, "--abi", "kvm-6.16", "--bare")
    assert (result.out, result.err) == (wanted, "")


@pytest.mark.parametrize("at", [0x3C8, 0x240, 0x140, 0x200, 0xFF8])
def test_cloud_hypervisor_does_not_look_at_what_it_does_not_set(at: int, tmp_path: Path) -> None:
    page = state(**{f"at_{at:x}": 1})
    result = cvmplan(tmp_path, "measure", snp(page), "cloud-hypervisor", "--bare")
    assert (result.out, result.err) == (digest("cloud-hypervisor", items(vmsa()), 1), "")


@pytest.mark.parametrize(
    ("at", "openvmm", "qemu"),
    [(0x140, True, False), (0x3C8, False, False), (0x240, False, False), (0x40E, True, False)],
)
def test_loaders_refuse_what_they_cannot_set(
    at: int, openvmm: bool, qemu: bool, tmp_path: Path
) -> None:
    page = bytearray(vmsa())
    page[at] = 1
    for loader, taken in (("openvmm", openvmm), ("qemu", qemu)):
        result = cvmplan(tmp_path, "measure", snp(bytes(page)), loader, "--bare")
        assert result.code == (0 if taken else 1)
        assert f"a value at {at:#x} that KVM cannot set" in result.err or taken


@pytest.mark.parametrize("verb", ["check", "measure", "plan", "trace"])
def test_a_breakpoint_in_dr7_ends_the_launch(verb: str, tmp_path: Path) -> None:
    """spec/kvm.md, SNP_LAUNCH_FINISH: DR7 in use is EINVAL."""
    file = snp(state(at_160=0x401))
    for loader in ("qemu", "openvmm"):
        result = cvmplan(tmp_path, verb, file, loader)
        assert result.code == 1
        assert "DR7 with a breakpoint (0x1)" in result.out + result.err
    assert cvmplan(tmp_path, verb, file, "cloud-hypervisor").code == 0


def test_the_simulator_refuses_a_breakpoint_too(tmp_path: Path) -> None:
    options = ("--abi", "kvm-6.18", "--format", "json")
    plan = json.loads(cvmplan(tmp_path, "plan", snp(vmsa()), "qemu", *options).out)
    finish = next(op for op in plan["ops"] if op["op"] == "snp-launch-finish")
    page = bytearray(bytes.fromhex(finish["vmsas"][0]["hex"]))
    page[0x160] = 1
    finish["vmsas"][0]["hex"] = page.hex()
    told = run("simulate", "-", "--format", "json", stdin=json.dumps(plan).encode())
    last = json.loads(told.out)["results"][-1]
    assert (told.code, last["op"], last["errno"]) == (1, "snp-launch-finish", "EINVAL")


def test_tables_have_limits_of_16_bits(tmp_path: Path) -> None:
    page = bytearray(vmsa())
    struct.pack_into("<I", page, 0x64, 0x1FFFF)  # gdtr.limit
    for loader in ("cloud-hypervisor", "openvmm"):
        result = cvmplan(tmp_path, "measure", snp(bytes(page)), loader, "--bare")
        assert_refused(result, {1})
        assert "above 0xffff" in result.err
    result = cvmplan(tmp_path, "measure", snp(bytes(page)), "qemu", "--bare")
    assert result.out == digest("qemu", items(vmsa()), 1)


@pytest.mark.parametrize("vcpus", [2, 5])
@pytest.mark.parametrize("loader", KVM)
def test_vcpus_without_a_state_have_the_reset_state(
    loader: str, vcpus: int, tmp_path: Path
) -> None:
    page = state(at_178=0x10000)
    options = ("--vcpus", str(vcpus), "--abi", "kvm-7.3", "--bare")
    result = cvmplan(tmp_path, "measure", snp(page), loader, *options)
    assert (result.out, result.err) == (digest(loader, items(page), vcpus), "")


def test_qemus_further_vcpus_have_the_signature_of_their_model(tmp_path: Path) -> None:
    options = ("--vcpus", "2", "--cpu", "EPYC-Genoa", "--format", "json")
    plan = json.loads(cvmplan(tmp_path, "plan", snp(vmsa()), "qemu", *options).out)
    states = next(op for op in plan["ops"] if op["op"] == "snp-launch-finish")["vmsas"]
    assert [s["vcpus"] for s in states] == ["0", "1"]
    reset = vmsas(1, 0, 1, 0xA10F10)[0]
    assert bytes.fromhex(states[1]["hex"]).ljust(PAGE, b"\0") == reset


def test_a_sweep_over_vcpus_has_the_digests_of_single_launches(tmp_path: Path) -> None:
    for loader in KVM:
        swept = cvmplan(tmp_path, "sweep", snp(vmsa()), loader, "--vcpus", "1-3")
        found = [json.loads(line)["digest"] for line in swept.out.splitlines()]
        assert found == [digest(loader, items(vmsa()), count) for count in (1, 2, 3)]


def test_several_states_are_measured_by_those_that_take_several(tmp_path: Path) -> None:
    pages = (vmsa(), state(at_178=0x2000), state(at_268=0x70106))
    for loader in ("qemu", "cloud-hypervisor"):
        result = cvmplan(tmp_path, "measure", snp(*pages), loader, "--bare")
        assert (result.out, result.err) == (digest(loader, items(*pages), 3), "")
    result = cvmplan(tmp_path, "measure", snp(*pages), "openvmm", "--bare")
    assert_refused(result, {1})
    assert "exactly one" in result.err


def test_a_state_that_some_versions_of_a_loader_refuse_is_warned_about(tmp_path: Path) -> None:
    """openvmm 1488a37, validate_snp_bsp_register_state: long mode, paging, a code segment of it."""
    real = cvmplan(tmp_path, "check", snp(vmsa()), "openvmm", "--format", "json")
    assert rules_of(real)["not-checked"] == "warning"
    page = bytearray(state(at_D0=0xD00, at_148=0x20, at_158=0x80000001))
    page[0x12:0x14] = b"\x9b\x0a"
    long = cvmplan(tmp_path, "check", snp(bytes(page)), "openvmm", "--format", "json")
    assert "not-checked" not in rules_of(long)


# --- SEV-ES --------------------------------------------------------------------------------------


def sev_es(*states: bytes) -> Igvm:
    file = Igvm(version=2).platform(SEV_ES, 1).policy(5, 1).page(0x1000, DATA, 1)
    for number, page in enumerate(states):
        file = file.vp_context(KVM_VMSA, page, 1, vp_index=number)
    return file


@pytest.mark.parametrize(
    ("init", "fpu"), [((), True), (("--es-init", "init2"), True), (("--es-init", "legacy"), False)]
)
def test_the_fpu_state_of_sev_es_is_measured_by_one_call_only(
    init: tuple[str, ...], fpu: bool, tmp_path: Path
) -> None:
    """KVM_SEV_ES_INIT leaves MXCSR and FCW zero (qemu 0232673, message)."""
    page = bytearray(vmsa(sev_features=0))
    page[0xD1] &= 0xEF  # EFER.SVME, which KVM sets
    wanted = bytearray(vmsa(sev_features=0))
    if not fpu:
        wanted[0x408:0x412] = bytes(10)
    result = cvmplan(
        tmp_path, "measure", sev_es(bytes(page)), "qemu", "--platform", "sev-es", *init, "--bare"
    )
    assert (result.out, result.err) == (sha256(DATA + wanted).hexdigest(), "")


def test_the_call_that_a_file_needs_is_assumed_and_printed(tmp_path: Path) -> None:
    options = ("--platform", "sev-es", "--format", "json")
    with_fpu = cvmplan(tmp_path, "measure", sev_es(vmsa(sev_features=0)), "qemu", *options)
    assert json.loads(with_fpu.out)["assumed"]["es_init"] == "init2"
    page = vmsa(sev_features=0)[:0x408] + bytes(PAGE - 0x408)
    without = cvmplan(tmp_path, "measure", sev_es(page), "qemu", *options)
    assert json.loads(without.out)["assumed"]["es_init"] == "legacy"


# --- launches of nothing -------------------------------------------------------------------------

NOTHING = {
    "snp": Igvm().platform(SEV_SNP, 1).policy(0x30000, 1).vp_context(KVM_VMSA, vmsa(), 1),
    "tdx": Igvm().platform(TDX, 1),
    "vbs": Igvm().platform(VSM_ISOLATION, 1).vp_context(0, vbs_registers(), 1),
    "sev-es": Igvm(version=2).platform(SEV_ES, 1).policy(5, 1).vp_context(KVM_VMSA, vmsa(0), 1),
}
DIGEST_VERBS = ("measure", "plan", "check", "map", "trace", "sweep")


@pytest.mark.parametrize("verb", DIGEST_VERBS)
@pytest.mark.parametrize("platform", NOTHING)
def test_a_file_without_a_page_has_no_digest(verb: str, platform: str, tmp_path: Path) -> None:
    loader = "qemu" if platform == "sev-es" else "hyper-v"
    result = cvmplan(tmp_path, verb, NOTHING[platform], loader, "--platform", platform)
    assert result.code == 1
    assert "adds no page" in result.out + result.err
    assert '"digest"' not in result.out


@pytest.mark.parametrize("verb", DIGEST_VERBS)
@pytest.mark.parametrize(
    ("platform", "loader"),
    [*(("snp", loader) for loader in (*KVM, "hyper-v", "igvmmeasure")), ("sev-es", "qemu")],
)
def test_a_file_without_a_vcpu_state_has_no_digest(
    verb: str, platform: str, loader: str, tmp_path: Path
) -> None:
    file = snp() if platform == "snp" else sev_es()
    result = cvmplan(tmp_path, verb, file, loader, "--platform", platform)
    assert result.code == 1
    assert "no VMSA" in result.out + result.err or "0 VP_CONTEXT" in result.out + result.err
    assert '"digest"' not in result.out


def test_a_vbs_file_without_registers_is_warned_about(tmp_path: Path) -> None:
    """The igvm crate measures such files, so there is a digest."""
    file = Igvm().platform(VSM_ISOLATION, 1).page(0x1000, DATA, 1)
    result = cvmplan(tmp_path, "check", file, "hyper-v", "--platform", "vbs", "--format", "json")
    found = {f["rule"]: f["severity"] for f in json.loads(result.out)["findings"]}
    assert (result.code, found["no-vcpu-state"]) == (0, "warning")


@pytest.mark.parametrize("verb", DIGEST_VERBS)
@pytest.mark.parametrize("platform", ["snp", "tdx", "sev", "sev-es", "vbs"])
def test_a_manifest_without_a_page_has_no_digest(verb: str, platform: str, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    body = {"schema": "cvmplan.manifest/1", "platform": platform, "regions": []}
    path.write_text(json.dumps(body))
    vmm = ("--vmm", "hyper-v") if platform == "vbs" else ()
    result = run(verb, str(path), *vmm)
    assert result.code == 1
    assert "adds no page" in result.out + result.err or verb not in ("check", "map")
    assert '"digest"' not in result.out


@needs_cases
@pytest.mark.parametrize("name", ["none.igvm", "none-vbs.igvm"])
@pytest.mark.parametrize("verb", DIGEST_VERBS)
def test_the_cases_without_vcpu_have_no_digest(verb: str, name: str) -> None:
    result = run(verb, str(CASES / "igvm-without-vcpu" / name))
    assert result.code == 1
    assert '"digest"' not in result.out
    assert "0" * 64 not in result.out


# --- the reset vector of a TD --------------------------------------------------------------------


def rules_of(result: Result) -> dict[str, str]:
    return {f["rule"]: f["severity"] for f in json.loads(result.out)["findings"]}


@needs_cases
@pytest.mark.parametrize(
    ("name", "found"), [("hyperv.igvm", True), ("m2.json", True), ("fixed.igvm", False)]
)
def test_the_cases_without_a_reset_page_have_a_finding(name: str, found: bool) -> None:
    path = str(CASES / "no-reset-page" / name)
    platform = () if name.endswith(".json") else ("--platform", "tdx")
    assert (
        "no-reset-vector" in rules_of(run("check", path, *platform, "--format", "json"))
    ) is found


@pytest.mark.parametrize(
    ("first", "kind", "found"),
    [(RESET_PAGE, "measured", False), (RESET_PAGE - PAGE, "unmeasured", False),
     (RESET_PAGE - 2 * PAGE, "measured", True), (RESET_PAGE, "augmented", True)],
)  # fmt: skip
def test_a_td_must_have_a_page_added_at_its_reset_vector(
    first: int, kind: str, found: bool, tmp_path: Path
) -> None:
    path = tmp_path / "m.json"
    region = {"gpa": hex(first), "size": hex(2 * PAGE) if first < RESET_PAGE else hex(PAGE),
              "type": kind, "source": {"zeros": True}}  # fmt: skip
    if kind != "measured":
        del region["source"]
    more = {"gpa": "0x1000", "size": "0x1000", "type": "measured", "source": {"zeros": True}}
    body = {"schema": "cvmplan.manifest/1", "platform": "tdx", "regions": [more, region]}
    path.write_text(json.dumps(body))
    result = run("check", str(path), "--vmm", "gce", "--format", "json")
    assert result.code == 0, result.out
    assert ("no-reset-vector" in rules_of(result)) is found


def test_firmware_that_ends_below_four_gigabytes_has_its_reset_vector() -> None:
    result = run("check", "--example", "tdx", "--format", "json")
    assert "no-reset-vector" not in rules_of(result)


# --- openvmm on the Microsoft hypervisor, igvmmeasure --------------------------------------------


def test_openvmm_before_4361_sorts_and_takes_one_state_and_one_cpuid_page(tmp_path: Path) -> None:
    cpuid = Item("page", 0x9000, DATA, data_type=CPUID_DATA)
    low, high = Item("page", 0x1000, DATA), Item("page", 0x20000, DATA)
    last = Item("state", KVM_VMSA, vmsa())

    def file(*drawn: Item) -> Igvm:
        made = Igvm().platform(SEV_SNP, 1).policy(0xB0000, 1)
        for item in drawn:
            if item.kind == "page":
                made = made.page(item.gpa, item.data, 1, data_type=item.data_type)
            else:
                made = made.vp_context(item.gpa, item.data, 1)
        return made

    drawn = (high, cpuid, low, last)
    plan = cvmplan(tmp_path, "plan", file(*drawn), EARLIER, "--format", "json")
    told = json.loads(plan.out)
    assert told["measurement"]["digest"] == digest(EARLIER, [*drawn], 1)
    assert told["measurement"]["digest"] == digest("hyper-v", [low, cpuid, high, last], 1)
    assert next(op["policy"] for op in told["ops"] if "policy" in op) == "0x3001f"
    since = cvmplan(tmp_path, "plan", file(*drawn), "openvmm-mshv", "--format", "json")
    told = json.loads(since.out)
    assert told["measurement"]["digest"] == digest("hyper-v", [*drawn], 1)
    assert next(op["policy"] for op in told["ops"] if "policy" in op) == "0xb0000"
    twice = Item("page", 0xA000, DATA, data_type=CPUID_DATA)
    for wrong in ((high, low, last), (high, cpuid, twice, last)):
        assert_refused(cvmplan(tmp_path, "measure", file(*wrong), EARLIER), {1})


def test_igvmmeasure_measures_the_states_of_other_platforms_too(tmp_path: Path) -> None:
    file = snp(vmsa()).vp_context(0x5000, vmsa(sev_features=0), 2)
    file.headers.insert(1, Igvm().platform(SEV_ES, 2).headers[0])
    file.version = 2
    drawn = [*items(vmsa()), Item("other", 0x5000, vmsa(sev_features=0))]
    found = {}
    for loader in ("igvmmeasure", "igvmmeasure-native-zero", "hyper-v"):
        result = cvmplan(tmp_path, "measure", file, loader, "--bare")
        assert (result.out, result.err) == (digest(loader, drawn, 1), "")
        found[loader] = result.out
    assert found["igvmmeasure"] != found["hyper-v"]
