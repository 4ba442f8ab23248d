"""
What `sev-snp-measure --output-format base64` prints: standard base64 of the raw bytes.

Source: sev-snp-measure 0.0.13, sevsnpmeasure/cli.py.
"""

from __future__ import annotations

from base64 import b64encode

from cvmplan.reference.values import Reference


def reference(made: Reference) -> list[str]:
    """Return one line for each value."""
    found = (one for platform in made.platforms for one in made.of(platform))
    return ["".join(f"{b64encode(one.digest).decode()}\n" for one in found)]
