"""
The SEV hash table: what binds kernel, initrd and command line to the firmware's measurement.

Layout: edk2 c5aa7e7, OvmfPkg/AmdSev/BlobVerifierLibSevHashes; written by the VMM
(build_kernel_loader_hashes in target/i386/sev.c, 9.2) at the address that the firmware
names, padded to a multiple of 16 bytes.
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple

from cvmplan.core import guids

ENTRY = Struct("<16sH")
TABLE_SIZE: Final = 176
_LENGTH = ENTRY.size + 3 * (ENTRY.size + 32)  # 168, without padding

NO_INITRD: Final = sha256(b"").digest()
NO_CMDLINE: Final = sha256(b"\0").digest()


class KernelHashes(NamedTuple):
    """SHA-256 (32 bytes each) of kernel, initrd, and the command line with its NUL."""

    kernel: bytes
    initrd: bytes = NO_INITRD
    cmdline: bytes = NO_CMDLINE

    def table(self) -> bytes:
        """Return the table, 176 bytes."""
        entries = (
            (guids.HASHES_CMDLINE, self.cmdline),
            (guids.HASHES_INITRD, self.initrd),
            (guids.HASHES_KERNEL, self.kernel),
        )
        body = b"".join(ENTRY.pack(guid, ENTRY.size + 32) + digest for guid, digest in entries)
        return (ENTRY.pack(guids.HASHES_HEADER, _LENGTH) + body).ljust(TABLE_SIZE, b"\0")
