"""
Records: frozen, slotted dataclasses, equal where their fields are.

What a dataclass compiles anew for every class stands here once.  There are some forty classes
on the way to a measurement, and compiling them was most of what starting the program cost.
"""

from __future__ import annotations

from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from typing import Any, ClassVar, NoReturn, TypeVar, dataclass_transform

T = TypeVar("T", bound="Frozen")
_set = object.__setattr__


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Return `cls` as a dataclass with slots, of which Frozen knows the fields."""
    made = dataclass(slots=True, init=False, repr=False, eq=False)(cls)
    made._names = tuple(f.name for f in fields(made))  # type: ignore[arg-type]  # a dataclass  # noqa: SLF001
    return made


class Frozen:
    """What all records share; TypeError for arguments that are not their fields."""

    __slots__ = ()
    _names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *args: Any, **named: Any) -> None:
        names = self._names
        for name, value in zip(names, args, strict=False):
            _set(self, name, value)
        for name in names[len(args) :]:
            _set(self, name, named.pop(name) if name in named else self._default(name))
        if named or len(args) > len(names):
            raise TypeError(f"{type(self).__name__} has no such fields: {[*named]}")
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the fields; a record that exists is valid."""

    def _default(self, name: str) -> Any:
        one = self.__dataclass_fields__[name]  # type: ignore[attr-defined]  # a dataclass
        if one.default is not MISSING:
            return one.default
        if one.default_factory is not MISSING:
            return one.default_factory()
        raise TypeError(f"{type(self).__name__} needs {name}")

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise FrozenInstanceError(name)

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(name)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, n) == getattr(other, n) for n in self._names)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self._names))

    def __repr__(self) -> str:
        named = (f"{name}={getattr(self, name)!r}" for name in self._names)
        return f"{type(self).__name__}({', '.join(named)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self._names)
