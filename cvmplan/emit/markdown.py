"""
Markdown for the summary of a CI run or a comment: how many findings, and a table that opens.

GitHub Flavored Markdown 0.29 with HTML's `details`.  Every mark of what others chose is written as
a character reference, so it is neither Markdown, HTML, a link nor a mention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cvmplan.core.values import printable
from cvmplan.operations.checked import Checks

MOST_ROWS: Final = 1000  # GitHub takes 1 MiB of a summary
_MARKS: Final = {
    **{ord(c): f"&#{ord(c)};" for c in '!"$&()*+./:<>[\\]^_`{|}~'},
    **{ord(c): f"{c}<!-- -->" for c in "@#"},  # a reference to these would still make a link
}


def checks(made: Checks) -> str:
    """Return a title, the comparisons, and the findings in a table, the gravest first."""
    counts = ", ".join(
        f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in made.counts.items()
    )
    several = "" if len(made.files) == 1 else "s"
    files = f"{len(made.files)} file{several}"
    lines = [f"### cvmplan: {'failed' if made.exit_code else 'passed'}", "", f"{counts} in {files}"]
    if made.compared:
        rows = [
            (one.name, held.settings, held.register, "as expected" if held.same else "**differs**")
            for one, held in made.compared
        ]
        titles = ("file", "launch", "register", "measurement")
        lines += ["", *_table(titles, [(*map(_text, row[:3]), row[3]) for row in rows])]
    if made.rows:
        lines += ["", "<details>", "<summary>Findings</summary>", ""]
        lines += _table(("severity", "rule", "place", "finding"), _findings(made))
        if len(made.rows) > MOST_ROWS:
            lines += ["", f"{len(made.rows) - MOST_ROWS} more findings are not listed."]
        lines += ["", "</details>"]
    return "\n".join([*lines, ""])


def _findings(made: Checks) -> list[tuple[str, ...]]:
    return [
        (
            f"**{found.severity}**" if made.fails(found) else found.severity,
            f"`{found.rule}`",
            _text(one.place(found)),
            _text(found.text.removeprefix(f"{found.rule}: "))
            + (f"<br>{_text(found.hint)}" if found.hint else ""),
        )
        for one, found in made.rows[:MOST_ROWS]
    ]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]


def _text(text: str) -> str:
    return printable(text).translate(_MARKS)
