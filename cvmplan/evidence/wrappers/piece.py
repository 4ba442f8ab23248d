"""A piece of evidence, what a decoder is, and the bounds of all decoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from cvmplan.core.blob import Blob

DEEPEST: Final = 6  # wrappers nested
LARGEST: Final = 8 << 20  # bytes of a text or a document
MOST_PADDING: Final = 1 << 20  # bytes
MOST: Final = 16  # pieces of evidence in one file


class Unwrapped(NamedTuple):
    """
    Evidence as the hardware wrote it, and what came with it.

    `how` are the wrappers, from the outside.  `certificates` are not read yet and in no order.
    `bound` is, for HCL, what the report's data must begin with.  `notes` are what people should
    know about how it was read.  `select` names the piece within its file, "" where it is the file.
    """

    body: Blob
    how: tuple[str, ...] = ()
    certificates: tuple[Blob, ...] = ()
    event_log: Blob | None = None
    bound: bytes = b""
    notes: tuple[str, ...] = ()
    select: str = ""


def is_padding(data: memoryview) -> bool:
    """Whether bytes are zeros, and no more than a buffer is longer than its contents."""
    return len(data) <= MOST_PADDING and not bytes(data).strip(b"\0")


Inside: TypeAlias = Callable[[Blob], list[Unwrapped]]
"""What finds the pieces in the contents of a wrapper; InputError, UnsupportedError."""


class Decoder(NamedTuple):
    """
    One wrapper: how it is recognised by its contents, and how it is taken off.

    `source` is the description that it follows.  `decode` returns the pieces inside, at least
    one; MalformedError, TruncatedError, UnsupportedError.
    """

    name: str
    source: str
    recognises: Callable[[Blob], bool]
    decode: Callable[[Blob, Inside], list[Unwrapped]]
