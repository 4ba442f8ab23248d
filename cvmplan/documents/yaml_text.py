"""
YAML, as far as JSON can say the same: no aliases, no tags, scalars as JSON would have them.

Built from the parser's events, so that neither depth nor the number of keys costs more than
one pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.places import Place, spell

DEEPEST: Final = 100
SLOW: Final = 1 << 17  # characters that the parser written in Python reads in a second
_INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,19}")
_WORDS: Final = {"true": True, "false": False, "null": None, "": None}


@dataclass(slots=True)
class _Open:
    """A collection that is being read, the line of its start, the key that awaits a value."""

    made: dict[str, Any] | list[Any]
    line: int
    key: str | None = None


def parse(name: str, text: str) -> Any:
    """Return the document in `text`; MalformedError, MalformedError, UnsupportedError."""
    try:
        import yaml
    except ImportError:
        raise UnsupportedError(
            "this looks like YAML, but PyYAML is not installed",
            at=name,
            hint="pip install 'cvmplan[yaml]', or write it in JSON or TOML",
        ) from None
    loader = getattr(yaml, "CSafeLoader", None)
    if loader is None and len(text) > SLOW:
        problem = f"more than {SLOW} characters of YAML, and PyYAML was built without libyaml"
        raise UnsupportedError(problem, at=name, hint="write it in JSON")
    try:
        return _read(name, yaml.parse(text, Loader=loader or yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise MalformedError(f"not YAML: {reason}", at=_mark(name, error)) from None
    except RecursionError:
        raise MalformedError("nested too deep", at=name) from None


def _read(name: str, events: Iterable[Any]) -> Any:
    """Return the value that the events of one document tell."""
    stack: list[_Open] = []
    documents: list[Any] = []
    for event in events:
        kind = type(event).__name__
        line = event.start_mark.line + 1 if event.start_mark else 0
        if kind in ("SequenceEndEvent", "MappingEndEvent"):
            stack.pop()
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            made: Any = {} if kind.startswith("Mapping") else []
            if len(stack) > DEEPEST:
                raise MalformedError("nested too deep", at=_place(name, line, stack))
            _put(name, line, stack, documents, made, plain=False)
            stack.append(_Open(made, line))
        elif kind == "ScalarEvent":
            _put(name, line, stack, documents, event.value, plain=not event.style)
        elif kind == "AliasEvent":
            raise MalformedError("aliases are not supported", at=_place(name, line, stack))
    if len(documents) > 1:
        raise MalformedError("not YAML: more than one document", at=name)
    return documents[0] if documents else None


def _put(
    name: str, line: int, stack: list[_Open], documents: list[Any], value: Any, *, plain: bool
) -> None:
    """Put a value, or the key that it is, where it belongs; MalformedError for a key."""
    top = stack[-1] if stack else None
    if top is None:
        documents.append(_scalar(value) if plain else value)
    elif isinstance(top.made, list):
        top.made.append(_scalar(value) if plain else value)
    elif top.key is not None:
        top.made[top.key] = _scalar(value) if plain else value
        top.key = None
    elif not isinstance(value, str):
        raise MalformedError("a key is not a string", at=_place(name, top.line, stack))
    elif value in top.made:
        top.key = value
        raise MalformedError("duplicate key", at=_place(name, line, stack))
    else:
        top.key = value


def _place(name: str, line: int, stack: list[_Open]) -> Place:
    parts = (len(one.made) if isinstance(one.made, list) else one.key for one in stack)
    path = tuple(p for p in parts if p is not None)
    return Place(f"{name}:{line}: {spell(path)}", name, path=path, line=line)


def _mark(name: str, error: Exception) -> Place:
    """Return the place at which the parser stopped."""
    mark = getattr(error, "problem_mark", None)
    return Place(name, name) if mark is None else Place(name, name, line=mark.line + 1)


def _scalar(text: str) -> Any:
    """Return a plain scalar as JSON would have it."""
    return int(text) if _INTEGER.fullmatch(text) else _WORDS.get(text, text)
