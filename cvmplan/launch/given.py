"""
What was given for a launch: settings by name, each a value of its kind, and nothing else.

It begins as what was read from options, arguments or a manifest, and is merged, completed
and launched; each of these makes a new one.  What is not in it was not given.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping
from typing import TypeAlias

from cvmplan.core.blob import Blob
from cvmplan.profiles import Profile

Ranges: TypeAlias = tuple[tuple[int, int], ...]
Value: TypeAlias = int | str | bytes | Blob | Profile | Ranges
"""What a setting can be: flags are True, platforms are text, ranges are (gpa, size)."""


class Given:
    """Settings that were given, or assumed, by name and in their order; it never changes."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Value] | None = None, /) -> None:
        self._values = dict(values or {})

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]  # values are compared, not looked up

    def __repr__(self) -> str:
        return f"Given({self._values})"

    def __or__(self, other: Given | Mapping[str, Value]) -> Given:
        """Return the settings of both; what `other` has counts."""
        return Given(self._values | dict(other.items()))

    def items(self) -> ItemsView[str, Value]:
        """Return names and values, in order."""
        return self._values.items()

    def names(self) -> KeysView[str]:
        """Return the names, in order."""
        return self._values.keys()

    def without(self, *names: str) -> Given:
        """Return all settings but these."""
        return Given({n: v for n, v in self._values.items() if n not in names})

    def only(self, *names: str) -> Given:
        """Return these settings, where they are there."""
        return Given({n: v for n, v in self._values.items() if n in names})

    def value(self, name: str) -> Value | None:
        """Return a setting, None where it is not there."""
        return self._values.get(name)

    def number(self, name: str) -> int | None:
        """Return a setting that is a number, None where it is not there."""
        value = self._values.get(name)
        return value if isinstance(value, int) else None

    def text(self, name: str) -> str | None:
        """Return a setting that is text, None where it is not there, or is a file's contents."""
        value = self._values.get(name)
        return value if isinstance(value, str) else None

    def data(self, name: str) -> bytes | None:
        """Return a setting that is bytes, None where it is not there."""
        value = self._values.get(name)
        return value if isinstance(value, bytes) else None

    def file(self, name: str) -> Blob | None:
        """Return a setting that is an opened file, None where it is not there."""
        value = self._values.get(name)
        return value if isinstance(value, Blob) else None

    def ranges(self, name: str) -> Ranges:
        """Return a setting that is ranges, none where it is not there."""
        value = self._values.get(name)
        return value if isinstance(value, tuple) else ()
