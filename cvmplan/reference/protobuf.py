"""
Messages of protobuf: their wire format, and the text that configurations of verifiers are in.

Source: protobuf.dev, "Encoding" and "Text Format Language Specification".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from cvmplan.core.errors import MalformedError

_VARINT, _64, _BYTES, _32 = 0, 1, 2, 5  # wire types
_FIXED: Final = {_64: 8, _32: 4}
_MOST_VARINT: Final = 10  # bytes
_FIELD: Final = re.compile(r'^[ \t]*+(\w++)[ \t]*+:[ \t]*+"((?:[^"\\\n]|\\.)*)"', re.MULTILINE)
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.))")
_PLAIN: Final = {"n": 10, "r": 13, "t": 9, "a": 7, "b": 8, "f": 12, "v": 11}


def fields(data: bytes, at: str) -> Iterator[tuple[int, int | bytes]]:
    """Yield (number, value) of a message: integers and bytes; MalformedError names the place."""
    here = 0
    while here < len(data):
        key, here = _varint(data, here, at)
        kind = key & 7
        if kind == _VARINT:
            value, here = _varint(data, here, at)
            yield key >> 3, value
            continue
        size = _FIXED.get(kind)
        if kind == _BYTES:
            size, here = _varint(data, here, at)
        if size is None or here + size > len(data):
            raise MalformedError("is not a message of protobuf", at=f"{at}+{here:#x}")
        part = data[here : here + size]
        here += size
        yield key >> 3, part if kind == _BYTES else int.from_bytes(part, "little")


def _varint(data: bytes, here: int, at: str) -> tuple[int, int]:
    value = 0
    for number in range(_MOST_VARINT):
        if here + number >= len(data):
            break
        byte = data[here + number]
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, here + number + 1
    raise MalformedError("is not a message of protobuf", at=f"{at}+{here:#x}")


def strings(text: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the fields of a message in text whose value is a string."""
    for name, written in _FIELD.findall(text):
        yield name, _ESCAPE.sub(_byte, written).encode("latin-1", "replace")


def _byte(found: re.Match[str]) -> str:
    """Return the character whose number is the byte of an escape."""
    hexadecimal, octal, plain = found.groups()
    if hexadecimal:
        return chr(int(hexadecimal, 16))
    if octal:
        return chr(int(octal, 8) & 0xFF)
    return chr(_PLAIN[plain]) if plain in _PLAIN else plain
