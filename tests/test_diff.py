"""Pairs of launches that differ in one thing each, which must be named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan import documents
from tests.build.ovmf import good_snp, good_tdx
from tests.oracles import shared
from tests.run import Result, assert_refused, run

PAGE: Final = 4096
BASE: Final = 2**32 - 0x8000  # of the test images


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.fd").write_bytes(good_snp().build())
    (tmp_path / "td.fd").write_bytes(good_tdx().build())
    (tmp_path / "kernel").write_bytes(b"kernel")
    return tmp_path


def compared(a: str, b: str, *args: str) -> dict[str, Any]:
    """What `diff` says, as a document that fits its model."""
    result = run("diff", a, b, *args, "--format", "json")
    assert (result.code in (0, 1), result.err) == (True, "")
    found: dict[str, Any] = json.loads(result.out)
    documents.model("diff").model_validate(found)
    assert found["differ"] is (result.code == 1)
    return found


def only(found: dict[str, Any]) -> dict[str, Any]:
    """The one difference that there is."""
    assert len(found["differences"]) == 1, found["differences"]
    one: dict[str, Any] = found["differences"][0]
    return one


def region(
    gpa: int, page_type: str = "normal", data: bytes = b"data", pages: int = 1
) -> dict[str, Any]:
    made: dict[str, Any] = {"gpa": hex(gpa), "size": hex(pages * PAGE), "type": page_type}
    if page_type in ("normal", "measured"):
        made |= {"source": {"hex": data.hex()}, "pad": "zero"}
    return made


def manifest(name: str, *regions: dict[str, Any], platform: str = "snp", **guest: Any) -> str:
    """Write a manifest of regions and return its name."""
    document: dict[str, Any] = {"schema": "cvmplan.manifest/1", "platform": platform}
    if platform == "snp":
        regions = (*regions, region(0x80D000, "secrets"), region(0x80E000, "cpuid"))
    document |= {"guest": guest, "regions": list(regions)}
    Path(name).write_text(json.dumps(document))
    return name


# --- the same ------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["snp", "sev", "sev-es", "tdx", "default", "sw-protected"])
def test_a_launch_does_not_differ_from_itself(platform: str) -> None:
    image = "td.fd" if platform == "tdx" else "a.fd"
    found = compared(image, image, "--platform", platform)
    assert (found["differ"], found["differences"], found["parting"]) == (False, [], None)


def test_an_image_is_as_its_plan_and_its_traces() -> None:
    for verb, form, name in (
        ("plan", "json", "plan.json"), ("trace", "json", "t.json"), ("trace", "jsonl", "t.jsonl")
    ):  # fmt: skip
        for image in ("a.fd", "td.fd"):
            run(verb, image, "--vcpus", "3", "--format", form, "-o", name)
            found = compared(image, name, "--vcpus", "3")
            assert found["differences"] == [], (name, image)
            assert found["parting"] is None
            assert bool(found["not_compared"]) is (verb == "trace")


# --- one thing each ------------------------------------------------------------------------------


def test_contents_have_the_first_byte_and_its_place_in_each_file(folder: Path) -> None:
    data = bytearray(good_snp().build())
    old = data[0x3ABC]
    data[0x3ABC] ^= 0xFF
    data[0x3FFF] ^= 1
    (folder / "b.fd").write_bytes(data)
    found = compared("a.fd", "b.fd")
    one = only(found)
    assert (one["what"], one["measured"]) == ("contents", True)
    assert one["first"] == one["last"] == hex(BASE + 0x3000)
    assert one["a"] == f"{old:#04x} at a.fd+0x3abc"
    assert one["b"] == f"{old ^ 0xFF:#04x} at b.fd+0x3abc"
    assert found["same_measurement"] is False
    assert hex(BASE + 0x3000) in found["parting"]["why"]


def test_contents_of_neighbouring_pages_are_one_difference(folder: Path) -> None:
    data = bytearray(good_snp().build())
    for page in (3, 4, 6):
        data[page * PAGE + 7] ^= 1
    (folder / "b.fd").write_bytes(data)
    found = compared("a.fd", "b.fd")["differences"]
    assert [(d["first"], d["last"]) for d in found] == [
        (hex(BASE + 0x3000), hex(BASE + 0x4000)), (hex(BASE + 0x6000), hex(BASE + 0x6000))
    ]  # fmt: skip


A: Final = (region(0x100000), region(0x200000, data=b"two"), region(0x300000, "zero"))
PAIRS: Final[dict[str, tuple[tuple[dict[str, Any], ...], dict[str, Any]]]] = {
    "a page more": (
        (*A, region(0x400000, "zero")),
        {"what": "address", "first": "0x400000", "a": "not added", "b": "zero"},
    ),
    "a page less": (
        A[:2], {"what": "address", "first": "0x300000", "a": "zero", "b": "not added"},
    ),
    "pages more": (
        (*A[:2], region(0x300000, "zero", pages=4)),
        {"what": "address", "first": "0x301000", "last": "0x303000", "b": "zero"},
    ),
    "a page type": (
        (*A[:2], region(0x300000, "unmeasured")),
        {"what": "page type", "first": "0x300000", "a": "zero", "b": "unmeasured"},
    ),
    "zeros that are contents": (
        (*A[:2], region(0x300000, data=b"")),
        {"what": "page type", "first": "0x300000", "a": "zero", "b": "normal"},
    ),
    "contents": (
        (A[0], region(0x200000, data=b"tWo"), A[2]),
        {"what": "contents", "first": "0x200000", "a": "0x77 at 0x200001, made for the launch"},
    ),
    "contents that end earlier": (
        (A[0], region(0x200000, data=b"tw"), A[2]),
        {"what": "contents", "b": "0x00 at 0x200002, zeros"},
    ),
    "order": (
        (A[1], A[0], A[2]), {"what": "order"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_what_differs_between_two_manifests_is_named(name: str) -> None:
    regions, expected = PAIRS[name]
    a = manifest("a.json", *A, reset_eip="0x80b004")
    b = manifest("b.json", *regions, reset_eip="0x80b004")
    found = compared(a, b)
    one = only(found)
    assert {key: one[key] for key in expected} == expected
    assert (found["same_measurement"], one["measured"]) == (False, True)
    assert found["parting"] is not None


def test_the_order_says_what_comes_before_in_each() -> None:
    a = manifest("a.json", *A, reset_eip="0x80b004")
    b = manifest("b.json", A[2], A[0], A[1], reset_eip="0x80b004")
    one = only(compared(a, b))
    assert one["first"] == "0x300000"
    assert (one["a"], one["b"]) == ("after 0x200000", "first of all")


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [("rdx", 0x600, "0x600"), ("mxcsr", 0, "0x0"), ("g_pat", 0x70106, "0x70106"),
     ("cs.attrib", 0x9A, "0x9a"), ("tr.attrib", 0x83, "0x83"), ("x87_fcw", 0, "0x0"),
     ("sev_features", 0x21, "0x21"), ("xcr0", 7, "0x7"), ("ldtr.attrib", 0, "0x0")],
)  # fmt: skip
def test_a_field_of_a_vcpu_state_is_named(field: str, value: int, shown: str, folder: Path) -> None:
    profile = json.loads(run("profiles", "qemu", "--format", "json").out)
    options = ["--platform", "snp"]
    if field == "sev_features":
        found = compared("a.fd", "a.fd", *options, "--b", f"--sev-features {value}")
    else:
        profile["vmsa"]["boot"][field] = hex(value)
        (folder / "own.json").write_text(json.dumps(profile))
        found = compared("a.fd", "a.fd", *options, "--b", "--vmm ./own.json")
    told = [d for d in found["differences"] if d["what"] == "vCPU state"]
    assert [(d["where"], d["b"]) for d in told] == [(f"vCPU 0 {field}", shown)]
    assert found["parting"]["why"] == "the state of vCPU 0"
    assert all(d["measured"] is False for d in found["differences"] if d not in told)


def test_application_processors_are_named_together() -> None:
    found = compared("a.fd", "a.fd", "--vcpus", "4", "--b", "--reset-eip 0x80c004")
    assert [(d["where"], d["a"], d["b"]) for d in found["differences"]] == [
        ("vCPUs 1-3 rip", "0xb004", "0xc004")
    ]


@pytest.mark.parametrize("platform", ["snp", "sev-es"])
def test_the_number_of_vcpus_is_named(platform: str) -> None:
    found = compared("a.fd", "a.fd", "--platform", platform, "--a", "--vcpus 2", "--b", "--vcpus 5")
    one = only(found)
    assert (one["what"], one["a"], one["b"]) == ("vCPU states", "2", "5")
    assert found["parting"]["why"] == "2 vCPU states in A, 5 in B"


UNMEASURED: Final[dict[str, tuple[str, str, str, str]]] = {
    "policy": ("--policy 0x30000", "--policy 0xb0000", "policy", "snp"),
    "host data": ("", f"--host-data {'ab' * 32}", "host_data", "snp"),
    "vcek": ("", "--vcek-disabled", "vcek_disabled", "snp"),
    "attributes": ("", "--attributes 1", "attributes", "tdx"),
    "mrowner": ("", f"--mrowner {'ab' * 48}", "mrowner", "tdx"),
    "guest address width": ("", "--gpaw 52", "gpaw", "tdx"),
    "frequency": ("", "--tsc-khz 1000000", "tsc_khz", "tdx"),
    "vCPUs of a TD": ("--vcpus 1", "--vcpus 2", "vCPUs", "tdx"),
}


@pytest.mark.parametrize("name", UNMEASURED)
def test_what_is_not_measured_is_a_difference_and_says_so(name: str) -> None:
    a, b, what, platform = UNMEASURED[name]
    image = "td.fd" if platform == "tdx" else "a.fd"
    found = compared(image, image, "--a", a, "--b", b)
    one = only(found)
    assert (one["what"], one["measured"], found["same_measurement"]) == (what, False, True)
    text = run("diff", image, image, "--a", a, "--b", b)
    assert text.code == 1
    assert "none of it measured" in text.out


def test_a_command_line_is_named_with_the_page_that_it_changes() -> None:
    both = ("--a", "--append x", "--b", "--append 'x '")
    found = compared("a.fd", "a.fd", "--kernel", "kernel", *both)
    assert [d["what"] for d in found["differences"]] == ["contents", "append_hash"]
    assert found["differences"][0]["first"] == "0x810000"


def test_the_order_of_adds_and_extends_is_named() -> None:
    found = compared("td.fd", "td.fd", "--b", "--page-order two-pass")
    one = only(found)
    assert (one["what"], one["a"], one["b"]) == ("order", "single-pass", "two-pass")
    assert "added and extended one by one in A, added in B" in found["parting"]["why"]


def test_whether_a_td_page_is_measured_is_its_type() -> None:
    guest = {"platform": "tdx"}
    a = manifest("a.json", region(0x100000, "measured"), region(0x200000, "measured"), **guest)
    b = manifest("b.json", region(0x100000, "measured"), region(0x200000, "unmeasured"), **guest)
    one = only(compared(a, b))
    assert (one["what"], one["first"], one["a"], one["b"]) == (
        "page type", "0x200000", "measured", "unmeasured"
    )  # fmt: skip


def test_other_platforms_are_named(folder: Path) -> None:
    both = replace(good_tdx(), sev_sections=good_snp().sev_sections).build()
    (folder / "both.fd").write_bytes(both)
    found = compared("both.fd", "both.fd", "--a", "--platform snp", "--b", "--platform tdx")
    assert found["differences"][0]["what"] == "platform"
    assert found["same_measurement"] is False


# --- plans, traces, recordings -------------------------------------------------------------------


def plan_of(image: str, *args: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run("plan", image, *args, "--format", "json").out)
    return document


def test_plans_that_cut_pages_otherwise_differ_and_measure_the_same(folder: Path) -> None:
    plan = plan_of("a.fd")
    (folder / "whole.json").write_text(json.dumps(plan))
    number, add = next((n, op) for n, op in enumerate(plan["ops"]) if op["kind"] == "add")
    half = 0x4000
    first = {**add, "size": hex(half), "source": {**add["source"], "length": half}}
    size = int(add["size"], 16) - half
    second = {
        **add, "gpa": hex(int(add["gpa"], 16) + half), "size": hex(size),
        "source": {**add["source"], "offset": half, "length": size},
    }  # fmt: skip
    for op in (first, second):
        op.pop("digest_after")
    plan["ops"][number : number + 1] = [first, second]
    for seq, op in enumerate(plan["ops"]):
        op["seq"] = seq
    (folder / "cut.json").write_text(json.dumps(plan))
    found = compared("whole.json", "cut.json")
    assert (found["differ"], found["same_measurement"], found["differences"]) == (True, True, [])
    assert f"from op {number} on" in found["calls_differ"]
    text = run("diff", "whole.json", "cut.json").out
    assert "both measure identically" in text


def test_plans_for_two_kernels_differ_in_calls_alone() -> None:
    found = compared("a.fd", "a.fd", "--b", "--abi kvm-6.18")
    assert (found["differences"], found["same_measurement"]) == ([], True)
    assert found["calls_differ"]


def test_a_trace_parts_where_its_digests_do(folder: Path) -> None:
    run("trace", "a.fd", "--format", "jsonl", "-o", "t.jsonl")
    data = bytearray(good_snp().build())
    data[0x4000] ^= 1
    (folder / "b.fd").write_bytes(data)
    found = compared("t.jsonl", "b.fd")
    assert "step 5" in found["parting"]["a"]
    assert hex(BASE + 0x4000) in found["parting"]["why"]
    text = run("diff", "t.jsonl", "b.fd").out
    assert "they differ there, and the measurements differ" in text


def test_a_trace_parts_at_the_vcpu_whose_digest_differs() -> None:
    run("trace", "a.fd", "--vcpus", "3", "--format", "json", "-o", "t.json")
    found = compared("t.json", "a.fd", "--vcpus", "3", "--cpu", "EPYC-Milan")
    assert found["parting"]["why"] == "the state of vCPU 0"
    other = compared("t.json", "a.fd", "--vcpus", "3", "--reset-eip", "0x80c004")
    assert other["parting"]["why"] == "the state of vCPUs 1-2"


@pytest.mark.parametrize("form", ["json", "jsonl"])
@pytest.mark.parametrize("platform", ["tdx", "sev", "sev-es"])
def test_a_trace_has_the_measurement_that_it_leads_to(
    form: str, platform: str, folder: Path
) -> None:
    image = "td.fd" if platform == "tdx" else "a.fd"
    data = bytearray((folder / image).read_bytes())
    data[0x4008] ^= 1
    (folder / "b.fd").write_bytes(data)
    for name in (image, "b.fd"):
        run("trace", name, "--platform", platform, "--format", form, "-o", f"{name}.trace")
    found = compared(f"{image}.trace", "b.fd.trace")
    measured = [run("measure", n, "--platform", platform, "--bare").out for n in (image, "b.fd")]
    assert [found[side]["digest"] for side in "ab"] == measured
    assert (found["differ"], found["same_measurement"]) == (True, False)
    assert "no difference found" in run("diff", f"{image}.trace", "b.fd.trace").out


def test_vcpu_states_among_the_pages_have_a_place_in_the_order() -> None:
    files = [str(shared(f"vectors/igvm/{n}.igvm")) for n in ("snp_basic", "snp_vmsa_first")]
    found = compared(*files, "--platform", "snp")
    assert {d["what"] for d in found["differences"]} == {"order"}
    assert "vmsa" in found["parting"]["why"]


LOG: Final = (
    "kvm_sev_snp_launch_start policy 0x30000 gosvw ",
    *(
        f"kvm_sev_snp_launch_update src 0x7f0000000000 gpa {gpa:#x} len {size:#x} ({kind} page)"
        for gpa, size, kind in ((BASE, 0x8000, "NORMAL"), *(
            (s.gpa, s.length, {2: "SECRETS", 3: "CPUID"}.get(s.type, "ZERO"))
            for s in good_snp().sev_sections or ()
        ))
    ),
    "kvm_sev_snp_launch_finish id_block  id_auth  host_data ",
)  # fmt: skip
SPOILED_LOGS: Final[dict[str, tuple[Callable[[list[str]], list[str]], str]]] = {
    "a call that is missing": (lambda lines: [*lines[:3], *lines[4:]], "address"),
    "a page of another type": (
        lambda lines: [*lines[:2], lines[2].replace("ZERO", "UNMEASURED"), *lines[3:]], "page type"
    ),
    "a page that is added twice": (lambda lines: [*lines[:4], lines[3], *lines[4:]], "added twice"),
    "a different order": (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], "order"),
}  # fmt: skip


def test_a_recorded_launch_is_compared_by_addresses_types_and_order(folder: Path) -> None:
    (folder / "qemu.log").write_text("\n".join(LOG))
    found = compared("a.fd", "qemu.log")
    assert (found["differences"], found["parting"], found["same_measurement"]) == ([], None, None)
    assert found["not_compared"]


@pytest.mark.parametrize("name", SPOILED_LOGS)
def test_what_a_recorded_launch_did_otherwise_is_named(name: str, folder: Path) -> None:
    spoil, what = SPOILED_LOGS[name]
    (folder / "qemu.log").write_text("\n".join(spoil(list(LOG))))
    found = compared("a.fd", "qemu.log")
    assert [d["what"] for d in found["differences"]] == [what]
    assert "line" in found["parting"]["b"]


# --- the command line ----------------------------------------------------------------------------


def shown(*args: str) -> Result:
    return run("diff", *args)


def test_text_says_where_they_part_and_what_differs() -> None:
    result = shown("a.fd", "a.fd", "--a", "--vmm qemu", "--b", "--vmm ec2")
    assert result.code == 1
    assert "first difference at op" in result.out
    assert "0x80e000 cpuid in A, 0x80f000 zero in B" in result.out
    assert "vCPU 0 rdx" in result.out
    assert result.out.rstrip().endswith("and the measurements differ")


WRONG: Final[dict[str, tuple[list[str], int]]] = {
    "one launch": (["a.fd"], 2),
    "an option that there is not": (["a.fd", "a.fd", "--b", "--vcpu 2"], 2),
    "a quote that does not end": (["a.fd", "a.fd", "--a", "--append 'x"], 2),
    "a setting that is wrong": (["a.fd", "a.fd", "--b", "--vcpus none"], 2),
    "a file that is absent": (["a.fd", "nothing"], 3),
    "no launch at all": (["a.fd", "kernel"], 4),
    "an illegal launch": (["a.fd", "a.fd", "--b", "--vmm cloud-hypervisor"], 2),
    "a plan with settings": (["plan.json", "a.fd", "--a", "--vcpus 2"], 2),
    "standard input twice": (["-", "-"], 2),
    "a trace that is none": (["trace.json", "a.fd"], 3),
    "lines that are no trace": (["trace.jsonl", "a.fd"], 3),
    "a trace of nothing": (["empty.jsonl", "a.fd"], 3),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_questions_are_refused(name: str, folder: Path) -> None:
    (folder / "plan.json").write_text(json.dumps(plan_of("a.fd")))
    trace = {"schema": "cvmplan.trace/1", "platform": "snp", "steps": 1}
    (folder / "trace.json").write_text(json.dumps(trace))
    (folder / "trace.jsonl").write_text('{"step": 0, "op": 0, "command": "X"}\n{"step": \n')
    (folder / "empty.jsonl").write_text('{"step": 0, "op": 0, "command": "NOTHING"}\n')
    args, code = WRONG[name]
    assert_refused(shown(*args), {code})
