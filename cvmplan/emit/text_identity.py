"""ID blocks, and what was compared, as text for people."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence

from cvmplan.core.blob import pack
from cvmplan.emit.lines import aligned, joined
from cvmplan.evidence.lines import Line
from cvmplan.platforms.snp.idblock import IdAuth, IdBlock, key_digests


def identity(
    block: IdBlock, auth: IdAuth, files: Sequence[str] = (), checks: Iterable[Line] | None = None
) -> str:
    """Return an ID block with the digests of its keys, where it was written, what was checked."""
    return joined(_identity(block, auth, files, checks))


def _identity(
    block: IdBlock, auth: IdAuth, files: Sequence[str], checks: Iterable[Line] | None
) -> Iterator[str]:
    id_key, author = key_digests(auth)
    yield from aligned(
        [
            ("launch digest", block.ld.hex()),
            ("family ID", block.family_id.hex()),
            ("image ID", block.image_id.hex()),
            ("version", str(block.version)),
            ("guest SVN", str(block.guest_svn)),
            ("policy", hex(block.policy)),
            ("ID key digest", id_key.hex()),
            ("author key digest", author.hex() if author else "none: there is no author key"),
        ]
    )
    if files:
        yield "written"
        yield from (f"  {name}" for name in files)
    elif checks is None:
        yield f"id-block  {b64encode(pack(block)).decode()}"
        yield f"id-auth  {b64encode(pack(auth)).decode()}"
    if checks is not None:
        yield "checked"
        yield from compared_lines(checks)


def compared_lines(lines: Iterable[Line]) -> Iterator[str]:
    """Yield lines of a comparison, each with what was expected where that differs."""
    rows = [(line, f"{line.name}:") for line in lines]
    width = max((len(name) for _, name in rows), default=0)
    status = max((len(line.status) for line, _ in rows), default=0)
    for line, name in rows:
        why = f"  ({line.why})" if line.why else ""
        yield f"  {line.status:<{status}}  {name:<{width}}  {line.found}{why}"
        if line.differs:
            yield f"  {'':<{status}}  {'':<{width}}  {line.expected}, expected"
