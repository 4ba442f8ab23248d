"""Expectations (cvmplan.expect/1): launches of an image, and the measurement of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.places import Place, in_document
from cvmplan.documents import text

Setting = str | int | bool | list[str]


class Expected(NamedTuple):
    """
    A launch that an image must have, at a place in the document.

    `settings` as they are written, by the names of options; `registers` by name; `image` None: it
    is a launch of every image.
    """

    at: Place
    image: str | None
    settings: Mapping[str, Setting]
    registers: Mapping[str, bytes]

    @property
    def title(self) -> str:
        """The settings in one line."""
        told = (f"{name} {value}" for name, value in self.settings.items())
        return ", ".join(told) or "assumed settings"


def read(blob: Blob) -> list[Expected]:
    """Return the launches that are expected; MalformedError where the document is wrong."""
    document = text.validate(blob, text.parse(blob), "expect")
    return [
        Expected(in_document(blob.name, "launches", number), one.image, one.settings, one.registers)
        for number, one in enumerate(document.launches)
    ]
