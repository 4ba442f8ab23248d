"""Manifests: what they may say, and one clear error for what they may not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.build.ovmf import good_snp, good_tdx
from tests.manifests import document, region, run_on, write
from tests.oracles.firmware import FakePsp, FakeTdxModule
from tests.run import assert_refused, run


def psp_digest(*pages: tuple[int, int, bytes], vmsa: bytes | None = None) -> str:
    """Return the launch digest of pages (type, gpa, contents), by the naive firmware."""
    psp = FakePsp()
    psp.launch_start(0x30000)
    for page in pages:
        psp.launch_update(*page)
    if vmsa:
        psp.launch_update(2, 0xFFFFFFFFF000, vmsa)
    psp.launch_finish()
    return psp.digest.hex()


def added(folder: Path, manifest: dict[str, Any]) -> str:
    """Return the digest before the VMSA: what the last add of the plan leads to."""
    plan = json.loads(run_on(folder, "plan", manifest, "--format", "json").out)
    return str([op["digest_after"] for op in plan["ops"] if op["kind"] == "add"][-1])


def test_every_snp_page_type_is_measured_as_firmware_would(tmp_path: Path) -> None:
    (tmp_path / "k.bin").write_bytes(bytes(range(256)) * 32)
    manifest = document(
        region("0x1000", "normal", source={"file": "k.bin", "offset": 4096}),
        region("0x2000", "zero"),
        region("0x3000", "unmeasured"),
        region("0x4000", "secrets"),
        region("0x5000", "cpuid"),
        region("0x6000", "normal", source={"hex": "00ff"}, pad="zero"),
        region("0x7000", "normal", source={"zeros": True}, size="8KiB"),
    )
    zero = bytes(4096)
    page = bytes(range(256)) * 16
    wanted = psp_digest(
        (1, 0x1000, page), (3, 0x2000, zero), (4, 0x3000, zero), (5, 0x4000, zero),
        (6, 0x5000, zero), (1, 0x6000, b"\x00\xff" + bytes(4094)), (1, 0x7000, zero),
        (1, 0x8000, zero),
    )  # fmt: skip
    assert added(tmp_path, manifest) == wanted


def test_tdx_measures_added_and_extended_pages(tmp_path: Path) -> None:
    page = hashlib.sha512(b"page").digest() * 64
    manifest = document(
        region("0x200000", "measured", source={"hex": page.hex()}),
        region("0x201000", "unmeasured", source={"zeros": True}, size=4096),
        region("0x202000", "augmented"),
        platform="tdx",
    )
    module = FakeTdxModule()
    module.mng_init()
    module.vp_init()
    for level in (3, 2, 1):
        module.mem_sept_add(level, 0x200000 if level == 1 else 0)
    module.mem_page_add(0x200000, page)
    for chunk in range(0x200000, 0x201000, 256):
        module.mr_extend(chunk)
    module.mem_page_add(0x201000, bytes(4096))
    module.mr_finalize()
    assert run_on(tmp_path, "measure", manifest, "--bare").out == module.digest.hex()


def test_firmware_comes_first_and_brings_its_sections(tmp_path: Path) -> None:
    (tmp_path / "f.fd").write_bytes(good_snp().build())
    manifest = document(region("0x1000000", "zero"), firmware={"file": "f.fd"})
    plan = json.loads(run_on(tmp_path, "plan", manifest, "--format", "json").out)
    adds = [op for op in plan["ops"] if op["kind"] == "add"]
    assert [adds[0]["gpa"], adds[1]["gpa"], adds[-1]["gpa"]] == [
        "0xffff8000",
        "0x800000",
        "0x1000000",
    ]
    assert [i["role"] for i in plan["inputs"]] == ["image", "firmware"]


def test_an_option_beats_the_manifest(tmp_path: Path) -> None:
    manifest = document(region("0x1000"), guest={"sev_features": "0x21", "policy": "0x70000"})
    printed = run_on(tmp_path, "measure", manifest, "--policy", "0x30000", "--format", "json")
    given = json.loads(printed.out)["given"]
    assert (given["policy"], given["sev_features"]) == ("0x30000", "0x21")


def test_toml_and_yaml_say_the_same_as_json(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(
        'schema = "cvmplan.manifest/1"\nplatform = "snp"\n'
        '[[regions]]\ngpa = 0x1000\ntype = "zero"\nsize = "8KiB"\n'
    )
    (tmp_path / "m.yaml").write_text(
        "schema: cvmplan.manifest/1\nplatform: snp\n"
        "regions:\n  - {gpa: 0x1000, type: zero, size: 8KiB}\n"
    )
    toml = run("measure", str(tmp_path / "m.toml"), "--bare")
    yaml = run("measure", str(tmp_path / "m.yaml"), "--bare")
    wanted = run_on(tmp_path, "measure", document(region("4096", size=8192)), "--bare").out
    assert toml.out == yaml.out == wanted != ""


def test_a_region_of_a_tebibyte_costs_nothing_to_check(tmp_path: Path) -> None:
    manifest = document(region(0, "augmented", size="1TiB"), platform="tdx")
    assert "1 error, 1 warning" in run_on(tmp_path, "check", manifest).out  # it adds no page
    manifest = document(region(0, "zero", size="1TiB"))
    assert_refused(run_on(tmp_path, "measure", manifest), {4})
    manifest = document(
        region(0, "mapped", source={"zeros": True}, size="1TiB"), platform="default"
    )
    assert "largest page 1 GiB" in run_on(tmp_path, "plan", manifest).out


def good(**more: Any) -> dict[str, Any]:
    return document(region("0x1000"), **more)


WRONG_VALUES: dict[str, tuple[Any, int, str]] = {
    "an_empty_object": ({}, 3, "schema"),
    "another_schema": ({**good(), "schema": "cvmplan.manifest/2"}, 3, "schema"),
    "an_unknown_key": ({**good(), "region": []}, 3, "region"),
    "an_unknown_region_key": (document(region(0x1000, gap=1)), 3, "regions[0].gap"),
    "a_float_address": (document(region(4096.0)), 3, "regions[0].gpa"),
    "a_boolean_address": (document(region(True)), 3, "regions[0].gpa"),
    "a_negative_address": (document(region(-4096)), 3, "regions[0].gpa"),
    "an_address_past_2_64": (document(region("0x10000000000000000")), 3, "regions[0].gpa"),
    "an_octal_address": (document(region("0o10000")), 3, "regions[0].gpa"),
    "an_address_with_underscores": (document(region("1_000")), 3, "regions[0].gpa"),
    "a_unit_on_an_address": (document(region("4KiB")), 3, "regions[0].gpa"),
    "a_size_that_overflows": (document(region(0, size="20000000000TiB")), 3, "regions[0].size"),
    "an_unknown_page_type": (document(region(0, "zeroes")), 3, "regions[0].type"),
    "a_page_type_of_another_platform": (
        document(region(0, "measured", source={"zeros": True}, size=4096)),
        2,
        "regions[0].type",
    ),
    "no_size_and_no_contents": (
        document({"gpa": 0, "type": "zero"}), 3, "regions[0].size",
    ),
    "two_sources": (
        document(region(0, "normal", source={"hex": "00", "zeros": True})), 3, "source",
    ),
    "contents_for_a_zero_page": (
        document(region(0, "zero", source={"hex": "00"}, pad="zero")), 3, "source",
    ),
    "a_normal_page_without_contents": (document(region(0, "normal")), 3, "source"),
    "contents_longer_than_the_size": (
        document(region(0, "normal", source={"hex": "00" * 4097}, size=4096)), 3, "regions[0]",
    ),
    "odd_hex": (document(region(0, "normal", source={"hex": "0"})), 3, "source.hex"),
    "an_unpadded_page": (
        document(region(0, "normal", source={"hex": "00"})), 1, "partial-page",
    ),
    "too_many_vcpus": (good(guest={"vcpus": 4097}), 3, "guest.vcpus"),
    "no_vcpus": (good(guest={"vcpus": 0}), 3, "guest.vcpus"),
    "a_policy_list": (good(guest={"policy": []}), 3, "guest.policy"),
    "a_setting_of_another_platform": (good(guest={"gpaw": 48}), 2, "gpaw"),
    "a_file_that_is_not_there": (
        document(region(0, "normal", source={"file": "none.bin"})), 3, "none.bin",
    ),
    "a_file_outside_the_folder": (
        document(region(0, "normal", source={"file": "../m.json"})), 2, "is outside",
    ),
    "an_absolute_file": (
        document(region(0, "normal", source={"file": "/dev/null"})), 2, "is outside",
    ),
    "a_hash_that_does_not_fit": (
        document(region(0, "normal", source={"file": "x.bin", "sha256": "00" * 32})), 1, "sha256",
    ),
    "an_offset_past_the_end": (
        document(region(0, "normal", source={"file": "x.bin", "offset": 4097})), 3, "x.bin",
    ),
    "an_empty_source": (
        document(region(0, "normal", source={"file": "x.bin", "offset": 4096})), 1, "empty-region",
    ),
    "application_processors_without_an_entry": (
        good(guest={"vcpus": 2}), 1, "ap-without-entry",
    ),
    "vmsas_in_the_image": (
        document(region(0, "vmsa", source={"zeros": True}, size=4096)), 1, "loader-refuses",
    ),
    "the_address_of_the_vmsas": (document(region("0xfffffffff000")), 1, "gpa-reserved"),
    "an_unaligned_address": (document(region("0x1001")), 1, "gpa-unaligned"),
    "a_size_of_half_a_page": (document(region(0, size=2048)), 1, "size-unaligned"),
    "an_address_that_wraps": (
        document(region("0xfffffffffffff000", size="8KiB")), 1, "gpa-wraps",
    ),
    "an_address_past_52_bits": (document(region("0x10000000000000")), 1, "gpa-out-of-range"),
    "an_address_with_the_c_bit": (
        document(region("0x8000000000000"), guest={"c_bit": 51}), 1, "gpa-out-of-range",
    ),
    "a_page_outside_memory": (
        good(memory=[{"gpa": 0, "size": 4096}]), 1, "outside-memory",
    ),
    "a_required_page_that_nothing_maps": (
        good(required=[{"gpa": "0x2000", "size": 4096}]), 1, "required-not-mapped",
    ),
    "firmware_that_is_a_manifest": (good(firmware={"file": "m.json"}), 2, "firmware.file"),
    "a_firmware_of_no_size": (good(firmware={"digest": "00" * 48, "size": 0}), 2, "firmware.size"),
    "a_firmware_past_4_gib": (
        good(firmware={"digest": "00" * 48, "size": "5GiB"}), 2, "firmware.size",
    ),
    "memory_past_the_last_address": (
        good(memory=[{"gpa": 0, "size": "0xfffffffffffff000"}]), 1, "gpa-out-of-range",
    ),
    "a_setting_popped_on_the_way": (
        document(region(0, "unmeasured"), platform="tdx", guest={"family": 23}), 2, "guest.family",
    ),
    "padding_without_firmware": (
        document(region(0, "unmeasured"), platform="tdx", guest={"pad": "zero"}), 2, "guest.pad",
    ),
    "firmware_that_is_nothing": (good(firmware={"size": "4MiB"}), 3, "firmware"),
    "a_firmware_hash_without_the_firmware": (good(firmware={"sha256": "11" * 32}), 3, "firmware"),
    "a_hash_of_zeros": (
        document(region(0, "zero", source={"zeros": True, "sha256": "11" * 32}, size=4096)),
        3, "source",
    ),
    "a_file_name_that_is_none": (
        document(region(0, "normal", source={"file": "\0"})), 3, "m.json",
    ),
    "the_name_of_an_example": (
        document(region(0, "normal", source={"file": "example:snp"})), 3, "example:snp",
    ),
    "a_profile_that_is_not_there": (good(vmm="foo"), 2, "m.json: vmm"),
    "a_cpu_that_is_not_there": (good(guest={"cpu": "foo"}), 2, "m.json: guest.cpu"),
    "no_platform": ({**good(), "platform": None}, 2, "platform"),
    "a_kernel_command_line_without_a_kernel": (good(boot={"append": "x"}), 2, "append"),
    "a_kernel_and_its_hash": (
        good(boot={"kernel": {"file": "x.bin"}, "kernel_hash": "00" * 32}), 2, "kernel",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("manifest", "code", "place"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_refused(tmp_path: Path, manifest: Any, code: int, place: str) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(range(256)) * 16)
    result = run_on(tmp_path, "measure", manifest)
    assert_refused(result, {code})
    assert place in result.err.splitlines()[0]
    assert any(name in result.err for name in ("m.json", "x.bin", "none.bin", "example:snp"))


WRONG_TEXT = {
    "a_key_twice": (
        '{"schema": "cvmplan.manifest/1",\n "platform": "snp",\n "platform": "tdx"}',
        3, ":3: platform",
    ),
    "a_key_twice_deep": (
        '{"schema": "cvmplan.manifest/1", "regions": [{"gpa": 1},\n{"gpa": 1, "gpa": 2}]}',
        3, ":2: regions[1].gpa",
    ),
    "not_json": ('{"schema": \n "cvmplan.manifest/1",,}', 3, ":2"),
    "nan": ('{"schema": "cvmplan.manifest/1", "regions": NaN}', 3, "NaN"),
    "nested_without_end": ('{"a":' + "[" * 100_000, 3, "deep"),
    "an_endless_number": ('{"a": ' + "9" * 10_000 + "}", 3, "m.json"),
    "not_utf8": ('{"schema": "cvmplan.manifest/1", "a": "\udcff"}', 3, "UTF-8"),
    "a_document_of_empty_lines": ("cvmplan.manifest/1" + "\n" * 100_000, 3, "m.json"),
    "toml_nested_too_deep": ('schema = "cvmplan.manifest/1"\n' + "a." * 9999 + "a = 1", 3, "deep"),
    "toml_with_an_endless_number": ('schema = "cvmplan.manifest/1"\na = ' + "9" * 9999, 3, "TOML"),
    "yaml_with_an_odd_escape": ('schema: cvmplan.manifest/1\na: "\\UFFFFFFFF"', 3, "YAML"),
    "half_a_character": (
        ('{"schema": "cvmplan.manifest/1", "platform": "snp", "regions": '
        '[{"gpa": 0, "type": "normal", "source": {"file": "\\ud800"}}]}'),
        3, r"source.file: '\ud800' is not Unicode",
    ),
    "toml_that_is_broken": ('schema = "cvmplan.manifest/1"\nplatform = ', 3, "TOML"),
    "toml_with_a_key_twice": ('schema = "cvmplan.manifest/1"\nvmm = "a"\nvmm = "b"', 3, "TOML"),
    "toml_with_a_date": ('schema = "cvmplan.manifest/1"\nplatform = 2026-01-01', 3, "platform"),
    "yaml_with_a_key_twice": ("schema: cvmplan.manifest/1\nvmm: a\nvmm: b", 3, ":3: vmm"),
    "yaml_with_an_alias": ("schema: cvmplan.manifest/1\nmemory: &a []\nrequired: *a", 3, "alias"),
    "yaml_that_is_broken": ("schema: cvmplan.manifest/1\n  a: [", 3, "YAML"),
    "yaml_with_an_octal": (
        "schema: cvmplan.manifest/1\nregions: [{gpa: 010000, type: zero, size: 1}]",
        3, "regions[0].gpa",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "code", "place"), WRONG_TEXT.values(), ids=WRONG_TEXT)
def test_refused_text(tmp_path: Path, text: str, code: int, place: str) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    result = run("measure", str(path))
    assert_refused(result, {code})
    assert place in result.err.splitlines()[0]


def test_the_line_of_a_wrong_value_is_named(tmp_path: Path) -> None:
    text = json.dumps(document(region(0x1000), region("x")), indent=1)
    result = run("measure", write(tmp_path, text))
    line = 1 + next(n for n, text in enumerate(text.splitlines()) if '"x"' in text)
    assert f"m.json:{line}: regions[1].gpa" in result.err


def test_allow_outside_permits_other_folders(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(4096))
    (tmp_path / "sub").mkdir()
    manifest = document(region(0, "normal", source={"file": "../x.bin"}))
    path = write(tmp_path / "sub", manifest)
    assert_refused(run("measure", path), {2})
    assert run("measure", path, "--allow-outside").code == 0


def test_a_symbolic_link_does_not_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.bin").symlink_to(tmp_path / "secret.bin")
    path = write(tmp_path / "sub", document(region(0, "normal", source={"file": "x.bin"})))
    assert_refused(run("measure", path), {2})


def test_a_hash_of_the_part_or_of_the_file_is_taken(tmp_path: Path) -> None:
    data = bytes(range(256)) * 32
    (tmp_path / "x.bin").write_bytes(data)
    for chosen in (data, data[4096:]):
        digest = hashlib.sha256(chosen).hexdigest()
        source = {"file": "x.bin", "offset": 4096, "sha256": digest}
        assert run_on(tmp_path, "measure", document(region(0, "normal", source=source))).code == 0


def test_memory_and_required_see_the_firmware_too(tmp_path: Path) -> None:
    (tmp_path / "f.fd").write_bytes(good_tdx().build())
    memory = [{"gpa": 0, "size": "2GiB"}, {"gpa": "0xffc00000", "size": "4MiB"}]
    manifest = document(platform="tdx", memory=memory, firmware={"file": "f.fd"})
    manifest["required"] = [{"gpa": "0x809000", "size": "0x2000"}]
    assert run_on(tmp_path, "check", manifest).code == 0
    manifest["memory"] = memory[:1]
    result = run_on(tmp_path, "check", manifest)
    assert result.code == 1
    assert result.out.count("outside-memory") == 2
    manifest["required"] = [{"gpa": "0x806000", "size": "0x1000"}]
    assert "required-not-mapped" in run_on(tmp_path, "check", manifest).out


def test_augmented_pages_satisfy_no_requirement(tmp_path: Path) -> None:
    required = [{"gpa": 0, "size": 4096}]
    manifest = document(region(0, "augmented"), platform="tdx", required=required)
    assert_refused(run_on(tmp_path, "measure", manifest), {1})


def test_only_the_digest_of_the_firmware_is_needed(tmp_path: Path) -> None:
    seed = hashlib.sha384(b"firmware").hexdigest()
    firmware = {"digest": seed, "size": "2MiB"}
    manifest = document(region("0xffe00000"), firmware=firmware)
    assert "gpa-mapped-twice" in run_on(tmp_path, "measure", manifest).err
    manifest = document(region("0xffdff000"), firmware=firmware)
    info = (
        bytes.fromhex(seed)
        + bytes(48)
        + bytes.fromhex("7000030000000000")
        + (0xFFDFF000).to_bytes(8, "little")
    )
    assert added(tmp_path, manifest) == hashlib.sha384(info).hexdigest()
