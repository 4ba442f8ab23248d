"""
The words of a command line before they are read: options with their values, and arguments.

Options of other tools become those that they stand for, and an option that takes one value is
given once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from cvmplan.core.errors import ConfigError

STOP = "--"


class Word(NamedTuple):
    """An option as it was typed and its value, if any; an argument has no name."""

    name: str
    value: str | None = None


class Declared(NamedTuple):
    """An option that a verb has: what it is called there, and how often it may be given."""

    key: str
    takes_value: bool
    repeatable: bool


def declared(params: Iterable[Any]) -> dict[str, Declared]:
    """Return the options among the parameters of a command, by each of their names."""
    return {
        name: Declared(param.name, not param.is_flag, param.multiple)
        for param in params
        if param.param_type_name == "option"
        for name in param.opts
    }


def split(args: Iterable[str], known: Mapping[str, Declared]) -> Iterator[Word]:
    """Yield what `args` consist of; options that are not `known` take no value."""
    rest = iter(args)
    for arg in rest:
        name, equals, value = arg.partition("=") if arg.startswith("--") else (arg[:2], "", arg[2:])
        if arg == STOP:
            yield from (Word("", argument) for argument in rest)
        elif not arg.startswith("-") or arg == "-":
            yield Word("", arg)
        elif equals or (value and _takes_value(known, name)):
            yield Word(name, value)
        elif _takes_value(known, name):
            yield Word(name, next(rest, None))
        else:
            yield Word(arg)


def _takes_value(known: Mapping[str, Declared], name: str) -> bool:
    return name in known and known[name].takes_value


def join(words: Iterable[Word]) -> list[str]:
    """Return the words as arguments of a program, options first."""
    options: list[str] = []
    arguments: list[str] = []
    for name, value in words:
        if not name:
            arguments.append(value or "")
        elif value is None:
            options.append(name)
        else:
            options += [f"{name}={value}"] if name.startswith("--") else [name, value]
    if any(argument[:1] == "-" and argument != "-" for argument in arguments):
        options.append(STOP)
    return [*options, *arguments]


def check_repeats(
    words: Iterable[Word], known: Mapping[str, Declared], typed: Mapping[str, str]
) -> None:
    """Raise ConfigError for an option that takes one value and has several; `typed` as it was."""
    seen: set[str] = set()
    for name, value in words:
        option = known.get(name)
        if option is None or value is None or option.repeatable:
            continue
        if option.key in seen:
            raise ConfigError("was given more than once", at=typed.get(name, name))
        seen.add(option.key)
