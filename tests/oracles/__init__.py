"""
Models and other implementations that the project is compared with.

Known answers and firmware are read from a folder beside the repository and not copied into it;
a test that needs an absent one is skipped, and says what it lacks.  More firmware is looked for,
by its hash, in the folder that the environment variable CVMPLAN_FIRMWARE names.
"""

from __future__ import annotations

import os
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared"
VECTORS = SHARED / "vectors"
FIRMWARE = "CVMPLAN_FIRMWARE"
LARGEST_FIRMWARE = 64 << 20  # bytes

AMDSEV = "3e4fd0b3fe3b2dbe481c3d9e99418a034174f26cbe1f55aa212b0f18c12d2d6f"
"""SHA-256 of OVMF.amdsev.fd of Debian's ovmf 2026.08+ds-2."""


def shared(path: str) -> Path:
    """A file beside the repository; the test is skipped where it is absent."""
    file = SHARED / path
    if not file.exists():
        pytest.skip(f"{file} is absent")
    return file


def vector(path: str) -> bytes:
    """A file of the known answers; the test is skipped where it is absent."""
    return shared(f"vectors/{path}").read_bytes()


def firmware_image(digest: str, name: str) -> Path:
    """The firmware image with this SHA-256; the test is skipped where there is none."""
    folders = [SHARED / "firmware"]
    if os.environ.get(FIRMWARE):
        folders.append(Path(os.environ[FIRMWARE]))
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if _may_be_firmware(file) and digest_of(file) == digest:
                return file
    pytest.skip(f"{name} (SHA-256 {digest}) is absent; ${FIRMWARE} may name a folder that has it")


def _may_be_firmware(file: Path) -> bool:
    return file.is_file() and 0 < file.stat().st_size <= LARGEST_FIRMWARE


@cache
def digest_of(file: Path) -> str:
    """The SHA-256 of a file, in hex."""
    return sha256(file.read_bytes()).hexdigest()
