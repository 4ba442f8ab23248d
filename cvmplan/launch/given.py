"""
What was given for a launch: settings by name, each a value of its kind, and nothing else.

It begins as what was read from options, arguments or a manifest, and is merged, completed
and launched; each of these makes a new one.  What is not in it was not given.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping
from typing import Final, NamedTuple, TypeAlias

from cvmplan.core.blob import Blob
from cvmplan.profiles import Profile

Ranges: TypeAlias = tuple[tuple[int, int], ...]
Value: TypeAlias = int | str | bytes | Blob | Profile | Ranges
"""What a setting can be: flags are True, platforms are text, ranges are (gpa, size)."""


class Usual(NamedTuple):
    """What a user assumes where nothing is given: settings by name, and where each was found."""

    values: Mapping[str, Value]
    places: Mapping[str, str]


NOTHING_USUAL: Final = Usual({}, {})


class Given:
    """
    Settings that were given, or assumed, by name and in their order; it never changes.

    What is `usual` for the user goes with them, and is none of them.
    """

    __slots__ = ("_values", "usual")

    def __init__(
        self, values: Mapping[str, Value] | None = None, /, usual: Usual = NOTHING_USUAL
    ) -> None:
        self._values = dict(values or {})
        self.usual = usual

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Given) and self._values == other._values and self.usual == other.usual
        )

    __hash__ = None  # type: ignore[assignment]  # values are compared, not looked up

    def __repr__(self) -> str:
        usual = f", {self.usual}" if any(self.usual) else ""
        return f"Given({self._values}{usual})"

    def __or__(self, other: Given | Mapping[str, Value]) -> Given:
        """Return the settings of both; what `other` has counts."""
        usual = other.usual if isinstance(other, Given) and any(other.usual) else self.usual
        return Given(self._values | dict(other.items()), usual)

    def items(self) -> ItemsView[str, Value]:
        """Return names and values, in order."""
        return self._values.items()

    def names(self) -> KeysView[str]:
        """Return the names, in order."""
        return self._values.keys()

    def without(self, *names: str) -> Given:
        """Return all settings but these."""
        return Given({n: v for n, v in self._values.items() if n not in names}, self.usual)

    def unusual(self, *names: str) -> Given:
        """Return the same settings, of which these are not usual."""
        values = {n: v for n, v in self.usual.values.items() if n not in names}
        places = {n: v for n, v in self.usual.places.items() if n not in names}
        return Given(self._values, Usual(values, places))

    def only(self, *names: str) -> Given:
        """Return these settings, where they are there."""
        return Given({n: v for n, v in self._values.items() if n in names}, self.usual)

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
