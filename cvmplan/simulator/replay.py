"""
A recorded launch, held against the rules of a kernel.

An attempt is not an effect: what a call did is told by what it returned and left over.  A
call again after EAGAIN, EINTR or EBUSY, the loop over what was left, and one more try of
the CPUID page after the firmware's INVALID_PARAM are no second adds.  Where a recording
has no results and only a result could tell, the answer is "ambiguous".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from cvmplan.core.errors import UnsupportedError
from cvmplan.core.findings import Finding
from cvmplan.core.values import write_span
from cvmplan.kvm.interface import PAGE, WIDEST, Abi
from cvmplan.simulator.answers import Answer, Result, Simulation
from cvmplan.simulator.attempts import Attempt, goes_on, is_rest, is_same, source_moved
from cvmplan.simulator.call import State
from cvmplan.simulator.memslots import MOST_FINDINGS
from cvmplan.simulator.recorded_contents import RecordedContents
from cvmplan.simulator.recording import Recording
from cvmplan.simulator.simulate import ADDS, MOST_NAMED, Host, finished
from cvmplan.simulator.source import UNKNOWN, Source

AGAIN: Final = ("EAGAIN", "EINTR", "EBUSY")
SCRIPT: Final = "'cvmplan help recording' has a bpftrace script that records all of a launch"
INVALID_PARAM: Final = 0x16  # AMD 56860, "Status Codes": the CPUID page was corrected


class Image(NamedTuple):
    """What an image's plan knows: pages as (gpa, size, contents), vCPU states, number of vCPUs."""

    pages: Sequence[tuple[int, int, Source]]
    vmsas: tuple[State, ...]
    vcpus: int


class _Judged(NamedTuple):
    """How far an attempt came: [gpa, stop) was done; `answer` beats the kernel's rules."""

    stop: int
    answer: Answer | None = None


def replay(
    recording: Recording, abi: Abi, gpaw: int, image: Image | None, width: int = WIDEST
) -> Simulation:
    """
    Return what `abi` answers to the calls that were recorded, and the digest they reach.

    The digest is None without an `image` that knows what the pages hold.
    """
    if recording.platform not in abi.vm_types:
        raise UnsupportedError(f"{abi.name} has no {recording.platform} guests", at="--abi")
    host = Host(recording.platform, abi, gpaw, width)
    calls = frozenset(a.op for a in recording.attempts)
    vcpus = image.vcpus if image else max((a.count for a in recording.attempts), default=0) or 1
    if not recording.creates_vm:
        host.assume_set_up(calls, vcpus, image.pages if image else ())
    replayed = _Replay(host, recording, image)
    outcome = finished(host, replayed.results(), replayed.findings)
    doubts = (Finding("state-differs", one.words) for one in recording.doubts[:MOST_FINDINGS])
    more = (*replayed.contents.unknown(), *doubts)
    hidden = (Finding("not-in-trace", f"{what}; {SCRIPT}") for what in recording.lacks)
    outcome = outcome._replace(findings=(*outcome.findings, *more, *hidden))
    if any(a.op == "run" and a.returned in (None, "", *AGAIN) for a in recording.attempts):
        outcome = outcome._replace(finalized=True)  # the guest runs
    if not outcome.finalized and recording.ends:
        problem = "the recording ends before the launch is finalized"
        outcome = outcome._replace(findings=(*outcome.findings, Finding("not-finalized", problem)))
    known = outcome.finalized and (image or recording.calls)
    return outcome if known else outcome._replace(digest=None)


class _Replay:
    """Goes through the attempts, and collects what is found out about them."""

    def __init__(self, host: Host, recording: Recording, image: Image | None) -> None:
        self._host = host
        self._attempts = recording.attempts
        self._calls = bool(recording.calls)
        self._creates_vm = recording.creates_vm
        self._image = image
        self.contents = RecordedContents(image.pages if image else ())
        self.findings: list[Finding] = []

    def results(self) -> Iterator[Result]:
        """Yield the answer to each attempt."""
        for number, attempt in enumerate(self._attempts):
            if self._host.vm is not None:
                self._host.vm.done = self._creates_vm and attempt.returned == ""
            answer = self._answer(number, attempt)
            if attempt.op == "create-vm" and not self._calls and self._host.vm is not None:
                self._host.vm.memory.hold(self._image.pages if self._image else ())
            if attempt.note:
                why = f"{answer.why}; {attempt.note}" if answer.why else attempt.note
                answer = answer._replace(why=why)
            yield Result(attempt.seq, attempt.op, answer)

    def _answer(self, number: int, attempt: Attempt) -> Answer:
        if not attempt.shown:
            return self._as_recorded(number, attempt)
        if attempt.op in ADDS:
            return self._add(number, attempt)
        if attempt.asks:
            return Answer("nop", attempt.returned, "asks for the length of the measurement")
        if attempt.returned:
            return _refused(attempt)
        if attempt.op in ("create-vcpu", "tdx-init-vcpu"):
            return self._vcpus(attempt)
        return self._doubted(attempt, self._host.answer(self._completed(attempt), None))

    def _as_recorded(self, number: int, attempt: Attempt) -> Answer:
        """Return the answer that was recorded to a call of which no more is known."""
        if not attempt.returned:
            return Answer()
        if attempt.returned in AGAIN:
            return Answer("nop", attempt.returned, "recorded: to be called again")
        if number + 1 < len(self._attempts):
            return Answer("ambiguous", attempt.returned, "recorded; the VMM went on")
        return Answer("error", attempt.returned, "recorded: the VMM made no further call")

    def _doubted(self, attempt: Attempt, answer: Answer) -> Answer:
        """Return an answer; where the recording has a call done that is refused, say so."""
        if not self._creates_vm or answer.result != "error" or attempt.returned != "":
            return answer
        return answer._replace(why=f"{answer.why}; it is recorded as done")

    def _vcpus(self, attempt: Attempt) -> Answer:
        """Take calls on vCPUs one by one, as a VMM makes them."""
        vm = self._host.vm
        if vm is None or (attempt.op == "create-vcpu" and vm.vcpus is None):
            return self._host.answer(replace(attempt, count=max(attempt.count, 1)), None)
        if attempt.op == "create-vcpu":
            vm.vcpus = (vm.vcpus or 0) + max(attempt.count, 1)
        elif not vm.vcpus_inited:
            return self._host.answer(replace(attempt, count=vm.vcpus or 1), None)
        return Answer()

    def _completed(self, attempt: Attempt) -> Attempt:
        """Return a finishing call with the vCPU states that were recorded, or the image's."""
        if self._calls:
            return attempt
        return replace(attempt, vmsas=self._image.vmsas if self._image else ())

    def _ask(self, attempt: Attempt) -> Answer:
        """Return what the kernel answers to an add, with the contents that were recorded."""
        if not self._calls:
            return self._host.answer(attempt, None)
        return self._host.answer(attempt, self.contents.of(attempt))

    def _add(self, number: int, attempt: Attempt) -> Answer:
        if not attempt.placed and self._calls and self._host.vm is not None:
            return self._host.vm.take(self.contents.of(attempt) or UNKNOWN, attempt.size)
        if not attempt.placed and attempt.returned:
            return _refused(attempt)
        if not attempt.placed:
            self._host.forget()
            return Answer(why="its guest address was not recorded: not checked against other adds")
        if not attempt.size:
            return self._ask(attempt)
        judged = self._judge(number, attempt)
        if attempt.returned in ("EBUSY", "EIO") and self._host.vm:
            self._host.vm.failed(judged.stop)
        if judged.stop <= attempt.gpa:
            return self._explained(number, attempt, judged)
        done = replace(attempt, size=judged.stop - attempt.gpa)
        twice = self._added_before(done)
        answer = self._ask(done)
        if twice:
            answer = self._blame(number, done, twice, answer)
        return self._explained(number, attempt, judged) if judged.answer else answer

    def _explained(self, number: int, attempt: Attempt, judged: _Judged) -> Answer:
        """Return the answer that was recorded; of a refusal also what the kernel's rules say."""
        answer = judged.answer or Answer()
        vm = self._host.vm
        if answer.result != "error" or attempt.fw_error or vm is None:
            return answer
        rest = replace(attempt, gpa=judged.stop, size=attempt.end - judged.stop)
        twice = self._added_before(rest)
        if twice and twice[0][0] == rest.gpa:
            line, low, high = next(self._doubles(number, twice))
            problem = f"line {attempt.seq} adds what {line} added, and was refused"
            self._tell("added-twice", problem, low, high - PAGE)
            return answer._replace(why=f"recorded: {rest.gpa:#x} was added before, by {line}")
        if vm.memory.private.first(rest.gpa, rest.gpa + PAGE, value=False) is not None:
            return answer._replace(why=f"recorded: {rest.gpa:#x} is not private")
        return answer

    def _judge(self, number: int, attempt: Attempt) -> _Judged:
        """Decide how far an attempt came, by its result or else by the call that follows."""
        if attempt.returned is not None:
            return self._judge_result(number, attempt)
        following = self._neighbour(number + 1)
        if following and goes_on(attempt, following) and following.gpa > attempt.gpa:
            why = f"goes on in line {following.seq}"
            return _Judged(following.gpa, Answer(why=why))
        before = self._neighbour(number - 1)
        if before and is_same(before, attempt):
            problem = f"line {attempt.seq} repeats line {before.seq}: "
            problem += "called again after EAGAIN, or added a second time"
            self._tell("maybe-added-twice", problem, attempt.gpa, attempt.end - PAGE)
            return _Judged(attempt.gpa, Answer("ambiguous", why=problem))
        if before and goes_on(before, attempt) and not source_moved(before, attempt):
            problem = f"line {attempt.seq} is the end of line {before.seq}: "
            problem += "what that left over, or added a second time"
            self._tell("maybe-added-twice", problem, attempt.gpa, attempt.end - PAGE)
            return _Judged(attempt.end, Answer("ambiguous", why=problem))
        return _Judged(attempt.end)

    def _tell(self, rule: str, problem: str, first: int, last: int) -> None:
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(Finding(rule, problem, first, last))

    def _judge_result(self, number: int, attempt: Attempt) -> _Judged:
        left = attempt.residual
        following = self._neighbour(number + 1)
        if not attempt.returned and left is None and following and is_rest(attempt, following):
            why = f"goes on in line {following.seq}: what it left over was not recorded"
            return _Judged(following.gpa, Answer(why=why))
        if not attempt.returned:
            why = f"left {write_span(*left)}" if left and left[1] else ""
            return _Judged(left[0] if left else attempt.end, Answer(why=why) if why else None)
        stop = left[0] if left else attempt.gpa
        if left is None and following and goes_on(attempt, following):
            stop = following.gpa  # what is called again says how far the first call came
        ended = self._creates_vm and following is None
        if attempt.returned in AGAIN and not ended:
            return _Judged(stop, Answer("nop", attempt.returned, "recorded: to be called again"))
        told = "recorded: the VMM made no further call" if ended else "recorded"
        before = self._neighbour(number - 1)
        if before and not before.returned and not before.residual and is_rest(before, attempt):
            told = self._refused_rest(before, attempt)
        if attempt.page_type == "cpuid" and attempt.fw_error == INVALID_PARAM:
            told = "recorded: the firmware corrected the CPUID page"
            if (
                following
                and is_same(attempt, following)
                and not (before and is_same(before, attempt))
            ):
                why = f"{told}, which is tried once more"
                return _Judged(stop, Answer("nop", attempt.returned, why, attempt.fw_error))
        return _Judged(stop, Answer("error", attempt.returned, told, attempt.fw_error))

    def _refused_rest(self, before: Attempt, attempt: Attempt) -> str:
        """Say why the end of the range of `before` was refused, without a rest to tell."""
        if not source_moved(before, attempt):
            problem = f"line {attempt.seq} was refused the end of line {before.seq}: "
            problem += "what that left over, or added a second time"
            self._tell("maybe-added-twice", problem, attempt.gpa, attempt.end - PAGE)
        return f"recorded: what line {before.seq} left over"

    def _neighbour(self, number: int) -> Attempt | None:
        inside = 0 <= number < len(self._attempts)
        return self._attempts[number] if inside else None

    def _added_before(self, done: Attempt) -> list[tuple[int, int]]:
        """Return the runs [low, high) of `done` that were added before."""
        vm = self._host.vm
        runs = vm.memory.measured.runs(done.gpa, done.end) if vm else ()
        return [(low, high) for low, high, times in runs if times]

    def _blame(
        self, number: int, done: Attempt, twice: list[tuple[int, int]], answer: Answer
    ) -> Answer:
        """Report the pages that were added before, with both lines, whatever the kernel answers."""
        forgotten = answer.result == "error" and done.returned == ""
        first = next(self._doubles(number, twice))[0]
        for line, low, high in self._doubles(number, twice[:MOST_FINDINGS]):
            problem = f"line {done.seq} adds what {line} added"
            if forgotten:
                told = answer.errno or "an error"
                problem += f"; it is recorded as done, where {self._host.abi.name} answers {told}"
            self._tell("added-twice", problem, low, high - PAGE)
        if forgotten:
            self._host.forget()
            return Answer(why=f"recorded as done; {twice[0][0]:#x} was added before, by {first}")
        return answer._replace(why=f"{answer.why}, by {first}") if answer.why else answer

    def _doubles(
        self, number: int, twice: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[str, int, int]]:
        """Yield (line, first byte, end) of pages that were added before, each by one line."""
        for low, high in twice:
            while low < high:
                adder = self._adder(number, low)
                end = min(high, _stop(adder)) if adder else high
                yield f"line {adder.seq}" if adder else "an earlier line", low, end
                low = end  # noqa: PLW2901 the rest was added by others

    def _adder(self, number: int, page: int) -> Attempt | None:
        """Return the call that added `page`; only the first doubles are worth the search."""
        if len(self.findings) >= MOST_NAMED:
            return None
        before = (a for a in self._attempts[:number] if a.op in ADDS)
        return next((a for a in before if a.gpa <= page < _stop(a)), None)


def _stop(attempt: Attempt) -> int:
    """Return where an add stopped, as far as its own line says it."""
    if attempt.residual is not None:
        return attempt.residual[0]
    return attempt.gpa if attempt.returned else attempt.end


def _refused(attempt: Attempt) -> Answer:
    """Return the error that was recorded."""
    again = attempt.returned in AGAIN
    why = "recorded: to be called again" if again else "recorded"
    return Answer("nop" if again else "error", attempt.returned, why, attempt.fw_error)
