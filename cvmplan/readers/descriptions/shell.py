"""
The words of one command, as a POSIX shell splits it.  Nothing is expanded, nothing is executed.

Source: POSIX.1-2024, Shell Command Language, 2.2 Quoting, 2.3 Token Recognition, 2.7 Redirection.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

BLANKS: Final = " \t"
ENDS: Final = ";|\n"
REDIRECTS: Final = "<>"
EXPANDED: Final = "$`"
ESCAPED: Final = '$`"\\\n'  # what a backslash quotes inside double quotes


class Word(NamedTuple):
    """A word without its quotes, and whether it began with one."""

    text: str
    quoted: bool = False


class ExpansionError(ValueError):
    """A shell would expand something: its text from there on."""


def words(line: str) -> Iterator[Word]:
    """
    Yield the words of the first command of a line, without its redirections.

    ValueError for a quote without its end, ExpansionError for what the shell would expand.
    """
    at = 0
    while True:
        at = _after_blanks(line, at)
        if at == len(line) or line[at] in ENDS or line[at] == "#":
            return
        if line[at] == "&":
            if line[at + 1 : at + 2] not in ("<", ">"):
                return
            at += 1
        if line[at] in REDIRECTS:
            at = _after_redirection(line, at)
            continue
        begin = line[at]
        text, end = _word(line, at)
        if not (text.isdecimal() and line[end : end + 1] in ("<", ">") and begin not in "'\""):
            yield Word(text, begin in "'\"")
        at = end


def _after_blanks(line: str, at: int) -> int:
    while at < len(line) and (line[at] in BLANKS or line.startswith("\\\n", at)):
        at += 1 if line[at] in BLANKS else 2
    return at


def _after_redirection(line: str, at: int) -> int:
    """Return where the word ends that a redirection names."""
    while at < len(line) and line[at] in "<>&|-":
        at += 1
    at = _after_blanks(line, at)
    return at if at == len(line) else max(_word(line, at)[1], at + 1)


def _word(line: str, at: int) -> tuple[str, int]:
    """Return the word that begins at `at`, and where it ends."""
    made: list[str] = []
    while at < len(line):
        letter = line[at]
        if letter in BLANKS or letter in ENDS or letter in REDIRECTS or letter == "&":
            break
        if letter in EXPANDED:
            raise ExpansionError(line[at : at + 20])
        if letter == "\\":
            made.append(line[at + 1 : at + 2].replace("\n", ""))
            at = min(at + 2, len(line))
        elif letter == "'":
            end = line.find("'", at + 1)
            if end < 0:
                raise ValueError("a quote without its end")
            made.append(line[at + 1 : end])
            at = end + 1
        elif letter == '"':
            text, at = _double(line, at + 1)
            made.append(text)
        else:
            made.append(letter)
            at += 1
    return "".join(made), at


def _double(line: str, at: int) -> tuple[str, int]:
    """Return what double quotes have from `at` on, and where they have ended."""
    made: list[str] = []
    while at < len(line):
        letter = line[at]
        if letter == '"':
            return "".join(made), at + 1
        if letter in EXPANDED:
            raise ExpansionError(line[at : at + 20])
        if letter == "\\" and line[at + 1 : at + 2] in tuple(ESCAPED):
            at += 1
            letter = line[at].replace("\n", "")
        made.append(letter)
        at += 1
    raise ValueError("a quote without its end")
