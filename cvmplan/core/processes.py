"""
Processes of this machine that work for one run, and end with it.

They are forked, so that they have what this process had opened.  Ctrl-C and SIGHUP, which a
terminal sends to all processes, are for this process to answer: workers ignore them.  Each
worker has a connection of its own, so that one that is killed, even in the middle of an answer,
is noticed at once (`concurrent.futures` waits for the rest of that answer, which never comes).
Workers end with the block that uses them, and where this process is killed they notice that by
a pipe that only this process holds open for writing.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Any, Final, TypeAlias, TypeVar

from cvmplan.core.errors import InputError

T = TypeVar("T")
Call: TypeAlias = tuple[Any, ...]
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # that end a run
READY: Final = 64  # calls that are made before there is a process to take them


def map_forked(
    function: Callable[..., T], calls: Iterable[Call], jobs: int, each: int = 1
) -> Generator[tuple[int, T], None, None]:
    """
    Yield (number of the call, result) of `function` with the arguments of each of `calls`.

    In the order in which `jobs` processes finish them.  Each process gets `each` calls at a
    time; more than one only where the arguments of a call are a few bytes.  What a call raises
    is raised here; InputError where processes cannot be started, or one of them is killed.
    """
    with _workers(function, jobs) as connections:
        waiting = enumerate(calls)
        ready: deque[tuple[int, Call]] = deque()
        running = dict.fromkeys(connections, 0)
        while True:
            for worker in connections:
                while running[worker] < each and (ready or _make(ready, waiting)):
                    _send(worker, ready.popleft())
                    running[worker] += 1
            busy = [worker for worker, count in running.items() if count]
            if not busy:
                return
            while not wait(busy, 0) and len(ready) < READY and _make(ready, waiting):
                pass
            answering = wait(busy)
            for worker in [worker for worker in busy if worker in answering]:
                yield _answer(worker)
                running[worker] -= 1


def in_order(found: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Yield results by their numbers, which count from 0."""
    early: dict[int, T] = {}
    following = 0
    for number, result in found:
        early[number] = result
        while following in early:
            yield early.pop(following)
            following += 1


def _make(ready: deque[tuple[int, Call]], waiting: Iterator[tuple[int, Call]]) -> bool:
    """Make one more call ready; False where there is none left."""
    call = next(waiting, None)
    if call is not None:
        ready.append(call)
    return call is not None


def _send(worker: Connection, call: tuple[int, Call]) -> None:
    try:
        worker.send(call)
    except OSError:
        raise _killed() from None


def _answer(worker: Connection) -> tuple[int, Any]:
    """Return the number of a call and its result; what the call raised is raised."""
    try:
        number, result, error = worker.recv()
    except (EOFError, OSError):
        raise _killed() from None
    if error is not None:
        raise error
    return number, result


def _killed() -> InputError:
    hint = "check the system log for lack of memory; use a smaller --jobs"
    return InputError("a worker process was killed", at="--jobs", hint=hint)


@contextmanager
def _workers(function: Callable[..., Any], jobs: int) -> Iterator[list[Connection]]:
    """Yield a connection to each of `jobs` processes, which end with the block."""
    context = get_context("fork")
    workers = []
    connections: list[Connection] = []
    alive = os.pipe()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        try:
            for _ in range(jobs):
                ours, theirs = context.Pipe()
                connections.append(ours)
                call = (function, theirs, [*connections], alive, mask)
                worker = context.Process(target=_work, args=call, daemon=True)
                worker.start()
                workers.append(worker)
                theirs.close()
        except OSError as error:
            problem = f"cannot start {jobs} processes: {error.strerror}"
            raise InputError(problem, at="--jobs", hint="use a smaller --jobs") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield connections
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()
        for connection in connections:
            connection.close()
        for end in alive:
            os.close(end)


def _work(
    function: Callable[..., Any],
    connection: Connection,
    others: list[Connection],
    alive: tuple[int, int],
    mask: set[int | signal.Signals],
) -> None:
    """Answer calls, in a worker, until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for other in others:
        other.close()
    os.close(alive[1])
    Thread(target=_end_with_parent, args=(alive[0],), daemon=True).start()
    with suppress(EOFError, ConnectionError):  # the parent has gone
        while True:
            number, arguments = connection.recv()
            connection.send(_called(function, number, arguments))


def _called(
    function: Callable[..., T], number: int, arguments: Call
) -> tuple[int, T | None, Exception | None]:
    """Return what a worker answers to a call: its number, the result, or what it raised."""
    try:
        return number, function(*arguments), None
    except Exception as error:  # noqa: BLE001 the parent raises it
        error.add_note("".join(traceback.format_exception(error)))
        return number, None, error


def _end_with_parent(reading: int) -> None:
    """Wait until nobody can write to the pipe any more, and end this process."""
    os.read(reading, 1)
    os._exit(1)
