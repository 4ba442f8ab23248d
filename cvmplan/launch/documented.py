"""Settings as documents write them: masks and addresses in hex, bytes in hex, files by name."""

from __future__ import annotations

from typing import TypeAlias

from cvmplan.core.blob import Blob
from cvmplan.core.values import write_span
from cvmplan.launch.given import Given, Value
from cvmplan.launch.settings import Kind, kind_of
from cvmplan.profiles import Profile

Said: TypeAlias = str | int | list[str]
"""A setting in a document; flags are true."""


def document_settings(settings: Given) -> dict[str, Said]:
    """Return settings as documents write them."""
    return {name: document_value(name, value) for name, value in settings.items()}


def document_value(name: str, value: Value) -> Said:
    """Return one setting as documents write it."""
    if isinstance(value, tuple):
        return [write_span(gpa, size) for gpa, size in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Blob | Profile):
        return value.name
    if isinstance(value, int) and kind_of(name) is Kind.MASK:
        return hex(value)
    return value
