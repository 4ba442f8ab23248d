"""
Parts of a unified kernel image, for a VMM that unpacks it: kernel, initrd, command line.

Sections of one name may be there several times: what precedes the first `.profile` belongs to all
profiles, and what follows a `.profile` to that one, in place of what they share.

Source: UAPI Group Specifications, UAPI.5 Unified Kernel Image, "UKI Components", "Multi-Profile
UKIs"; systemd 257.13 src/boot/pe.c (pe_locate_profile_sections).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MalformedError, UnsupportedError
from cvmplan.images import pe

PARTS: Final = (".linux", ".initrd", ".cmdline")
PROFILE: Final = ".profile"
MOST_BYTES: Final = 1 << 30  # of a section in memory
MOST_NAME: Final = 1 << 16  # bytes of a description of a profile


def parts(blob: Blob, profile: str | None = None) -> dict[str, bytes]:
    """
    Return the sections of `PARTS` that a UKI has, as they stand in memory, by name.

    `profile` is the ID of one, None for the first.  UnsupportedError for what is no UKI,
    ConfigError for a profile that it does not have, MalformedError.
    """
    if not pe.recognises(blob):
        raise UnsupportedError("not a UKI: no PE image", at=blob.name)
    image = pe.read(blob)
    shared: dict[str, bytes] = {}
    found: dict[str, dict[str, bytes]] = {}
    mine = shared
    for section in image.sections:
        name = pe.name_of(section)
        if name == PROFILE:
            mine = found.setdefault(_identity(_contents(image, section, MOST_NAME)), {})
        elif name in PARTS and name not in mine:
            mine[name] = _contents(image, section, MOST_BYTES)
    if profile is not None and profile not in found:
        known = ", ".join(filter(None, found)) or "none"
        raise ConfigError(f"no profile {profile!r}", at=blob.name, hint=f"there is {known}")
    chosen = found[profile] if profile is not None else next(iter(found.values()), {})
    whole = shared | chosen
    if ".linux" not in whole:
        raise UnsupportedError("not a UKI: no section .linux", at=blob.name)
    return whole


def _contents(image: pe.Pe, section: pe.SectionHeader, most: int) -> bytes:
    if section.virtual_size > most:
        problem = f"section {pe.name_of(section)} of more than {most} bytes"
        raise MalformedError(problem, at=image.blob.name)
    return image.contents(section)


def _identity(described: bytes) -> str:
    """Return the ID of a profile, "" where it has none (os-release's syntax)."""
    return next(_values(described.decode("utf-8", "replace"), "ID"), "")


def _values(text: str, key: str) -> Iterator[str]:
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name == key:
            yield value.strip("\"'")
