"""The JSON document of each answer, that of the verb which prints it, and its picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from cvmplan import emit
from cvmplan.calls.planned import Planned
from cvmplan.core.documented import Answer
from cvmplan.core.errors import UnsupportedError
from cvmplan.emit import html_pieces
from cvmplan.emit import json as json_documents
from cvmplan.operations.measure import Measurement, announced

if TYPE_CHECKING:
    from cvmplan.planning.report import Report


def _measurement(result: Measurement) -> str:
    if result.plan is None:
        raise UnsupportedError("a measurement of steps alone has no document", at="measurement")
    plan = announced(result.plan, result)
    return emit.MEASUREMENT.printer("json").measurement(plan, result)


PRINTERS: Final[Mapping[str, Callable[[Any], str]]] = {
    "Findings": json_documents.findings,
    "Owners": lambda one: emit.MAP.printer("json").guest_map(one),
    "Plan": lambda one: emit.PLAN.printer("json").plan(Planned(one)),
    "Measurement": _measurement,
    "Simulation": lambda one: emit.SIMULATION.printer("json").simulation(one),
    "Comparison": lambda one: emit.COMPARISON.printer("json").comparison(one),
    "Explanation": lambda one: emit.EXPLANATION.printer("json").explanation(one),
    "Verification": lambda one: "".join(emit.VERIFICATION.printer("json").verification(one)),
}
"""Name of the class of an answer to what writes its document."""


PICTURES: Final[Mapping[str, str]] = {"Owners": "owners", "Plan": "plan", "Comparison": "diff"}
"""Name of the class of an answer to the function that draws it."""


def picture(answer: Answer) -> str:
    """Return the picture of an answer, as a piece of HTML."""
    draw: Callable[[Any], str] = getattr(html_pieces, PICTURES[type(answer).__name__])
    return draw(answer)


def page(found: Report) -> str:
    """Return a report as one page of HTML."""
    return emit.REPORT.printer("html").report(found)


def document(answer: Answer) -> dict[str, Any]:
    """Return the document of an answer; errors as those of its verb."""
    made: dict[str, Any] = json.loads(PRINTERS[type(answer).__name__](answer))
    return made
