"""Each answer to a request: the verbs print it, and the functions of `api.request` return it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MapError, UnsupportedError
from cvmplan.core.findings import Findings
from cvmplan.core.platform import Platform, find
from cvmplan.kvm.interface import WIDEST, WIDTHS
from cvmplan.launch.given import Given
from cvmplan.operations.plan import Plan
from cvmplan.planning.read import option
from cvmplan.planning.request import Request

if TYPE_CHECKING:
    from cvmplan.catalogue.search import Beside
    from cvmplan.comparison.found import Comparison, Difference
    from cvmplan.comparison.held_calls import CallsCompared
    from cvmplan.comparison.sides import Side
    from cvmplan.evidence.evidence import Evidence
    from cvmplan.explanation.answer import Explanation
    from cvmplan.launch.model import Opener
    from cvmplan.memory.owners import Owners
    from cvmplan.operations.outcome import Trace
    from cvmplan.simulator.answers import Simulation
    from cvmplan.simulator.recording import Recording
    from cvmplan.simulator.replay import Image

T = TypeVar("T")


def check(plan: Plan | Request) -> Findings:
    """
    Return every finding about a launch; where there is a map, it is lowered as well.

    PlanError where the operations are not a legal launch, MismatchError where they do not measure
    what the plan says; other errors as `Request.plan`.
    """
    from cvmplan.operations.measure import broken_promises, measure, promises

    try:
        made = plan if isinstance(plan, Plan) else plan.plan()
    except MapError as error:
        return Findings(error.findings)
    for _ in made.trace():
        pass
    found = made.findings
    if promises(made) or made.recorded is not None:
        found += tuple(broken_promises(made, measure(made)))
    return Findings(found)


def explanation(
    image: Blob | None,
    options: Given,
    open_file: Opener,
    wanted: bytes | Evidence,
    beside: Beside,
    tick: Callable[[], None],
) -> Explanation:
    """
    Return which settings have the measurement `wanted`: of the image, or of known firmware.

    Without an image the catalogues are searched, among them those that `beside` names.
    ConfigError, InputError, UnsupportedError.
    """
    if image is None:
        from cvmplan.catalogue.known import load
        from cvmplan.catalogue.search import search

        return search(load(beside.catalogues), wanted, options, open_file, beside, tick)
    from cvmplan.explanation import ask, explain_measurement

    if beside.catalogues:
        raise ConfigError("cannot be combined with an image", at="--catalogue")
    asked = ask(image, options, open_file, beside.tries, wanted, beside.lines)
    found = explain_measurement(asked, wanted, tick)
    if beside.base is None or not found.explained:
        return found
    return found._replace(command=(*found.command, "--base", beside.base))


def trace(plan: Plan) -> Trace:
    """Return the firmware commands of a plan, and what it maps without any."""
    from cvmplan.kvm.abi import find as find_abi
    from cvmplan.operations.outcome import MappedRange, Trace
    from cvmplan.readers import calls
    from cvmplan.simulator.simulate import mapped

    if plan.platform.secure_ept or all(op.kind != "map" for op in plan.ops):
        return Trace(plan)
    read = calls.of_plan(plan, None)
    found = mapped(read.platform, find_abi(plan.abi), (c for c, _ in read.calls), read.gpaw)
    return Trace(plan, tuple(MappedRange(call.seq, *told, why) for call, told, why in found))


def guest_map(request: Request) -> Owners:
    """Return who owns which pages, valid or not; errors as `Request.launch`."""
    from cvmplan.memory.owners import owners
    from cvmplan.planning import build

    layout, found = build.findings(request.launch())
    return owners(layout.regions, found)


def simulate(
    request: Request, image: Request | None = None, host_width: int = WIDEST
) -> Simulation:
    """
    Return what a kernel answers to a plan, or to a recorded launch.

    `image` is what the pages of a recorded launch hold, and takes the settings of the launch;
    `host_width` are the bits of the host's physical addresses, 36 to 52.
    UnsupportedError for what is neither; ConfigError for settings that a plan cannot have.
    """
    from cvmplan.readers import plan, recorded

    width = checked_width(host_width)
    if plan.recognises(request.image):
        return _simulated(request, image, width)
    if recorded.recognises(request.image):
        return _replayed(request, image, width)
    hint = "'cvmplan plan IMAGE --format json' makes a plan"
    at = request.image.name
    raise UnsupportedError("neither a plan nor a recorded launch", at=at, hint=hint)


def checked_width(bits: int) -> int:
    """Return the width of a host's physical addresses; ConfigError where no host has it."""
    if bits not in WIDTHS:
        problem = f"{bits!r} is not {WIDTHS.start} to {WIDTHS.stop - 1} bits"
        raise ConfigError(problem, at=option("host_width"))
    return bits


def _simulated(request: Request, image: Request | None, width: int) -> Simulation:
    from cvmplan.kvm.abi import find as find_abi
    from cvmplan.readers import calls
    from cvmplan.simulator.simulate import compared
    from cvmplan.simulator.simulate import simulate as run

    others = [name for name in request.options if name != "abi"]
    if image is not None or others:
        raise ConfigError("a plan takes no settings", at=option((others or ["image"])[0]))
    read = calls.read(request.image, request.files.find)
    abi = find_abi(request.options.text("abi") or read.abi)
    outcome = run(read.platform, abi, read.calls, read.gpaw, width)
    return compared(outcome, read.digest, "the plan") if read.digest else outcome


def simulate_plan(plan: Plan, abi: str | None = None, host_width: int = WIDEST) -> Simulation:
    """Return what the kernel `abi`, by default the plan's own, answers to the calls of a plan."""
    from cvmplan.kvm.abi import find as find_abi
    from cvmplan.operations.measure import measure
    from cvmplan.readers import calls
    from cvmplan.simulator.simulate import compared
    from cvmplan.simulator.simulate import simulate as run

    read = calls.of_plan(plan, measure(plan) if plan.platform.measured else None)
    width = checked_width(host_width)
    outcome = run(read.platform, find_abi(abi or read.abi), read.calls, read.gpaw, width)
    return compared(outcome, read.digest, "the plan") if read.digest else outcome


def _replayed(request: Request, image: Request | None, width: int) -> Simulation:
    from cvmplan.kvm.abi import find as find_abi
    from cvmplan.kvm.abi import newest
    from cvmplan.readers import recorded
    from cvmplan.simulator.replay import replay
    from cvmplan.simulator.simulate import compared

    options = request.options
    recording = recorded.read(request.image, chosen_platform(options))
    named = options.text("abi")
    options = options.without("abi") | {"platform": recording.platform}
    abi = find_abi(named) if named else newest(recording.platform)
    if image is None:
        others = [name for name in options if name not in ("platform", "gpaw")]
        if others:
            raise ConfigError("needs --image", at=option(others[0]))
        return replay(recording, abi, options.number("gpaw") or recording.gpaw or 48, None, width)
    chosen = options | ({"abi": abi.name} if abi.plans else {})
    known, gpaw, digest = _image(Request(image.image, chosen, image.files).plan())
    outcome = replay(recording, abi, recording.gpaw or gpaw, known, width)
    told = not recording.calls or [n for n in options if n not in ("platform", "gpaw")]
    return compared(outcome, digest, "the image") if digest and told else outcome


def _image(plan: Plan) -> tuple[Image, int, str | None]:
    """Return what the plan of an image knows of pages and vCPUs, its GPAW and its digest."""
    from cvmplan.operations.measure import measure
    from cvmplan.readers import calls
    from cvmplan.simulator.replay import Image

    read = calls.of_plan(plan, measure(plan) if plan.platform.measured else None)
    pages = [(op.gpa, op.size, source) for op, source in read.calls if source is not None]
    finish = [op for op, _ in read.calls if op.vmsas]
    count = next(op.count for op, _ in read.calls if op.op == "create-vcpu")
    vmsas = finish[0].vmsas if finish else ()
    return Image(pages, vmsas, count), read.gpaw, read.digest


def chosen_platform(options: Given) -> Platform | None:
    """Return the platform that was given, None where none was; ConfigError."""
    name = options.text("platform")
    return None if name is None else find(name)


def side(request: Request, own: str = "", beside: Blob | None = None) -> Side:
    """
    Return a launch as launches are compared: that of an image, a plan, a trace or a recording.

    `own` names the place of settings of this one alone, which only an image takes: ConfigError.
    `beside` is what it is compared with: an image beside a recording of a VMM's calls is planned
    for the platform that was recorded, and for an interface that has calls.
    """
    from cvmplan.comparison.recorded import of_recording
    from cvmplan.comparison.sides import of_plan, of_trace
    from cvmplan.readers import plan, recorded, trace

    image, name = request.image, request.image.name
    kinds = [reader for reader in (plan, trace, recorded) if reader.recognises(image)]
    if kinds and own:
        raise ConfigError("takes no settings of its own", at=f"{own} {name}")
    if plan in kinds:
        return of_plan(name, plan.read(image, request.files.find))
    if trace in kinds:
        return of_trace(name, *trace.read(image))
    if recorded in kinds:
        return of_recording(name, recorded.read(image, chosen_platform(request.options)))
    return of_plan(name, _beside(request, beside).plan())


def _beside(request: Request, other: Blob | None) -> Request:
    """Return the request of an image with what a recording beside it settles."""
    from cvmplan.kvm.abi import newest
    from cvmplan.readers import recorded

    if other is None or not recorded.has_calls(other):
        return request
    options = request.options
    platform = chosen_platform(options) or recorded.read(other).platform
    told = {"platform": platform, "abi": newest(platform).name}
    more = {name: value for name, value in told.items() if options.text(name) is None}
    return Request(request.image, options | more, request.files)


def compare_sides(a: Side, b: Side) -> Comparison:
    """
    Return how two launches compare.

    Of a plan and a recording of a VMM's calls also how the calls do, field by field.
    """
    from cvmplan.comparison.compare import compare

    for planned, recorded in ((a, b), (b, a)):
        if planned.plan and recorded.recording and recorded.recording.calls:
            found, held = _held(planned, planned.plan, recorded, recorded.recording)
            return compare(a, b, held, found)
    return compare(a, b)


def _held(
    planned: Side, plan: Plan, recorded: Side, recording: Recording
) -> tuple[Sequence[Difference], CallsCompared | None]:
    """Hold a recording against a plan; its digest is that of the plan's contents that fit."""
    from cvmplan.calls.as_recorded import as_recorded
    from cvmplan.comparison.held_calls import compare_calls
    from cvmplan.comparison.recorded import doubts_of, settle
    from cvmplan.kvm.abi import find as find_abi
    from cvmplan.kvm.abi import newest
    from cvmplan.profiles.machines import MINIMAL
    from cvmplan.simulator.replay import replay

    settled = settle(recorded, planned)
    doubtful = [*settled.differences, *doubts_of(recording)]
    abi = find_abi(plan.abi)
    if planned.platform == recorded.platform:
        image, gpaw, _ = _image(plan)
        runs = abi if abi.runs and abi.simulates else newest(recording.platform)
        outcome = replay(recording, runs, recording.gpaw or gpaw, image)
        recorded.digest = outcome.digest
        recorded.register = planned.register if outcome.digest else ""
    if not abi.runs:
        return doubtful, None
    known = {"filled": settled.filled}
    memory = plan.guest.get("layout", MINIMAL) != MINIMAL
    return doubtful, compare_calls([*as_recorded(plan)], recording.calls, known, memory=memory)
