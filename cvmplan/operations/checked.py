"""What `check` found: about each file its findings, and the measurements that were expected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final, NamedTuple

from cvmplan.core.errors import CvmplanError
from cvmplan.core.findings import Finding, Rule
from cvmplan.core.places import Path, Place

SEVERITIES: Final = ("error", "warning", "note")
"""From the gravest to the mildest."""


class Compared(NamedTuple):
    """A measurement that is expected, at a place in a document, of a launch with these settings."""

    register: str
    settings: str
    expected: bytes
    found: bytes
    at: Place

    @property
    def same(self) -> bool:
        """Whether the launch has it."""
        return self.expected == self.found


class Checked(NamedTuple):
    """
    What was found about the file `name`.

    `error` is what ended the check of it; `findings` has it as well, with what was found before.
    """

    name: str
    findings: tuple[Finding, ...]
    compared: tuple[Compared, ...] = ()
    error: CvmplanError | None = None

    def place(self, found: Finding) -> Place:
        """Return the place of a finding; the whole file where it has none in it."""
        at = found.at or self.name
        return at if isinstance(at, Place) and at.file else Place(at, self.name)

    def fingerprints(self) -> list[str]:
        """
        Return a name of each finding that stays when others appear, and when numbers change.

        It is made of the rule, the file, and the owners or the place in a document.
        """
        seen: Counter[str] = Counter()
        made = []
        for found in self.findings:
            place = self.place(found)
            what = found.origins or (place if place.offset is None else "",)
            told = "\0".join((found.rule, place.file, *what))
            seen[told] += 1
            made.append(sha256(f"{told}\0{seen[told]}".encode(errors="replace")).hexdigest())
        return made


class Checks(NamedTuple):
    """
    What was found about several files, in the order in which they were named.

    `rules` is the catalogue of rules; findings of `fail_on` or graver make the check fail.
    """

    files: tuple[Checked, ...]
    rules: Mapping[str, Rule]
    fail_on: str = "error"

    @property
    def rows(self) -> list[tuple[Checked, Finding]]:
        """Every finding with its file, the gravest first."""
        rows = [(one, found) for one in self.files for found in one.findings]
        return sorted(rows, key=lambda row: SEVERITIES.index(row[1].severity))

    @property
    def compared(self) -> list[tuple[Checked, Compared]]:
        """Every comparison with its file."""
        return [(one, held) for one in self.files for held in one.compared]

    def fails(self, found: Finding) -> bool:
        """Whether a finding makes the check fail."""
        return SEVERITIES.index(found.severity) <= SEVERITIES.index(self.fail_on)

    @property
    def counts(self) -> dict[str, int]:
        """How many findings of each severity there are."""
        counts = Counter(found.severity for one in self.files for found in one.findings)
        return {severity: counts[severity] for severity in SEVERITIES}

    @property
    def exit_code(self) -> int:
        """The greatest of the exit codes of the files."""
        codes = [one.error.exit_code for one in self.files if one.error]
        codes += [1 for _, found in self.rows if self.fails(found)][:1]
        return max(codes, default=0)


def paths_of(findings: Iterable[Finding], file: str) -> set[Path]:
    """Return the paths of values in a document that findings name without a line."""
    texts = [text for found in findings for text in (found.at, *found.origins)]
    places = [text for text in texts if isinstance(text, Place) and text.file == file]
    return {place.path for place in places if place.path and place.line is None}


def on_lines(
    findings: Sequence[Finding], file: str, lines: Mapping[Path, tuple[int, int]]
) -> tuple[Finding, ...]:
    """Return findings with the line and column of each place in the document `file`."""

    def placed(text: str) -> str:
        if not isinstance(text, Place) or text.file != file or text.line is not None:
            return text
        return text.on(*lines[text.path]) if text.path in lines else text

    return tuple(
        replace(found, at=placed(found.at), origins=tuple(map(placed, found.origins)))
        for found in findings
    )
