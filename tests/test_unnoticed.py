"""
Single lines whose change no other test notices: classes, boundaries, and which of several.

Each expected value follows from a specification or from what the test itself lays out.
"""

from __future__ import annotations

import json
import struct
from hashlib import sha384
from pathlib import Path

import pytest

from cvmplan import Blob, measure, plan_image
from cvmplan.eventlog.forms import read
from cvmplan.eventlog.rtmr import compare
from cvmplan.operations.measure import Coverage
from cvmplan.platforms.snp.ops import SnpLaunchUpdate
from tests import manifests
from tests.build.eventlog import Log, LogEvent
from tests.build.evidence import amd, claims
from tests.build.igvm import IS_2MB, KVM_VMSA, SEV_SNP, SNP_POLICY, VP_COUNT, Igvm, filling, vmsa
from tests.build.ovmf import Ovmf, good_snp, good_tdx
from tests.plans import Answers, guest, memory, op, simulate
from tests.run import run
from tests.test_evidence import differing, identity, report, verify
from tests.test_recorded import FINALIZE, findings, region, replayed

__all__ = ["identity"]  # a fixture
PAGE = 4096


def test_pages_of_a_td_are_counted_by_what_measures_them() -> None:
    """Of tdx_sections: 6 pages of code are extended; 2 of variables, 24 and 2 of RAM are not."""
    coverage = measure(plan_image(good_tdx().build())).coverage
    assert coverage == Coverage(contents=6, host_filled=28)
    assert coverage.pages == 34


def test_of_several_equal_events_the_last_is_named_as_left_out() -> None:
    """Three events of one register, two alike in front: without the first or the second."""
    alike, other = b"alike", b"other"
    log = Log([LogEvent(data) for data in (alike, alike, other)])
    register = bytes(48)
    for data in (alike, other):
        register = sha384(register + sha384(data).digest()).digest()
    (found,) = compare(read(Blob("log", memoryview(log.build()))), {0: register})
    assert (found.earlier, found.left_out) == (None, 2)


def hash_table_findings(platform: str, gpa: int, size: int) -> list[str]:
    image = good_snp()
    image.hash_table = (gpa, size)
    return rules(image, platform)


def rules(image: Ovmf, platform: str) -> list[str]:
    options = ["--platform", platform, "--kernel-hash", "11" * 32, "--append", ""]
    told = run("check", "-", *options, "--format", "json", stdin=image.build())
    return [f["rule"] for f in json.loads(told.out)["findings"] if f["severity"] == "error"]


TABLE = 176  # bytes: a header of 18, three entries of 50, up to a multiple of 16


@pytest.mark.parametrize("platform", ["snp", "sev"])
@pytest.mark.parametrize(
    ("gpa", "size", "fits"),
    [
        (0x810C00, 0x400, True), (0x811000 - TABLE, TABLE, True),
        (0x811000 - TABLE + 16, 0x400, False), (0x810FF0, 0x400, False),
        (0x810C00, TABLE - 1, False),
    ],
)  # fmt: skip
def test_the_hash_table_ends_inside_its_page(
    platform: str, gpa: int, size: int, fits: bool
) -> None:
    found = hash_table_findings(platform, gpa, size)
    assert (found == []) == fits
    assert fits or found == ["hash-table-outside-page"]


@pytest.mark.parametrize(("offset", "fits"), [(0, True), (8, False), (1, False), (16, True)])
def test_the_hash_table_of_sev_lies_at_a_multiple_of_16(offset: int, fits: bool) -> None:
    """LAUNCH_UPDATE_DATA takes multiples of 16 (AMD 55766)."""
    found = hash_table_findings("sev", 0x810C00 + offset, 0x300)
    assert found == ([] if fits else ["hash-table-outside-page"])


LARGE = 2 << 20


def test_pages_of_2_mib_wait_together_while_an_insert_does_not() -> None:
    """
    spec/igvm.md, QEMU: a run of adjoining pages is held back until another begins.

    Each of the pages is one header, whatever its size, so that the second goes on with the run.
    """
    made = Igvm().platform(SEV_SNP, 1).policy(SNP_POLICY, 1).area(0, PAGE).parameter(VP_COUNT, 0)
    for number in range(2):
        data = filling(f"large {number}", LARGE)
        made = made.page(LARGE * (number + 1), data, 1, flags=IS_2MB)
    made = made.insert(0x30000, 0, 1).page(0x10000, filling("small"), 1)
    image = made.vp_context(KVM_VMSA, vmsa(), 1).build()
    plan = plan_image(image, platform="snp", vmm="qemu", abi="kvm-6.18")
    adds = [op.gpa for op in plan.ops if isinstance(op, SnpLaunchUpdate)]
    assert list(dict.fromkeys(a // LARGE * LARGE if a >= LARGE else a for a in adds)) == [
        0x30000, LARGE, 2 * LARGE, 0x10000,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("start", "inside"),
    [(0x1000, False), (0x1001, True), (0x1800, True), (0x0, False)],
)
def test_a_page_in_which_memory_begins_is_outside(tmp_path: Path, start: int, inside: bool) -> None:
    """Memory from the middle of a page holds that page in part, and so not at all."""
    memory = [{"gpa": hex(start), "size": hex(0x10000)}]
    manifest = manifests.document(manifests.region("0x1000"), memory=memory)
    told = manifests.run_on(tmp_path, "check", manifest, "--format", "json")
    found = [f["rule"] for f in json.loads(told.out)["findings"]]
    assert ("outside-memory" in found) == inside


# Source address 0, by kernel: ../shared/spec/corrections.md, 3.
NO_SOURCE = {
    "kvm-6.16": ("EIO", "EFAULT"), "kvm-6.18": ("EIO", "EFAULT"), "kvm-6.19": ("EIO", "EFAULT"),
    "kvm-7.1": ("EIO", "EOPNOTSUPP"), "kvm-7.2": ("EIO", "EOPNOTSUPP"),
    "kvm-7.3": ("EINVAL", "EINVAL"),
}  # fmt: skip


def without_source(platform: str, abi: str) -> Answers:
    """Return the answers to a launch with an add that names no source."""
    if platform == "snp":
        add = op("snp-launch-update", 0, PAGE, page_type="normal")
    else:
        add = op("tdx-init-mem-region", 0, PAGE, measured=True)
    return simulate(platform, guest(platform, add), abi)


ADDS = ("snp-launch-update", "tdx-init-mem-region")


@pytest.mark.parametrize("abi", NO_SOURCE)
@pytest.mark.parametrize("platform", ["snp", "tdx"])
def test_an_add_without_a_source_is_refused_as_by_each_kernel(abi: str, platform: str) -> None:
    answers = without_source(platform, abi)
    refused = [r for r in answers.results if r["op"] in ADDS and r["result"] == "error"]
    assert refused[0]["errno"] == NO_SOURCE[abi][platform == "tdx"]


@pytest.mark.parametrize(
    ("gpa", "size", "shared"),
    [
        ((1 << 47) - PAGE, PAGE, False), ((1 << 47) - PAGE, 2 * PAGE, True),
        (1 << 47, PAGE, True), ((1 << 48) - PAGE, PAGE, True),
    ],
)  # fmt: skip
def test_a_range_with_a_shared_address_is_refused_by_a_td(
    gpa: int, size: int, shared: bool
) -> None:
    """GPAW 48: bit 47 is the shared bit; a range astride it has addresses on both sides."""
    add = op("tdx-init-mem-region", gpa, size, measured=True, source={"zeros": True})
    answers = simulate("tdx", guest("tdx", add, memory_ops=memory(2 * PAGE, gpa)), "kvm-6.18")
    answer = next(r for r in answers.results if r["op"] == "tdx-init-mem-region")
    assert (answer.get("errno") == "EINVAL" and "shared bit" in answer["why"]) == shared


def test_a_rest_whose_source_does_not_move_may_be_a_second_add() -> None:
    """What is left over lies further on in the source too; the same source is added again."""
    first = region(0x100000, 0x2000, src="0x7000")
    moved = replayed(first, region(0x101000, src="0x8000"), FINALIZE)
    assert [rule for rule, _ in findings(moved)] == []
    assert moved.results[0]["why"].startswith("goes on in line 2")
    still = replayed(first, region(0x101000, src="0x7000"), FINALIZE)
    assert [rule for rule, _ in findings(still)] == ["maybe-added-twice"]
    done = region(0x100000, 0x2000, src="0x7000", ret=0)
    twice = replayed(done, region(0x101000, src="0x7000", ret=0), FINALIZE)
    assert [rule for rule, _ in findings(twice)] == ["added-twice"]
    rest = replayed(done, region(0x101000, src="0x8000", ret=0), FINALIZE)
    assert (rest.code, findings(rest)) == (0, [])


@pytest.mark.parametrize("enabled", [True, False])
def test_without_an_author_key_its_digest_is_zero(
    tmp_path: Path, identity: tuple[bytes, bytes, list[str]], enabled: bool
) -> None:
    """AMD 56860, SNP_LAUNCH_FINISH: AUTHOR_KEY_EN; without it the report has zeros."""
    block, auth, options = identity
    key, author = (sha384(auth[at : at + 0x404]).digest() for at in (0x240, 0x880))
    told = [o for o in options if enabled or o != "--author-key-enabled"]
    chain = amd()
    at = {
        0x4: struct.pack("<I", 7), 0x10: block[48:80], 0xC0: b"\x0c" * 32, 0xE0: key,
        0x110: author if enabled else bytes(48),
    }  # fmt: skip
    data = report(chain, at=at)
    assert differing(verify(tmp_path, data, *told, chain=chain, pin=chain[-1].pin)) == set()
    wrong = report(chain, at={**at, 0x110: bytes(48) if enabled else author})
    found = differing(verify(tmp_path, wrong, *told, chain=chain, pin=chain[-1].pin))
    assert found == {"author_key_digest"}


@pytest.mark.parametrize("level", [0x7F, 0x80, 0xFF])
def test_a_security_patch_level_is_a_der_integer_without_a_sign(tmp_path: Path, level: int) -> None:
    """ITU-T X.690, 8.3: from 0x80 on a zero byte stands in front, or the number is negative."""
    tcb = bytes([*bytes(7), level])
    written = bytes([2, 1, level]) if level < 0x80 else bytes([2, 2, 0, level])
    chain = amd(said={**claims(tcb=tcb), "3.8": written})
    same = {0x38: b"\xff" * 8, 0x1E0: b"\xff" * 8}
    data = report(chain, at={**same, 0x180: tcb})
    result = verify(tmp_path, data, chain=chain, pin=chain[-1].pin)
    assert differing(result) == set()
    assert f"{level}" in result.out
    other = report(chain, at={**same, 0x180: bytes([*bytes(7), level ^ 1])})
    found = differing(verify(tmp_path, other, chain=chain, pin=chain[-1].pin))
    assert found == {"certificates_microcode_spl"}
