"""
What real VMMs did, as the bpftrace script would have written it: the same answers and digests.

The launches are those that `tests.recorder` keeps, of QEMU 10.0 and 11.1: their structs and
results, from which each line is made as the script makes it.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan import Blob
from cvmplan.readers import recorded
from cvmplan.simulator.attempts import Attempt
from cvmplan.simulator.recording import Recording
from tests.recorder import kept
from tests.recorder.judge import options, simulated
from tests.recorder.launches import LAUNCHES, NEW, OLD
from tests.recorder.record import write_files
from tests.run import run

Line = dict[str, Any]
RANGE: Final = ("gpa", "size")
FIELDS: Final = {
    "create-gmem": ("gmem", "size"),
    "set-memslot": ("slot", *RANGE),
    "set-private": RANGE,
    "set-shared": RANGE,
    "snp-launch-start": ("policy",),
    "sev-launch-start": ("policy",),
    "sev-launch-update-data": ("size", "src"),
    "snp-launch-update": (*RANGE, "src", "page_type"),
    "tdx-init-vm": ("attributes", "xfam"),
    "tdx-init-vcpu": ("rcx",),
    "tdx-init-mem-region": (*RANGE, "src", "measured"),
}
"""Operation to what the script writes of it as it was asked for."""
NUMBERS: Final = ("slot", "gmem", "page_type", "measured")  # not in hex
SAME: Final = [
    *((vmm, name) for vmm in (OLD, NEW) for name in ("snp-3", "snp-5G", "snp-id-block")),
    *((NEW, name) for name in LAUNCHES if name.startswith("sev-") and name.endswith("bios")),
    *((NEW, name) for name in LAUNCHES if "-fault-" in name or name in ("tdx-3", "tdx-5G")),
]


def written(recording: Recording) -> Iterator[Line]:
    """Yield the lines of the script for the calls of a recording."""
    legacy = any(a.op == "init" and a.legacy for a in recording.attempts)
    uaddr = {c.line: c.fields.get("userspace_addr") for c in recording.calls}
    for attempt in recording.attempts:
        if attempt.asks:
            continue
        line = {"op": attempt.op, **dict(asked(attempt))}
        if attempt.op == "create-vm":
            line["vm_type"] = 0 if legacy else recording.platform.vm_type
        if attempt.op == "init" and not attempt.legacy:
            line["vmsa_features"] = hex(attempt.vmsa_features)
        elif attempt.op == "init":
            line["legacy"] = True
        if attempt.op.endswith("-vcpu"):
            line["count"] = 1
        if attempt.op == "set-memslot":
            line["src"] = uaddr[attempt.seq]
            if attempt.gmem is not None:
                line |= {"gmem": attempt.gmem, "gmem_offset": attempt.gmem_offset}
        yield {**line, **dict(answered(attempt))}


def asked(attempt: Attempt) -> Iterator[tuple[str, Any]]:
    """Yield what a call asked for."""
    if attempt.id_block:
        yield "id_block", attempt.id_block.hex()
    for name in FIELDS.get(attempt.op, ()):
        value = getattr(attempt, name) or 0
        yield name, getattr(attempt, name) if name in NUMBERS else hex(value)


def answered(attempt: Attempt) -> Iterator[tuple[str, Any]]:
    """Yield what the kernel answered, and what it left of an add."""
    yield "ret", -getattr(errno, attempt.returned) if attempt.returned else 0
    yield "fw_error", attempt.fw_error or 0
    if attempt.op in ("snp-launch-update", "tdx-init-mem-region"):
        stop = attempt.gpa if attempt.returned else attempt.end
        gpa, size = attempt.residual or (stop, attempt.end - stop)
        yield "residual", {"gpa": hex(gpa), "size": hex(size)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launches")
    write_files(folder)
    return folder


@pytest.mark.parametrize(("vmm", "name"), SAME)
def test_both_forms_of_a_real_launch_have_the_same_answers(
    vmm: str, name: str, files: Path
) -> None:
    launch, one = LAUNCHES[name], kept.read()[vmm, name]
    lines = written(recorded.read(Blob("-", memoryview(one.text))))
    text = "".join(json.dumps({"n": n, **line}) + "\n" for n, line in enumerate(lines)).encode()
    image, *given = options(launch, files)
    told = run("simulate", "-", "--image", image, "--format", "json", *given, stdin=text)
    assert told.err == ""
    found, wanted = json.loads(told.out), simulated(one, launch, files)
    asks = ("sev-launch-measure", "nop")  # for the length of the measurement

    def answers(document: Line) -> list[tuple[str, str, str | None]]:
        rows = [(r["op"], r["result"], r.get("errno")) for r in document["results"]]
        return [row for row in rows if row[:2] != asks]

    assert answers(found) == answers(wanted)
    assert (found["digest"], found["finalized"]) == (wanted["digest"], wanted["finalized"])
