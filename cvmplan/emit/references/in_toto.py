"""
in-toto Statement v1: the images are the subjects, the values are the predicate.

Source: in-toto/attestation, spec/v1/statement.md.
"""

from __future__ import annotations

from cvmplan.core.values import Json
from cvmplan.emit.json import dumps
from cvmplan.emit.references.predicate import TYPE, document
from cvmplan.reference.values import Reference


def reference(made: Reference) -> list[str]:
    """Return one statement about all images."""
    images = dict.fromkeys((one.image, one.image_sha256) for one in made.values)
    subjects: list[Json] = [{"name": name, "digest": {"sha256": sha}} for name, sha in images]
    statement: dict[str, Json] = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": TYPE,
        "predicate": document(made),
    }
    return [dumps(statement)]
