"""The process that runs the command line: its signals, and standard streams that may be closed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType
from typing import IO, TYPE_CHECKING, Final, NoReturn

from cvmplan.core.values import printable

if TYPE_CHECKING:
    from cvmplan.core.findings import Finding

SIGNALLED: Final = 128  # exit code of a run that signal N ended: 128 + N, as shells report it
CLOSED_PIPE: Final = SIGNALLED + signal.SIGPIPE
DRAW = 1.0  # seconds between two signs of life on a terminal
TELL = 10.0  # and between two lines elsewhere
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


class Ticker:
    """
    Says every ten seconds that a run goes on; on a terminal every second, in one place.

    For work of which nobody knows how far it is.  A timer of the process interrupts it: none of
    its system calls may be one that a signal ends.
    """

    def __init__(self) -> None:
        self._what, self._begun, self._shown = "", 0.0, False

    def start(self, what: str) -> None:
        """Begin to say so of `what`; threads have no timer."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._what, self._begun = what, time.monotonic()
        signal.signal(signal.SIGALRM, self._tick)
        every = DRAW if on_terminal() else TELL
        signal.setitimer(signal.ITIMER_REAL, every, every)

    def _tick(self, _number: int, _frame: FrameType | None) -> None:
        said = f"{self._what}: {time.monotonic() - self._begun:.0f} s"
        if on_terminal():
            self._shown = _write(f"\r{said}\x1b[K")
        else:
            tell(said)

    def stop(self) -> None:
        """Say nothing more: an answer, or a bar, follows."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._shown:
            self._shown = False
            _write("\r\x1b[K")


TICKER: Final = Ticker()


def tell(text: str) -> None:
    """Write a line to standard error; where that is closed or full, the line is dropped."""
    _write(f"{text}\n")


def tell_warnings(findings: Iterable[Finding]) -> None:
    """Tell what is found that is a warning, where the output has no room for it."""
    for one in findings:
        if one.severity == "warning":
            place = f"{one.at}: " if one.at else ""
            tell(printable(f"warning: {place}{one.rule}: {one.message}"))


def _write(text: str) -> bool:
    """Write to standard error, and say whether that was possible."""
    if sys.stderr is None:
        return False
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        discard(sys.stderr)
        return False
    return True


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
