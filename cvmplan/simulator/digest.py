"""
The simulator's own measurement: pages as the calls hand them over, one after the other.

It is a second implementation, apart from the folds over the planner's steps.  Sources:
AMD 56860, SEV-SNP Firmware ABI, SNP_LAUNCH_UPDATE (PAGE_INFO); Intel TDX Module ABI
(348551), TDH.MEM.PAGE.ADD, TDH.MR.EXTEND; AMD 55766, SEV API, LAUNCH_UPDATE_DATA.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256, sha384
from typing import TypeAlias

PAGE = 4096  # its own, as all of this module: a second implementation shares no number
CHUNK = 256
ZEROS = bytes(PAGE)
SNP_TYPES = {"normal": 1, "vmsa": 2, "zero": 3, "unmeasured": 4, "secrets": 5, "cpuid": 6}
HASHED = ("normal", "vmsa")

Bytes: TypeAlias = bytes | memoryview | None
"""The bytes of one page, None where nobody knows them before the launch."""


class SnpDigest:
    """The SNP launch digest: 48 bytes, None as soon as a page that counts is not known."""

    def __init__(self) -> None:
        self.value: bytes | None = bytes(48)
        self._last: tuple[Bytes, bytes] = (ZEROS, sha384(ZEROS).digest())

    def add(self, page_type: str, gpa: int, pages: Iterable[Bytes]) -> None:
        """Chain `pages`, the first at `gpa`, each the next 4096 bytes."""
        kind = SNP_TYPES[page_type]
        middle = (0x70).to_bytes(2, "little") + bytes((kind, 0)) + bytes(4)
        for page in pages:
            if self.value is None:
                return
            contents = self._hash(page) if page_type in HASHED else bytes(48)
            if contents is None:
                self.value = None
                return
            info = self.value + contents + middle + gpa.to_bytes(8, "little")
            self.value = sha384(info).digest()
            gpa += PAGE

    def _hash(self, page: Bytes) -> bytes | None:
        if page is None:
            return None
        if page is not self._last[0]:  # the same object again: zeros, the state of many vCPUs
            self._last = (page, sha384(page).digest())
        return self._last[1]


class TdxDigest:
    """MRTD: a stream of 128-byte blocks for adds and extends, and 256 bytes behind an extend."""

    def __init__(self) -> None:
        self._stream = sha384()
        self._known = True

    @property
    def value(self) -> bytes | None:
        """MRTD if the TD were finalized now."""
        return self._stream.digest() if self._known else None

    def add(self, gpa: int) -> None:
        """TDH.MEM.PAGE.ADD of one page."""
        if not self._known:
            return
        self._stream.update(_block(b"MEM.PAGE.ADD", gpa))

    def extend(self, gpa: int, page: Bytes) -> None:
        """TDH.MR.EXTEND of the 16 chunks of one page."""
        if page is None:
            self._known = False
        if page is None or not self._known:
            return
        for at in range(0, PAGE, CHUNK):
            self._stream.update(_block(b"MR.EXTEND", gpa + at))
            self._stream.update(page[at : at + CHUNK])

    def forget(self) -> None:
        """Note that what is measured from here on is not known."""
        self._known = False


class SevDigest:
    """LD of SEV and SEV-ES: the bytes in the order in which they are encrypted."""

    def __init__(self) -> None:
        self._stream = sha256()
        self._known = True
        self._whole: bytes | None = None
        self._empty = True

    @property
    def value(self) -> bytes | None:
        """The launch digest so far."""
        if self._whole is not None:
            return self._whole
        return self._stream.digest() if self._known else None

    def add_hashed(self, digest: bytes) -> None:
        """Add bytes of which only the SHA-256 is known: LD, if nothing comes before or after."""
        if not self._empty:
            self.add(None)
        else:
            self._whole, self._empty = digest, False

    def add(self, data: Bytes) -> None:
        """LAUNCH_UPDATE_DATA, or the VMSA of one vCPU."""
        if data is None or self._whole is not None:
            self._known, self._whole = False, None
        else:
            self._stream.update(data)
        self._empty = False


def _block(name: bytes, gpa: int) -> bytes:
    return name.ljust(16, b"\0") + gpa.to_bytes(8, "little") + bytes(104)
