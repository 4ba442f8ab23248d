"""Text output: what a person reads, and nothing that a terminal would act on."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmplan import plan_image
from cvmplan.cli import progress
from cvmplan.core.values import U64, span, write_span
from cvmplan.operations.measure import measure
from cvmplan.profiles import PROFILES
from tests.build.ovmf import good_snp, good_tdx
from tests.manifests import document, region, run_on
from tests.run import run


def test_every_profile_prints_its_sources() -> None:
    listed = run("profiles").out.splitlines()
    for line in listed:
        text = run("profiles", line.split()[0]).out
        assert "[" in text
        assert "platforms" in text
    assert len(listed) == len(PROFILES)


def test_rules_and_abis_print_a_line_each() -> None:
    assert "gpa-mapped-twice" in run("rules").out
    assert "map-memory" in run("abis").out
    assert "kvm mailing list" in run("abis", "map-memory").out
    assert run("schema").out.split()[0] == "manifest"


def test_plan_says_what_each_operation_does() -> None:
    text = run("plan", "--example", "snp", "--vcpus", "2", "--host-data", "ab" * 32).out
    assert "0x80d000-0x80dfff  page-type secrets  source vmm secrets" in text
    assert "vmsas of 2 vCPUs" in text
    assert f"host-data {'ab' * 32}" in text
    assert "no released kernel" in text


def test_a_default_vm_is_mapped_only(tmp_path: Path) -> None:
    regions = (
        region("0x40000000", "mapped", size="1GiB"),
        region("0x1ff000", "mapped", size="0x202000"),
        region("0x1000", "mapped", size="0x3ff000"),
    )
    manifest = document(*regions[:2], platform="default")
    text = run_on(tmp_path, "plan", manifest).out
    assert "0x40000000-0x7fffffff  largest page 1 GiB" in text
    assert "0x1ff000-0x400fff  largest page 2 MiB" in text
    assert "not measured" in text
    manifest = document(region("0x1000", "mapped", size="0x1ff000"), platform="sw-protected")
    assert "largest page 4 KiB" in run_on(tmp_path, "plan", manifest).out


def test_two_orders_of_single_pages_are_not_said_to_differ(tmp_path: Path) -> None:
    one = region(0, "measured", source={"zeros": True}, size=4096)
    two = region(0x2000, "measured", source={"zeros": True}, size=8192)
    for regions, said in (((one,), False), ((one, two), True)):
        manifest = document(*regions, platform="tdx")
        assert ("order-differs" in run_on(tmp_path, "check", manifest).out) is said
        digests = {
            run_on(tmp_path, "measure", manifest, "--page-order", order, "--bare").out
            for order in ("single-pass", "two-pass")
        }
        assert (len(digests) == 2) is said


def test_a_warning_stands_before_the_digest() -> None:
    lines = run("measure", "--example", "snp", "--policy", "0xb0000").out.splitlines()
    assert lines[-3].startswith("warning: policy-debug")
    assert lines[-1].startswith("MEASUREMENT")


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    manifest = document(region(0, name="\x1b[31mred"), region(0, name="new\nline"))
    for verb in ("check", "map", "measure"):
        result = run_on(tmp_path, verb, manifest)
        assert "\x1b" not in result.out + result.err
        assert "\\x1b[31mred" in result.out + result.err


def test_inspect_shows_a_manifest_without_opening_its_files(tmp_path: Path) -> None:
    manifest = document(region(0, "normal", source={"file": "none.bin"}, name="code"))
    text = run_on(tmp_path, "inspect", manifest).out
    assert "none.bin" in text
    assert "code" in text


def test_inspect_shows_td_shims_tables(tmp_path: Path) -> None:
    image = good_tdx()
    image.legacy = True
    (tmp_path / "x.bin").write_bytes(image.build())
    text = run("inspect", str(tmp_path / "x.bin")).out
    assert "format tdvf, platforms: tdx" in text
    assert text.count("TempMem") == 3


def test_inspect_goes_on_behind_a_table_that_is_broken(tmp_path: Path) -> None:
    image = good_tdx()
    image.sev_sections = good_snp().sev_sections
    image.tdvf_version = 9
    (tmp_path / "x.fd").write_bytes(image.build())
    text = run("inspect", str(tmp_path / "x.fd")).out
    assert "kernel-hashes" in text
    assert "cannot be read" in text
    assert "version 9" in text
    image.tdvf_version, image.asev_signature = 1, b"XXXX"
    (tmp_path / "x.fd").write_bytes(image.build())
    text = run("inspect", str(tmp_path / "x.fd")).out
    assert "TempMem" in text
    assert "cannot be read" in text


class Terminal:
    """A stream that says that it is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    closed = False

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("image", [good_snp, good_tdx])
def test_progress_is_shown_on_a_terminal_and_changes_nothing(
    image: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_image((good_snp() if image is good_snp else good_tdx()).build())
    assert progress.watch_for(plan, quiet=False) is None
    monkeypatch.setattr(progress, "LONG", 1)
    monkeypatch.setattr(progress, "PIECE", 8192)
    monkeypatch.setattr(progress, "BEGIN", 0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert progress.watch_for(plan, quiet=True) is None
    watch = progress.watch_for(plan, quiet=False)
    assert watch is not None
    assert measure(plan, watch).digest == measure(plan).digest
    assert "measuring" in terminal.text


@given(first=st.integers(0, U64), length=st.integers(0, U64))
def test_a_range_is_printed_as_options_read_it(first: int, length: int) -> None:
    assert span(write_span(first, length)) == (first, length)


def test_the_last_byte_of_a_printed_range_is_inside_it(tmp_path: Path) -> None:
    """Options count so: `span` reads 0x810000-0x81ffff as the 0x10000 bytes of a section."""
    assert write_span(0x810000, 0x10000) == "0x810000-0x81ffff"
    typed = "0x40000000-0x401fffff"
    plan = run("plan", "--example", "tdx", "--abi", "kvm-7.3", "--prefault", typed).out
    assert f"pre-fault-memory     {typed}" in plan
    assert [line.split() for line in plan.splitlines() if "prefault" in line] == [
        ["prefault", typed, "given"]
    ]
    assert "0x810000-0x81ffff  source zeros" in plan
    assert re.search(r"0x810000 +0x81ffff +0x10000 ", run("map", "--example", "tdx").out)
    twice = document(*[region("0x1000", "zero", size="0x3000")] * 2, platform="snp")
    assert "(3 pages, 0x1000-0x3fff)" in " ".join(run_on(tmp_path, "check", twice).out.split())


def test_no_other_code_writes_a_range() -> None:
    """An f-string with two numbers and a dash or the word "to" between them."""
    written = re.compile(r":#x\}(-| to |\.\.)\{[^}]*:#x\}")
    rooms = Path(progress.__file__).parent.parent
    found = {
        (path.name, match[0])
        for path in rooms.rglob("*.py")
        for match in written.finditer(path.read_text())
    }
    assert found == {("values.py", ":#x}-{last:#x}"), ("vmm_errors.py", ":#x} to {value:#x}")}


@pytest.mark.parametrize(
    ("abi", "said"), [("map-memory", True), ("kvm-6.16", False), ("kvm-7.3", False),
                      ("kvm-tdx-v19", False)]
)  # fmt: skip
def test_check_notes_a_page_order_only_where_the_interface_has_two(abi: str, *, said: bool) -> None:
    """kvm-6.16 and later add and extend in one call, v19 in two: the other is refused."""
    order = "two-pass" if abi == "kvm-tdx-v19" else "single-pass"
    other = "single-pass" if abi == "kvm-tdx-v19" else "two-pass"
    given = ("check", "--example", "tdx", "--abi", abi, "--page-order")
    assert ("order-differs" in run(*given, order).out) is said
    assert (run(*given, other).code == 0) is said


def test_map_memory_says_where_it_differs_from_merged_kernels() -> None:
    """Kvm mailing list, July 2024: a page that was mapped is assigned, and cannot be added."""
    text = " ".join(run("abis", "map-memory").out.split())
    assert "a mapped private page is assigned in the RMP" in text
    assert "EOPNOTSUPP until SNP_LAUNCH_FINISH" in text
