"""
Progress of what takes longer than a second: a bar on a terminal, else a line every ten seconds.

It is shown on stderr, and nothing is shown with --quiet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from cvmplan.cli import process
from cvmplan.cli.process import TICKER, on_terminal, tell
from cvmplan.core.blob import Blob
from cvmplan.memory.contents import Hashed, Zeros, part
from cvmplan.operations.plan import Plan
from cvmplan.operations.steps import Step

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LONG = 256 << 20  # bytes of contents below which nobody waits
PIECE = 8 << 20  # bytes hashed between two signs of life
BEGIN = 1.0  # seconds before a bar is shown
DRAW: Final = 0.1  # seconds between two pictures of it

Watch = Callable[[Iterable[Step]], Iterable[Step]]


def watch_for(plan: Plan, *, quiet: bool, first: Watch | None = None) -> Watch | None:
    """
    Return what `operations.measure` takes to show progress, None where none is to be shown.

    `first` sees the steps before.
    """
    total = sum(_length(op, "source") for op in plan.ops)
    if quiet or total < LONG:
        return first
    return lambda trace: _watched(first(trace) if first else trace, total)


def _length(holder: Any, name: str) -> int:
    """Return the bytes of a run that has contents to hash, or that were hashed."""
    return int(holder.size) if isinstance(getattr(holder, name, None), Blob | Zeros | Hashed) else 0


@contextmanager
def bar(what: str, total: float, *, quiet: bool) -> Iterator[Callable[[float], None]]:
    """Show how far the block is while it runs, and give it what advances that."""
    if quiet:
        yield lambda _: None
        return
    shown = _Bar(what, total) if on_terminal() else _Lines(what, total)
    TICKER.stop()
    try:
        yield shown.advance
    finally:
        shown.end()


class _Lines:
    """Says how far it is on a line every ten seconds."""

    def __init__(self, what: str, total: float) -> None:
        self._what, self._total, self._done = what, total, 0.0
        self._told = monotonic()

    def advance(self, done: float) -> None:
        """Count what is done."""
        self._done += done
        now = monotonic()
        if now - self._told >= process.TELL:
            self._told = now
            tell(f"{self._what}: {min(self._done / self._total, 1):.0%}")

    def end(self) -> None:
        """Leave the lines where they are."""


class _Bar:
    """A bar that is drawn after a second, by whoever advances it: no thread is started."""

    def __init__(self, what: str, total: float) -> None:
        self._what, self._total, self._done = what, total, 0.0
        self._drawn = monotonic() + BEGIN - DRAW
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def advance(self, done: float) -> None:
        """Count what is done, and draw it from time to time."""
        self._done += done
        now = monotonic()
        if now - self._drawn < DRAW:
            return
        self._drawn = now
        if self._progress is None:
            from rich.console import Console
            from rich.progress import Progress

            console = Console(stderr=True)
            self._progress = Progress(console=console, transient=True, auto_refresh=False)
            self._progress.start()
            self._task = self._progress.add_task(self._what, total=self._total)
        if self._task is not None:
            self._progress.update(self._task, completed=self._done, refresh=True)

    def end(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()


def _watched(trace: Iterable[Step], total: int) -> Iterator[Step]:
    with bar("measuring", total, quiet=False) as advance:
        for step in trace:
            for piece in _pieces(step):
                yield piece
                advance(_length(piece, "contents"))


def _pieces(step: Any) -> Iterator[Step]:
    """Yield a long run in pieces; order and addresses stay, so the measurement does too."""
    size = _length(step, "contents")
    if size <= PIECE or isinstance(step.contents, Hashed):
        yield step
        return
    for at in range(0, size, PIECE):
        length = min(PIECE, size - at)
        contents = part(step.contents, at, length)
        yield replace(step, gpa=step.gpa + at, size=length, contents=contents)
