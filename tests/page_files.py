"""The files that the sessions of the pages use: made up, of the example images' launches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final

from tests.build import boot, eventlog, evidence
from tests.run import run


def digest(example: str) -> bytes:
    """Return the measurement of an example."""
    return bytes.fromhex(run("measure", "--example", example, "--bare").out)


def key(use: str) -> bytes:
    """Return an ECDSA P-384 key in PEM."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    private = evidence.new_key("P-384", use)
    made: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made


def twice() -> bytes:
    """Return a recording in which a page is added twice, as the bpftrace script writes it."""
    memory = {"gpa": "0x0", "size": "0x1000000"}
    lines: list[dict[str, object]] = [
        {"op": "create-vm", "vm_type": 4},
        {"op": "init", "vmsa_features": "0x0"},
        {"op": "create-vcpu", "count": 1},
        {"op": "create-gmem", "gmem": 0, "size": "0x1000000", "flags": 0},
        {"op": "set-memslot", "slot": 0, **memory, "src": "0x7f0000000000", "gmem": 0,
         "gmem_offset": "0x0"},
        {"op": "set-private", **memory},
        {"op": "snp-launch-start", "policy": "0x30000"},
        {"op": "snp-launch-update", "gpa": "0x800000", "size": "0x9000", "page_type": "zero",
         "src": "0x7f0000800000", "residual": {"gpa": "0x809000", "size": "0x0"}},
        {"op": "snp-launch-update", "gpa": "0x808000", "size": "0x1000", "page_type": "normal",
         "src": "0x7f0000808000", "residual": {"gpa": "0x808000", "size": "0x1000"}, "ret": -5},
    ]  # fmt: skip
    made = ({"n": n, **line, "ret": line.get("ret", 0)} for n, line in enumerate(lines))
    return "".join(f"{json.dumps(line)}\n" for line in made).encode()


FILES: Final[Mapping[str, Callable[[], bytes]]] = {
    "report.bin": lambda: evidence.snp_report(evidence.amd()[0], 2, measurement=digest("snp")),
    "vcek.pem": lambda: evidence.amd()[0].pem,
    "ask.pem": lambda: evidence.amd()[1].pem,
    "ark.pem": lambda: evidence.amd()[2].pem,
    "ark.sha256": lambda: bytes(evidence.amd()[2].pin, "ascii"),
    "id.pem": lambda: key("id"),
    "author.pem": lambda: key("author"),
    "bzImage": boot.kernel,
    "twice.jsonl": twice,
    "initrd.img": lambda: b"initrd",
    "CCEL": lambda: eventlog.Log([eventlog.LogEvent()]).build(),
}
"""Name of a file to what makes it; each is made for the pages that name it."""
