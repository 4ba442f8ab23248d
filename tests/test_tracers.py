"""The bpftrace script that is shipped: its layouts, its numbers, and what it records for real."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from struct import unpack_from
from typing import Any, Final

import pytest

from cvmplan import Blob, documents
from cvmplan.kvm.abi import find
from cvmplan.kvm.calls import calls_of
from cvmplan.kvm.layouts import IOCTLS, SEV_COMMANDS, STRUCTS
from cvmplan.readers import recorded
from tests.recorder import plain_vmm
from tests.recorder.launches import LAUNCHES
from tests.recorder.plain_vmm import FAKE, ID_BLOCK, MEMORY
from tests.recorder.record import (
    command_of,
    compiled,
    compiler,
    consumers,
    package,
    record,
    write_files,
)
from tests.recorder.tracers import SCRIPT, cannot_trace, straced, traced
from tests.run import run

PROGRAM: Final = f"{sys.executable} {plain_vmm.__file__}"
TEXT: Final = SCRIPT.read_text()
STRUCT: Final = re.compile(r"struct uapi_(\w+) \{[^}]*\};")
PROBE: Final = re.compile(r"sys_exit_ioctl\n/([^/]*)/\n\{(.*?)^\}", re.MULTILINE | re.DOTALL)
TDX: Final = 1000  # the script adds this to commands of TDX
Line = dict[str, Any]

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
needs_tracing = pytest.mark.usefixtures("tracing")


@pytest.fixture(scope="session")
def tracing() -> None:
    """Skip where nothing can be traced."""
    if why := cannot_trace():
        pytest.skip(why)


def test_the_program_prints_the_script() -> None:
    result = run("help", "recording.bt")
    assert (result.code, result.out, result.err) == (0, TEXT, "")
    assert "recording.bt" in run("help", "recording").out


# --- layouts and numbers -------------------------------------------------------------------------


def compiled_and_run(source: str, folder: Path) -> str:
    """Compile and run a C program that prints."""
    (folder / "layout.c").write_text(source)
    command = [compiler() or "cc", "-o", str(folder / "layout"), str(folder / "layout.c")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return subprocess.run([folder / "layout"], check=True, capture_output=True, text=True).stdout


def offsets(name: str, prefix: str, fields: list[str]) -> str:
    """C statements that print each field's offset and size, and the struct's size."""
    struct = f"struct {prefix}{name}"
    lines = [
        f'printf("{name} {field} %zu %zu\\n", __builtin_offsetof({struct}, {field}), '
        f"sizeof((({struct} *)0)->{field}));"
        for field in fields
    ]
    return "\n".join([*lines, f'printf("{name} size %zu\\n", sizeof({struct}));'])


@needs_compiler
def test_the_structs_of_the_script_are_those_of_the_kernel(tmp_path: Path) -> None:
    """As a C compiler lays them out, against the package's own tables."""
    structs = {found[1]: found[0] for found in STRUCT.finditer(TEXT)}
    assert len(structs) > 10
    asked = "\n".join(offsets(n, "uapi_", [f.name for f in STRUCTS[n].fields]) for n in structs)
    declared = "\n".join(structs.values())
    source = f"#include <stdio.h>\n{declared}\nint main(void) {{\n{asked}\nreturn 0;\n}}"
    wanted = [
        line
        for name in structs
        for line in (
            *(f"{name} {f.name} {f.offset} {f.size}" for f in STRUCTS[name].fields),
            f"{name} size {STRUCTS[name].size}",
        )
    ]
    assert compiled_and_run(source, tmp_path).splitlines() == wanted


@needs_compiler
def test_the_structs_of_the_script_are_those_of_this_machines_headers(tmp_path: Path) -> None:
    """Of the structs that old headers have already; padding has other names there."""
    fields = {
        "kvm_sev_cmd": ["id", "data", "error", "sev_fd"],
        "kvm_sev_launch_start": ["handle", "policy", "dh_uaddr", "dh_len", "session_uaddr"],
        "kvm_sev_launch_update_data": ["uaddr", "len"],
        "kvm_sev_launch_measure": ["uaddr", "len"],
    }
    if not Path("/usr/include/linux/kvm.h").exists():
        pytest.skip("there is no linux/kvm.h")
    told = []
    for prefix in ("", "uapi_"):
        asked = "\n".join(offsets(name, prefix, fields[name]) for name in fields)
        structs = "\n".join(f[0] for f in STRUCT.finditer(TEXT)) if prefix else ""
        head = f"#include <stdio.h>\n#include <linux/kvm.h>\n{structs}"
        source = f"{head}\nint main(void) {{\n{asked}\nreturn 0;\n}}"
        told.append(compiled_and_run(source, tmp_path))
    assert told[0] == told[1]


def probes() -> list[tuple[set[int], set[int], list[str]]]:
    """Each probe that prints: the ioctls and commands that it is for, and the operations."""
    found = []
    for condition, body in PROBE.findall(TEXT):
        calls = {int(n, 16) for n in re.findall(r"@call\[tid\] == (0x[0-9a-f]+)", condition)}
        commands = {int(n) for n in re.findall(r"@id\[tid\] == (\d+)", condition)}
        ops = re.findall(r'\\"op\\": \\"([\w%-]+)\\"', body)
        if ops:
            found.append((calls, commands, sorted(set(ops))))
    return found


def test_each_operation_is_of_the_ioctl_and_command_that_it_is_called_by() -> None:
    wanted: dict[str, set[tuple[int, int | None]]] = {}
    for call in calls_of(find("kvm-6.18")):
        number = call.id
        if number is not None and call.op.startswith("tdx-"):
            number += TDX
        op = "set-%s" if call.op == "set-private" else call.op
        wanted.setdefault(op, set()).add((call.number, number))
    legacy = {SEV_COMMANDS["KVM_SEV_INIT"], SEV_COMMANDS["KVM_SEV_ES_INIT"]}
    wanted["init"] |= {(IOCTLS["KVM_MEMORY_ENCRYPT_OP"].number, number) for number in legacy}
    found: dict[str, set[tuple[int, int | None]]] = {}
    for calls, commands, ops in probes():
        numbers: set[int | None] = {*commands} or {None}
        pairs = {(call, number) for call in calls for number in numbers}
        for op in ops:
            found[op] = found.get(op, set()) | pairs
    assert found == wanted
    assert IOCTLS["KVM_RUN"].number == 0xAE80
    assert "$call == 0xae80" in TEXT


def test_the_keys_of_the_script_are_those_of_the_document() -> None:
    keys = set(re.findall(r'\\"(\w+)\\": ', TEXT))
    known = set(documents.model("recorded").model_fields)
    assert keys <= known, keys - known


# --- what it records -----------------------------------------------------------------------------


def parsed(text: str) -> list[Line]:
    """The lines of a recording, in the order of their numbers."""
    lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    assert all(documents.model("recorded").model_validate(line) for line in lines)
    assert sorted(line["n"] for line in lines) == [*range(len(lines))]
    return sorted(lines, key=lambda line: int(line["n"]))


def update(number: int, page_type: str) -> Line:
    size = 0x1000 * number
    return {"op": "snp-launch-update", "gpa": hex(0x800000 + 0x10000 * number),
            "size": hex(size), "page_type": page_type, "src": hex(FAKE + size)}  # fmt: skip


COMMANDS: Final[list[Line]] = [
    {"op": "init", "legacy": True},
    {"op": "init", "legacy": True},
    {"op": "init", "vmsa_features": "0x20"},
    {"op": "sev-launch-start", "policy": "0x5"},
    {"op": "sev-launch-update-data", "size": "0x3000", "src": hex(FAKE)},
    {"op": "sev-launch-update-vmsa"},
    {"op": "sev-launch-measure"},
    {"op": "sev-launch-finish"},
    {"op": "snp-launch-start", "policy": "0x30000"},
    update(1, "normal"), update(2, "vmsa"), update(3, "zero"), update(4, "unmeasured"),
    update(5, "secrets"), update(6, "cpuid"),
    {"op": "snp-launch-finish", "id_block": ID_BLOCK.hex()},
    {"op": "snp-launch-finish"},
    {"op": "create-vm", "vm_type": 5},
    {"op": "tdx-init-vm", "attributes": "0x10000000", "xfam": "0xe7"},
    {"op": "tdx-init-vcpu", "count": 1, "rcx": "0x809000"},
    {"op": "tdx-init-mem-region", "gpa": "0x1000000", "size": "0x2000", "measured": False,
     "src": hex(FAKE)},
    {"op": "tdx-init-mem-region", "gpa": "0x1001000", "size": "0x3000", "measured": True,
     "src": hex(FAKE + 1)},
    {"op": "tdx-finalize"},
]  # fmt: skip
"""What `plain_vmm` asks for by KVM_MEMORY_ENCRYPT_OP, and its second VM."""


@needs_tracing
def test_every_command_is_recorded_with_what_it_asked_for(tmp_path: Path) -> None:
    lines = parsed(traced(PROGRAM, tmp_path / "launch.jsonl"))
    first = next(n for n, line in enumerate(lines) if line["op"] == "init")
    assert [line["op"] for line in lines[:first]] == [
        "create-vm", "set-memslot", "set-memslot", "set-memslot", "create-vcpu",
        "pre-fault-memory", "create-gmem", "set-memslot", "set-private", "set-shared",
    ]  # fmt: skip
    beyond = ("n", "ret", "residual", "fw_error")
    asked = [{k: v for k, v in line.items() if k not in beyond} for line in lines[first:]]
    assert asked == COMMANDS
    for line in lines:  # the kernel refuses them, so all is left
        if "residual" in line and line["ret"]:
            assert line["residual"] == {"gpa": line["gpa"], "size": line["size"]}


@needs_tracing
def test_a_default_vm_is_traced_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "launch.jsonl"
    lines = parsed(traced(f"{PROGRAM} default", path))
    source = lines[1].pop("src")
    assert lines == [
        {"n": 0, "op": "create-vm", "vm_type": 0, "ret": 0},
        {"n": 1, "op": "set-memslot", "slot": 0, "gpa": "0x0", "size": hex(MEMORY), "ret": 0},
        {"n": 2, "op": "set-memslot", "slot": 0, "gpa": "0x0", "size": "0x0", "src": source,
         "ret": 0},
        {"n": 3, "op": "set-memslot", "slot": 1, "gpa": "0x100000000", "size": hex(MEMORY),
         "src": source, "ret": 0},
        {"n": 4, "op": "create-vcpu", "count": 1, "ret": 0},
        {"n": 5, "op": "pre-fault-memory", "gpa": "0x100000000", "size": "0x10000",
         "ret": lines[5]["ret"], "residual": lines[5]["residual"]},
    ]  # fmt: skip
    result = run("simulate", str(path), "--format", "json")
    document = json.loads(result.out)
    mapped = lines[5]["ret"] == 0  # EOPNOTSUPP where the processor does not translate addresses
    assert (result.code, document["platform"], document["finalized"]) == (
        0 if mapped else 1, "default", True,
    )  # fmt: skip
    answers = [(r["op"], r["result"]) for r in document["results"]]
    last = ("pre-fault-memory", "ok" if mapped else "error")
    assert answers == [*((line["op"], "ok") for line in lines[:5]), last]


@needs_tracing
@pytest.mark.skipif(not package("qemu-11.1"), reason="there is no QEMU 11.1: run .ci/consumers")
@pytest.mark.skipif(not shutil.which("strace"), reason="there is no strace")
def test_a_real_vmm_is_recorded_as_strace_sees_it(tmp_path: Path) -> None:
    """Memslots and vCPUs of a default VM of QEMU: bpftrace against another tracer."""
    start = [word for word in command_of("qemu-11.1", Path("-")) if word not in ("--preload", "-")]
    options = ["-nodefaults", "-nographic", "-accel", "kvm", "-m", "64", "-smp", "2"]
    modules = consumers() / "qemu-11.1/usr/lib/x86_64-linux-gnu/qemu"
    program = ["/usr/bin/env", f"QEMU_MODULE_DIR={modules}", *start, *options]
    path = tmp_path / "launch.jsonl"
    lines = parsed(traced(" ".join(program), path))
    assert run("simulate", str(path), "--format", "json").code == 0
    text = straced(["timeout", "5", *program], tmp_path / "launch.strace")
    slot = re.compile(r"slot=(\d+), .*guest_phys_addr=(\w+), memory_size=(\d+),")
    seen = [tuple(int(n, 0) for n in found) for found in slot.findall(text.partition("RUN")[0])]
    slots = [line for line in lines if line["op"] == "set-memslot"]
    assert len(slots) > 5
    assert [(line["slot"], *(int(line[k], 0) for k in ("gpa", "size"))) for line in slots] == seen
    assert sum(line["op"] == "create-vcpu" for line in lines) == 2


TYPES: Final = {1: "normal", 3: "zero", 4: "unmeasured", 5: "secrets", 6: "cpuid"}


@needs_compiler
@pytest.mark.parametrize("vmm", ["qemu-10.0", "qemu-11.1"])
@pytest.mark.parametrize("name", ["snp-3", "snp-fault-partial"])
def test_trace_events_of_a_real_vmm_are_the_calls_that_it_makes(
    vmm: str, name: str, tmp_path: Path
) -> None:
    """The log of QEMU against the structs that the recorder got from it at the same time."""
    if not package(vmm):
        pytest.skip(f"there is no {vmm}: run .ci/consumers")
    write_files(tmp_path)
    launch = replace(LAUNCHES[name], qemu=(*LAUNCHES[name].qemu, "-trace", "kvm_sev*"))
    made = record(vmm, launch, compiled(tmp_path), tmp_path)
    structs = [bytes.fromhex(line["data"]) for line in made.lines if line.get("cmd") == 101]
    asked = [
        (at[0] << 12, at[1], at[2], TYPES[data[24]])
        for data in structs
        for at in [unpack_from("<QQQ", data)]
    ]
    log = Blob("qemu.log", memoryview(made.said.encode()))
    read = [a for a in recorded.read(log).attempts if a.op == "snp-launch-update"]
    assert len(read) > 5
    assert [(a.gpa, a.src, a.size, a.page_type) for a in read] == asked
