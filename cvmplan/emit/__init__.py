"""
Output formats: one module each, with a function for each thing that it can print.

Every function returns the whole text; nothing is printed before all of it is known.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Final

from cvmplan.errors import ConfigError

EMITTERS: Final = {
    "text": "cvmplan.emit.text",
    "json": "cvmplan.emit.json",
    "jsonl": "cvmplan.emit.jsonl",
    "calls": "cvmplan.emit.calls",
    "csv": "cvmplan.emit.csv",
}


def emitter(name: str, what: str) -> ModuleType:
    """Return the module that prints `what` as `name`; ConfigError where none does."""
    module = import_module(EMITTERS[name]) if name in EMITTERS else None
    if module is None or not hasattr(module, what):
        able = [n for n, m in EMITTERS.items() if hasattr(import_module(m), what)]
        raise ConfigError(
            f"{what} cannot be printed as {name!r}", at="--format", hint=f"as {', '.join(able)}"
        )
    return module
