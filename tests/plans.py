"""Plan documents for tests, made op by op: what another program might have written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.run import Result, run

PAGE = 4096
Document = dict[str, Any]
KINDS = {
    "create-gmem": "memory", "set-memslot": "memory", "set-private": "memory",
    "set-shared": "memory", "punch-hole": "memory", "madvise": "memory", "write": "memory",
    "map-memory": "map", "pre-fault-memory": "map", "tdx-page-aug": "map",
    "snp-launch-update": "add", "tdx-add": "add", "tdx-init-mem-region": "add",
    "sev-launch-update-data": "add", "sev-launch-update-vmsa": "add", "tdx-extend": "extend",
}  # fmt: skip


def op(name: str, gpa: int | None = None, size: int | None = None, **more: Any) -> Document:
    """Return an operation; `gpa` and `size` in bytes."""
    run_of = {} if gpa is None else {"gpa": hex(gpa)}
    run_of |= {} if size is None else {"size": hex(size)}
    return {"kind": KINDS.get(name, "control"), "op": name, **run_of, **more}


def plan(platform: str, ops: Iterable[Document], abi: str = "map-memory") -> Document:
    """Return a plan of `ops`, numbered, without inputs."""
    return {
        "schema": "cvmplan.plan/1",
        "tool": {"name": "a test", "version": "1"},
        "platform": platform, "vmm": "qemu", "abi": abi,
        "inputs": [], "given": {}, "assumed": {},
        "ops": [{"seq": n, **o} for n, o in enumerate(ops)],
        "measurement": None, "findings": [],
    }  # fmt: skip


def memory(size: int = 4 << 20, gpa: int = 0) -> list[Document]:
    """One private memslot of `size` bytes."""
    return [
        op("create-gmem", size=size, gmem=0),
        op("set-memslot", gpa, size, slot=0, gmem=0),
        op("set-private", gpa, size),
    ]


def guest(
    platform: str, *middle: Document, memory_ops: list[Document] | None = None
) -> list[Document]:
    """Return a launch of one vCPU with `middle` where pages are added, to its end."""
    held = memory() if memory_ops is None else memory_ops
    begin = [op("create-vm", vm_type=platform)]
    if platform == "snp":
        begin += [op("init", vmsa_features="0x0"), op("snp-launch-start", policy="0x30000")]
        end = [op("snp-launch-finish", vmsas=[{"vcpus": "0", "gpa": "0xfffffffff000", "hex": ""}])]
        return [*begin, *held, op("create-vcpu", count=1), *middle, *end]
    if platform == "tdx":
        begin += [op("tdx-init-vm", attributes="0x0", xfam="0x0")]
        vcpus = [op("create-vcpu", count=1), op("tdx-init-vcpu", count=1, rcx="0x0")]
        return [*begin, *held, *vcpus, *middle, op("tdx-finalize")]
    return [*begin, *held, op("create-vcpu", count=1), *middle]


def update(gpa: int, size: int = PAGE, page_type: str = "normal", **more: Any) -> Document:
    """SNP's add."""
    source = more.pop("source", {"zeros": True})
    return op("snp-launch-update", gpa, size, page_type=page_type, source=source, **more)


def region(gpa: int, size: int = PAGE, measured: bool = True, **more: Any) -> Document:
    """TDX's add on released kernels."""
    source = more.pop("source", {"zeros": True})
    return op("tdx-init-mem-region", gpa, size, measured=measured, source=source, **more)


def add(gpa: int, size: int = PAGE, measured: bool = True) -> Document:
    """TDX's add of the agreement of 2024."""
    return op("tdx-add", gpa, size, measured=measured, source={"zeros": True})


class Answers:
    """What `simulate` says about a plan: by operation, and at the end."""

    def __init__(self, result: Result) -> None:
        assert result.code in (0, 1), result.err
        self.code = result.code
        self.document: Document = json.loads(result.out)
        self.results = self.document["results"]
        self.digest = self.document["digest"]
        self.finalized = self.document["finalized"]
        self.findings = {f["rule"] for f in self.document["findings"]}

    def of(self, name: str) -> list[tuple[str, str | None]]:
        """Return (result, errno) of each operation of this name."""
        return [(r["result"], r.get("errno")) for r in self.results if r["op"] == name]

    def errors(self) -> list[tuple[str, str | None]]:
        """Return (operation, errno) of each refusal."""
        return [(r["op"], r.get("errno")) for r in self.results if r["result"] == "error"]


def simulate(platform: str, ops: Iterable[Document], abi: str) -> Answers:
    """Simulate the plan of `ops` under `abi`."""
    document = json.dumps(plan(platform, ops)).encode()
    return Answers(run("simulate", "-", "--abi", abi, "--format", "json", stdin=document))
