"""What `launch-measure` and `session` answer, as text for people."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator

from cvmplan import __version__
from cvmplan.emit.lines import aligned, joined
from cvmplan.emit.text import input_lines
from cvmplan.operations.plan import Plan
from cvmplan.sev_session.answers import LaunchMeasure, SessionAnswer
from cvmplan.sev_session.session import Session


def launch_measure(answer: LaunchMeasure) -> str:
    """Return what the measurement depends on, but the TIK, and the measurement."""
    both = answer.measurement + answer.nonce
    rows = [
        ("LD (SHA-256)", answer.digest.hex()),
        ("MEASURE", answer.measurement.hex()),
        ("MEASURE, base64", b64encode(answer.measurement).decode()),
        ("MEASURE and MNONCE, base64", b64encode(both).decode()),
    ]
    return joined([f"cvmplan {__version__}", *_launch(answer), "", *aligned(rows)])


def _launch(answer: LaunchMeasure) -> Iterator[str]:
    rows = [
        ("api", f"{answer.api[0]}.{answer.api[1]}", "given"),
        ("build", str(answer.build), "given"),
        ("mnonce", answer.nonce.hex(), "given"),
    ]
    if answer.plan is None:
        platform = [("platform", answer.platform, "given")] if answer.platform else []
        yield from aligned([*platform, ("policy", hex(answer.policy), "given"), *rows])
        return
    yield from input_lines(answer.plan.inputs)
    yield from aligned([*_settings(answer.plan), *rows])
    warnings = [f for f in answer.plan.findings if f.severity == "warning"]
    for found in warnings:
        yield f"warning: {f'{found.at}: ' if found.at else ''}{found.text}"


def _settings(plan: Plan) -> Iterator[tuple[str, str, str]]:
    for word, chosen in (("given", plan.given), ("assumed", plan.assumed)):
        yield from ((name, str(value), word) for name, value in chosen.items())


def session(answer: SessionAnswer) -> str:
    """Return the session, and what was written or verified; none of its keys."""
    lines = [f"cvmplan {__version__}"]
    if answer.public:
        lines += input_lines([answer.public])
    lines += [f"policy  {answer.policy:#x}  given", "", *_session(answer.session), ""]
    if answer.checks:
        return joined([*lines, *(f"{check.name} OK" for check in answer.checks)])
    if answer.random:
        lines.append(f"random: {', '.join(answer.random)}")
    return joined([*lines, f"written to {answer.folder}: {', '.join(answer.files)}"])


def _session(made: Session) -> list[str]:
    names = ("nonce", "wrap_tk", "wrap_iv", "wrap_mac", "policy_mac")
    return aligned([(name.upper(), getattr(made, name).hex()) for name in names])
