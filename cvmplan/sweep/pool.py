"""
A sweep computed by the processes of an executor.

They get the bytes of an image with each parcel of tasks, unless they are forked and have them
from their parent, or an executor has a way of its own to share them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    wait,
)
from contextlib import closing
from functools import partial
from itertools import chain, islice
from typing import Any, Final, TypeAlias

from cvmplan.core import processes
from cvmplan.sweep.rows import Result
from cvmplan.sweep.run import Finished, Image, Inputs, Parcel, Task, measured

AHEAD: Final = 64  # parcels that are under way at most
TRIES: Final = 4  # how often a parcel is sent whose inputs were lost
MOST_OPEN: Final = 16  # images that a process keeps open

Share: TypeAlias = Callable[[str, Inputs], Any]
"""Makes the inputs of a key known to an executor: what stands for them in a call."""
_opened: dict[str, Image] = {}  # by key


def run_parcel(key: str, path: str, inputs: Inputs, tasks: list[Task]) -> list[list[Result]]:
    """Return the results of each task of the image `path`, opened from `inputs` where it is not."""
    if key not in _opened:
        if len(_opened) >= MOST_OPEN:
            _opened.clear()
        _opened[key] = Image.of(path, inputs)
    return [measured(_opened[key], task) for task in tasks]


def forked(work: Iterable[Parcel], jobs: int) -> Generator[Finished, None, None]:
    """
    Yield (number, rows) of each parcel as it is finished by `jobs` processes of this machine.

    They have all images that their parent has opened.  InputError where one of them is killed.
    """
    parcels = iter(work)
    begun = [*islice(parcels, 1)]
    running: dict[int, Parcel] = {}

    def calls() -> Iterator[tuple[str, list[Task]]]:
        for number, parcel in enumerate(chain(begun, parcels)):
            running[number] = parcel
            yield parcel.image.path, parcel.tasks

    opened = begun[0].opened if begun else {}
    with closing(processes.map_forked(partial(_compute, opened), calls(), jobs)) as found:
        for number, results in found:
            parcel = running.pop(number)
            yield parcel.number, parcel.filled(results)


def _compute(opened: Mapping[str, Image], path: str, tasks: list[Task]) -> list[list[Result]]:
    """Return the results of each task of an image, in a forked process."""
    image = opened[path]
    results = [measured(image, task) for task in tasks]
    image.confirm()
    return results


class Pool:
    """Has parcels computed by an executor, and gives their rows back."""

    def __init__(self, executor: Executor, share: Share = lambda _, inputs: inputs) -> None:
        self._executor, self._share = executor, share
        self._shared: dict[str, Any] = {}
        self._running: dict[Future[list[list[Result]]], tuple[Parcel, int]] = {}

    def run(self, parcels: Iterable[Parcel]) -> Iterator[Finished]:
        """Yield (number, rows) of each parcel, in the order in which they are finished."""
        waiting = iter(parcels)
        try:
            self._fill(waiting)
            while self._running:
                done, _ = wait(self._running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from self._finished(future)
                self._fill(waiting)
        finally:
            for future in self._running:
                future.cancel()

    def _fill(self, waiting: Iterator[Parcel]) -> None:
        for parcel in islice(waiting, AHEAD - len(self._running)):
            self._submit(parcel, 1)

    def _submit(self, parcel: Parcel, attempt: int) -> None:
        key, path = parcel.image.key, parcel.image.path
        if key not in self._shared:
            self._shared[key] = self._share(key, parcel.image.inputs())
        call = self._executor.submit(run_parcel, key, path, self._shared[key], parcel.tasks)
        self._running[call] = parcel, attempt

    def _finished(self, future: Future[list[list[Result]]]) -> Iterator[Finished]:
        """Yield what a call returned; where its inputs were lost it is made again."""
        parcel, attempt = self._running.pop(future)
        try:
            results = future.result()
        except CancelledError:
            if attempt == TRIES:
                raise
            self._shared.pop(parcel.image.key, None)
            self._submit(parcel, attempt + 1)
        else:
            yield parcel.number, parcel.filled(results)
