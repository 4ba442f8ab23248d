"""What a file declares, as `inspect` shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

from cvmplan.core.findings import Finding
from cvmplan.core.values import Json


class Table(TypedDict):
    """One table of a file; `problem` says where it cannot be read to its end."""

    name: str
    problem: NotRequired[str]
    rows: Sequence[Mapping[str, Json]]


class Inspection(TypedDict):
    """The format of a file, the platforms that it allows, its tables, and what is wrong."""

    format: str
    allows: Sequence[str]
    tables: Sequence[Table]
    findings: Sequence[Finding]
