"""
What user space extends RTMR3 by: digests, or events in the formats of three projects.

Sources: Dstack-TEE/dstack 312dc60, cc-eventlog/src/runtime_events.rs (v1 and v2);
confidential-containers/guest-components 8246e5e, attestation-agent/src/eventlog/tcg2.rs.
"""

from __future__ import annotations

import json
from typing import Final

from cvmplan.boot.event_data import digest
from cvmplan.core.errors import ConfigError
from cvmplan.eventlog.event import DIGEST_SIZE, RUNTIME

AAEL: Final = 0x4141454C
FORMATS: Final = "a digest of 96 hex digits, dstack:NAME:HEX, dstack2:NAME:HEX, aael:TEXT"


def dstack_v1(name: str, payload: bytes) -> bytes:
    """Return the digest of a runtime event of dstack: type, name and payload."""
    return digest(RUNTIME.to_bytes(4, "little") + b":" + name.encode() + b":" + payload)


def dstack_v2(name: str, payload: bytes) -> bytes:
    """Return the digest of a runtime event of dstack in canonical JSON."""
    document = {"name": name, "payload": payload.hex(), "type": RUNTIME}
    text = json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return digest(text.encode())


def aael(text: str) -> bytes:
    """Return the digest of an event of guest-components: domain, operation, content."""
    raw = text.encode()
    return digest(AAEL.to_bytes(4, "little") + len(raw).to_bytes(4, "little") + raw)


def parse(written: str) -> tuple[str, bytes]:
    """Return name and digest of what --extend says; ConfigError."""
    kind, _, rest = written.partition(":")
    if kind in ("dstack", "dstack2") and ":" in rest:
        name, _, text = rest.rpartition(":")
        payload = _hex(text, written)
        return name, dstack_v1(name, payload) if kind == "dstack" else dstack_v2(name, payload)
    if kind == "aael" and rest:
        return rest, aael(rest)
    raw = _hex(written, written)
    if len(raw) != DIGEST_SIZE:
        problem = f"{len(raw)} bytes, a digest has {DIGEST_SIZE}"
        raise ConfigError(problem, at="--extend", hint=FORMATS)
    return f"digest {raw.hex()[:16]}", raw


def _hex(text: str, written: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise ConfigError(
            f"{written!r} is none of the forms", at="--extend", hint=FORMATS
        ) from error
