"""Everything that can be read: the known answers and cases beside the repository, and made here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

from tests.build import eventlog, evidence, igvm, ovmf, recording, svsm
from tests.oracles import SHARED
from tests.run import run

FOLDERS: Final = ("cases", "vectors", "firmware")
LOGS: Final = Path(__file__).parents[1] / "launch_logs"
CUTS: Final = 64
HEAD: Final = 16  # of the cuts, those that are bytes apart and not a part of the whole


def printed(*args: str) -> bytes:
    """What the program prints, which it also reads."""
    return run(*args).out.encode()


def report() -> bytes:
    return evidence.snp_report(evidence.amd()[0], 3)


def certificates() -> bytes:
    return b"".join(one.pem for one in evidence.amd())


def ioctls_snp() -> bytes:
    tape = recording.Tape()
    tape.begin(2)
    tape.update(0x100000, 8192, source=recording.taken(b"data" * 2048))
    tape.finish()
    tape.state(0, 0xFFF0, 0xFFFF0000, 0x800F12)
    return tape.text()


def ioctls_tdx() -> bytes:
    tape = recording.Tape("tdx")
    tape.begin()
    tape.region(0x100000, 4096, -16, source=recording.taken(b""))
    tape.finish()
    return tape.text()


MADE: Final[dict[str, Callable[[], bytes]]] = {
    "ovmf-snp": lambda: ovmf.example("snp"),
    "ovmf-tdx": lambda: ovmf.example("tdx"),
    "svsm": lambda: svsm.good_svsm().build(),
    "igvm-snp": lambda: igvm.good_snp().build(),
    "igvm-everything": lambda: igvm.good_everything().build(),
    "igvm-vbs": lambda: igvm.good_vbs().build(),
    "log": lambda: eventlog.Log().build(),
    "report": report,
    "quote-4": lambda: evidence.td_quote(evidence.intel()),
    "quote-5": lambda: evidence.td_quote(evidence.intel(), 5, 3),
    "tdreport": evidence.td_report,
    "hcl": lambda: evidence.hcl(report(), 2),
    "trustee": lambda: evidence.trustee_snp(report(), evidence.amd()),
    "chain": certificates,
    "certificate": lambda: evidence.amd()[0].der,
    "plan-snp": lambda: printed("plan", "--example", "snp", "--format", "json"),
    "plan-tdx": lambda: printed("plan", "--example", "tdx", "--format", "json"),
    "plan-kvm": lambda: printed(
        "plan", "--example", "snp", "--abi", "kvm-6.18", "--format", "json"
    ),
    "trace": lambda: printed("trace", "--example", "tdx", "--format", "json"),
    "trace-lines": lambda: printed("trace", "--example", "snp", "--format", "jsonl"),
    "profile": lambda: printed("profiles", "qemu", "--format", "json"),
    "td-params": lambda: bytes(1024),
    "manifest": lambda: json.dumps({
        "schema": "cvmplan.manifest/1", "platform": "snp", "guest": {"vcpus": 2},
        "regions": [
            {"gpa": "0x3000", "type": "normal", "source": {"hex": "00ff"}, "pad": "zero"},
            {"gpa": 8192, "size": "4 KiB", "type": "zero"},
        ],
    }).encode(),
    "firmware": lambda: printed("catalogue", "example-snp", "--format", "json"),
    "manifest-toml": lambda: (
        b'schema = "cvmplan.manifest/1"\nplatform = "snp"\n'
        b'[[regions]]\ngpa = 8192\nsize = "4 KiB"\ntype = "zero"\n'
    ),
    "manifest-yaml": lambda: (
        b"schema: cvmplan.manifest/1\nplatform: snp\n"
        b'regions:\n- {gpa: 8192, size: "4 KiB", type: zero}\n'
    ),
    "matrix": lambda: json.dumps({
        "schema": "cvmplan.matrix/1",
        "sweeps": [{"images": ["example:snp"], "vcpus": "1-2", "cpu": ["EPYC-v4", "0xa00f11"]}],
    }).encode(),
    "recording": lambda: (
        b'{"op": "snp-launch-start", "policy": "0x30000", "ret": 0}\n'
        b'{"op": "snp-launch-update", "gpa": 4096, "size": 4096, "page_type": "zero", "ret": -17}\n'
    ),
    "ioctls-snp": ioctls_snp,
    "ioctls-tdx": ioctls_tdx,
    "qemu-log": lambda: (
        b"12@1700000000.1:kvm_sev_snp_launch_start policy 0x30000 gosvw\n"
        b"12@1700000000.2:kvm_sev_snp_launch_update src 0x7f0 gpa 0x1000 len 0x1000 (Zero page)\n"
    ),
    **{path.name: path.read_bytes for path in sorted(LOGS.iterdir())},
}  # fmt: skip


@cache
def inputs() -> dict[str, bytes]:
    """Name to bytes of every input; without those beside the repository where they are absent."""
    found = {f"made/{name}": make() for name, make in MADE.items()}
    for folder in FOLDERS:
        for path in sorted((SHARED / folder).rglob("*")):
            if path.is_file() and path.suffix != ".md":
                found[str(path.relative_to(SHARED))] = path.read_bytes()
    return found


def cut(data: bytes) -> Iterator[bytes]:
    """Yield the first bytes of an input, cut off at 64 places: 16 near its start, 48 spread."""
    places = {*range(HEAD), *(len(data) * n // (CUTS - HEAD) for n in range(1, CUTS - HEAD + 1))}
    for place in sorted(places):
        if place <= len(data):
            yield data[:place]
