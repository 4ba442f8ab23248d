"""
Page contents hashed by several processes.

On SNP the pages of a launch are hashed independently of one another, so that processes
can share them; only the chain over the hashes is serial.  Each process inherits the mapped
file, nothing is copied to it.  TDX, SEV and VBS hash one serial stream: nothing to share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

from cvmplan.core.blob import Blob
from cvmplan.core.mapped import confirm
from cvmplan.core.processes import in_order, map_forked
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import Hashed, part
from cvmplan.operations.steps import Step
from cvmplan.platforms.snp.digest import page_links
from cvmplan.platforms.snp.steps import MEASURED_CONTENTS, LaunchUpdate, PageType

PIECE = 16 << 20  # bytes that a process hashes at a time
_VIEWS: dict[int, tuple[PageType, int, memoryview]] = {}  # what the processes inherit, by step


@contextmanager
def hashing(jobs: int) -> Iterator[Callable[[Iterable[Step]], Iterator[Step]]]:
    """
    Yield what has long contents of a trace hashed by `jobs` processes, which end with the block.

    InputError where one of them is killed.
    """
    with ExitStack() as stack:
        yield lambda trace: _hashed(trace, jobs, stack)


def _hashed(trace: Iterable[Step], jobs: int, stack: ExitStack) -> Iterator[Step]:
    """Yield the steps of `trace` with long contents hashed already."""
    steps = list(trace)
    _VIEWS.clear()
    for number, step in enumerate(steps):
        if (
            isinstance(step, LaunchUpdate)
            and step.page_type in MEASURED_CONTENTS
            and isinstance(step.contents, Blob)
            and len(step.contents) >= 2 * PIECE
        ):
            whole = len(step.contents) // PAGE * PAGE
            _VIEWS[number] = step.page_type, step.gpa, step.contents.data[:whole]
    if not _VIEWS:
        yield from steps
        return
    calls = [(n, at) for n, (*_, view) in _VIEWS.items() for at in range(0, len(view), PIECE)]
    found = stack.enter_context(closing(map_forked(_hash, calls, jobs, each=2)))
    links = in_order(found)
    for number, step in enumerate(steps):
        if isinstance(step, LaunchUpdate) and number in _VIEWS:
            yield from _replaced(step, len(_VIEWS[number][2]), links)
        else:
            yield step


def _hash(number: int, at: int) -> bytes:
    """Return what pages of a view add to the chain, in a worker; InputError as `confirm`."""
    page_type, gpa, view = _VIEWS[number]
    links = page_links(view[at : at + PIECE], page_type, gpa + at)
    confirm(view)
    return links


def _replaced(step: LaunchUpdate, whole: int, links: Iterator[bytes]) -> Iterator[Step]:
    """Yield the hashed pages of a step piece by piece, then what follows them."""
    for at in range(0, whole, PIECE):
        size = min(PIECE, whole - at)
        yield replace(step, gpa=step.gpa + at, size=size, contents=Hashed(next(links)))
    if whole < step.size:
        rest = part(step.contents, whole, step.size - whole)
        yield replace(step, gpa=step.gpa + whole, size=step.size - whole, contents=rest)
