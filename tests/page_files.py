"""The files that the sessions of the pages use: made up, of the example images' launches."""

from __future__ import annotations

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


FILES: Final[Mapping[str, Callable[[], bytes]]] = {
    "report.bin": lambda: evidence.snp_report(evidence.amd()[0], 2, measurement=digest("snp")),
    "vcek.pem": lambda: evidence.amd()[0].pem,
    "ask.pem": lambda: evidence.amd()[1].pem,
    "ark.pem": lambda: evidence.amd()[2].pem,
    "ark.sha256": lambda: bytes(evidence.amd()[2].pin, "ascii"),
    "id.pem": lambda: key("id"),
    "author.pem": lambda: key("author"),
    "bzImage": boot.kernel,
    "initrd.img": lambda: b"initrd",
    "CCEL": lambda: eventlog.Log([eventlog.LogEvent()]).build(),
}
"""Name of a file to what makes it; each is made for the pages that name it."""
