"""
Measurements that are accepted, with everything that each depends on.

Source of the columns: `sweep.rows`; a row is one launch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from cvmplan.core.errors import PlanError
from cvmplan.core.platform import Platform, find

MOST_TOLD: Final = 20  # refusals that are listed
RESULT: Final = ("image", "image_sha256", "platform", "register", "algorithm", "digest", "error")
"""Columns of a row that are not settings of its launch."""
_UNTOLD: Final = ("", 0)


class Value(NamedTuple):
    """A measurement: where it is read, of which image, and the settings of the launch."""

    platform: Platform
    register: str
    algorithm: str
    digest: bytes
    image: str
    image_sha256: str
    settings: Mapping[str, str | int]


class Wanted(NamedTuple):
    """What an image cannot say: None or empty where it is not asked for."""

    name: str | None = None
    policy: int | None = None
    min_tcb: int | None = None
    svn: int | None = None
    rtmrs: tuple[bytes | None, ...] = (None, None, None, None)
    xfam: int | None = None
    td_attributes: int | None = None
    self_contained: bool = False
    script: bool = False


class Reference(NamedTuple):
    """Values that are accepted, at least one, and what is asked for beside them."""

    values: tuple[Value, ...]
    wanted: Wanted = Wanted()
    version: str = ""

    def of(self, platform: Platform) -> tuple[Value, ...]:
        """Return the values of one platform, without those that are equal to an earlier one."""
        found = {one.digest: one for one in reversed(self.values) if one.platform is platform}
        return tuple(reversed(found.values()))

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms of the values, in their order."""
        return tuple(dict.fromkeys(one.platform for one in self.values))


def of_rows(rows: Iterable[Mapping[str, str | int]]) -> tuple[Value, ...]:
    """Return the values of measured launches; PlanError lists those that cannot be launched."""
    values: list[Value] = []
    refused: list[str] = []
    for row in rows:
        if row["error"]:
            settings = " ".join(f"--{name.replace('_', '-')} {told}" for name, told in _told(row))
            refused.append(f"{row['image']} {settings}: {row['error']}")
        else:
            values.append(_value(row))
    if refused:
        more = [f"and {len(refused) - MOST_TOLD} more"] if refused[MOST_TOLD:] else []
        told = "; ".join((*refused[:MOST_TOLD], *more))
        raise PlanError(
            f"{len(refused)} of {len(refused) + len(values)} cannot be launched: {told}"
        )
    return tuple(values)


def _value(row: Mapping[str, str | int]) -> Value:
    return Value(
        platform=find(str(row["platform"])),
        register=str(row["register"]),
        algorithm=str(row["algorithm"]),
        digest=bytes.fromhex(str(row["digest"])),
        image=str(row["image"]),
        image_sha256=str(row["image_sha256"]),
        settings=dict(_told(row)),
    )


def _told(row: Mapping[str, str | int]) -> Iterable[tuple[str, str | int]]:
    """Yield the settings of a launch that a row has."""
    skipped = {*RESULT, "pages", "version", "files"}
    return (
        (name, told) for name, told in row.items() if name not in skipped and told not in _UNTOLD
    )
