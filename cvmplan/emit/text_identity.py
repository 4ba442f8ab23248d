"""ID blocks, and what was compared, as text for people."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator

from cvmplan.emit.lines import aligned, joined
from cvmplan.evidence.idblock import Shown
from cvmplan.evidence.lines import Line, Status


def identity(shown: Shown) -> str:
    """Return an ID block with the digests of its keys, where it was written, what was checked."""
    return joined(_identity(shown))


def _identity(shown: Shown) -> Iterator[str]:
    block, author = shown.block, shown.author_key_digest
    yield from aligned(
        [
            ("launch digest", block.ld.hex()),
            ("family ID", block.family_id.hex()),
            ("image ID", block.image_id.hex()),
            ("version", str(block.version)),
            ("guest SVN", str(block.guest_svn)),
            ("policy", hex(block.policy)),
            ("ID key digest", shown.id_key_digest.hex()),
            ("author key digest", author.hex() if author else "none (no author key)"),
        ]
    )
    if shown.files:
        yield "written"
        yield from (f"  {name}" for name in shown.files)
    elif shown.checks is None:
        yield f"id-block  {b64encode(shown.block_bytes).decode()}"
        yield f"id-auth  {b64encode(shown.auth_bytes).decode()}"
    if shown.checks is not None:
        yield "checked"
        yield from compared_lines(shown.checks)


def compared_lines(lines: Iterable[Line], unplanned: str = "not in plan") -> Iterator[str]:
    """
    Yield lines of a comparison, each with what was expected where that is another value.

    `unplanned` is the word for a value that nobody expected anything of.
    """
    rows: list[tuple[str, ...]] = []
    for line in lines:
        why = f"  ({line.why})" if line.why else ""
        status = unplanned if line.status is Status.NOT_IN_PLAN else line.status
        rows.append((status, f"{line.name}:", f"{_shown(line.found)}{why}"))
        if line.differs or line.status is Status.ASSUMED:
            word = "expected" if line.differs else "assumed"
            rows.append(("", "", f"{word} {_shown(line.expected)}"))
    yield from aligned(rows, "  ") if rows else ()


def _shown(value: str | None) -> str:
    """Return a value as it is, or how many bytes of zeros it is."""
    value = value or ""
    long = len(value) >= 32 and not value.strip("0")
    return f"{len(value) // 2} zero bytes" if long else value
