"""Every regular expression of the package takes time that grows as its input does."""

from __future__ import annotations

import ast
import math
import re
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from re import _constants, _parser  # type: ignore[attr-defined]  # what a pattern is made of
from typing import Any

import pytest

import cvmplan

ROOT = Path(cvmplan.__file__).parent
SHORT, LONG = 4 << 10, 16 << 10  # characters
GROWTH, FREE = 8, 0.02  # of linear time 4 is expected; seconds that are too short to judge
METHODS = ("match", "search", "fullmatch", "findall")


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(p for p in parts if p != "__init__"), path


def patterns() -> dict[str, re.Pattern[Any]]:
    """Every pattern of every module, by its place."""
    found = {}
    for name, path in modules():
        if "re." in path.read_text():
            for key, value in vars(import_module(name)).items():
                if isinstance(value, re.Pattern):
                    found[f"{name}.{key}"] = value
    return found


def test_every_pattern_is_a_constant_of_its_module() -> None:
    written = 0
    for _, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re."):
                assert ast.unparse(node.func) in ("re.compile", "re.escape"), path
                written += ast.unparse(node.func) == "re.compile"
    assert written == len(patterns()) > 15


REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)


def letters(parsed: Any) -> Iterator[str]:
    """What the parts of a pattern match: its literal texts, a character of each class."""
    run = ""
    for kind, value in parsed:
        if kind is _constants.LITERAL:
            run += chr(value)
            continue
        if run:
            yield run
        run = ""
        if kind is _constants.IN:
            yield next(chr(c) for c in range(9, 256) if matches(value, chr(c)))
        elif kind in (_constants.ANY, _constants.NOT_LITERAL):
            yield "x"
        for inner in parts(kind, value):
            yield from letters(inner)
    if run:
        yield run


def parts(kind: Any, value: Any) -> list[Any]:
    """The patterns inside one part of a pattern."""
    if kind in REPEATS:
        return [value[2]]
    if kind is _constants.SUBPATTERN:
        return [value[3]]
    if kind is _constants.BRANCH:
        return list(value[1])
    return [value] if kind is _constants.ATOMIC_GROUP else []


def matches(members: Any, character: str) -> bool:
    """Whether a class of a parsed pattern has a character."""
    negated = members[0][0] is _constants.NEGATE
    return negated is not any(has(one, character) for one in members)


CATEGORIES: dict[Any, Callable[[str], bool]] = {
    _constants.CATEGORY_SPACE: str.isspace,
    _constants.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    _constants.CATEGORY_DIGIT: str.isdigit,
    _constants.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
}


def has(member: Any, character: str) -> bool:
    kind, value = member
    if kind is _constants.LITERAL:
        return bool(chr(value) == character)
    if kind is _constants.RANGE:
        return bool(value[0] <= ord(character) <= value[1])
    return kind is _constants.CATEGORY and CATEGORIES[value](character)


def texts(pattern: re.Pattern[Any], size: int) -> Iterator[Any]:
    """Texts that begin as the pattern does and go on with its parts, and never end well."""
    source = pattern.pattern
    known = [*dict.fromkeys(letters(_parser.parse(source, pattern.flags & ~re.UNICODE)))]
    binary = isinstance(source, bytes)
    for first, again in product(["", *known], known):
        for unit in dict.fromkeys((again, first + again)):
            text = first + unit * (size // len(unit)) + "\x01"
            yield text.encode("latin-1") if binary else text


def spent(pattern: re.Pattern[Any], text: Any) -> float:
    best = math.inf
    for _ in range(2):
        start = time.process_time()
        for method in METHODS:
            getattr(pattern, method)(text)
        best = min(best, time.process_time() - start)
    return best


def grows(pattern: re.Pattern[Any]) -> Iterator[str]:
    """The texts on which a pattern takes more than linear time."""
    for short, long in zip(texts(pattern, SHORT), texts(pattern, LONG), strict=True):
        needed = spent(pattern, long)
        if needed > FREE and needed > GROWTH * spent(pattern, short):
            yield f"{long[:60]!r}: {needed:.3f} s"


@pytest.mark.parametrize("name", patterns())
def test_time_grows_as_the_text_does(name: str) -> None:
    assert next(grows(patterns()[name]), "") == ""


SLOW = [
    rb"(?s)-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----",
    rb"\s*\{\s*x",
    r"\s+$",
]


@pytest.mark.parametrize("source", SLOW)
def test_a_slow_pattern_is_found(source: Any) -> None:
    assert next(grows(re.compile(source)), "")
