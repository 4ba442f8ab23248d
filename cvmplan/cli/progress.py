"""Progress of a long measurement: on stderr, and only when that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from cvmplan.cli.process import on_terminal
from cvmplan.core.blob import Blob
from cvmplan.memory.contents import Zeros, part
from cvmplan.operations.plan import Plan
from cvmplan.operations.steps import Step

LONG = 256 << 20  # bytes of contents below which nobody waits
PIECE = 8 << 20  # bytes hashed between two signs of life

Watch = Callable[[Iterable[Step]], Iterable[Step]]


def watch_for(plan: Plan, *, quiet: bool) -> Watch | None:
    """Return what `operations.measure` takes to show progress, None where none is to be shown."""
    total = sum(_length(op, "source") for op in plan.ops)
    if quiet or total < LONG or not on_terminal():
        return None
    return lambda trace: _watched(trace, total)


def _length(holder: Any, name: str) -> int:
    """Return the bytes of a run that has contents to hash."""
    return int(holder.size) if isinstance(getattr(holder, name, None), Blob | Zeros) else 0


@contextmanager
def bar(what: str, total: float, *, quiet: bool) -> Iterator[Callable[[float], None]]:
    """Show a bar while the block runs, and give it what advances it."""
    if quiet or not on_terminal():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


def _watched(trace: Iterable[Step], total: int) -> Iterator[Step]:
    with bar("measuring", total, quiet=False) as advance:
        for step in trace:
            for piece in _pieces(step):
                yield piece
                advance(_length(piece, "contents"))


def _pieces(step: Any) -> Iterator[Step]:
    """Yield a long run in pieces; order and addresses stay, so the measurement does too."""
    size = _length(step, "contents")
    if size <= PIECE:
        yield step
        return
    for at in range(0, size, PIECE):
        length = min(PIECE, size - at)
        contents = part(step.contents, at, length)
        yield replace(step, gpa=step.gpa + at, size=length, contents=contents)
