"""
What an IGVM file says of one launch, before it is bytes.

Each platform makes this of the steps of a plan.  Source: microsoft/igvm e6c3ff1,
igvm_defs/src/lib.rs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from cvmplan.core.errors import UnsupportedError
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import Contents, Filled, Zeros
from cvmplan.memory.regions import UNMEASURED
from cvmplan.operations.plan import Plan

NORMAL, SECRETS, CPUID = range(3)
"""IgvmPageDataType."""


class Pages(NamedTuple):
    """
    PAGE_DATA of a run of whole pages.

    `contents` are None where the file has no data for them, `Filled` where the VMM writes there.
    """

    gpa: int
    size: int
    contents: Contents | None
    flags: int = 0
    data_type: int = NORMAL


class ErrorRange(NamedTuple):
    """ERROR_RANGE: memory that the host can read and write."""

    gpa: int
    size: int


class Context(NamedTuple):
    """VP_CONTEXT of one vCPU: `data` is in the format of the platform."""

    gpa: int
    vp_index: int
    data: bytes


Directive: TypeAlias = Pages | ErrorRange | Context


class Directives(NamedTuple):
    """
    One launch as headers: `body` in their order.

    `policy` is None where the platform has none in the file.  `id_block` (96 bytes) comes with
    `id_auth` (4096).  `lacks` are settings of the launch that the file has no field for, in words.
    """

    body: tuple[Directive, ...]
    policy: int | None = None
    shared_gpa_boundary: int = 0
    highest_vtl: int = 0
    id_block: bytes | None = None
    id_auth: bytes | None = None
    lacks: tuple[str, ...] = ()


FILLED: Final = {"hob": "the TD HOB", "parameters": "the parameters of an IGVM file"}
"""By `Filled.what` what a VMM writes into pages that are UNMEASURED."""


def measured(gpa: int, size: int, contents: Contents) -> Pages:
    """Return pages whose data counts; zeros are data too, so that all loaders add them alike."""
    return _whole(Pages(gpa, size, contents))


def unmeasured(gpa: int, size: int, contents: Contents) -> Pages:
    """Return pages of which only the addresses count."""
    return _whole(Pages(gpa, size, _data(contents), UNMEASURED))


def special(gpa: int, size: int, contents: Contents, data_type: int) -> Pages:
    """Return pages of a data type that is measured without contents, or that has none."""
    return _whole(Pages(gpa, size, _data(contents), data_type=data_type))


def _data(contents: Contents) -> Contents | None:
    return None if isinstance(contents, Zeros) else contents


def _whole(pages: Pages) -> Pages:
    if pages.gpa % PAGE or pages.size % PAGE:
        problem = f"{pages.size:#x} bytes at {pages.gpa:#x} are not whole pages"
        raise UnsupportedError(f"an IGVM file has pages only, and {problem}")
    return pages


def not_said(made: Directives) -> Iterator[str]:
    """Yield, a line each, what the launch has and the file does not say."""
    for one in made.body:
        if isinstance(one, Pages) and isinstance(one.contents, Filled) and one.flags & UNMEASURED:
            what = FILLED.get(one.contents.what, one.contents.what)
            yield f"{what} at {one.gpa:#x}, which the VMM writes: the pages are empty"
    yield from made.lacks


def required(plan: Plan) -> tuple[tuple[int, int], ...]:
    """Return (gpa, size) of the memory that the image of a launch requires."""
    return tuple(
        (one.first, one.last + PAGE - one.first)
        for one in plan.findings
        if one.rule == "required-memory" and one.first is not None and one.last is not None
    )
