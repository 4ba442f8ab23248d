"""
The document of a plan (cvmplan.plan/1), its settings checked.

`given` and `assumed` reach comparisons, kernels' rules and suggested commands: their names are
those of settings, their values of the kind that the setting has.
"""

from __future__ import annotations

from typing import Any, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.core.values import Json, one_of
from cvmplan.documents import text
from cvmplan.launch.settings import DECIDED, SETTINGS, TOP, Kind, kind_of

_PADDING: Final = one_of("refuse", "zero", "file")  # what is assumed may also be to refuse it


def load(blob: Blob) -> Any:
    """Return the plan in `blob` as its document; MalformedError with the place."""
    document = text.validate(blob, text.parse(blob), "plan")
    for key in ("given", "assumed"):
        for name, value in getattr(document, key).items():
            at = f"{blob.name}: {key}.{name[:40]}"
            try:
                _check(name, value)
            except ValueError as error:
                raise MalformedError(str(error), at=at) from None
    return document


def _check(name: str, value: Json) -> None:
    """Raise ValueError for an unknown setting, or a value that is not of its kind."""
    if name not in TOP and name not in SETTINGS and name not in DECIDED:
        raise ValueError("unknown setting")
    wanted, said = _KINDS.get(kind_of(name), (str, "string"))
    if type(value) is not wanted:
        raise ValueError(f"{str(value)[:40]!r} is not a {said}")
    if kind_of(name) is Kind.MASK and not str(value).startswith("0x"):
        raise ValueError(f"{str(value)[:40]!r} is not a number in hex (0x…)")
    if name == "pad":
        _PADDING(value)
    elif name not in TOP:
        (SETTINGS if name in SETTINGS else DECIDED)[name].read(value)


_KINDS: Final = {
    Kind.NUMBER: (int, "number"), Kind.FLAG: (bool, "boolean"), Kind.RANGES: (list, "list"),
}  # fmt: skip
"""How documents write what is not a string."""
