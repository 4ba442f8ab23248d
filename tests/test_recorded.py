"""Recorded launches: was each page added once, and which digest was reached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.build.ovmf import good_snp, good_tdx
from tests.plans import Answers
from tests.run import assert_refused, run

SOURCE = 0x7F0000000000
START = "kvm_sev_snp_launch_start policy 0x30000 gosvw (null)"
FINISH = "kvm_sev_snp_launch_finish id_block (null) id_auth (null) host_data (null)"


def update(gpa: int, size: int, kind: str = "Normal", src: int = SOURCE) -> str:
    return f"kvm_sev_snp_launch_update src {src:#x} gpa {gpa:#x} len {size:#x} ({kind} page)"


def replayed(*lines: str, abi: str | None = None) -> Answers:
    text = "".join(f"{line}\n" for line in lines).encode()
    options = ("--abi", abi) if abi else ()
    return Answers(run("simulate", "-", "--format", "json", *options, stdin=text))


def result_of(answers: Answers, line: int) -> dict[str, Any]:
    return next(r for r in answers.results if r["seq"] == line)


def findings(answers: Answers) -> list[tuple[str, str]]:
    return [(f["rule"], f["message"]) for f in answers.document["findings"]]


def test_a_clean_trace_is_fine_and_has_no_digest() -> None:
    answers = replayed(START, update(0x800000, 0x9000, "Zero"), update(0x80D000, 0x1000, "Secrets"),
                       update(0x80E000, 0x1000, "Cpuid"), FINISH)  # fmt: skip
    assert (answers.code, answers.digest, answers.finalized) == (0, None, True)
    assert findings(answers) == []


def test_a_prefix_of_process_and_time_and_other_lines_are_passed_over() -> None:
    answers = replayed(
        "qemu-system-x86_64: warning: something else",
        f"4711@1718000000.123456:{START}",
        f"4711@1718000000.123457:{update(0x800000, 0x9000, 'Zero')}",
        "4711@1718000000.123458:kvm_run_exit cpu_index 0, reason 2",
        f"4711@1718000000.123459:{FINISH}",
    )
    assert [r["seq"] for r in answers.results] == [2, 3, 5]
    assert answers.code == 0


@pytest.mark.parametrize("abi", ["kvm-6.11", "kvm-6.19", "kvm-7.0"])
def test_a_region_added_twice_is_flagged_with_both_lines(abi: str) -> None:
    lines = [START, update(0x800000, 0x9000, "Zero"), update(0xFFE00000, 0x200000),
             update(0x800000, 0x9000, "Zero"), FINISH]  # fmt: skip
    answers = replayed(*lines, abi=abi)
    assert answers.code == 1
    assert findings(answers) == [("added-twice", "line 4 adds what line 2 added")]
    assert result_of(answers, 4)["errno"] == "EIO"
    assert "line 2" in result_of(answers, 4)["why"]


def test_a_region_inside_an_earlier_one_is_flagged_with_both_lines() -> None:
    answers = replayed(
        START, update(0x800000, 0x9000, "Zero"), update(0x900000, 0x1000),
        update(0x804000, 0x1000), FINISH,
    )  # fmt: skip
    assert findings(answers) == [("added-twice", "line 4 adds what line 2 added")]


def test_the_same_line_twice_in_a_row_is_ambiguous() -> None:
    """The line is printed before the call: EAGAIN and a second add look alike."""
    page = update(0x800000, 0x9000, "Zero")
    answers = replayed(START, page, page, FINISH)
    assert result_of(answers, 2)["result"] == "ok"
    assert result_of(answers, 3)["result"] == "ambiguous"
    assert [rule for rule, _ in findings(answers)] == ["maybe-added-twice"]
    assert "line 3" in findings(answers)[0][1]
    assert "line 2" in findings(answers)[0][1]


def test_a_loop_over_what_was_left_is_no_second_add() -> None:
    answers = replayed(
        START,
        update(0xFFE00000, 0x200000),
        update(0xFFE40000, 0x1C0000, src=SOURCE + 0x40000),
        update(0xFFF00000, 0x100000, src=SOURCE + 0x100000),
        FINISH,
    )
    assert answers.code == 0
    assert findings(answers) == []
    assert [r["result"] for r in answers.results] == ["ok"] * 5


# --- JSON Lines ------------------------------------------------------------------------------


def line(op: str, gpa: int | None = None, size: int | None = None, **more: Any) -> str:
    run_of = {} if gpa is None else {"gpa": hex(gpa), "size": hex(size or 0x1000)}
    return json.dumps({"op": op, **run_of, **more})


def region(gpa: int, size: int = 0x1000, **more: Any) -> str:
    return line("tdx-init-mem-region", gpa, size, measured=True, **more)


FINALIZE = line("tdx-finalize")


@pytest.mark.parametrize("errno", [11, 4, 16], ids=["EAGAIN", "EINTR", "EBUSY"])
def test_a_call_again_after_such_an_errno_is_no_second_add(errno: int) -> None:
    answers = replayed(region(0x100000, ret=-errno), region(0x100000, ret=0), FINALIZE)
    assert answers.code == 0
    assert [r["result"] for r in answers.results] == ["nop", "ok", "ok"]


def test_what_an_interrupted_call_has_done_is_not_done_again() -> None:
    left = {"gpa": "0x103000", "size": "0x5000"}
    answers = replayed(
        region(0x100000, 0x8000, ret=-4, residual=left), region(0x103000, 0x5000, ret=0), FINALIZE
    )
    assert (answers.code, findings(answers)) == (0, [])
    whole = replayed(
        region(0x100000, 0x8000, ret=-4, residual=left), region(0x100000, 0x8000, ret=0), FINALIZE
    )
    assert whole.code == 1
    assert [rule for rule, _ in findings(whole)] == ["added-twice"]


def test_an_add_that_stayed_busy_forbids_the_end_where_the_kernel_counts() -> None:
    """spec/kvm.md 6.3: up to 6.18 the page stays premapped, and FINALIZE is EINVAL."""
    lines = [region(0x100000, ret=0), region(0x101000, ret=-16), FINALIZE]
    assert replayed(*lines, abi="kvm-6.18").errors() == [("tdx-finalize", "EINVAL")]
    assert replayed(*lines, abi="kvm-6.19").errors() == []


def cpuid(**more: Any) -> str:
    return line("snp-launch-update", 0x80E000, 0x1000, page_type="cpuid", **more)


def test_one_more_try_of_the_cpuid_page_is_no_second_add() -> None:
    begin, end = line("snp-launch-start"), line("snp-launch-finish")
    answers = replayed(begin, cpuid(ret=-5, fw_error=0x16), cpuid(ret=0), end)
    assert answers.code == 0
    assert [r["result"] for r in answers.results] == ["ok", "nop", "ok", "ok"]
    again = replayed(begin, *[cpuid(ret=-5, fw_error=0x16)] * 2, cpuid(ret=0), end)
    assert again.code == 1
    other = replayed(begin, cpuid(ret=-5, fw_error=0x1A), cpuid(ret=0), end)
    assert other.errors() == [("snp-launch-update", "EIO")]


def test_two_adds_that_both_succeeded_are_called_out() -> None:
    answers = replayed(region(0x100000, ret=0), region(0x100000, ret=0), FINALIZE)
    assert answers.code == 1
    assert findings(answers)[0][1].startswith("line 2 adds what line 1 added; it is recorded as")


def test_an_add_of_other_pages_after_an_error_is_told_as_recorded() -> None:
    answers = replayed(region(0x100000, ret=-12), region(0x101000, ret=0), FINALIZE)
    assert answers.errors() == [("tdx-init-mem-region", "ENOMEM")]


# --- with an image -----------------------------------------------------------------------------


def recorded_from(plan: str) -> str:
    """The trace that a VMM would log for an SNP plan."""
    lines = [
        update(int(op["gpa"], 0), int(op["size"], 0), op["page_type"].capitalize())
        for op in json.loads(plan)["ops"]
        if op["op"] == "snp-launch-update"
    ]
    return "\n".join([START, *lines, FINISH, ""])


@pytest.fixture
def image(tmp_path: Path) -> str:
    (tmp_path / "f.fd").write_bytes(good_snp().build())
    return str(tmp_path / "f.fd")


@pytest.mark.parametrize("vcpus", ["1", "4"])
def test_an_image_gives_a_recording_its_digest(image: str, tmp_path: Path, vcpus: str) -> None:
    plan = run("plan", image, "--abi", "kvm-6.11", "--format", "json").out
    log = tmp_path / "qemu.log"
    log.write_text(recorded_from(plan))
    options = ("--image", image, "--vcpus", vcpus, "--format", "json")
    answers = Answers(run("simulate", str(log), *options))
    assert answers.code == 0
    assert answers.digest == run("measure", image, "--vcpus", vcpus, "--bare").out


def test_a_recording_of_another_launch_differs_from_the_image(image: str, tmp_path: Path) -> None:
    plan = run("plan", image, "--abi", "kvm-6.11", "--format", "json").out
    lines = recorded_from(plan).splitlines()
    lines[2], lines[3] = lines[3], lines[2]
    log = tmp_path / "qemu.log"
    log.write_text("\n".join([*lines, ""]))
    answers = Answers(run("simulate", str(log), "--image", image, "--format", "json"))
    assert answers.code == 1
    assert answers.findings == {"digest-differs"}


def test_a_recorded_td_with_its_image_reaches_its_mrtd(tmp_path: Path) -> None:
    (tmp_path / "t.fd").write_bytes(good_tdx().build())
    image = str(tmp_path / "t.fd")
    plan = json.loads(run("plan", image, "--abi", "kvm-6.16", "--format", "json").out)
    kept = ("op", "gpa", "size", "measured")
    lines = [
        json.dumps({k: op[k] for k in kept if k in op})
        for op in plan["ops"]
        if op["op"] in ("tdx-init-mem-region", "tdx-finalize")
    ]
    log = tmp_path / "launch.jsonl"
    log.write_text("\n".join(lines))
    answers = Answers(run("simulate", str(log), "--image", image, "--format", "json"))
    assert answers.code == 0
    assert answers.digest == run("measure", image, "--bare").out


# --- garbage -----------------------------------------------------------------------------------

BAD: dict[str, tuple[str, set[int], str]] = {
    "a type that is none": (f"{START}\n{update(0, 0x1000, 'Huge')}\n", {3}, ":2"),
    "an update without its length": (
        f"{START}\nkvm_sev_snp_launch_update src 0x0 gpa 0x0\n", {3}, ":2",
    ),
    "an event cut off": (f"{START}\nkvm_sev_snp_launch_upd", {3}, ":2"),
    "an unknown event": (f"{START}\nkvm_sev_snp_launch_pause x\n", {3}, ":2"),
    "an operation that is none": (line("tdx-pause"), {3}, ":1"),
    "an add without its address": ('{"op": "tdx-add", "measured": true}', {3}, ":1"),
    "an add that does not say what is measured": (line("tdx-add", 0), {3}, ":1"),
    "an unknown key": (line("tdx-finalize", when=1), {3}, ":1"),
    "a positive result": (region(0, ret=1), {3}, ":1"),
    "a rest outside the call": (
        region(0x1000, ret=0, residual={"gpa": "0x0", "size": "0x1000"}), {3}, ":1",
    ),
    "half an object": ('{"op": "tdx-finalize"', {3, 4}, ""),
    "a broken second line": (FINALIZE + "\n{", {3}, ":2"),
    "two platforms": (FINALIZE + "\n" + line("snp-launch-start"), {2}, ""),
    "neither": ("hello\n", {4}, ""),
    "nothing": ("", {4}, ""),
    "not UTF-8": (FINALIZE + "\n\udcff\n", {3, 4}, ""),
    "a line without end": (FINALIZE + "\n" + "x" * 100_000, {3}, ":2"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "codes", "place"), BAD.values(), ids=BAD)
def test_a_recording_that_makes_no_sense_is_refused(text: str, codes: set[int], place: str) -> None:
    result = run("simulate", "-", stdin=text.encode("utf-8", "surrogateescape"))
    assert_refused(result, codes)
    assert place in result.err


def test_options_of_a_launch_go_with_an_image_or_not_at_all(image: str) -> None:
    text = f"{START}\n{FINISH}\n".encode()
    assert_refused(run("simulate", "-", "--vcpus", "2", stdin=text), {2})
    plan = run("plan", image, "--format", "json").out.encode()
    assert_refused(run("simulate", "-", "--vcpus", "2", stdin=plan), {2})
    assert_refused(run("simulate", "-", "--image", image, stdin=plan), {2})
    assert_refused(run("simulate", image), {4})
