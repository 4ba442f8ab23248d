"""cvmplan.reference/1: each value with the image and the settings that it depends on."""

from __future__ import annotations

from cvmplan.core.values import Json
from cvmplan.emit.json import dumps
from cvmplan.reference.values import Reference

TYPE = "https://github.com/cvmplan/cvmplan/predicate/reference/v1"
"""The predicate type of in-toto statements; docs/reference.md says what it means."""


def document(made: Reference) -> dict[str, Json]:
    """Return cvmplan.reference/1."""
    return {
        "schema": "cvmplan.reference/1",
        "tool": {"name": "cvmplan", "version": made.version},
        "values": [
            {
                "platform": one.platform, "register": one.register, "algorithm": one.algorithm,
                "digest": one.digest.hex(), "image": one.image, "image_sha256": one.image_sha256,
                "settings": dict(one.settings),
            }
            for one in made.values
        ],
    }  # fmt: skip


def reference(made: Reference) -> list[str]:
    """Return the predicate alone, as actions/attest takes it."""
    return [dumps(document(made))]
