"""
IGVM files: recognised here, read by modules that no other image has to load.

`igvm_headers` has the format, `igvm_rules` what single headers cannot break, and
`igvm_regions` what a file declares for one platform.
"""

from __future__ import annotations

from cvmplan.core.blob import Blob
from cvmplan.images.inspection import Inspection
from cvmplan.launch.model import Image

MAGIC = b"IGVM"


def recognises(blob: Blob) -> bool:
    """Whether the file begins as an IGVM file does."""
    return bytes(blob.data[:4]) == MAGIC


def platforms(blob: Blob) -> tuple[str, ...]:
    """Return the platforms that the file declares, of those that can be launched."""
    from cvmplan.images import igvm_regions

    return igvm_regions.platforms(blob)


def read(blob: Blob, platform: str, pad: str = "refuse") -> Image:
    """
    Return what the file declares for `platform`; MalformedError, UnsupportedError.

    `pad` means nothing here: a page without data is a page of zeros.
    """
    del pad
    from cvmplan.images import igvm_regions

    return igvm_regions.read(blob, platform)


def inspect(blob: Blob) -> Inspection:
    """Return all headers in file order with their offsets, runs of pages as one row."""
    from cvmplan.images import igvm_regions

    return igvm_regions.inspect(blob)
