"""The process that runs the command line: its signals, and standard streams that may be closed."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import IO, Final, NoReturn

SIGNALLED: Final = 128  # exit code of a run that signal N ended: 128 + N, as shells report it
CLOSED_PIPE: Final = SIGNALLED + signal.SIGPIPE
PATIENCE: Final = 5  # seconds that cleaning up may take before a second signal ends it


def answer_signals() -> None:
    """Have SIGINT, SIGTERM and SIGHUP end the run in order, unless they are ignored (nohup)."""
    ended: list[float] = []

    def end(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not ended:
            ended.append(now)
            raise SystemExit(SIGNALLED + number)
        if now - ended[0] > PATIENCE:
            os._exit(SIGNALLED + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, end)


def fill_closed_streams() -> None:
    """Open /dev/null in place of closed standard streams, whose numbers no other file may get."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def on_terminal() -> bool:
    """Whether standard error is a terminal, where progress and colours may be shown."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def has_colours() -> bool:
    """Whether errors are coloured: on a terminal or with FORCE_COLOR, and not with NO_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or on_terminal()


def tell(text: str) -> None:
    """Write a line to standard error; where that is closed or full, the line is dropped."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        discard(sys.stderr)


def flush_output() -> OSError | None:
    """Write what is left to standard output; return the error where that is not possible."""
    if sys.stdout is None:
        return None
    try:
        sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout)
        return error
    return None


def discard(stream: IO[str]) -> None:
    """Let what is still written to a stream go nowhere."""
    with suppress(OSError, ValueError):
        number = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def leave(code: int) -> NoReturn:
    """End the process with `code`; after a signal at once, whatever else it was doing."""
    if code > SIGNALLED:
        os._exit(code)
    sys.exit(code)
