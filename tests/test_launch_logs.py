"""
Logs of launches in the forms that tracers and VMMs print.

qemu-*.log are of Debian's QEMU 11.1 under the recorder of `tests.recorder` (`-trace 'kvm_sev*'`),
strace-qemu.log of the same QEMU on /dev/kvm (strace 6.1; calls that are no part of a launch were
left out), strace-commands.log of `tests.recorder.plain_vmm` (strace 7.2, -y).  The others were
written after the format strings that the readers name.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan import Blob
from cvmplan.readers import recorded
from cvmplan.simulator.attempts import Attempt
from tests.run import assert_refused, run

FOLDER: Final = Path(__file__).parent / "launch_logs"


def simulated(log: str | bytes, *options: str) -> tuple[int, dict[str, Any]]:
    """Return exit code and document of `simulate`."""
    where = str(FOLDER / log) if isinstance(log, str) else "-"
    stdin = log if isinstance(log, bytes) else b""
    result = run("simulate", where, "--format", "json", *options, stdin=stdin)
    assert result.err == "", result.err
    return result.code, json.loads(result.out)


def attempts(name: str) -> tuple[Attempt, ...]:
    return recorded.read(Blob(name, memoryview((FOLDER / name).read_bytes()))).attempts


def adds(name: str) -> list[tuple[int, int, str, str | None]]:
    return [(a.gpa, a.size, a.page_type, a.returned) for a in attempts(name) if a.page_type]


def rules(document: dict[str, Any]) -> list[str]:
    return [finding["rule"] for finding in document["findings"]]


def results(document: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    return [(r["op"], r["result"], r.get("errno")) for r in document["results"]]


# --- QEMU's trace events -------------------------------------------------------------------------


def test_a_real_trace_of_snp_has_every_add_and_partial_ones_go_on() -> None:
    code, document = simulated("qemu-snp.log")
    assert (code, document["platform"], document["finalized"]) == (0, "snp", True)
    assert rules(document) == []
    why = [r.get("why") for r in document["results"] if r["op"] == "snp-launch-update"]
    assert why[:2] == ["goes on in line 5", "goes on in line 6"]
    starts = [(gpa, page_type) for gpa, _, page_type, _ in adds("qemu-snp.log")]
    assert starts == [
        (0xFFFE0000, "normal"), (0xFFFE5000, "normal"), (0xFFFEA000, "normal"),
        (0x800000, "zero"), (0x80A000, "zero"), (0x80D000, "secrets"), (0x80E000, "cpuid"),
        (0x80F000, "zero"), (0x811000, "zero"), (0x810000, "zero"),
    ]  # fmt: skip


def test_a_partial_add_of_a_trace_is_compared_as_far_as_it_came() -> None:
    told = run("diff", "example:snp", str(FOLDER / "qemu-snp.log"), "--format", "json")
    found = json.loads(told.out)["differences"]
    assert "added twice" not in {difference["what"] for difference in found}


@pytest.mark.parametrize(("name", "platform"), [("qemu-sev", "sev"), ("qemu-sev-es", "sev-es")])
def test_a_real_trace_of_sev_has_its_adds_without_addresses(name: str, platform: str) -> None:
    code, document = simulated(f"{name}.log")
    assert (code, document["platform"], document["finalized"]) == (0, platform, True)
    assert [r["op"] for r in document["results"]] == [
        "sev-launch-start", "sev-launch-update-data", "sev-launch-measure", "sev-launch-finish",
    ]  # fmt: skip
    add = attempts(f"{name}.log")[1]
    assert (add.size, add.placed) == (0x20000, False)


# --- strace --------------------------------------------------------------------------------------


def test_a_real_strace_shows_order_and_results_up_to_the_first_run() -> None:
    code, document = simulated("strace-qemu.log")
    assert (code, document["platform"], document["finalized"]) == (0, "default", True)
    ops = [r["op"] for r in document["results"]]
    assert ops == ["create-vm", "create-vcpu", "create-vcpu", *["set-memslot"] * 9, "run"]
    slots = [(a.slot, a.gpa, a.size) for a in attempts("strace-qemu.log") if a.op == "set-memslot"]
    assert slots[:3] == [(0, 0, 64 << 20), (0, 0, 0), (0, 0, 0xE0000)]
    assert slots[5] == (3, 0xFFFC0000, 0x40000)


def test_what_a_real_strace_does_not_show_is_said_and_the_script_is_named() -> None:
    code, document = simulated("strace-commands.log")
    assert (code, document["digest"]) == (1, None)
    found = {f["rule"]: f["message"] for f in document["findings"]}
    assert set(found) == {"not-in-trace", "not-finalized"}
    assert "28 structs are missing (lines 4 to 33)" in found["not-in-trace"]
    assert "cvmplan help recording" in found["not-in-trace"]
    errnos = [errno for op, _, errno in results(document) if op == "memory-encrypt-op"]
    assert set(errnos) == {"ENOTTY"}
    assert results(document)[-1] == ("memory-encrypt-op", "error", "ENOTTY")
    assert results(document)[-2][1] == "ambiguous"


SNP: Final = b"""\
[pid  4711] 12:00:01.000001 ioctl(9</dev/kvm>, KVM_CREATE_VM, 0x4) = 11<anon_inode:kvm-vm>
[pid  4712] 12:00:01.000002 ioctl(11<anon_inode:kvm-vm>, KVM_CREATE_VCPU, 0 <unfinished ...>
[pid  4711] 12:00:01.000003 ioctl(11, _IOC(_IOC_READ|_IOC_WRITE, 0xae, 0xba, 0x8), 0x7ffd0) = 0
[pid  4712] 12:00:01.000004 <... ioctl resumed>) = 12<anon_inode:kvm-vcpu:0>
[pid  4711] 12:01 ioctl(11, 0xc008aeba /* KVM_MEMORY_ENCRYPT_OP */, 0x7ffd0) = -1 EAGAIN (Resource)
[pid  4711] 12:00:01.000006 ioctl(11, KVM_MEMORY_ENCRYPT_OP, 0x7ffd0) = 0
[pid  4711] 12:00:01.000007 ioctl(11, KVM_MEMORY_ENCRYPT_OP, 0x7ffd0 <unfinished ...>
"""


def test_calls_that_are_resumed_and_requests_in_every_spelling_are_read() -> None:
    _, document = simulated(SNP)
    assert document["platform"] == "snp"
    assert results(document) == [
        ("create-vm", "ok", None),
        ("create-vcpu", "ok", None),
        ("memory-encrypt-op", "ok", None),
        ("memory-encrypt-op", "nop", "EAGAIN"),
        ("memory-encrypt-op", "ok", None),
        ("memory-encrypt-op", "ok", None),
    ]
    code, document = simulated(SNP + b"4712 ioctl(12, KVM_RUN <unfinished ...>\n")
    assert (code, document["finalized"], rules(document)) == (0, True, ["not-in-trace"])


def test_a_call_that_failed_and_was_the_last_is_the_error() -> None:
    refused = b"4711 ioctl(11, KVM_MEMORY_ENCRYPT_OP, 0x7ffd0) = -1 EIO (Input/output error)\n"
    code, document = simulated(SNP + refused)
    assert code == 1
    assert results(document)[-1] == ("memory-encrypt-op", "error", "EIO")


def test_a_vm_of_type_0_with_commands_needs_its_platform() -> None:
    log = SNP.replace(b"0x4", b"0")
    result = run("simulate", "-", stdin=log)
    assert_refused(result, {2})
    assert "--platform" in result.err
    assert simulated(log, "--platform", "sev")[1]["platform"] == "sev"
    asked = b"".join(line for line in log.splitlines(keepends=True) if b"ENC" not in line)
    asked = asked.replace(b"_IOC(_IOC_READ|_IOC_WRITE, 0xae, 0xba, 0x8), 0x7ffd0", b"KVM_RUN, 0")
    probe = b"4711 ioctl(11, KVM_MEMORY_ENCRYPT_OP, 0)      = 0\n"
    code, document = simulated(probe + asked)
    assert (code, document["platform"], rules(document)) == (0, "default", [])


# --- logs of VMMs --------------------------------------------------------------------------------


def test_groups_of_pages_are_adds_without_addresses() -> None:
    code, document = simulated("cloud-hypervisor-snp.log")
    assert (code, document["finalized"], rules(document)) == (0, True, ["not-in-trace"])
    made = attempts("cloud-hypervisor-snp.log")
    assert [(a.op, a.size // 4096, a.returned) for a in made] == [
        ("snp-launch-update", 513, ""), ("snp-launch-update", 1, ""),
        ("snp-launch-update", 2, ""), ("snp-launch-finish", 0, ""),
    ]  # fmt: skip
    corrected = document["results"][1]["why"]
    assert "the firmware corrected the CPUID page" in corrected


def test_a_group_that_failed_ends_the_launch() -> None:
    lines = (FOLDER / "cloud-hypervisor-snp.log").read_bytes().splitlines(keepends=True)
    code, document = simulated(b"".join(lines[:5]))
    assert (code, document["finalized"]) == (1, False)
    last = document["results"][-1]
    assert (last["result"], last["errno"], last["fw_error"]) == ("error", "EIO", 0x16)


def test_sections_of_a_td_are_its_adds() -> None:
    code, document = simulated("cloud-hypervisor-tdx.log")
    assert (code, document["platform"], rules(document)) == (0, "tdx", ["not-in-trace"])
    made = attempts("cloud-hypervisor-tdx.log")
    assert [(a.gpa, a.size, a.measured) for a in made] == [
        (0xFFC84000, 0x37C000, True), (0xFFC00000, 0x84000, False), (0x809000, 0x2000, False),
    ]  # fmt: skip


def test_calls_with_fields_are_read_with_their_results() -> None:
    code, document = simulated("openvmm-snp.log")
    assert (code, document["finalized"], rules(document)) == (0, True, [])
    assert adds("openvmm-snp.log") == [
        (0x100000, 0x2000, "normal", ""), (0x102000, 0x1000, "secrets", ""),
        (0x103000, 0x1000, "cpuid", ""), (0x104000, 0x1000, "unmeasured", ""),
    ]  # fmt: skip
    assert attempts("openvmm-snp.log")[0].policy == 0xB0000


def test_a_page_that_was_added_twice_is_named_with_both_lines() -> None:
    code, document = simulated("openvmm-refused.log")
    assert code == 1
    assert results(document)[-1] == ("snp-launch-update", "error", "EIO")
    twice = next(f for f in document["findings"] if f["rule"] == "added-twice")
    assert "line 4 adds what line 3 added" in twice["message"]
    assert (twice["first"], twice["last"]) == ("0x101000", "0x101000")


def test_a_log_without_its_adds_says_which_level_has_them() -> None:
    lines = (FOLDER / "openvmm-snp.log").read_bytes().splitlines(keepends=True)
    _, document = simulated(b"".join(line for line in lines if b"TRACE" not in line))
    assert rules(document) == ["not-in-trace"]
    assert "trace" in document["findings"][0]["message"]


# --- recorded/1 with the calls that set up a VM --------------------------------------------------


def jsonl(*lines: dict[str, Any]) -> bytes:
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


def launch(*adds: dict[str, Any], end: bool = True) -> list[dict[str, Any]]:
    """A launch of SNP, as the bpftrace script writes it."""
    memory = {"gpa": "0x0", "size": "0x1000000"}
    lines: list[dict[str, Any]] = [
        {"op": "create-vm", "vm_type": 4},
        {"op": "init", "vmsa_features": "0x0"},
        {"op": "create-vcpu", "count": 1},
        {"op": "create-gmem", "gmem": 0, "size": "0x1000000", "flags": 0},
        {"op": "set-memslot", "slot": 0, **memory, "src": "0x7f0000000000", "gmem": 0,
         "gmem_offset": "0x0"},
        {"op": "set-private", **memory},
        {"op": "snp-launch-start", "policy": "0x30000"},
        *adds,
        *([{"op": "snp-launch-finish"}] if end else []),
    ]  # fmt: skip
    return [{"n": n, **line, "ret": line.get("ret", 0)} for n, line in enumerate(lines)]


def add(gpa: int, size: int, ret: int = 0, done: int | None = None) -> dict[str, Any]:
    """An add of which `done` bytes were added, by default all or none."""
    done = (0 if ret else size) if done is None else done
    left = {"gpa": hex(gpa + done), "size": hex(size - done)}
    return {"op": "snp-launch-update", "gpa": hex(gpa), "size": hex(size), "page_type": "normal",
            "src": hex(0x7F0000000000 + gpa), "ret": ret, "residual": left}  # fmt: skip


@pytest.mark.parametrize("abi", ["kvm-6.11", "kvm-6.18", "kvm-7.3"])
def test_a_vm_that_is_set_up_in_the_recording_is_judged_as_it_is(abi: str) -> None:
    code, document = simulated(jsonl(*launch(add(0x100000, 0x2000))), "--abi", abi)
    assert (code, document["finalized"], rules(document)) == (0, True, [])
    lines = launch(add(0x100000, 0x2000))
    without = [{**line, "n": n} for n, line in enumerate(lines) if line["op"] != "set-private"]
    without[:] = [{**line, "n": n} for n, line in enumerate(without)]
    code, document = simulated(jsonl(*without), "--abi", abi)
    assert code == 1
    assert [op for op, result, _ in results(document) if result == "error"] == ["snp-launch-update"]


def test_a_double_add_names_both_lines_in_any_order_of_the_file() -> None:
    twice = launch(add(0x100000, 0x9000), add(0x200000, 0x1000), add(0x108000, 0x1000, -5))
    text = jsonl(*twice[:3], twice[4], twice[3], *twice[5:-1])
    code, document = simulated(b"Attaching 24 probes...\n" + text + b"\n\n")
    assert code == 1
    assert [r["seq"] for r in document["results"][3:5]] == [6, 5]
    found = next(f for f in document["findings"] if f["rule"] == "added-twice")
    assert found["message"].startswith("line 11 adds what line 9 added")
    assert (found["first"], found["last"]) == ("0x108000", "0x108000")


def test_each_line_that_added_a_page_before_is_named_with_its_pages() -> None:
    """One that failed with EAGAIN added none, and is not named."""
    lines = launch(
        add(0x101000, 0x1000, -11), add(0x101000, 0x1000), add(0x100000, 0x1000),
        add(0x100000, 0x2000),
    )  # fmt: skip
    code, document = simulated(jsonl(*lines))
    assert code == 1
    found = [f for f in document["findings"] if f["rule"] == "added-twice"]
    assert [(f["message"][:30], f["first"]) for f in found] == [
        ("line 11 adds what line 10 adde", "0x100000"),
        ("line 11 adds what line 9 added", "0x101000"),
    ]


def test_a_recording_without_addresses_is_not_compared() -> None:
    for name in ("strace-qemu.log", "cloud-hypervisor-snp.log", "qemu-sev.log"):
        assert_refused(run("diff", "example:snp", str(FOLDER / name)), {4})


def test_other_verbs_name_the_one_that_reads_a_recording() -> None:
    result = run("measure", str(FOLDER / "openvmm-snp.log"))
    assert_refused(result, {4})
    assert "cvmplan simulate" in result.err


def test_a_comparison_says_where_a_recorded_launch_ended() -> None:
    text = jsonl(*launch(add(0x100000, 0x1000), add(0x100000, 0x1000, -5), end=False))
    result = run("diff", "example:snp", "-", "--format", "json", stdin=text)
    told = json.loads(result.out)["not_compared"]
    assert "B after line 9: the launch ended with EIO" in told


def test_a_double_add_that_is_recorded_as_done_is_an_error() -> None:
    code, document = simulated(jsonl(*launch(add(0x100000, 0x1000), add(0x100000, 0x1000))))
    assert code == 1
    assert "added-twice" in rules(document)


def test_a_loop_over_the_rest_is_no_second_add() -> None:
    first = add(0x100000, 0x4000, done=0x2000)
    code, document = simulated(jsonl(*launch(first, add(0x102000, 0x2000))))
    assert (code, rules(document)) == (0, [])


def test_the_vm_that_was_created_is_the_one_that_counts() -> None:
    """A VMM that tries a type which the kernel does not have, and then another one."""
    lines = [
        {"op": "create-vm", "vm_type": 5, "ret": -22}, {"op": "create-vm", "vm_type": 0, "ret": 0},
    ]  # fmt: skip
    document = simulated(jsonl(*lines))[1]
    assert document["platform"] == "default"
    assert [result for _, result, _ in results(document)] == ["error", "ok"]


def test_adds_of_sev_have_their_address_by_the_memslots() -> None:
    memory = {"op": "set-memslot", "slot": 0, "gpa": "0x100000", "size": "0x100000"}
    data = {"op": "sev-launch-update-data", "size": "0x1000", "src": "0x7f0000003000", "ret": 0}
    lines = [
        {"op": "create-vm", "vm_type": 0, "ret": 0}, {"op": "init", "legacy": True, "ret": 0},
        {**memory, "src": "0x7f0000000000", "ret": 0}, {"op": "create-vcpu", "count": 1, "ret": 0},
        {"op": "sev-launch-start", "policy": "0x1", "ret": 0}, data,
        {"op": "sev-launch-measure", "ret": 0}, {"op": "sev-launch-finish", "ret": 0},
    ]  # fmt: skip
    code, document = simulated(jsonl(*lines))
    assert (code, document["platform"]) == (0, "sev")
    made = recorded.read(Blob("-", memoryview(jsonl(*lines)))).attempts[5]
    assert (made.gpa, made.placed) == (0x103000, True)


VM_TYPES: Final = {"sev": 2, "snp": 4, "tdx": 5}
KEPT: Final = {
    "set-memslot": ("slot", "gpa", "size", "gmem", "gmem_offset"),
    "create-gmem": ("gmem", "size"),
    "set-private": ("gpa", "size"),
    "snp-launch-start": ("policy",),
    "sev-launch-start": ("policy",),
    "snp-launch-update": ("gpa", "size", "page_type"),
    "sev-launch-update-data": ("size",),
    "tdx-init-vm": ("attributes", "xfam"),
    "tdx-init-mem-region": ("gpa", "size", "measured"),
}
"""Operation to what the bpftrace script writes of it."""


def of_plan(platform: str) -> bytes:
    """The recording of a VMM that does what a plan of two vCPUs says."""
    launch = ("example:tdx" if platform == "tdx" else "example:snp", "--platform", platform)
    plan = run("plan", *launch, "--abi", "kvm-6.18", "--vcpus", "2", "--format", "json")
    lines: list[dict[str, Any]] = []
    for op in json.loads(plan.out)["ops"]:
        made = {key: op[key] for key in KEPT.get(op["op"], ()) if key in op}
        if op["op"] in ("set-memslot", *(name for name in KEPT if "update" in name)):
            made["src"] = hex(0x7F0000000000 + int(op["gpa"], 0))
        if op["op"] == "create-vm":
            made["vm_type"] = VM_TYPES[platform]
        once = {"n": 0, "op": op["op"], **made, "ret": 0}
        if op["op"] not in ("write", "madvise"):
            lines += [once] * (2 if op["op"].endswith("-vcpu") else 1)
    for number, line in enumerate(lines):
        lines[number] = {**line, "n": number, **({"count": 1} if "vcpu" in line["op"] else {})}
    return jsonl(*lines)


@pytest.mark.parametrize("platform", VM_TYPES)
def test_with_the_image_a_recording_reaches_its_measurement(platform: str) -> None:
    image = "example:tdx" if platform == "tdx" else "example:snp"
    launch = ("--image", image, "--vcpus", "2")
    code, document = simulated(of_plan(platform), *launch)
    measured = run("measure", image, "--platform", platform, "--vcpus", "2", "--bare").out
    assert (code, document["digest"], rules(document)) == (0, measured, [])
    changed = of_plan(platform).replace(b'"measured": true', b'"measured": false', 1)
    changed = changed.replace(b'"normal"', b'"unmeasured"', 1)
    if platform != "sev":
        code, document = simulated(changed, *launch)
        assert (code, rules(document)) == (1, ["digest-differs"])


# --- malformed -----------------------------------------------------------------------------------

BAD: Final[dict[str, tuple[bytes, str]]] = {
    "a result that is none": (b"1 ioctl(9, KVM_CREATE_VM, 0) = x\n", ":1: no result"),
    "an add without its length": (
        b"KVM_SEV_SNP_LAUNCH_START policy=0x0\nKVM_SEV_SNP_LAUNCH_UPDATE gpa=0x0\n", ":2: no len",
    ),
    "a type that is none": (
        b"KVM_SEV_SNP_LAUNCH_UPDATE gpa=0x0 len=0x1000 kvm_page_type=Huge\n", ":1: unknown page",
    ),
    "an address that is none": (
        b"KVM_SEV_SNP_LAUNCH_UPDATE gpa=0xz len=0x1000 kvm_page_type=Normal\n", ":1: gpa=",
    ),
    "a range past the end": (
        b"KVM_SEV_SNP_LAUNCH_UPDATE gpa=0xfffffffffffff000 len=0x2000 kvm_page_type=Normal\n",
        ":1: 0x2000 bytes",
    ),
    "half a page": (
        (FOLDER / "cloud-hypervisor-tdx.log").read_bytes().replace(b"809000", b"1"),
        ":5: 0x2000 bytes at 0x1",
    ),
    "an event without an address": (
        b"kvm_sev_launch_start policy 0x1\nkvm_sev_launch_update_data len 0x1\n", ":2: no source",
    ),
    "a line without n": (jsonl({"n": 1, "op": "init"}, {"op": "init"}), ":2: no n"),
    "lost lines": (jsonl({"n": 1, "op": "init"}) + b"Lost 7 events\n", ":2: 7 lines"),
    "a type of VM that is none": (jsonl({"op": "create-vm", "vm_type": 9}), ":1: vm_type: 9"),
    "a VM without a type": (jsonl({"op": "create-vm"}), ":1: create-vm needs vm_type"),
    "a memslot without a number": (
        jsonl({"op": "set-memslot", "gpa": "0x0", "size": "0x0"}), ":1: set-memslot needs slot",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_malformed_log_is_one_line_of_error_with_its_place(what: str) -> None:
    text, place = BAD[what]
    result = run("simulate", "-", stdin=text)
    assert_refused(result, {3})
    assert place in result.err, result.err


HOSTILE: Final = {
    "unfinished": b"".join(b"%d ioctl(1, KVM_RUN2 <unfinished ...>\n" % n for n in range(20_000))
    + b"1 ioctl(9, KVM_CREATE_VM, 4) = 1\n",
    "parentheses": b"ioctl(" * 100_000 + b"\nioctl(9, KVM_CREATE_VM, 4) = 1\n",
    "equals": b"ioctl(9, KVM_CREATE_VM, 4" + b") = " * 10_000 + b"1\n",
    "fields": b"KVM_SEV_SNP_LAUNCH_START policy=0x1" + b" gpa=gpa=" * 7_000 + b"\n",
    "groups": b"Importing 1 page\n" * 50_000,
    "sections": b"Populating TDVF Section: TdvfSection { address: " * 1_000 + b"\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_logs_take_linear_time(what: str) -> None:
    began = time.process_time()
    result = run("simulate", "-", stdin=HOSTILE[what])
    assert result.code in (0, 1, 2, 3, 4)
    assert time.process_time() - began < 5


def test_too_many_calls_at_the_same_time_are_refused() -> None:
    call = b"%d ioctl(9, KVM_CREATE_VM, 4 <unfinished ...>\n"
    result = run("simulate", "-", stdin=b"".join(call % n for n in range(10_000)))
    assert_refused(result, {4})
