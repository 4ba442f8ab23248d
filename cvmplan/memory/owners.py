"""Who owns which guest pages, in address order, and where nobody does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from cvmplan.core.documented import as_document, as_picture, summary
from cvmplan.core.findings import Finding
from cvmplan.memory.regions import Region

MEASURED_TYPES: Final = frozenset({"normal", "measured", "vmsa"})
"""Page types whose contents are measured."""
Coverage: TypeAlias = Literal["contents", "address", "no"]
"""What is measured of pages: what they hold, that they are added, or neither."""


class Owner(NamedTuple):
    """A region, and what is measured of its pages."""

    region: Region
    measured: Coverage


class Owners(NamedTuple):
    """All regions in address order, [start, end) of the gaps between them, and the findings."""

    rows: tuple[Owner, ...]
    gaps: tuple[tuple[int, int], ...]
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document that the verb prints."""
        return as_document(self)

    def _repr_html_(self) -> str:
        return as_picture(self)

    def __repr__(self) -> str:
        wrong = sum(f.severity == "error" for f in self.findings)
        return summary("Owners", regions=len(self.rows), gaps=len(self.gaps), errors=wrong)


def owners(regions: Iterable[Region], findings: Sequence[Finding]) -> Owners:
    """Return who owns which pages."""
    ordered = sorted(regions, key=lambda r: r.gpa)
    rows = tuple(Owner(region, _measured(region)) for region in ordered)
    return Owners(rows, tuple(_gaps(ordered)), tuple(findings))


def _measured(region: Region) -> Coverage:
    if region.page_type == "mapped" or not region.is_mapped:
        return "no"
    return "contents" if region.page_type in MEASURED_TYPES else "address"


def _gaps(ordered: Iterable[Region]) -> Iterator[tuple[int, int]]:
    """Yield [start, end) between regions where nothing is mapped."""
    end: int | None = None
    for region in ordered:
        if end is not None and region.gpa > end:
            yield end, region.gpa
        end = max(end or 0, region.end)
