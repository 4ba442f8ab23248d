"""
Firmware that names nothing: no GUID table and no TDX metadata, only the bytes.

Plain SEV and SEV-ES measure the file as it is, whatever it holds.
"""

from __future__ import annotations

from cvmplan.core.blob import Blob
from cvmplan.core.errors import UnsupportedError
from cvmplan.core.values import PAGE
from cvmplan.images.inspection import Inspection, Table
from cvmplan.launch.model import Image
from cvmplan.memory.regions import Region, Role

VOLUME = b"_FVH"  # signature of a firmware volume at 0x28: UEFI PI, volume 3, 3.2.1
MOST = 1 << 28  # bytes: what may lie below 4 GiB as firmware
NEEDED = {"snp": "SEV metadata", "tdx": "TDX metadata"}
TAKEN = ("sev", "sev-es", "default", "sw-protected")


def recognises(blob: Blob) -> bool:
    """Whether the file begins with a firmware volume and is whole pages."""
    return bytes(blob.data[0x28:0x2C]) == VOLUME and fits(blob)


def fits(blob: Blob) -> bool:
    """Whether the file can be firmware at all: whole pages, not more than 256 MiB."""
    return 0 < len(blob) <= MOST and len(blob) % PAGE == 0


def platforms(blob: Blob) -> tuple[str, ...]:
    """Return no platform: the file does not say."""
    del blob
    return ()


def read(blob: Blob, platform: str, padding: str = "refuse") -> Image:
    """Return the file as firmware below 4 GiB; UnsupportedError where metadata is needed."""
    del padding
    if platform not in TAKEN:
        what = NEEDED.get(platform, "description of its pages")
        problem = f"the firmware has no GUID table, and so no {what}, which {platform} needs"
        raise UnsupportedError(problem, at=blob.name)
    gpa = (1 << 32) - len(blob)
    region = Region(gpa, len(blob), Role.FIRMWARE, f"{blob.name}: firmware", contents=blob)
    return Image(blob, (region,))


def inspect(blob: Blob) -> Inspection:
    """Return that the file declares nothing (a JSON document)."""
    table: Table = {"name": "firmware", "rows": [{"size": hex(len(blob)), "tables": "none"}]}
    return {"format": "rom", "allows": [], "tables": [table], "findings": ()}
