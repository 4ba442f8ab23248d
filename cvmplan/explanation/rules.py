"""Rules of IGVM loaders that change a digest: the fields of a profile that are varied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from cvmplan.profiles import Profile


class Rule(NamedTuple):
    """A rule of IGVM loaders: its name for people, its values, and what they decide."""

    name: str
    values: tuple[str | bool, ...]
    why: str


RULES: Final = {
    "zero_pages": Rule(
        "zero pages", ("normal", "zero"), "what a measured page without data is added as"
    ),
    "insert_pages": Rule(
        "insert pages", ("all", "first"), "how many pages of a parameter insert are added"
    ),
    "shared_pages": Rule(
        "shared pages", ("skip", "add"), "what becomes of pages with the flag shared"
    ),
    "sorted_by_gpa": Rule("sorted by gpa", (False, True), "whether pages are added by address"),
}
"""Rules of IGVM loaders that change the digest, by the field of a profile."""


def with_rules(profile: Profile, changes: Mapping[str, Any]) -> Profile:
    """Return `profile` with the loader's rules that are among `changes`."""
    rules = {name: value for name, value in changes.items() if name in RULES}
    return replace(profile, **rules) if rules else profile
