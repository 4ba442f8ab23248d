"""Where the values of a document stand in its text: JSON, YAML, and TOML line by line."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cvmplan.core.places import Path

_TOKEN: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[{}\[\],:]|[^\s{}\[\],:"]+')
_NAME: Final = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LINE: Final = re.compile(
    rf"^[ \t]*+(?P<open>\[\[?)?[ \t]*+(?P<name>{_NAME}(?:[ \t]*+\.[ \t]*+{_NAME})*+)[ \t]*+[=\]]"
)
_PART: Final = re.compile(_NAME)
_QUOTES: Final = re.compile(r'"""|\'\'\'')
_TOML: Final = re.compile(r"""^[ \t]*+["']?schema["']?[ \t]*+=""", re.MULTILINE)
"""A line by which TOML is told from YAML: every document names its schema."""


def is_toml(text: str) -> bool:
    """Whether a document that is not JSON is TOML, and not YAML."""
    return _TOML.search(text) is not None


def positions(text: str, paths: Collection[Path]) -> dict[Path, tuple[int, int]]:
    """
    Return (line, column) of the value at each of `paths`, or of what is nearest above it.

    Both count from 1.  `text` is a document that was read without an error.
    """
    offsets: dict[Path, int] = {}
    wanted = {path[:depth] for path in paths for depth in range(len(path) + 1)}
    for found, offset in _values(text):
        if found in wanted:
            offsets.setdefault(found, offset)
    known = {path: _nearest(path, offsets) for path in paths}
    lines = line_numbers(text, {offset for offset in known.values() if offset is not None})
    return {path: lines[offset] for path, offset in known.items() if offset is not None}


def _values(text: str) -> Iterator[tuple[Path, int]]:
    if text.lstrip()[:1] == "{":
        return ((path, offset) for path, offset, _ in walk(text))
    return _toml(text) if is_toml(text) else _yaml(text)


def _nearest(path: Path, offsets: Mapping[Path, int]) -> int | None:
    above = (offsets.get(path[:depth]) for depth in range(len(path), -1, -1))
    return next((offset for offset in above if offset is not None), None)


def line_numbers(text: str, offsets: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Return (line, column) of each offset, both from 1."""
    found, line, last = {}, 1, 0
    for offset in sorted(offsets):
        line += text.count("\n", last, offset)
        last = offset
        found[offset] = line, offset - text.rfind("\n", 0, offset)
    return found


@dataclass(slots=True)
class _Frame:
    """An open object (with the keys seen) or array, and the key or index that is next."""

    path: Path
    keys: set[str] | None
    next: str | int | None


def walk(text: str) -> Iterator[tuple[Path, int, bool]]:
    """Yield (path, offset, whether its key is given twice) of each value of valid JSON."""
    stack = [_Frame((), None, None)]
    twice = False
    for token in _TOKEN.finditer(text):
        word, top = token.group(), stack[-1]
        if word == ":":
            continue
        if word in "}]":
            stack.pop()
        elif word == ",":
            top.next = top.next + 1 if isinstance(top.next, int) else None
        elif top.keys is not None and top.next is None:
            top.next = str(json.loads(word))
            twice = top.next in top.keys
            top.keys.add(top.next)
        else:
            here = top.path if top.next is None else (*top.path, top.next)
            yield here, token.start(), twice
            twice = False
            if word == "{":
                stack.append(_Frame(here, set(), None))
            elif word == "[":
                stack.append(_Frame(here, None, 0))


def _yaml(text: str) -> Iterator[tuple[Path, int]]:
    """Yield (path, offset) of each value, from the events of the parser."""
    import yaml

    stack = [_Frame((), None, None)]
    events: Iterable[Any] = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    for event in events:
        kind, top = type(event).__name__, stack[-1]
        if kind in ("SequenceEndEvent", "MappingEndEvent"):
            stack.pop()
            continue
        if kind not in ("MappingStartEvent", "SequenceStartEvent", "ScalarEvent"):
            continue
        if top.keys is not None and top.next is None:
            top.next = str(event.value)
            continue
        here = top.path if top.next is None else (*top.path, top.next)
        top.next = top.next + 1 if isinstance(top.next, int) else None
        yield here, event.start_mark.index
        if kind == "MappingStartEvent":
            stack.append(_Frame(here, set(), None))
        elif kind == "SequenceStartEvent":
            stack.append(_Frame(here, None, 0))


def _toml(text: str) -> Iterator[tuple[Path, int]]:
    """Yield (path, offset) of each table and of each key at the beginning of a line."""
    table: Path = ()
    counts: dict[Path, int] = {}
    offset, quotes = 0, ""
    for line in text.splitlines(keepends=True):
        found = None if quotes else _LINE.match(line)
        if found:
            names = tuple(part.strip("\"'") for part in _PART.findall(found["name"]))
            here = (*table, *names)
            if found["open"]:
                here = _inside(names[:-1], counts)
                here = (*here, names[-1])
                if found["open"] == "[[":
                    counts[here] = counts.get(here, -1) + 1
                    yield here, offset + found.start("open")
                    here = (*here, counts[here])
                table = here
            yield here, offset + found.start("open" if found["open"] else "name")
        for mark in _QUOTES.findall(line):
            quotes = "" if quotes == mark else quotes or mark
        offset += len(line)


def _inside(names: tuple[str, ...], counts: Mapping[Path, int]) -> Path:
    """Return the path of a table: in arrays of tables it is in the last one."""
    path: Path = ()
    for name in names:
        path = (*path, name)
        if path in counts:
            path = (*path, counts[path])
    return path
