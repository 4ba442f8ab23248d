"""Pins as they are given: options, parameters, and a policy file (cvmplan.policy/1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MalformedError, MismatchError
from cvmplan.core.platform import Platform
from cvmplan.documents import text
from cvmplan.evidence.pins import PINS
from cvmplan.evidence.tcb_level import REVOKED, STATUSES

LARGEST: Final = 1 << 20  # bytes of a policy file


def read(
    platform: Platform, written: Mapping[str, Any], at: Callable[[str], str]
) -> dict[str, Any]:
    """
    Return the pins that are written, by name: text, numbers, flags, or lists of these.

    `at` names the place of a pin.  ConfigError for a value that is wrong, and for a pin of
    another platform.
    """
    made: dict[str, Any] = {}
    for name, value in written.items():
        if value is None or value is False or value == []:
            continue
        pin = PINS[name]
        if platform.evidence not in pin.kinds:
            raise ConfigError(f"is not supported for evidence of {platform}", at=at(name))
        several = value if isinstance(value, list) else [value]
        if len(several) > 1 and not pin.many:
            raise ConfigError("can be given once", at=at(name))
        try:
            found = tuple(pin.read(one) for one in several)
        except ValueError as error:
            raise ConfigError(str(error), at=at(name)) from None
        made[name] = found if pin.many else found[0]
    return made


def check_values(written: Mapping[str, Any], at: Callable[[str], str]) -> None:
    """Raise ConfigError for an empty list of values: whoever made it has nothing to accept."""
    for name, value in written.items():
        if isinstance(value, list | tuple) and not value:
            raise ConfigError("has no values", at=at(name))


def from_file(platform: Platform, blob: Blob) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """
    Return the pins of a policy file for a platform, and what it says of how to judge.

    MalformedError for a document that is none; MismatchError where it has nothing for the
    platform.
    """
    if len(blob) > LARGEST:
        raise MalformedError(f"{len(blob)} bytes are not a policy", at=blob.name)
    document = text.validate(blob, text.parse(blob), "policy")
    table = document.of(str(platform))
    if table is None:
        raise MismatchError(f"has no table {str(platform)!r}", at=blob.name)

    def place(name: str) -> str:
        return f"{blob.name}: {platform}.{name}"

    judging = {name: table.pop(name) for name in ("provisional", "accept") if name in table}
    try:
        check_values(table, place)
        pins = read(platform, table, place)
        check_values(judging, place)
        accepted(judging.get("accept", ()), place("accept"))
    except ConfigError as error:
        raise MalformedError(str(error.args[0]), at=error.at) from None
    return pins, judging


def accepted(names: list[str] | tuple[str, ...], at: str) -> tuple[str, ...]:
    """Return the statuses of a TCB that are accepted; UpToDate without any.  ConfigError."""
    for name in names:
        if name not in STATUSES or name == REVOKED:
            known = ", ".join(one for one in STATUSES if one != REVOKED)
            raise ConfigError(f"{name!r} is not a status to accept", at=at, hint=f"one of {known}")
    return tuple(dict.fromkeys(names)) or ("UpToDate",)
