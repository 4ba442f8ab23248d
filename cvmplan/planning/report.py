"""What a reviewer reads about one launch, valid or not: all of it in one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cvmplan.calls.planned import Planned
from cvmplan.comparison.pages import owners_of_plan
from cvmplan.core.documented import as_page, summary
from cvmplan.core.errors import MapError, PlanError
from cvmplan.core.findings import Finding, has_errors
from cvmplan.core.inputs import Input
from cvmplan.core.mapped import confirm
from cvmplan.core.platform import Platform
from cvmplan.launch.documented import document_settings
from cvmplan.launch.model import Launch
from cvmplan.memory.owners import Owners, owners
from cvmplan.operations.measure import Measurement, broken_promises
from cvmplan.operations.plan import Plan
from cvmplan.planning import build
from cvmplan.planning.predicted import Predicted, predict_described
from cvmplan.planning.request import Request
from cvmplan.planning.source import open_source
from cvmplan.readers import recognise

if TYPE_CHECKING:
    from cvmplan.evidence.verify import Verification


class Report(NamedTuple):
    """
    One launch: its settings and inputs, who owns which pages, the findings and the plan.

    `made` is None where the launch is not legal; `problem` says why where no finding does.
    `uncovered` is what a launch description names and no measurement covers, `base` the folder
    of its files.  `verification` is what became of evidence, where that is given; `predicted` has
    the RTMRs of a TD whose launch is described.
    """

    name: str
    platform: Platform
    vmm: str
    abi: str
    inputs: tuple[Input, ...]
    given: Mapping[str, Any]
    assumed: Mapping[str, Any]
    places: Mapping[str, str]
    owners: Owners
    findings: tuple[Finding, ...]
    made: Planned | None = None
    problem: str = ""
    uncovered: tuple[str, ...] = ()
    base: str | None = None
    verification: Verification | None = None
    predicted: Predicted | None = None

    @property
    def holds(self) -> bool:
        """Whether this can be launched, and evidence that is given is of this launch."""
        return self.is_valid and (self.verification is None or self.verification.holds)

    @property
    def is_valid(self) -> bool:
        """Whether this can be launched."""
        return self.made is not None and not has_errors(self.findings)

    @property
    def launched(self) -> Callable[[], tuple[Plan, Measurement]] | None:
        """Return the plan and measurement for evidence; None without a measurement."""
        result = self.made.result if self.made is not None and self.is_valid else None
        if self.made is None or result is None:
            return None
        pair = self.made.plan, result
        return lambda: pair

    def to_html(self) -> str:
        """Return the page that the verb writes."""
        return as_page(self)

    def __repr__(self) -> str:
        wrong = sum(f.severity == "error" for f in self.findings)
        return summary("Report", image=self.name, platform=self.platform, errors=wrong)


def make_report(request: Request) -> Report:
    """
    Return the report about an image or a plan document.

    A launch that is not legal has one too.  Other errors as `Request.plan`.
    """
    recognised = recognise(request.image, request.options.text("platform"))
    if recognised[0] == "plan":
        plan = request.plan()
        return _judged(_of_plan(request, plan, owners_of_plan(plan)), plan)
    source = open_source(request.image, request.files.open, request.options, recognised)
    launch = build.launch_source(source, request.options, request.files.open)
    layout, found = build.findings(launch)
    owned = owners(layout.regions, found)
    inputs = tuple(request.files.inputs.values())
    report = _of_launch(request, launch, owned, inputs)
    report = report._replace(uncovered=tuple(source.declared.uncovered))
    if recognised[0] == "description" and launch.platform.secure_ept:
        told = predict_described(request.image, request.files.open, request.options)
        report = report._replace(predicted=told)
    try:
        plan = build.plan(launch, inputs)
    except MapError as error:
        return report._replace(findings=tuple(error.findings))
    except PlanError as error:
        return report._replace(problem=str(error))
    return _judged(report, plan)


def _of_launch(
    request: Request, launch: Launch, owned: Owners, inputs: tuple[Input, ...]
) -> Report:
    return Report(
        request.image.name, launch.platform, launch.profile.name, launch.abi.name, inputs,
        document_settings(launch.given), document_settings(launch.assumed), launch.places,
        owned, owned.findings, base=request.files.base,
    )  # fmt: skip


def _of_plan(request: Request, plan: Plan, owned: Owners) -> Report:
    return Report(
        request.image.name, plan.platform, plan.vmm, plan.abi, plan.inputs, plan.given,
        plan.assumed, plan.places, owned, plan.findings,
    )  # fmt: skip


def _judged(report: Report, plan: Plan) -> Report:
    """Return the report with what the plan measures, and what that adds to the findings."""
    made = Planned(plan)
    found = plan.findings
    try:
        result = made.result
    except PlanError as error:
        return report._replace(findings=found, problem=str(error))
    confirm(*(entry.blob.data for entry in plan.inputs))
    if result is not None:
        found += tuple(broken_promises(plan, result))
    return report._replace(findings=found, made=made)
