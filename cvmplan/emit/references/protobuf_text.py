"""
Messages in protobuf's text format, as far as the configurations of verifiers need it.

Source: protobuf.dev, "Text Format Language Specification": bytes are strings with escapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

Scalar: TypeAlias = "int | bool | str | bytes"
Field: TypeAlias = "Scalar | Message | Sequence[bytes]"
Message: TypeAlias = "Mapping[str, Field]"


def lines(message: Message, indent: str = "") -> Iterator[str]:
    """Yield the lines of a message, two blanks deeper for each level."""
    for name, value in message.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name} {{\n"
            yield from lines(value, indent + "  ")
            yield f"{indent}}}\n"
        elif isinstance(value, bool | int | str | bytes):
            yield f"{indent}{name}: {_scalar(value)}\n"
        else:
            yield from (f"{indent}{name}: {_scalar(one)}\n" for one in value)


def _scalar(value: Scalar) -> str:
    if isinstance(value, bytes):
        return '"' + "".join(f"\\x{byte:02x}" for byte in value) + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def comment(text: str) -> str:
    """Return a text as one line that readers skip."""
    return "# " + "".join(c if c.isprintable() else "?" for c in text) + "\n"
