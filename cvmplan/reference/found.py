"""Reference values that were read from a file, and whether a measurement is among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from cvmplan.core.platform import Platform


class Entry(NamedTuple):
    """One value: where it is in its file, of which platform and with which settings, if said."""

    name: str
    digest: bytes
    platform: Platform | None = None
    settings: Mapping[str, str | int] = {}


class Found(NamedTuple):
    """
    The values of a file of some `kind`.

    `signature` says who signed it, "" where the form has no signature, and `checked` whether that
    was verified with certificates that were given.
    """

    kind: str
    entries: tuple[Entry, ...]
    signature: str = ""
    checked: bool = False

    def of(self, platform: Platform) -> tuple[Entry, ...]:
        """Return the values that can be of a platform."""
        return tuple(
            one
            for one in self.entries
            if one.platform in (None, platform) and len(one.digest) == platform.digest_size
        )


MOST_ENTRIES: Final = 1 << 16


def nearest(entries: tuple[Entry, ...], settings: Mapping[str, str | int]) -> str:
    """
    Return how the settings of the nearest value differ, "" where no value has settings.

    Settings that only one side has are left out: another program may have named others.
    """
    best: list[str] | None = None
    for one in entries:
        shared = [name for name in one.settings if name in settings]
        if not shared:
            continue
        parts = [
            f"{name} {one.settings[name]}, not {settings[name]}"
            for name in shared
            if str(one.settings[name]) != str(settings[name])
        ]
        if best is None or len(parts) < len(best):
            best = parts
    if best is None:
        return ""
    return "; ".join(best) or "the same settings, and contents that differ"
