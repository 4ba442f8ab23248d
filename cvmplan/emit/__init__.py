"""
Output formats: one module each, with a function for each thing that it can print.

A function returns the whole text, or yields its lines once nothing can go wrong any more:
nothing is printed before an error.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Final

from cvmplan.core.errors import ConfigError

EMITTERS: Final = {
    "text": (
        "cvmplan.emit.text",
        "cvmplan.emit.text_answers",
        "cvmplan.emit.text_identity",
        "cvmplan.emit.text_evidence",
        "cvmplan.emit.text_session",
        "cvmplan.emit.text_events",
        "cvmplan.emit.text_td",
        "cvmplan.emit.text_rtmr",
    ),
    "json": (
        "cvmplan.emit.json",
        "cvmplan.emit.json_answers",
        "cvmplan.emit.json_identity",
        "cvmplan.emit.json_evidence",
        "cvmplan.emit.json_session",
        "cvmplan.emit.json_events",
        "cvmplan.emit.json_td",
        "cvmplan.emit.json_rtmr",
    ),
    "jsonl": ("cvmplan.emit.jsonl",),
    "calls": ("cvmplan.emit.calls",),
    "csv": ("cvmplan.emit.csv",),
}
"""Format to its modules; a later one is loaded only where an earlier one lacks something."""


def emitter(name: str, what: str) -> ModuleType:
    """Return the module that prints `what` as `name`; ConfigError where none does."""
    module = _able(name, what)
    if module is None:
        able = [n for n in EMITTERS if _able(n, what)]
        raise ConfigError(
            f"{what} cannot be printed as {name!r}", at="--format", hint=f"as {', '.join(able)}"
        )
    return module


def _able(name: str, what: str) -> ModuleType | None:
    modules = map(import_module, EMITTERS.get(name, ()))
    return next((module for module in modules if hasattr(module, what)), None)
