"""
The document of a plan (cvmplan.plan/1), its settings checked.

`given` and `assumed` reach comparisons, kernels' rules and suggested commands: their names are
those of settings, their values of the kind that the setting has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError
from cvmplan.core.values import integer, one_of
from cvmplan.documents import text
from cvmplan.launch.settings import HEX, SETTINGS, TOP

_DECIDED: Final[Mapping[str, Callable[[object], Any]]] = {
    "cpu_signature": integer,
    "vmsa_scope": one_of("all", "boot-vcpu"),
    "kernel_hashes": one_of("on", "off"),
    "pad": one_of("refuse", "zero", "file"),
}
"""Settings that are assumed and cannot be given, or take one more value where they are."""
_LIST: Final = ("prefault",)
_NUMBER: Final = ("vcpus", "family", "model", "stepping", "c_bit", "gpaw", "tsc_khz")
_FLAG: Final = ("author_key_enabled", "vcek_disabled")


def load(blob: Blob) -> Any:
    """Return the plan in `blob` as its document; MalformedError, ConfigError with the place."""
    document = text.validate(blob, text.parse(blob), "plan")
    for key in ("given", "assumed"):
        for name, value in getattr(document, key).items():
            at = f"{blob.name}: {key}.{name[:40]}"
            try:
                _check(name, value)
            except ValueError as error:
                raise ConfigError(str(error), at=at) from None
    return document


def _check(name: str, value: object) -> None:
    """Raise ValueError for an unknown setting, or a value that is not of its kind."""
    if name not in SETTINGS and name not in TOP and name not in _DECIDED:
        raise ValueError("there is no such setting")
    kind: type = str
    if name in _NUMBER:
        kind = int
    elif name in _FLAG:
        kind = bool
    elif name in _LIST:
        kind = list
    if type(value) is not kind:
        raise ValueError(f"{str(value)[:40]!r} is not a {_KINDS[kind]}")
    if name in HEX and not str(value).startswith("0x"):
        raise ValueError(f"{str(value)[:40]!r} is not a number in hex (0x…)")
    if name not in TOP:
        read = _DECIDED[name] if name in _DECIDED else SETTINGS[name].read
        read(value)


_KINDS: Final = {str: "string", int: "number", bool: "boolean", list: "list"}
