"""The one place where bytes become records: bounds-checked, and able to say where."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from struct import Struct, calcsize
from typing import Any, ClassVar, Protocol, TypeVar

from cvmplan.core.errors import TruncatedError
from cvmplan.core.places import Place
from cvmplan.core.records import Frozen, record
from cvmplan.core.values import write_span


class Record(Protocol):
    """A dataclass whose fields are exactly what its LAYOUT unpacks, in order."""

    LAYOUT: ClassVar[Struct]

    def __init__(self, *fields: Any) -> None: ...


R = TypeVar("R", bound=Record)
_CODE = re.compile(r"([0-9]{0,4})([a-zA-Z?])")  # of a layout: how many, of which size


def offsets(kind: type[Record]) -> dict[str, int]:
    """Return the offset of each field of a record in its bytes, by its LAYOUT."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # records are dataclasses
    found, at = [], 0
    for times, code in _CODE.findall(kind.LAYOUT.format):
        count = int(times or 1)
        pieces = [count] if code in "sx" else [calcsize(f"<{code}")] * count
        for size in pieces:
            if code != "x":
                found.append(at)
            at += size
    return dict(zip(names, found, strict=True))


def pack(made: Record) -> bytes:
    """Return the bytes of a record."""
    return made.LAYOUT.pack(*(getattr(made, name) for name in offsets(type(made))))


def unpickled(name: str, data: bytes, base: int) -> Blob:
    """Return a span of bytes that came from another process."""
    return Blob(name, memoryview(data), base)


@record
class Blob(Frozen):
    """
    A named span of an input; offsets in errors are offsets in the file.

    `name` is the input's path as the user typed it, `data` its bytes (never copied),
    `base` the file offset of `data[0]`.
    """

    name: str
    data: memoryview
    base: int = 0

    def __len__(self) -> int:
        return len(self.data)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the bytes themselves: another process has no file that could change."""
        return unpickled, (self.name, bytes(self.data), self.base)

    def where(self, offset: int, length: int | None = None) -> Place:
        """Name a place in the file, for messages: "OVMF.fd+0x3ffd10"; `length` where it is one."""
        at = self.base + offset
        return Place(f"{self.name}+{at:#x}", self.name, offset=at, length=length)

    def slice(self, start: int, end: int) -> Blob:
        """Return bytes [start, end); TruncatedError when they are not all there."""
        if not 0 <= start <= end <= len(self.data):
            raise TruncatedError(
                f"bytes {write_span(start, end - start)} are outside the {len(self.data):#x} bytes "
                "of data",
                at=self.where(max(start, 0)),
            )
        return Blob(self.name, self.data[start:end], self.base + start)

    def words(self, layout: Struct, offset: int) -> tuple[Any, ...]:
        """Unpack what a layout has at `offset`; TruncatedError when it does not fit."""
        if offset < 0 or offset + layout.size > len(self.data):
            self.slice(offset, offset + layout.size)
        return layout.unpack_from(self.data, offset)

    def copy(self, start: int, end: int) -> bytes:
        """Return a copy of bytes [start, end); TruncatedError when they are not all there."""
        if not 0 <= start <= end <= len(self.data):
            self.slice(start, end)
        return bytes(self.data[start:end])

    def take(self, record: type[R], offset: int) -> R:
        """Unpack the record at `offset`; TruncatedError when it does not fit."""
        span = self.slice(offset, offset + record.LAYOUT.size)
        return record(*record.LAYOUT.unpack(span.data))

    def table(self, record: type[R], offset: int, count: int) -> Iterator[tuple[Any, ...]]:
        """Unpack `count` rows of one layout as tuples; TruncatedError when they do not fit."""
        span = self.slice(offset, offset + count * record.LAYOUT.size)
        return record.LAYOUT.iter_unpack(span.data)
