"""
What QEMU does to a kernel that it boots directly, by version: data, as profiles are.

Sources: Debian's qemu 10.2.2+ds-1 and 10.0.13+ds-0+deb13u1, hw/i386/x86-common.c
(x86_load_linux; from 10.2 on no header is written for a confidential guest, a7542a38f399); seen
in boots with 7.2.22, 10.0.13 and 11.1.3.
"""

from __future__ import annotations

from typing import Final

from cvmplan.core.errors import ConfigError

PATCHED, UNPATCHED = "patched", "unpatched"
NAMED_BLOBS: Final = (10, 0)
"""The first version that also hands over the kernel's file as it is (etc/boot/kernel)."""
NEVER_WRITTEN: Final = (10, 2)
"""The first version that writes no header for a confidential guest."""
FLAG: Final = "--qemu"
WANTED: Final = "--qemu VERSION|patched|unpatched"
FIELDS_SOURCE: Final = "qemu 10.2.2, hw/i386/x86-common.c: x86_load_linux"
FW_CFG_EVENT: Final = b"QEMU FW CFG\0"
"""With what firmware begins the data of an event about its items: QemuFwCfgCacheInit.c."""
_HINT: Final = "a version such as 10.0.2, or patched, or unpatched"


def check(word: str) -> str:
    """Return a class, or a version, as it was written; ConfigError."""
    if word not in (PATCHED, UNPATCHED):
        _version(word)
    return word


def header(word: str | None, named_blobs: bool | None) -> str | None:
    """
    Return whether the kernel that is measured is PATCHED or UNPATCHED, None where unknown.

    `word`: a class or a version, None where it was not given; `named_blobs`: whether the
    firmware asks for the file as it is, None where there is no firmware.  ConfigError.
    """
    if word is None or word in (PATCHED, UNPATCHED):
        return word
    version = _version(word)
    if version >= NEVER_WRITTEN:
        return UNPATCHED
    if version < NAMED_BLOBS:
        return PATCHED
    if named_blobs is None:
        return None
    return UNPATCHED if named_blobs else PATCHED


def _version(word: str) -> tuple[int, int]:
    parts = word.split(".")
    if len(parts) < 2 or not all(p.isascii() and p.isdigit() and len(p) < 4 for p in parts[:2]):
        raise ConfigError(f"{word!r} is not a version of QEMU", at=FLAG, hint=_HINT)
    return int(parts[0]), int(parts[1])
