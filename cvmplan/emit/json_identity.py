"""ID blocks as JSON documents."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any

from cvmplan.core.blob import pack
from cvmplan.emit.json import dumps
from cvmplan.evidence.lines import Line
from cvmplan.platforms.snp.idblock import IdAuth, IdBlock, key_digests


def identity(
    block: IdBlock, auth: IdAuth, files: Sequence[str] = (), checks: Iterable[Line] | None = None
) -> str:
    """Return cvmplan.idblock/1."""
    id_key, author = key_digests(auth)
    document = {
        "schema": "cvmplan.idblock/1",
        "launch_digest": block.ld.hex(),
        "family_id": block.family_id.hex(),
        "image_id": block.image_id.hex(),
        "version": block.version,
        "guest_svn": block.guest_svn,
        "policy": hex(block.policy),
        "id_key_digest": id_key.hex(),
        "author_key_digest": author.hex() if author else None,
        "id_block": b64encode(pack(block)).decode(),
        "id_auth": b64encode(pack(auth)).decode(),
        "files": list(files),
        "checks": None if checks is None else [compared_line(line) for line in checks],
    }
    return dumps(document)


def compared_line(line: Line) -> dict[str, Any]:
    """Return one line of a comparison."""
    return {
        "name": line.id,
        "expected": line.expected,
        "found": line.found,
        "status": line.status,
        "why": line.why,
    }
