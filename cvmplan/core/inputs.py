"""A file that an answer depends on."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from cvmplan.core.blob import Blob


class Input(NamedTuple):
    """
    A file that a plan depends on; `path` as the user typed it, None for standard input.

    `recorded` is the (size, SHA-256 in hex) that a plan names, where it was read from one.
    """

    role: str
    path: str | None
    blob: Blob
    recorded: tuple[int, str] | None = None

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return self.recorded[0] if self.recorded else len(self.blob)

    @property
    def sha256(self) -> str:
        """The hash of the whole file, in hex; computed anew each time."""
        return self.recorded[1] if self.recorded else sha256(self.blob.data).hexdigest()
