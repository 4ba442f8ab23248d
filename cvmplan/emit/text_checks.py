"""What `check` found, for people."""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.emit.lines import aligned, joined
from cvmplan.emit.text import count_severities, finding_lines
from cvmplan.operations.checked import Checked, Checks


def checks(made: Checks) -> str:
    """Return each file's findings, the gravest first, and how many there are."""
    if len(made.files) == 1:
        return joined(_file(made.files[0]))
    lines: list[str] = []
    for one in made.files:
        lines += [f"file {one.name}", *(f"  {line}" for line in _file(one)), ""]
    total = count_severities(found for _, found in made.rows)
    return joined([*lines, f"{len(made.files)} files: {total}"])


def _file(one: Checked) -> Iterator[str]:
    rows = [
        (held.register, "as expected" if held.same else "differs", held.settings)
        for held in one.compared
    ]
    yield from aligned(rows) if rows else ()
    yield from finding_lines(one.findings)
    yield count_severities(one.findings)
