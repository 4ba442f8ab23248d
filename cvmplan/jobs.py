"""
Page contents hashed by several processes.

On SNP the pages of a launch are hashed independently of one another, so that processes
can share them; only the chain over the hashes is serial.  Each process inherits the mapped
file, nothing is copied to it.  TDX, SEV and VBS hash one serial stream: nothing to share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from cvmplan.blob import Blob
from cvmplan.contents import Hashed, part
from cvmplan.order import PAGE, Step
from cvmplan.snp.digest import page_links
from cvmplan.snp.steps import MEASURED_CONTENTS, LaunchUpdate, PageType

PIECE = 16 << 20  # bytes that a process hashes at a time
_VIEWS: dict[int, memoryview] = {}  # what the processes inherit, by number of the step


def hashed(trace: Iterable[Step], jobs: int) -> Iterator[Step]:
    """Yield the steps of `trace` with long contents hashed already, by `jobs` processes."""
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
            _VIEWS[number] = step.contents.data[:whole]
    if not _VIEWS:
        yield from steps
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        pieces = {n: _submit(pool, n, steps[n], len(view)) for n, view in _VIEWS.items()}
        for number, step in enumerate(steps):
            if isinstance(step, LaunchUpdate) and number in pieces:
                yield from _replaced(step, len(_VIEWS[number]), pieces[number])
            else:
                yield step


def _submit(pool: ProcessPoolExecutor, number: int, step: Any, size: int) -> list[Future[bytes]]:
    ends = ((at, min(at + PIECE, size)) for at in range(0, size, PIECE))
    return [pool.submit(_hash, number, step.page_type, step.gpa, *end) for end in ends]


def _hash(number: int, page_type: PageType, gpa: int, low: int, high: int) -> bytes:
    return page_links(_VIEWS[number][low:high], page_type, gpa + low)


def _replaced(step: LaunchUpdate, whole: int, pieces: list[Future[bytes]]) -> Iterator[Step]:
    """Yield the hashed pages of a step piece by piece, then what follows them."""
    for at, piece in zip(range(0, whole, PIECE), pieces, strict=True):
        size = min(PIECE, whole - at)
        yield replace(step, gpa=step.gpa + at, size=size, contents=Hashed(piece.result()))
    if whole < step.size:
        rest = part(step.contents, whole, step.size - whole)
        yield replace(step, gpa=step.gpa + whole, size=step.size - whole, contents=rest)
