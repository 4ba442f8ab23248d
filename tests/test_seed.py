"""
The mail that began it, as tests: what mapping is, what adding is, and how often.

Source: kvm mailing list, 2024-04-03, "Re: [RFC PATCH 6/8] KVM: x86: Implement
kvm_arch_{, pre_}vcpu_map_memory()"; the digests of one and two zero pages are those of
spec/kvm.md 4.4, computed from AMD's and Intel's layouts by another program.
"""

from __future__ import annotations

from hashlib import sha384
from struct import pack

import pytest

from tests.oracles.firmware import FakePsp
from tests.plans import PAGE, Answers, add, guest, op, region, simulate, update

KERNELS = ("kvm-6.11", "kvm-6.16", "kvm-6.18", "kvm-6.19", "kvm-7.0")
TDX_KERNELS = KERNELS[1:]
GPA1, GPA2 = 0x200000, 0x201000  # in one 2 MiB block
MRTD_ONE_ZERO_PAGE = (
    "d83467a3b349c17193dc14b12221f72ee7800c5560401bb7236cfa49f8e4ff2a"
    "18373457d28535a4ffa6d7ab5f3cafa4"
)
MRTD_TWO_ZERO_PAGES = (
    "2e47887351a28d48deb3c4f7c12a0eb065876d225c469c7308010f22b78828f5"
    "2fb9f2374a79e09354aefdb51f9562f8"
)


def snp(*middle: dict[str, object], abi: str) -> Answers:
    return simulate("snp", guest("snp", *middle), abi)


def tdx(*middle: dict[str, object], abi: str) -> Answers:
    return simulate("tdx", guest("tdx", *middle), abi)


def launch_digest(*pages: int) -> str:
    """The SNP launch digest of zero NORMAL pages and one all-zero VMSA (AMD 56860, PAGE_INFO)."""
    digest = bytes(48)
    zeros = sha384(bytes(PAGE)).digest()
    for kind, gpa in (*((1, page) for page in pages), (2, 0xFFFFFFFFF000)):
        info = digest + zeros + pack("<HBBIQ", 0x70, kind, 0, 0, gpa)
        digest = sha384(info).digest()
    return digest.hex()


def test_the_digest_here_is_that_of_the_fake_firmware() -> None:
    psp = FakePsp()
    psp.launch_start(0x30000)
    psp.launch_update(1, 0x100000, bytes(PAGE))
    psp.launch_update(2, 0xFFFFFFFFF000, bytes(PAGE))
    assert psp.running.hex() == launch_digest(0x100000)


@pytest.mark.parametrize("platform", ["default", "sw-protected"])
@pytest.mark.parametrize("abi", ["map-memory", "kvm-6.18"])
def test_mapping_an_already_mapped_gpa_succeeds_and_changes_nothing(
    platform: str, abi: str
) -> None:
    call = "map-memory" if abi == "map-memory" else "pre-fault-memory"
    held = [op("set-memslot", 0, 4 << 20, slot=0)] if platform == "default" else None
    twice = [op(call, GPA1, 8 * PAGE), op(call, GPA1, 8 * PAGE), op(call, GPA1, 9 * PAGE)]
    answers = simulate(platform, guest(platform, *twice, memory_ops=held), abi)
    assert answers.code == 0
    assert answers.of(call) == [("ok", None), ("nop", None), ("ok", None)]


def test_mapping_an_already_mapped_gpa_leaves_the_measurement() -> None:
    once = tdx(op("map-memory", 0x100000, PAGE), add(0x100000), abi="map-memory")
    page = op("map-memory", 0x100000, PAGE)
    again = tdx(page, page, add(0x100000), page, abi="map-memory")
    assert again.of("map-memory") == [("ok", None), ("nop", None), ("nop", None)]
    assert once.digest == again.digest == MRTD_ONE_ZERO_PAGE


def test_do_you_want_error_like_eexist_no_error() -> None:
    page = op("map-memory", GPA1, PAGE)
    meant = tdx(page, page, add(GPA1), abi="rfc-eexist")
    assert [r["result"] for r in meant.results if r["op"] == "map-memory"] == ["ok", "error"]
    agreed = tdx(page, page, add(GPA1), abi="map-memory")
    assert agreed.errors() == []


@pytest.mark.parametrize("platform", ["snp", "tdx"])
def test_gpa1_mapped_first_by_a_large_zero_mapping_makes_gpa2s_add_fail(platform: str) -> None:
    second = update(GPA2) if platform == "snp" else add(GPA2)
    ops = guest(platform, op("map-memory", GPA1, PAGE), second)
    answers = simulate(platform, ops, "rfc-coupled")
    assert answers.errors() == [(second["op"], None)]
    mapped = next(r for r in answers.results if r["op"] == "map-memory")
    assert mapped["mapped"]["level"] == hex(2 << 20)


@pytest.mark.parametrize("platform", ["snp", "tdx"])
def test_gpa2_is_measured_early_when_gpa1_is_added_with_a_large_page(platform: str) -> None:
    first = update(GPA1) if platform == "snp" else add(GPA1)
    answers = simulate(platform, guest(platform, first), "rfc-coupled")
    block = range(GPA1, GPA1 + (2 << 20), PAGE)
    assert answers.code == 0
    if platform == "snp":
        assert answers.digest == launch_digest(*block)
    alone = simulate(platform, guest(platform, first), "rfc-exact")
    assert alone.digest != answers.digest


@pytest.mark.parametrize("platform", ["snp", "tdx"])
@pytest.mark.parametrize("abi", ["map-memory", "rfc-exact"])
def test_gpa1_and_gpa2_cannot_disturb_each_other_under_4k_only_hooks(
    platform: str, abi: str
) -> None:
    make = update if platform == "snp" else add
    ops = [make(GPA1), make(GPA2)]
    if abi == "map-memory":
        ops = [op("map-memory", GPA1, PAGE), ops[0], op("map-memory", GPA2, PAGE), ops[1]]
    answers = simulate(platform, guest(platform, *ops), abi)
    assert answers.errors() == []
    if platform == "snp":
        assert answers.digest == launch_digest(GPA1, GPA2)


TWICE = {
    # spec/kvm.md 1.6: a second add of the same page, by kernel
    ("snp", "kvm-6.11"): "EIO", ("snp", "kvm-6.16"): "EIO", ("snp", "kvm-6.18"): "EIO",
    ("snp", "kvm-6.19"): "EIO", ("snp", "kvm-7.0"): "EIO",
    ("tdx", "kvm-6.16"): "EEXIST", ("tdx", "kvm-6.18"): "EEXIST", ("tdx", "kvm-6.19"): "EEXIST",
    ("tdx", "kvm-7.0"): "EIO",
}  # fmt: skip


@pytest.mark.parametrize(("platform", "abi"), TWICE)
def test_adding_a_gpa_twice_fails_with_that_kernels_errno_and_leaves_the_digest(
    platform: str, abi: str
) -> None:
    page = update(0x100000) if platform == "snp" else region(0x100000)
    answers = simulate(platform, guest(platform, page, page), abi)
    assert answers.of(page["op"]) == [("ok", None), ("error", TWICE[platform, abi])]
    wanted = launch_digest(0x100000) if platform == "snp" else MRTD_ONE_ZERO_PAGE
    assert answers.digest == wanted
    assert answers.finalized


@pytest.mark.parametrize("platform", ["snp", "tdx"])
def test_adding_a_gpa_twice_fails_where_no_errno_was_fixed(platform: str) -> None:
    page = update(GPA1) if platform == "snp" else add(GPA1)
    mapped = op("map-memory", GPA1, PAGE)
    answers = simulate(platform, guest(platform, mapped, page, page), "map-memory")
    assert answers.of(page["op"]) == [("ok", None), ("error", None)]


@pytest.mark.parametrize("abi", TDX_KERNELS)
def test_a_td_page_to_shared_and_back_is_measured_twice_where_the_kernel_forgets_it(
    abi: str,
) -> None:
    """spec/kvm.md 6.3: without PUNCH_HOLE up to 6.19 EEXIST, from 7.0 accepted."""
    page = region(0x100000)
    back = [op("set-shared", 0x100000, PAGE), op("set-private", 0x100000, PAGE)]
    answers = tdx(page, *back, page, abi=abi)
    wanted = ("ok", None) if abi == "kvm-7.0" else ("error", "EEXIST")
    assert answers.of(page["op"])[1] == wanted
    assert ("gpa-mapped-twice" in answers.findings) == (abi == "kvm-7.0")
    assert answers.code == 1


@pytest.mark.parametrize("abi", TDX_KERNELS)
def test_a_td_page_given_back_is_measured_twice_on_every_kernel(abi: str) -> None:
    page = region(0x100000)
    hole = op("punch-hole", gmem=0, offset=hex(0x100000), size=PAGE)
    back = [op("set-shared", 0x100000, PAGE), hole, op("set-private", 0x100000, PAGE)]
    answers = tdx(page, *back, page, abi=abi)
    assert answers.of(page["op"]) == [("ok", None), ("ok", None)]
    assert "gpa-mapped-twice" in answers.findings
    assert answers.code == 1


@pytest.mark.parametrize("abi", KERNELS)
@pytest.mark.parametrize("punched", [False, True])
def test_an_snp_page_to_shared_and_back_is_taken_again_after_a_hole_only(
    abi: str, punched: bool
) -> None:
    page = update(0x100000)
    hole = [op("punch-hole", gmem=0, offset=hex(0x100000), size=PAGE)] if punched else []
    back = [op("set-shared", 0x100000, PAGE), *hole, op("set-private", 0x100000, PAGE)]
    answers = snp(page, *back, page, abi=abi)
    assert answers.of(page["op"])[1] == (("ok", None) if punched else ("error", "EIO"))
    assert ("gpa-mapped-twice" in answers.findings) == punched
    assert answers.digest == launch_digest(*([0x100000] * (1 + punched)))


@pytest.mark.parametrize(
    ("abi", "errno"),
    [("kvm-6.16", "EIO"), ("kvm-6.18", "EIO"), ("kvm-6.19", "EIO"), ("kvm-7.0", "EIO")],
)
def test_a_page_augmented_before_finalize_is_unmeasured_and_makes_its_add_fail(
    abi: str, errno: str
) -> None:
    augmented = op("tdx-page-aug", 0x101000, PAGE)
    answers = tdx(region(0x100000), augmented, region(0x101000), abi=abi)
    assert answers.of("tdx-init-mem-region") == [("ok", None), ("error", errno)]
    assert answers.results[-2]["seamcall_status"] == "TDX_EPT_ENTRY_STATE_INCORRECT"
    assert answers.digest == MRTD_ONE_ZERO_PAGE
    dead = abi in ("kvm-6.19", "kvm-7.0")
    assert answers.of("tdx-finalize") == [("error", "EIO") if dead else ("ok", None)]


@pytest.mark.parametrize("platform", ["snp", "tdx"])
@pytest.mark.parametrize("abi", TDX_KERNELS)
def test_one_guest_memfd_page_at_two_gpas_is_refused_at_the_second(platform: str, abi: str) -> None:
    alias = [
        op("create-gmem", size=2 << 20, gmem=0),
        op("set-memslot", 0xFFE00000, 2 << 20, slot=0, gmem=0),
        op("set-memslot", 0, 2 << 20, slot=1, gmem=0),
        op("set-private", 0xFFE00000, 2 << 20),
        op("set-private", 0, 2 << 20),
    ]
    make = update if platform == "snp" else region
    ops = guest(platform, make(0xFFE00000), make(0), memory_ops=alias)
    answers = simulate(platform, ops, abi)
    assert answers.errors() == [("set-memslot", "EINVAL"), (make(0)["op"], "EINVAL")]
    assert "page-backs-two-gpas" in answers.findings


@pytest.mark.parametrize(
    ("platform", "abi"),
    [(p, a) for a in KERNELS for p in ("snp", "tdx") if (p, a) != ("tdx", "kvm-6.11")],
)
def test_pure_mapping_before_finalize_is_eopnotsupp_on_mainline(platform: str, abi: str) -> None:
    early = op("pre-fault-memory", GPA1, PAGE)
    ops = guest(platform, early)
    answers = simulate(platform, [*ops, early, early], abi)
    assert answers.of("pre-fault-memory") == [
        ("error", "EOPNOTSUPP"), ("ok", None), ("nop", None),
    ]  # fmt: skip


@pytest.mark.parametrize("platform", ["snp", "tdx"])
def test_pure_mapping_before_finalize_is_fine_under_map_memory(platform: str) -> None:
    page = update(GPA1) if platform == "snp" else add(GPA1)
    answers = simulate(platform, guest(platform, op("map-memory", GPA1, PAGE), page), "map-memory")
    assert answers.errors() == []
    assert answers.finalized


def test_a_finalize_with_mapped_but_never_added_pages_is_refused() -> None:
    answers = tdx(op("map-memory", GPA1, 2 * PAGE), add(GPA1), abi="map-memory")
    assert answers.errors() == [("tdx-finalize", None)]
    assert not answers.finalized


def test_single_pass_of_two_zero_pages_has_the_digest_of_the_specification() -> None:
    assert tdx(region(0x100000, 2 * PAGE), abi="kvm-6.16").digest == MRTD_TWO_ZERO_PAGES


def test_for_vma_based_memory_user_space_asks_for_a_level_and_may_write() -> None:
    held = [op("set-memslot", 0, 4 << 20, slot=0), op("madvise", 0, 4 << 20, advice="hugepage")]
    write = op("write", GPA1, PAGE, source={"hex": "00"})
    fault = op("pre-fault-memory", GPA1 + 8 * PAGE, PAGE)
    answers = simulate("default", guest("default", write, fault, memory_ops=held), "kvm-6.11")
    assert answers.errors() == []
    assert answers.results[-1]["mapped"]["level"] == hex(2 << 20)
    small = simulate("default", guest("default", fault, memory_ops=held[:1]), "kvm-6.11")
    assert small.results[-1]["mapped"]["level"] == hex(PAGE)
