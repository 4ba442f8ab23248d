"""Answers that have a JSON document, and a short text for people who print them."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol


class Answer(Protocol):
    """A record that has a document."""

    def to_dict(self) -> dict[str, Any]:
        """Return its document."""


def as_document(answer: Answer) -> dict[str, Any]:
    """
    Return the JSON document of an answer, as its verb prints it with `--format json`.

    The keys are those of its schema (`cvmplan schema NAME`).  Errors as those of the verb.
    """
    made: dict[str, Any] = import_module("cvmplan.emit.records").document(answer)
    return made


def as_picture(answer: Answer) -> str:
    """Return an answer as a piece of HTML that shows it, for notebooks (`_repr_html_`)."""
    made: str = import_module("cvmplan.emit.records").picture(answer)
    return made


def as_page(answer: object) -> str:
    """Return an answer as one page of HTML, as its verb writes it."""
    made: str = import_module("cvmplan.emit.records").page(answer)
    return made


def summary(name: str, **facts: str | int | None) -> str:
    """Return a short repr: <Name fact=value …>."""
    return f"<{name} {' '.join(f'{fact}={value}' for fact, value in facts.items())}>"
