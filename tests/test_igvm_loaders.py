"""What each loader makes of flags, data types, states and headers, after spec/igvm.md 2.1."""

from __future__ import annotations

import json
from hashlib import sha384
from itertools import product
from pathlib import Path
from struct import pack

import pytest

from tests.build import igvm
from tests.build.igvm import (
    CPUID_DATA,
    CPUID_XF,
    IS_2MB,
    NATIVE,
    NORMAL,
    PAGE,
    SECRETS,
    SEV_SNP,
    SHARED,
    SRAT,
    UNMEASURED,
    VSM_ISOLATION,
    Igvm,
    filling,
    vbs_registers,
    vmsa,
)
from tests.run import Result, assert_refused, run

VMSA_GPA = 0xFFFFFFFFF000
ADDING = ("qemu", "cloud-hypervisor", "cloud-hypervisor-mshv", "igvmmeasure")
SKIPPING = ("hyper-v",)
SKIPPING_NORMAL = ("openvmm", "openvmm-mshv")
KVM = ("qemu", "cloud-hypervisor", "openvmm")
ON_KVM = pytest.mark.parametrize("loader", KVM)


def started() -> Igvm:
    return Igvm().platform(SEV_SNP, 1).policy(0x30000, 1)


def ended(file: Igvm, state: bytes = b"", gpa: int = VMSA_GPA) -> Igvm:
    return file.page(0x1000, filling("one"), 1).vp_context(gpa, state or vmsa(), 1)


def cvmplan(folder: Path, verb: str, file: Igvm, loader: str, *more: str) -> Result:
    path = folder / "image.igvm"
    path.write_bytes(file.build())
    platform = () if "--platform" in more else ("--platform", "snp")
    return run(verb, str(path), "--vmm", loader, *platform, *more)


def refusal(result: Result, codes: set[int]) -> str:
    """Return the error of a run that ended with one of these codes and gave nothing."""
    assert_refused(result, codes)
    return result.err


def folded(digest: bytes, page_type: int, gpa: int, page: bytes) -> bytes:
    """Extend a launch digest as PAGE_INFO says (AMD 56860, SNP_LAUNCH_UPDATE)."""
    contents = sha384(page).digest() if page_type in (1, 2) else bytes(48)
    return sha384(digest + contents + pack("<HBBIQ", 0x70, page_type, 0, 0, gpa)).digest()


def page_type_of(loader: str, flags: int, data_type: int) -> int | None:
    """Return the SNP page type, or None for a page that is left out."""
    shared = bool(flags & SHARED)
    if shared and loader in SKIPPING:
        return None
    if data_type != NORMAL:
        return 5 if data_type == SECRETS else 6
    if flags & UNMEASURED:
        return 4
    return None if shared and loader in SKIPPING_NORMAL else 1


@pytest.mark.parametrize("loader", [*ADDING, *SKIPPING, *SKIPPING_NORMAL])
@pytest.mark.parametrize(
    ("flags", "data_type"),
    list(product((0, UNMEASURED, SHARED, SHARED | UNMEASURED), (NORMAL, SECRETS, CPUID_DATA))),
)
def test_flags_and_data_type_make_the_page_type(
    loader: str, flags: int, data_type: int, tmp_path: Path
) -> None:
    odd = filling("odd")
    file = started().page(0, odd, 1, flags=flags, data_type=data_type)
    page_type = page_type_of(loader, flags, data_type)
    digest = bytes(48) if page_type is None else folded(bytes(48), page_type, 0, odd)
    digest = folded(digest, 1, 0x1000, filling("one"))
    digest = folded(digest, 2, VMSA_GPA, vmsa())
    result = cvmplan(tmp_path, "measure", ended(file), loader, "--bare")
    assert (result.code, result.out) == (0, digest.hex()), result.err


@pytest.mark.parametrize("loader", ["cloud-hypervisor", "cloud-hypervisor-mshv", "openvmm"])
def test_the_flag_shared_hides_no_page_that_the_loader_cannot_do(
    loader: str, tmp_path: Path
) -> None:
    file = ended(started().page(0, filling("odd"), 1, flags=SHARED, data_type=CPUID_XF))
    assert "cpuid-xf" in refusal(cvmplan(tmp_path, "measure", file, loader), {1})


@pytest.mark.parametrize("platform", ["default", "sw-protected"])
@pytest.mark.parametrize("verb", ["measure", "check", "plan", "map"])
def test_a_file_for_native_is_refused(verb: str, platform: str, tmp_path: Path) -> None:
    file = Igvm(version=2).platform(NATIVE, 1).page(0x3000, filling("one"), 1)
    assert_refused(cvmplan(tmp_path, verb, file, "qemu", "--platform", platform), {4})


@pytest.mark.parametrize(
    ("at", "loader"),
    [(0x3C8, "qemu"), (0x3C8, "openvmm"), *((0x3B0, loader) for loader in KVM)],
)
def test_a_vmsa_that_kvm_cannot_make_is_refused(at: int, loader: str, tmp_path: Path) -> None:
    state = bytearray(vmsa())
    state[at] ^= 1  # virtual TOM, SNP active
    file = ended(started(), bytes(state))
    assert "KVM cannot set" in refusal(cvmplan(tmp_path, "measure", file, loader), {1})


@pytest.mark.parametrize(
    ("loader", "data", "accepted"),
    [("cloud-hypervisor", True, False), ("cloud-hypervisor", False, True), ("openvmm", True, True)],
)
def test_a_vmsa_over_a_page(loader: str, data: bool, accepted: bool, tmp_path: Path) -> None:
    file = started().page(0x5000, filling("under") if data else None, 1)
    result = cvmplan(tmp_path, "measure", ended(file, gpa=0x5000), loader)
    if accepted:
        assert result.code == 0, result.err
    else:
        assert "0x5000 overlaps a page with data" in refusal(result, {1})


@pytest.mark.parametrize(
    ("loader", "policies", "taken"),
    [("qemu", (0x30000, 0xB0000), 0xB0000), ("openvmm", (0x30000, 0xB0000), 0x30000),
     ("hyper-v", (0x30000, 0xB0000), 0x30000), ("cloud-hypervisor", (0, 0xB0000), 0xB0000)],
)  # fmt: skip
def test_of_several_guest_policies_the_loader_takes_one(
    loader: str, policies: tuple[int, ...], taken: int, tmp_path: Path
) -> None:
    file = Igvm().platform(SEV_SNP, 1)
    for policy in policies:
        file = file.policy(policy, 1)
    result = cvmplan(tmp_path, "plan", ended(file), loader, "--format", "json")
    ops = json.loads(result.out)["ops"]
    assert next(int(o["policy"], 16) for o in ops if "policy" in o) == taken


@pytest.mark.parametrize("loader", ["qemu", "openvmm", "hyper-v"])
def test_a_file_without_a_guest_policy_starts_no_guest(loader: str, tmp_path: Path) -> None:
    file = ended(Igvm().platform(SEV_SNP, 1))
    assert "guest policy" in refusal(cvmplan(tmp_path, "measure", file, loader), {1})


def test_qemu_refuses_a_header_that_it_does_not_know_on_any_platform(tmp_path: Path) -> None:
    file = Igvm().platform(SEV_SNP, 1).platform(VSM_ISOLATION, 2).policy(0x30000, 1)
    file = ended(file.error_range(0, PAGE, 2))
    assert "ERROR_RANGE" in refusal(cvmplan(tmp_path, "measure", file, "qemu"), {1})
    assert cvmplan(tmp_path, "measure", file, "cloud-hypervisor").code == 0


def test_qemu_refuses_corim_headers(tmp_path: Path) -> None:
    file = ended(started().corim_document(b"one", 1))
    assert "CORIM_DOCUMENT" in refusal(cvmplan(tmp_path, "measure", file, "qemu"), {1})


@ON_KVM
def test_a_loader_on_kvm_imports_nothing(loader: str, tmp_path: Path) -> None:
    result = cvmplan(tmp_path, "measure", ended(started()), loader, "--abi", "isolated-import")
    assert "it runs on KVM" in refusal(result, {1})


def test_openvmm_on_the_microsoft_hypervisor_moves_what_may_move(tmp_path: Path) -> None:
    file = ended(started().relocatable_region(0x1000, 0x1000, 1))
    result = cvmplan(tmp_path, "measure", file, "openvmm-mshv")
    assert "RELOCATABLE_REGION" in refusal(result, {1})


@pytest.mark.parametrize(
    ("contexts", "reason"),
    [((1,), "a different VP than 0"), ((0, 0), "registers of VTL 0 are there already")],
)
def test_vbs_registers_of_other_vps_or_twice_are_refused(
    contexts: tuple[int, ...], reason: str, tmp_path: Path
) -> None:
    file = Igvm().platform(VSM_ISOLATION, 1).page(0x1000, filling("one"), 1)
    for vp_index in contexts:
        file = file.vp_context(0, vbs_registers(), 1, vp_index=vp_index)
    result = cvmplan(tmp_path, "measure", file, "hyper-v", "--platform", "vbs")
    assert reason in refusal(result, {3, 4})


def test_more_vp_contexts_than_a_guest_may_have_are_refused(tmp_path: Path) -> None:
    file = started()
    for vp_index in range(4097):
        file = file.vp_context(VMSA_GPA, vmsa(), 1, vp_index=vp_index)
    error = refusal(cvmplan(tmp_path, "measure", file, "qemu"), {4})
    assert "more than 4096 VP contexts" in error
    assert f"+{file.at(file.number(igvm.VP_CONTEXT, 4096)):#x}" in error


@pytest.mark.parametrize(
    ("spoilt", "refusing"),
    [("nothing", ()), ("policy", ("qemu", "hyper-v", "openvmm", "openvmm-mshv")),
     ("srat", ("qemu",)), ("region", ("qemu", "openvmm", "openvmm-mshv")),
     ("state", ("qemu", "openvmm")), ("2 MiB", None)],
)  # fmt: skip
def test_portable_names_the_loaders_that_refuse(
    spoilt: str, refusing: tuple[str, ...] | None, tmp_path: Path
) -> None:
    file = Igvm().platform(SEV_SNP, 1) if spoilt == "policy" else started()
    if spoilt == "srat":
        file = file.area(0, PAGE).parameter(SRAT, 0).insert(0, 0, 1)
    if spoilt == "region":
        file = file.relocatable_region(0x1000, 0x1000, 1)
    if spoilt == "2 MiB":
        file = file.page(0x200000, filling("large"), 1, flags=IS_2MB)
    state = bytearray(vmsa())
    state[0x3C8] = spoilt == "state"
    result = cvmplan(
        tmp_path, "check", ended(file, bytes(state)), "igvmmeasure", "--format", "json"
    )
    message = next(
        f["message"] for f in json.loads(result.out)["findings"]
        if f["rule"] == "portable" and "loaders" in f["message"]
    )  # fmt: skip
    if refusing:
        assert message.endswith(f"{', '.join(refusing)} would refuse the file")
    else:
        assert "would refuse" in message or refusing == ()
        assert ("all loaders compute one digest" in message) is (refusing == ())
