"""
The text that `snpguest verify attestation --measurement` takes: 0x and hex.

Source: virtee/snpguest d3a2aed, src/verify.rs; without 0x it takes the text for the bytes.
"""

from __future__ import annotations

from cvmplan.core.platform import SNP
from cvmplan.reference.values import Reference


def reference(made: Reference) -> list[str]:
    """Return one line for each value."""
    return ["".join(f"0x{one.digest.hex()}\n" for one in made.of(SNP))]
