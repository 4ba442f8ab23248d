"""Models and other implementations that the project is compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

VECTORS = Path(__file__).parents[3] / "shared" / "vectors"


def vector(path: str) -> bytes:
    """A file of the known answers; the test is skipped where it is absent."""
    file = VECTORS / path
    if not file.exists():
        pytest.skip(f"{file} is absent")
    return file.read_bytes()
