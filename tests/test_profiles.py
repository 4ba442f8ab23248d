"""Profiles: each quirk changes what it says, and each fact has a source."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import cvmplan
from cvmplan import plan_image
from cvmplan.core.errors import MapError, UnsupportedError
from cvmplan.core.findings import RULES
from cvmplan.operations.measure import measure
from cvmplan.operations.plan import Plan
from cvmplan.platforms.snp.ops import SnpLaunchFinish, SnpLaunchUpdate
from cvmplan.profiles import HARDWARE, PROFILES, RECORDED, SOURCE, TWO
from cvmplan.profiles.cpus import SIGNATURES
from tests.build.ovmf import BFV, CFV, TD_HOB, TEMP_MEM, Ovmf, TdxSection, good_snp, good_tdx
from tests.oracles.firmware import FakeTdxModule
from tests.run import assert_refused, run

PERM_MEM, PAYLOAD, PAYLOAD_PARAM, TD_INFO, TD_PARAMS = 4, 5, 6, 7, 8


def td_shim_image() -> Ovmf:
    """An image in td-shim's manner: payload sections, augmented memory, information sections."""
    image = good_tdx()
    size, top = image.size, 2**32 - image.size
    image.tdx_sections = [
        TdxSection(0, 0x1000, top, 0x1000, CFV, 0),
        TdxSection(0, 0, 0x809000, 0x2000, TD_HOB, 0),
        TdxSection(0, 0, 0x810000, 0x2000, TEMP_MEM, 0),
        TdxSection(0, 0, 0x1000000, 0x100000, PERM_MEM, 2),
        TdxSection(0x1000, 0x1000, 0x2000000, 0x1000, PAYLOAD, 1),
        TdxSection(0, 0, 0x2001000, 0x1000, PAYLOAD_PARAM, 0),
        TdxSection(size - 0x1000, 0x40, 0, 0, TD_INFO, 0),
        TdxSection(size - 0x1000, 0x40, 0, 0, TD_PARAMS, 0),
        TdxSection(0x2000, size - 0x2000, top + 0x2000, size - 0x2000, BFV, 1),
    ]
    return image


def mrtd(*adds: tuple[int, bytes, bool]) -> bytes:
    """Return MRTD of pages (gpa, contents, extended), by the naive TDX module."""
    module = FakeTdxModule()
    module.mng_init()
    module.vp_init()
    tables: set[tuple[int, int]] = set()
    for gpa, page, extended in adds:
        for level, bits in ((3, 39), (2, 30), (1, 21)):
            if (level, gpa >> bits) not in tables:
                tables.add((level, gpa >> bits))
                module.mem_sept_add(level, gpa >> bits << bits)
        module.mem_page_add(gpa, page)
        for chunk in range(gpa, gpa + 4096, 256) if extended else ():
            module.mr_extend(chunk)
    module.mr_finalize()
    return module.digest


def pages(gpa: int, data: bytes, extended: bool) -> list[tuple[int, bytes, bool]]:
    return [(gpa + at, data[at : at + 4096], extended) for at in range(0, len(data), 4096)]


def test_td_shim_sections_are_added_but_for_augmented_ones() -> None:
    image = td_shim_image()
    data, top = image.build(), 2**32 - image.size
    wanted = mrtd(
        *pages(top, data[:0x1000], extended=False),
        *pages(0x809000, bytes(0x2000), extended=False),
        *pages(0x810000, bytes(0x2000), extended=False),
        *pages(0x2000000, data[0x1000:0x2000], extended=True),
        *pages(0x2001000, bytes(0x1000), extended=False),
        *pages(top + 0x2000, data[0x2000:], extended=True),
    )
    assert measure(plan_image(data, vmm="td-shim")).digest == wanted


def test_a_loader_that_knows_four_section_types_refuses_the_others() -> None:
    data = td_shim_image().build()
    for vmm in ("qemu", "qemu-8.2-tdx", "gce"):
        with pytest.raises(MapError) as caught:
            plan_image(data, vmm=vmm)
        rules = [f.rule for f in caught.value.findings if f.severity == "error"]
        assert set(rules) == {"loader-refuses"}
        assert len(rules) >= 5


def test_a_loader_that_wants_the_whole_file_in_volumes_says_so() -> None:
    image = good_tdx()
    bfv, cfv, *rest = image.tdx_sections or []
    shorter = cfv._replace(raw=cfv.raw - 0x1000, mem=cfv.mem - 0x1000)
    image.tdx_sections = [bfv, shorter, *rest]
    assert plan_image(image.build(), vmm="qemu").vmm == "qemu"
    with pytest.raises(MapError, match="loader-refuses: gce refuses BFV and CFV"):
        plan_image(image.build(), vmm="gce")


def test_data_that_is_not_on_a_page_cannot_be_handed_to_the_kernel() -> None:
    image = good_tdx()
    bfv, cfv, *rest = image.tdx_sections or []
    image.tdx_sections = [bfv, cfv._replace(data_offset=cfv.data_offset + 16), *rest]
    with pytest.raises(MapError, match="not on a page"):
        plan_image(image.build(), vmm="qemu")
    assert plan_image(image.build(), vmm="td-shim").vmm == "td-shim"


def types(plan: Plan) -> list[str]:
    return [op.page_type.label for op in plan.ops if isinstance(op, SnpLaunchUpdate)]


def test_page_types_and_order_are_the_profiles() -> None:
    data = good_snp().build()
    metadata = ["zero", "zero", "secrets", "cpuid", "zero", "zero", "zero"]
    assert types(plan_image(data, vmm="qemu")) == ["normal", *metadata]
    assert types(plan_image(data, vmm="ec2")) == [
        "normal", "zero", "zero", "secrets", "zero", "zero", "zero", "cpuid",
    ]  # fmt: skip
    assert types(plan_image(data, vmm="gce")) == [
        "normal", "unmeasured", "unmeasured", "secrets", "cpuid", "zero", "unmeasured", "zero",
    ]  # fmt: skip


def test_the_policy_is_the_profiles_unless_given() -> None:
    data = good_snp().build()
    assert plan_image(data, vmm="gce").assumed["policy"] == "0x30000"
    assert plan_image(data, vmm="gce", policy="0xb0000").given["policy"] == "0xb0000"


@pytest.mark.parametrize(
    "name",
    ["EPYC-v5", "EPYC-Rome-v5", "EPYC-Milan-v3", "EPYC-Genoa-v2", "EPYC-Turin-v2", "EPYC-IBPB"],
)
def test_versions_of_a_model_have_the_models_signature(name: str) -> None:
    """The signatures are from spec/snp.md 1.5; RDX of the boot vCPU is where they go."""
    wanted = {
        "EPYC": 0x800F12,
        "EPYC-Rome": 0x830F10,
        "EPYC-Milan": 0xA00F11,
        "EPYC-Genoa": 0xA10F10,
        "EPYC-Turin": 0xB00F00,
    }
    finish = plan_image(good_snp().build(), cpu=name).ops[-1]
    assert isinstance(finish, SnpLaunchFinish)
    rdx = int.from_bytes(finish.vmsas[0].page[0x310:0x318], "little")
    assert rdx == wanted[name.rpartition("-")[0]] == SIGNATURES[name]


def test_family_model_and_stepping_make_a_signature() -> None:
    by_numbers = plan_image(good_snp().build(), family=25, model=17, stepping="0")
    assert by_numbers.given["cpu_signature"] == "0xa10f10"


@pytest.mark.parametrize("name", PROFILES)
def test_every_fact_has_a_source_and_a_confidence(name: str) -> None:
    profile = PROFILES[name]
    assert profile.sources
    for fact in profile.sources:
        assert fact.source
        assert fact.confidence in (HARDWARE, TWO, RECORDED, SOURCE)
        assert "master" not in fact.source


def own_profile(folder: Path, **changes: object) -> str:
    path = folder / "own.json"
    base = json.loads(run("profiles", "qemu", "--format", "json").out)
    path.write_text(json.dumps({**base, "name": "own", **changes}))
    return str(path)


def test_a_profile_must_know_every_section_it_meets(tmp_path: Path) -> None:
    image = tmp_path / "f.fd"
    image.write_bytes(good_snp().build())
    good = run("measure", str(image), "--vmm", own_profile(tmp_path), "--format", "json")
    assert json.loads(good.out)["digest"] == run("measure", str(image), "--bare").out
    assert "profile" in [i["role"] for i in json.loads(good.out)["inputs"]]
    without = own_profile(tmp_path, page_types={"sec-mem": "zero"})
    assert_refused(run("measure", str(image), "--vmm", without), {2})
    misspelt = own_profile(tmp_path, page_types={"sec-memory": "zero"})
    assert_refused(run("measure", str(image), "--vmm", misspelt), {3})


def test_sev_features_without_snp_are_doubtful() -> None:
    result = run("check", "--example", "snp", "--sev-features", "0")
    assert "warning: sev-features" in result.out


def test_a_profile_is_for_its_platforms_only() -> None:
    with pytest.raises(UnsupportedError, match="td-shim is for tdx, not snp"):
        plan_image(good_snp().build(), vmm="td-shim")


def test_every_rule_is_used_somewhere() -> None:
    code = "".join(
        p.read_text()
        for p in Path(cvmplan.__file__).parent.rglob("*.py")
        if p.name != "findings.py"
    )
    assert {rule for rule in RULES if f'"{rule}"' not in code} == set()
    quoted = set(re.findall(r'Finding\(\s*"([a-z0-9-]+)"', code))
    assert quoted <= set(RULES)


def test_a_debug_policy_is_a_warning() -> None:
    found = json.loads(
        run("check", "--example", "snp", "--policy", "0xb0000", "--format", "json").out
    )
    assert [f["rule"] for f in found["findings"] if f["severity"] == "warning"] == ["policy-debug"]
    found = json.loads(
        run("check", "--example", "tdx", "--attributes", "0x1", "--format", "json").out
    )
    assert [f["rule"] for f in found["findings"] if f["severity"] == "warning"] == ["policy-debug"]
    found = json.loads(
        run("check", "--example", "snp", "--policy", "0x10000", "--format", "json").out
    )
    assert [f["rule"] for f in found["findings"] if f["severity"] == "error"] == ["policy-mask"]


def test_firmware_with_sevs_hash_table_is_doubtful_for_tdx() -> None:
    image = good_tdx()
    image.hash_table = (0x810C00, 0x400)
    found = plan_image(image.build(), platform="tdx").findings
    assert "firmware-for-other-platform" in {f.rule for f in found}
