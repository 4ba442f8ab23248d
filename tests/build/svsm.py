"""
An SVSM binary as coconut-svsm's QEMU loaded it before IGVM: the tables of a firmware image, the
SEV metadata among them, and an entry that says where in the binary execution begins.

Source: coconut-svsm qemu 0e64fb8, target/i386/sev.c; virtee/sev-snp-measure 8f2b337, ovmf.py.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from tests.build.ovmf import Ovmf

SVSM_INFO = UUID("a789a612-0597-4c4b-a49f-cbb1fe9d1ddd")


@dataclass
class Svsm(Ovmf):
    """An image with that entry, `entry` bytes above its start; None: without it."""

    entry: int | None = 0x200

    def _entries(self) -> dict[UUID, bytes]:
        found = super()._entries()
        if self.entry is not None:
            found[SVSM_INFO] = struct.pack("<I", self.entry)
        return found


def good_svsm() -> Svsm:
    """A binary with every section that an SVSM asks for."""
    return Svsm(size=0x6000, seed="svsm", zero_pages=(2,), reset_eip=None, hash_table=None)
