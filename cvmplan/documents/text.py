"""
Documents as text: JSON, TOML, and YAML where PyYAML is there.

A key that stands twice is an error, and so is a document nested too deep; errors name the
line where the format lets us find it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.core.places import Path, Place, in_document, spell
from cvmplan.core.values import Json
from cvmplan.documents.plain import decode, is_text
from cvmplan.documents.positions import is_toml, line_numbers, positions, walk

__all__ = [
    "check_values",
    "decode",
    "is_text",
    "parse",
    "parse_line",
    "parse_toml",
    "validate",
]

_DEEPEST = 100
_KEY = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\."""
_DEEP_KEY = re.compile(rf"(?<![\w-])(?:{_KEY}[ \t]*+){{64}}")  # TOML: a.b.c… nests as deep
_TOML_ERROR = re.compile(r"at line (\d+), column (\d+)\)$")  # before Python 3.14 it says no more
MOST_TEXT = 512 << 20  # bytes of a document


def parse(blob: Blob) -> Any:
    """Return the document that `blob` holds; MalformedError, MalformedError or UnsupportedError."""
    if len(blob) > MOST_TEXT:
        raise MalformedError(f"larger than {MOST_TEXT >> 20} MiB", at=blob.name)
    text = decode(blob)
    if text.lstrip()[:1] == "{":
        raw = _json(blob.name, text)
    elif is_toml(text):
        raw = _toml(blob.name, text)
    else:
        from cvmplan.documents import yaml_text

        raw = yaml_text.parse(blob.name, text)
    check_values(raw, blob.name)
    return raw


def parse_toml(blob: Blob) -> dict[str, Any]:
    """Return the TOML document that `blob` holds; MalformedError."""
    raw: dict[str, Any] = _toml(blob.name, decode(blob))
    check_values(raw, blob.name)
    return raw


def check_values(raw: Json, at: str) -> None:
    """Raise MalformedError for values nested too deep, and for strings that are not Unicode."""
    level = [raw]
    for _ in range(_DEEPEST + 1):
        below: list[Json] = []
        for one in level:
            if isinstance(one, dict):
                below += one
                below += one.values()
            elif isinstance(one, list):
                below += one
            elif isinstance(one, str) and not _is_unicode(one):
                path = next(_wrong(raw, ()), ())
                problem = f"{one[:40]!r} is not Unicode: half a surrogate pair"
                raise MalformedError(problem, at=in_document(at, *path))
        if not below:
            return
        level = below
    raise MalformedError("nested too deep", at=at)


def _wrong(raw: Json, path: Path) -> Iterator[Path]:
    """Yield the paths of strings that are not Unicode; a key's is that of its object."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield from _wrong(key, path)
            yield from _wrong(value, (*path, key))
    elif isinstance(raw, list):
        for number, value in enumerate(raw):
            yield from _wrong(value, (*path, number))
    elif isinstance(raw, str) and not _is_unicode(raw):
        yield path


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_line(line: str) -> Json:
    """Return one line of JSON Lines; ValueError where it is not JSON, or has a duplicate key."""
    found: Json = json.loads(line, object_pairs_hook=_pairs, parse_constant=_no_constant)
    return found


def validate(blob: Blob, raw: Json, document: str) -> Any:
    """Return `raw` as the model of `document`; MalformedError with place and path."""
    from pydantic import ValidationError

    from cvmplan import documents
    from cvmplan.documents.fields import problems

    if not isinstance(raw, dict):
        raise MalformedError("not an object", at=blob.name)
    try:
        return documents.model(document).model_validate(raw)
    except ValidationError as error:
        found = problems(error)
        path, reason = found[0]
        line, column = positions(decode(blob), [path]).get(path, (None, None))
        place = f"{blob.name}:{line}" if line else blob.name
        where = f"{place}: {spell(path)}" if path else place
        at = Place(where, blob.name, path=path, line=line, column=column)
        left = len(found) - 1
        more = f"{left} more error{'s'[: left > 1]} in this document; " if left else ""
        hint = f"{more}'cvmplan schema {document}' prints its schema"
        raise MalformedError(reason, at=at, hint=hint) from None


class _DuplicateKeyError(ValueError):
    """An object has a key twice."""


def _pairs(pairs: list[tuple[str, Json]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _DuplicateKeyError
    return made


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        problem = f"not JSON: {error.msg.lower()}"
        line, column = error.lineno, error.colno
        at = Place(f"{name}:{line}", name, line=line, column=column)
        raise MalformedError(problem, at=at) from None
    except RecursionError:
        raise MalformedError("nested too deep", at=name) from None
    except _DuplicateKeyError:
        path, offset = next(((p, o) for p, o, twice in walk(text) if twice), ((), 0))
        line, column = line_numbers(text, [offset])[offset]
        at = Place(f"{name}:{line}: {spell(path)}", name, path=path, line=line, column=column)
        raise MalformedError("duplicate key", at=at) from None
    except ValueError as error:
        raise MalformedError(f"not JSON: {error}", at=name) from None


def _toml(name: str, text: str) -> Any:
    import tomllib

    if _DEEP_KEY.search(text):
        raise MalformedError("nested too deep", at=name)
    try:
        return tomllib.loads(text)
    except ValueError as error:
        where = _TOML_ERROR.search(str(error))
        line, column = map(int, where.groups()) if where else (None, None)
        at = Place(name, name, line=line, column=column)
        raise MalformedError(f"not TOML: {error}", at=at) from None
    except RecursionError:
        raise MalformedError("nested too deep", at=name) from None
