"""Documents that somebody else wrote: one line of error, whatever their strings and numbers are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.oracles import shared
from tests.run import assert_refused, run

HALF = "\ud800"  # RFC 8259, 8.2: what a JSON escape can write and no encoding has


def document(verb: str, *args: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(run(verb, "--example", "snp", *args, "--format", "json").out)
    return made


def put(made: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """The document with `value` at `path`."""
    at: Any = made
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return made


def wrong_trace(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    return put(document("trace"), path, value)


TRACES: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "vCPUs that are no numbers": (("steps", 9, "vcpus"), "x"),
    "vCPUs backwards": (("steps", 9, "vcpus"), "5-1"),
    "more vCPUs than KVM has": (("steps", 9, "vcpus"), "0-4096"),
    "vCPUs past any integer": (("steps", 9, "vcpus"), "9" * 5000),
    "vCPUs in other digits": (("steps", 9, "vcpus"), "\u0663"),
    "a digest that is no hex": (("steps", 9, "digest"), "zz"),
    "a digest of odd length": (("steps", 9, "digest"), "a" * 95),
    "a command of half a character": (("steps", 9, "command"), HALF),
    "a page type of half a character": (("steps", 1, "page_type"), HALF),
    "a page type with an escape": (("steps", 1, "page_type"), "\x1b[31m"),
    "an address past 2^64": (("steps", 1, "gpa"), "0x1" + "0" * 16),
    "an end past 2^64": (("steps", 1, "size"), "0xfffffffffffff000"),
    "a count past 2^63": (("steps", 1, "count"), 1 << 63),
    "a negative step": (("steps", 1, "step"), -1),
    "no steps": (("steps",), None),
    "a platform without a digest": (("platform",), "default"),
}


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("lines", [False, True], ids=["json", "jsonl"])
def test_a_trace_with_one_thing_wrong_is_malformed(name: str, lines: bool, tmp_path: Path) -> None:
    made = wrong_trace(*TRACES[name])
    text = json.dumps(made)
    if lines:
        if name in ("no steps", "a platform without a digest"):
            pytest.skip("JSON Lines have neither")
        text = "\n".join(json.dumps(step) for step in made["steps"])
    (tmp_path / "t.json").write_text(text)
    result = run("diff", str(tmp_path / "t.json"), str(tmp_path / "t.json"))
    assert_refused(result, {3})


@pytest.mark.parametrize("name", ["a.json", "b.json", "c.json", "d.json"])
def test_the_published_traces_are_refused(name: str) -> None:
    right = shared("cases/robust/trace-documents/t.json")
    wrong = shared(f"cases/robust/trace-documents/{name}")
    assert_refused(run("diff", str(wrong), str(right)), {3})
    assert_refused(run("diff", str(right), str(wrong)), {3})


SETTINGS: dict[str, tuple[str, Any]] = {
    "an option of another verb": ("output", "bashrc"),
    "an option written out": ("--output=FILE", "x"),
    "a signature that is no number": ("cpu_signature", "x"),
    "a signature that is a number": ("cpu_signature", 1),
    "a policy that is a list": ("policy", ["0x30000"]),
    "vCPUs as text": ("vcpus", "1"),
    "vCPUs that are true": ("vcpus", True),
    "a command line that is an object": ("append", {"a": 1}),
    "host data of 31 bytes": ("host_data", "11" * 31),
    "a range that is none": ("prefault", ["x"]),
    "ranges in ranges": ("prefault", [["0x0+0x1000"]]),
    "a flag that is text": ("vcek_disabled", "yes"),
    "a policy past 2^64": ("policy", "0x1" + "0" * 16),
    "half a character": ("machine", HALF),
    "a name of half a character": (HALF, "x"),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("key", ["given", "assumed"])
def test_settings_of_a_plan_are_known_and_of_their_kind(
    name: str, key: str, tmp_path: Path
) -> None:
    setting, value = SETTINGS[name]
    made = put(document("plan"), (key, setting), value)
    (tmp_path / "p.json").write_text(json.dumps(made))
    for verb in ("measure", "plan", "simulate", "inspect"):
        assert_refused(run(verb, str(tmp_path / "p.json")), {3})


@pytest.mark.parametrize(
    "path", ["cases/evidence/foreign-plan/p.json", "cases/robust/plan-with-option-names/evil.json"]
)
def test_the_published_plans_are_refused(path: str) -> None:
    report = shared("cases/evidence/foreign-plan/r3.bin")
    assert_refused(run("verify", str(report), "--plan", str(shared(path))), {3})


PLANS: dict[str, Callable[[], list[str]]] = {
    "snp": lambda: ["--example", "snp", "--host-data", "11" * 32, "--c-bit", "51", "--vcpus", "3"],
    "tdx": lambda: ["--example", "tdx", "--machine", "q35", "--tsc-khz", "1000000"],
    "sev-es": lambda: ["--example", "snp", "--platform", "sev-es"],
    "kernel": lambda: ["--example", "snp", "--kernel-hash", "22" * 32, "--append", "$(x) 'y'"],
    "numbers": lambda: ["--example", "snp", "--family", "25", "--model", "1", "--stepping", "1"],
    "firmware": lambda: ["--example", "snp", "--firmware-digest", "33" * 48, "--vcek-disabled"],
    "ranges": lambda: ["--example", "snp", "--platform", "default", "--prefault", "0x1000+0x1000"],
}


@pytest.mark.parametrize("name", PLANS)
def test_settings_of_plans_made_here_are_read_back(name: str, tmp_path: Path) -> None:
    args = PLANS[name]()
    assert run("plan", *args, "--format", "json", "-o", str(tmp_path / "p.json")).code == 0
    again = run("plan", str(tmp_path / "p.json"), "--format", "json", "--inputs", str(tmp_path))
    assert (again.code, again.out) == (0, (tmp_path / "p.json").read_text())


def matrix(**more: Any) -> dict[str, Any]:
    sweep = {"images": ["a.fd"], "platform": "snp", "kernel_hash": "55" * 32, **more}
    return {"schema": "cvmplan.matrix/1", "sweeps": [sweep]}


DOCUMENTS: dict[str, tuple[tuple[str, ...], Callable[[], Any]]] = {
    "matrix": (("sweep", "--matrix"), lambda: matrix(append=[HALF])),
    "image of a matrix": (("sweep", "--matrix"), lambda: matrix(images=[HALF])),
    "manifest": (("measure",), lambda: {"schema": "cvmplan.manifest/1", "platform": HALF}),
    "key of a manifest": (("measure",), lambda: {"schema": "cvmplan.manifest/1", HALF: 1}),
    "plan": (("measure",), lambda: put(document("plan"), ("inputs", 0, "path"), HALF)),
    "finding of a plan": (("measure",), lambda: put(document("plan"), ("vmm",), HALF)),
    "profile": (
        ("measure", "--example", "snp", "--vmm"),
        lambda: put(json.loads(run("profiles", "qemu", "--format", "json").out), ("title",), HALF),
    ),
    "evidence": (("verify", "--example", "snp"), lambda: {"attestation_report": HALF}),
    "certificate": (
        ("verify", "--example", "snp"),
        lambda: {"attestation_report": "00" * 1184, "vcek": HALF},
    ),
    "event log": (
        ("events",),
        lambda: [{"imr": 0, "event_type": 1, "event": HALF, "event_payload": "", "digest": ""}],
    ),
    "recording": (("simulate",), lambda: {"op": "snp-launch-start", "policy": HALF}),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_half_a_character_is_one_line_in_every_document(name: str, tmp_path: Path) -> None:
    args, make = DOCUMENTS[name]
    path = tmp_path / ("./d.json")
    path.write_text(json.dumps(make()))
    verb = [*args[:1], str(path), *args[1:]] if args[0] == "verify" else [*args, str(path)]
    assert_refused(run(*verb), {2, 3, 4})


@pytest.mark.parametrize(
    "path", ["cases/evidence/surrogate/ev.json", "cases/robust/matrix-surrogate/surrogate.json"]
)
def test_the_published_halves_are_refused(path: str) -> None:
    file = str(shared(path))
    if "matrix" in path:
        assert_refused(run("sweep", "--matrix", file), {2, 3})
    else:
        assert_refused(run("verify", file, "--example", "snp"), {3})


@pytest.mark.parametrize("opening", ['{"a":', '[{"a":', "[["])
def test_depth_is_bounded_in_every_form(opening: str, tmp_path: Path) -> None:
    path = tmp_path / "deep"
    for text in (
        '{"schema": "cvmplan.manifest/1", "x": ' + opening * 200,
        '{"schema": "cvmplan.plan/1", "x": ' + "[" * 400 + "]" * 400 + "}",
        "schema: cvmplan.manifest/1\nx: " + "[" * 400 + "]" * 400,
        "schema: cvmplan.manifest/1\nx: " + "- " * 400 + "1",
        'schema = "cvmplan.manifest/1"\nx = ' + "[" * 400 + "]" * 400,
    ):
        path.write_text(text)
        assert_refused(run("measure", str(path)), {3})


@pytest.mark.parametrize("path", ["\0", "a\0b", HALF, "a/\ud800/b"])
def test_what_is_no_file_name_is_one_line(path: str) -> None:
    for verb in ("plan", "measure", "sweep", "inspect"):
        assert_refused(run(verb, "--example", "snp", "-o", path), {2, 3})
        assert_refused(run(verb, path), {1, 2, 3})


def test_a_command_line_of_half_a_character_is_no_launch() -> None:
    args = ("--example", "snp", "--kernel-hash", "55" * 32, "--append", HALF)
    assert_refused(run("measure", *args), {2})
    assert run("sweep", *args).code in (1, 2)


def test_bytes_that_are_no_text_are_options_too() -> None:
    args = ("--example", "snp", "--kernel-hash", "55" * 32, "--append", "a\udcff")
    assert run("measure", *args).code == 0  # os.fsdecode: what a shell passes on is bytes
    assert "a\\udcff" in run("plan", *args, "--format", "json").out
    assert "a\\xff" in run("sweep", *args).out.replace("\\\\", "\\")
