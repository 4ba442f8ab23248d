"""Names that people type: found in any case, and the nearest where none is right."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from cvmplan.core.errors import ConfigError

MOST_SHOWN = 60  # characters of a wrong name that an error repeats


def spelled(name: str, known: Iterable[str]) -> str:
    """Return `name` as it is written in `known`, whatever its case; as it is where it is not."""
    names = [*known]
    if name in names:
        return name
    return {one.lower(): one for one in names}.get(name.strip().lower(), name)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the name in `known` that `name` was meant to be; "" where none is near."""
    by_name = {one.lower(): one for one in known}
    near = get_close_matches(name[:MOST_SHOWN].strip().lower(), by_name, n=1)
    return by_name[near[0]] if near else ""


def unknown(
    what: str,
    name: str,
    known: Iterable[str],
    at: str = "",
    more: str = "",
    of: str = "",
    meant: str = "",
) -> ConfigError:
    """
    Return the error for a `name` that is not `known`: its hint has the nearest, or all.

    `more` is the hint in place of all; `of` is what the name belongs to.  `meant` is the name that
    was meant where that is known.
    """
    names = [*known]
    near = meant or nearest(name, names)
    hint = f"did you mean {near}?" if near else more or f"choose from {', '.join(names)}"
    problem = f"unknown {what} {name[:MOST_SHOWN]!r}{of and f' for {of}'}"
    return ConfigError(problem, at=at, hint=hint)
