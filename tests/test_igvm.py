"""IGVM files: digests of other programs, what loaders refuse, plans and simulations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.oracles import SHARED
from tests.plans import Answers
from tests.run import Result, assert_refused, run

FOLDER = SHARED / "vectors" / "igvm"
needs_shared = pytest.mark.skipif(not FOLDER.exists(), reason=f"{FOLDER} is absent")
PLATFORMS = {"SEV_SNP": "snp", "TDX": "tdx", "VSM_ISOLATION": "vbs"}
LOADERS = {
    "igvm_crate": "hyper-v",
    "igvmmeasure": "igvmmeasure",
    "igvmmeasure_native_zero": "igvmmeasure-native-zero",
    "qemu-kvm": "qemu",
    "ch-kvm": "cloud-hypervisor",
    "ch-mshv": "cloud-hypervisor-mshv",
    "openvmm-kvm": "openvmm",
}
BY_SOURCE = {
    # spec/corrections.md 1.1: by the loader's source, where the vectors took the page verbatim
    ("snp_no_zero", "cloud-hypervisor"): "1e8c5155",
    ("snp_param_1page", "cloud-hypervisor"): "b47a7c9b",
    ("unmeasured_pages", "cloud-hypervisor"): "7d356e22",
    ("tooling_bzimage_x64", "cloud-hypervisor"): "2d1a3054",
    ("tooling_bzimage_x64", "openvmm"): "86bb34a9",
}
OVERLAP = "names one page twice, which firmware refuses"
XF = "CPUID_XF: not implemented there (spec/igvm.md 2.1)"
REFUSED = {
    # (file, loader): why there is no digest of ours where the vectors have one
    ("flag_2mb_page", "igvmmeasure"): "2 MiB pages end it (spec/igvm.md 2.1)",
    ("flag_2mb_page", "igvmmeasure-native-zero"): "2 MiB pages end it (spec/igvm.md 2.1)",
    **{("overlap_page_page", loader): OVERLAP for loader in LOADERS.values()},
    **{
        (file, loader): XF
        for file in ("snp_basic", "snp_idblock", "snp_vmsa_first")
        for loader in ("cloud-hypervisor", "cloud-hypervisor-mshv", "openvmm")
    },
    ("multi_v2_native", "qemu"): "DEVICE_TREE is an unknown directive there",
    ("corim_doc", "qemu"): "CoRIM headers fail there (spec/igvm.md 2.1 f)",
    ("snp_all_params", "qemu"): "SRAT and others are unknown directives there",
    ("tooling_bzimage_x64", "qemu"): "a VMSA elsewhere than 0xfffffffff000 is refused",
}


def vectors() -> Iterator[tuple[str, str, str, str]]:
    """Yield (file, platform, loader, digest) of each known answer; none without the shared data."""
    if not (FOLDER / "vectors.json").exists():
        return
    for entry in json.loads((FOLDER / "vectors.json").read_text())["valid"]:
        for platform, expected in entry["expected"].items():
            known = {**expected, **expected.get("derived_from_source_not_run", {})}
            for key, loader in LOADERS.items():
                # SEV-ES has igvmmeasure's alone, which leaves zero pages out (spec/igvm.md 3).
                verbatim = key == "ch-kvm" or (entry["name"], loader) in BY_SOURCE
                if key in known and platform in PLATFORMS and not verbatim:
                    yield entry["name"], PLATFORMS[platform], loader, known[key]


def path_of(name: str) -> str:
    return str(FOLDER / f"{name}.igvm")


def verb(name: str, file: str, platform: str, loader: str, *more: str) -> Result:
    return run(name, path_of(file), "--platform", platform, "--vmm", loader, *more)


@needs_shared
def test_there_are_known_answers_for_every_loader_with_vectors() -> None:
    found = list(vectors())
    assert len(found) > 100
    assert {loader for _, _, loader, _ in found} == {*LOADERS.values()} - {"cloud-hypervisor"}


@needs_shared
@pytest.mark.parametrize(("file", "loader"), BY_SOURCE)
def test_on_kvm_the_state_that_the_loader_sets_is_measured(file: str, loader: str) -> None:
    result = verb("measure", file, "snp", loader, "--abi", "kvm-6.16", "--bare")
    assert (result.code, result.out[:8]) == (0, BY_SOURCE[file, loader])


@needs_shared
@pytest.mark.parametrize(("file", "platform", "loader", "digest"), list(vectors()))
def test_each_file_has_the_digest_of_each_loader(
    file: str, platform: str, loader: str, digest: str
) -> None:
    result = verb("measure", file, platform, loader, "--bare")
    if (file, loader) in REFUSED:
        assert_refused(result, {1})
        assert "loader-refuses" in result.err or "gpa-mapped-twice" in result.err
    else:
        assert (result.code, result.out) == (0, digest), result.err


def rules_of(result: Result) -> dict[str, dict[str, Any]]:
    return {f["rule"]: f for f in json.loads(result.out)["findings"]}


@needs_shared
@pytest.mark.parametrize("platform", ["snp", "tdx", "vbs"])
def test_a_page_named_twice_has_both_headers_and_their_offsets(platform: str) -> None:
    result = verb("check", "overlap_page_page", platform, "hyper-v", "--format", "json")
    found = rules_of(result)["gpa-mapped-twice"]
    assert result.code == 1
    assert (found["first"], found["last"]) == ("0x1000", "0x1000")
    assert all("header" in origin and "(+0x" in origin for origin in found["origins"])
    assert len(set(found["origins"])) == 2


@needs_shared
@pytest.mark.parametrize("platform", ["snp", "tdx"])
def test_the_same_page_on_two_platforms_is_fine(platform: str) -> None:
    result = verb("check", "overlap_page_page_diffmask", platform, "hyper-v", "--format", "json")
    assert result.code == 0
    assert "gpa-mapped-twice" not in rules_of(result)


@needs_shared
@pytest.mark.parametrize(
    ("file", "portable"),
    [("snp_no_zero", False), ("snp_param_1page", False), ("unmeasured_pages", False),
     ("snp_basic", False), ("snp_param_after_pages", False), ("shared_pages", False),
     ("snp_vmsa_first", False), ("flag_2mb_page", False)],
)  # fmt: skip
def test_portable_says_whether_all_loaders_agree(file: str, portable: bool) -> None:
    result = verb("check", file, "snp", "hyper-v", "--format", "json")
    assert ("all loaders compute one digest" in rules_of(result)["portable"]["message"]) is portable


@needs_shared
def test_portable_groups_the_loaders_that_have_one_digest() -> None:
    for file in ("snp_no_zero", "snp_param_1page", "unmeasured_pages"):
        found = rules_of(verb("check", file, "snp", "hyper-v", "--format", "json"))
        message = found["portable"]["message"]
        groups = message.partition("measure alike: ")[2].partition(";")[0].split(" | ")
        digests: dict[str, set[str]] = {}
        for name, platform, loader, digest in vectors():
            if (name, platform) == (file, "snp") and "igvmmeasure" not in loader:
                group = next(g for g in groups if loader in g.split(", "))
                digests.setdefault(group, set()).add(digest)
        assert [len(d) for d in digests.values()] == [1]
        assert "cloud-hypervisor" in groups  # alone: 1e8c5155… and the others above


@needs_shared
def test_an_id_block_is_compared_with_the_digest_of_the_loader() -> None:
    right = verb("check", "snp_idblock", "snp", "hyper-v", "--format", "json")
    assert right.code == 0
    assert "id-block-mismatch" not in rules_of(right)
    wrong = verb("check", "snp_idblock", "snp", "igvmmeasure", "--format", "json")
    assert wrong.code == 1
    assert rules_of(wrong)["id-block-mismatch"]["severity"] == "error"
    measured = verb("measure", "snp_idblock", "snp", "igvmmeasure", "--format", "json")
    assert measured.code == 0
    assert rules_of(measured)["id-block-mismatch"]["severity"] == "warning"


@needs_shared
def test_vcpus_and_policy_come_from_the_file() -> None:
    told = json.loads(verb("measure", "snp_basic", "snp", "hyper-v", "--format", "json").out)
    assert told["assumed"]["vcpus"] == 1
    assert told["assumed"]["policy"] == "0x30000"
    assert told["assumed"]["vmm"] if "vmm" in told["assumed"] else told["given"]["vmm"] == "hyper-v"
    assert told["abi"] == "isolated-import"


@needs_shared
@pytest.mark.parametrize(
    "option",
    [
        ("--kernel-hash", "00" * 32),
        ("--firmware-digest", "00" * 48),
        ("--sev-features", "0x201"),
        ("--reset-eip", "0x1000"),
    ],
)
def test_settings_that_the_file_decides_are_refused(option: tuple[str, str]) -> None:
    assert_refused(verb("measure", "snp_basic", "snp", "qemu", *option), {2})


@needs_shared
def test_firmware_vmms_load_no_igvm_file() -> None:
    for loader in ("ec2", "gce"):
        assert_refused(verb("measure", "snp_basic", "snp", loader), {1})
    assert_refused(verb("measure", "tdx_basic", "tdx", "qemu"), {1})
    assert_refused(verb("measure", "snp_basic", "tdx", "hyper-v"), {4})


@needs_shared
def test_required_memory_must_lie_in_the_memory_of_a_manifest(tmp_path: Any) -> None:
    (tmp_path / "x.igvm").write_bytes((FOLDER / "snp_basic.igvm").read_bytes())
    body = {
        "schema": "cvmplan.manifest/1", "platform": "snp", "firmware": {"file": "x.igvm"},
        "memory": [{"gpa": "0x0", "size": "1MiB"}, {"gpa": "0xfffff000", "size": "4KiB"}],
    }  # fmt: skip
    path = tmp_path / "m.json"
    path.write_text(json.dumps(body))
    small = run("check", str(path), "--format", "json")
    assert small.code == 1
    outside = [f for f in json.loads(small.out)["findings"] if f["rule"] == "outside-memory"]
    assert [(f["first"], f["last"]) for f in outside] == [("0x100000", "0x2ff000")]
    body["memory"] = [{"gpa": "0x0", "size": "4MiB"}, {"gpa": "0xfffff000", "size": "4KiB"}]
    path.write_text(json.dumps(body))
    alone = verb("measure", "snp_basic", "snp", "hyper-v", "--bare")
    assert run("measure", str(path), "--bare").out == alone.out


# --- plans and simulations ---------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize("abi", ["map-memory", "kvm-6.11", "kvm-6.18", "kvm-7.0", "kvm-in-place"])
@pytest.mark.parametrize(
    ("file", "platform", "loader"),
    [("snp_basic", "snp", "qemu"), ("snp_param_after_pages", "snp", "qemu"),
     ("snp_no_zero", "snp", "cloud-hypervisor"), ("snp_param_1page", "snp", "openvmm"),
     ("snp_no_zero", "snp", "hyper-v"),
     ("tdx_basic", "tdx", "hyper-v")],
)  # fmt: skip
def test_a_plan_for_kvm_is_accepted_and_reaches_the_digest(
    file: str, platform: str, loader: str, abi: str
) -> None:
    if (platform, abi) == ("tdx", "kvm-6.11"):
        pytest.skip("that kernel has no TDX guests")
    plan = verb("plan", file, platform, loader, "--abi", abi, "--format", "json")
    assert plan.code == 0, plan.err
    answers = Answers(run("simulate", "-", "--format", "json", stdin=plan.out.encode()))
    assert answers.errors() == []
    assert answers.finalized
    measured = verb("measure", file, platform, loader, "--abi", abi, "--bare")
    assert answers.digest == measured.out


@needs_shared
def test_sev_features_that_a_kernel_refuses_are_refused_before_the_launch() -> None:
    """The file's state has SNP active, which no SEV-ES guest can have."""
    for name in ("check", "plan", "measure"):
        assert verb(name, "sev_es", "sev-es", "qemu", "--abi", "kvm-6.18").code == 1
    plan = verb("plan", "sev_es", "sev-es", "qemu", "--format", "json").out
    answers = Answers(
        run("simulate", "-", "--abi", "kvm-6.18", "--format", "json", stdin=plan.encode())
    )
    assert answers.errors()[0] == ("init", "EINVAL")


@needs_shared
@pytest.mark.parametrize(
    ("file", "platform", "loader"),
    [("snp_basic", "snp", "hyper-v"), ("tdx_basic", "tdx", "hyper-v"),
     ("vbs_basic", "vbs", "hyper-v"), ("multi_v1", "vbs", "openvmm-mshv"),
     ("snp_no_zero", "snp", "cloud-hypervisor-mshv"), ("snp_no_zero", "snp", "openvmm-mshv")],
)  # fmt: skip
def test_a_plan_of_imports_read_back_measures_the_same(
    file: str, platform: str, loader: str, tmp_path: Any
) -> None:
    path = tmp_path / "plan.json"
    plan = verb("plan", file, platform, loader, "--format", "json", "-o", str(path))
    assert plan.code == 0, plan.err
    document = json.loads(path.read_text())
    assert {o["op"] for o in document["ops"] if o["kind"] == "add"} == {"import-page"}
    again = run("measure", str(path), "--bare")
    assert again.out == verb("measure", file, platform, loader, "--bare").out
    assert len(again.out) in (64, 96)


@needs_shared
def test_an_order_that_is_not_kvms_is_refused_on_kvm() -> None:
    assert verb("plan", "snp_vmsa_first", "snp", "hyper-v").code == 0
    assert_refused(verb("plan", "snp_vmsa_first", "snp", "hyper-v", "--abi", "kvm-6.18"), {1})


@needs_shared
def test_tdx_on_kvm_says_that_nothing_loads_it_yet() -> None:
    result = verb("check", "tdx_basic", "tdx", "hyper-v", "--abi", "kvm-6.16", "--format", "json")
    assert result.code == 0
    assert "no VMM on KVM" in rules_of(result)["loader-refuses"]["message"]


@needs_shared
def test_inspect_prints_all_headers_with_their_offsets() -> None:
    told = json.loads(run("inspect", path_of("snp_basic"), "--format", "json").out)
    rows = told["tables"][0]["rows"]
    assert [r["header"] for r in rows][:9] == ["0", "1", "2", "3", "4", "5", "6", "7-8", "9-10"]
    assert rows[7] == {
        "header": "7-8", "at": "0xb8", "name": "PAGE_DATA",
        "fields": "gpa=0x10000 compatibility_mask=0x1 file_offset=0x218 flags=0x0 data_type=0x0 "
        "reserved=0x0",
    }  # fmt: skip
    assert told["allows"] == ["SEV_SNP"]
