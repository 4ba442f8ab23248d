"""ID blocks as JSON documents."""

from __future__ import annotations

from base64 import b64encode

from cvmplan.core.values import Json
from cvmplan.emit.json import dumps
from cvmplan.evidence.idblock import Shown
from cvmplan.evidence.lines import Line


def identity(shown: Shown) -> str:
    """Return cvmplan.idblock/1."""
    block, author, checks = shown.block, shown.author_key_digest, shown.checks
    return dumps(
        {
            "schema": "cvmplan.idblock/1",
            "launch_digest": block.ld.hex(),
            "family_id": block.family_id.hex(),
            "image_id": block.image_id.hex(),
            "version": block.version,
            "guest_svn": block.guest_svn,
            "policy": hex(block.policy),
            "id_key_digest": shown.id_key_digest.hex(),
            "author_key_digest": author.hex() if author else None,
            "id_block": b64encode(shown.block_bytes).decode(),
            "id_auth": b64encode(shown.auth_bytes).decode(),
            "files": list(shown.files),
            "checks": None if checks is None else [compared_line(line) for line in checks],
        }
    )


def compared_line(line: Line) -> dict[str, Json]:
    """Return one line of a comparison."""
    return {
        "name": line.id,
        "expected": line.expected,
        "found": line.found,
        "status": line.status,
        "why": line.why,
    }
