"""
Output: for each thing that can be printed, the formats and the module of each.

`protocols` says what such a module has.  A format of an output is one module, and its line here;
mypy holds each module against the protocol of what it prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

from cvmplan.core.names import spelled, unknown

if TYPE_CHECKING:
    from cvmplan.emit import calls as _calls
    from cvmplan.emit import csv as _csv
    from cvmplan.emit import github as _github
    from cvmplan.emit import html as _html
    from cvmplan.emit import html_report as _html_report
    from cvmplan.emit import json as _json
    from cvmplan.emit import json_answers as _json_answers
    from cvmplan.emit import json_catalogue as _json_catalogue
    from cvmplan.emit import json_checks as _json_checks
    from cvmplan.emit import json_events as _json_events
    from cvmplan.emit import json_evidence as _json_evidence
    from cvmplan.emit import json_identity as _json_identity
    from cvmplan.emit import json_plan as _json_plan
    from cvmplan.emit import json_rtmr as _json_rtmr
    from cvmplan.emit import json_session as _json_session
    from cvmplan.emit import json_tables as _json_tables
    from cvmplan.emit import json_td as _json_td
    from cvmplan.emit import jsonl as _jsonl
    from cvmplan.emit import junit as _junit
    from cvmplan.emit import markdown as _markdown
    from cvmplan.emit import sarif as _sarif
    from cvmplan.emit import svg as _svg
    from cvmplan.emit import text as _text
    from cvmplan.emit import text_answers as _text_answers
    from cvmplan.emit import text_catalogue as _text_catalogue
    from cvmplan.emit import text_checks as _text_checks
    from cvmplan.emit import text_events as _text_events
    from cvmplan.emit import text_evidence as _text_evidence
    from cvmplan.emit import text_identity as _text_identity
    from cvmplan.emit import text_plan as _text_plan
    from cvmplan.emit import text_rtmr as _text_rtmr
    from cvmplan.emit import text_session as _text_session
    from cvmplan.emit import text_sweep as _text_sweep
    from cvmplan.emit import text_tables as _text_tables
    from cvmplan.emit import text_td as _text_td
    from cvmplan.emit.configs import kata as _kata
    from cvmplan.emit.configs import libvirt as _libvirt
    from cvmplan.emit.configs import qemu as _qemu
    from cvmplan.emit.protocols import (
        AbiPrinter,
        AbisPrinter,
        CataloguePrinter,
        ChecksPrinter,
        ComparisonPrinter,
        ConfigPrinter,
        CpusPrinter,
        EventsPrinter,
        ExplanationPrinter,
        IdentityPrinter,
        InspectPrinter,
        LaunchMeasurePrinter,
        MapPrinter,
        MeasurementPrinter,
        PlanPrinter,
        ProfilePrinter,
        ProfilesPrinter,
        ReferencePrinter,
        ReportPrinter,
        RtmrPrinter,
        RulesPrinter,
        SessionPrinter,
        SimulationPrinter,
        TablePrinter,
        TdInfoPrinter,
        TdParamsPrinter,
        TracePrinter,
        ValuePrinter,
        VerificationPrinter,
    )
    from cvmplan.emit.references import coco as _coco
    from cvmplan.emit.references import corim as _corim
    from cvmplan.emit.references import go_sev_guest as _go_sev_guest
    from cvmplan.emit.references import go_tdx_guest as _go_tdx_guest
    from cvmplan.emit.references import in_toto as _in_toto
    from cvmplan.emit.references import predicate as _predicate
    from cvmplan.emit.references import rego as _rego
    from cvmplan.emit.references import rvps as _rvps
    from cvmplan.emit.references import sev_snp_measure as _sev_snp_measure
    from cvmplan.emit.references import snpguest as _snpguest

P = TypeVar("P")


class Output(Generic[P]):
    """Something that can be printed: what it is called, and the module of each format."""

    def __init__(self, what: str, **modules: str) -> None:
        self.what = what
        self.modules: Mapping[str, str] = modules

    def printer(self, name: str) -> P:
        """Return what prints it in the format `name`; ConfigError where nothing does."""
        module = self.modules.get(spelled(name, self.modules))
        if module is None:
            raise unknown("format", name, self.modules, "--format", of=self.what)
        return cast("P", import_module(f"{__name__}.{module}"))

    @property
    def metavar(self) -> str:
        """The formats, as a page of help has them."""
        return "|".join(self.modules)


CHECKS: Final[Output[ChecksPrinter]] = Output(
    "checks",
    text="text_checks",
    json="json_checks",
    sarif="sarif",
    github="github",
    junit="junit",
    markdown="markdown",
)
MAP: Final[Output[MapPrinter]] = Output(
    "guest_map", text="text", json="json", svg="svg", html="html"
)
REPORT: Final[Output[ReportPrinter]] = Output("report", html="html_report")
INSPECT: Final[Output[InspectPrinter]] = Output("inspect", text="text", json="json")
PLAN: Final[Output[PlanPrinter]] = Output("plan", text="text_plan", json="json_plan", calls="calls")
TRACE: Final[Output[TracePrinter]] = Output(
    "trace", text="text_plan", json="json_plan", jsonl="jsonl"
)
MEASUREMENT: Final[Output[MeasurementPrinter]] = Output("measurement", text="text", json="json")
SIMULATION: Final[Output[SimulationPrinter]] = Output("simulation", text="text", json="json")
COMPARISON: Final[Output[ComparisonPrinter]] = Output(
    "comparison", text="text_answers", json="json_answers"
)
EXPLANATION: Final[Output[ExplanationPrinter]] = Output(
    "explanation", text="text_answers", json="json_answers"
)
VERIFICATION: Final[Output[VerificationPrinter]] = Output(
    "verification", text="text_evidence", json="json_evidence"
)
IDENTITY: Final[Output[IdentityPrinter]] = Output(
    "identity", text="text_identity", json="json_identity"
)
EVENTS: Final[Output[EventsPrinter]] = Output("events", text="text_events", json="json_events")
RTMR: Final[Output[RtmrPrinter]] = Output("rtmr", text="text_rtmr", json="json_rtmr")
LAUNCH_MEASURE: Final[Output[LaunchMeasurePrinter]] = Output(
    "launch_measure", text="text_session", json="json_session"
)
SESSION: Final[Output[SessionPrinter]] = Output("session", text="text_session", json="json_session")
TD_PARAMS: Final[Output[TdParamsPrinter]] = Output("td_params", text="text_td", json="json_td")
TD_INFO: Final[Output[TdInfoPrinter]] = Output("td_info", text="text_td", json="json_td")
PROFILES: Final[Output[ProfilesPrinter]] = Output(
    "profiles", text="text_tables", json="json_tables"
)
PROFILE: Final[Output[ProfilePrinter]] = Output("profile", text="text_tables", json="json_tables")
ABIS: Final[Output[AbisPrinter]] = Output("abis", text="text_tables", json="json_tables")
ABI: Final[Output[AbiPrinter]] = Output("abi", text="text_tables", json="json_tables")
CPUS: Final[Output[CpusPrinter]] = Output("cpus", text="text_tables", json="json_tables")
RULES: Final[Output[RulesPrinter]] = Output("rules", text="text_tables", json="json_tables")
CATALOGUE: Final[Output[CataloguePrinter]] = Output(
    "catalogue", text="text_catalogue", json="json_catalogue"
)
VALUE: Final[Output[ValuePrinter]] = Output("value", jsonl="jsonl", csv="csv")
REFERENCE: Final[Output[ReferencePrinter]] = Output(
    "reference",
    **{
        name: f"references.{name.replace('-', '_')}"
        for name in (
            "rvps", "coco", "corim", "rego", "go-sev-guest", "go-tdx-guest", "in-toto", "predicate",
            "snpguest", "sev-snp-measure",
        )
    },
)  # fmt: skip
TABLE: Final[Output[TablePrinter]] = Output("table", text="text_sweep")
CONFIG: Final[Output[ConfigPrinter]] = Output(
    "config", qemu="configs.qemu", libvirt="configs.libvirt", kata="configs.kata"
)
FORMATS: Final = frozenset(
    name for made in tuple(vars().values()) if isinstance(made, Output) for name in made.modules
)
"""Formats of any output."""

if TYPE_CHECKING:
    _CHECKS: tuple[ChecksPrinter, ...] = (
        _text_checks, _json_checks, _sarif, _github, _junit, _markdown,
    )  # fmt: skip
    _MAP: tuple[MapPrinter, ...] = (_text, _json, _svg, _html)
    _REPORT: tuple[ReportPrinter, ...] = (_html_report,)
    _INSPECT: tuple[InspectPrinter, ...] = (_text, _json)
    _PLAN: tuple[PlanPrinter, ...] = (_text_plan, _json_plan, _calls)
    _TRACE: tuple[TracePrinter, ...] = (_text_plan, _json_plan, _jsonl)
    _MEASUREMENT: tuple[MeasurementPrinter, ...] = (_text, _json)
    _SIMULATION: tuple[SimulationPrinter, ...] = (_text, _json)
    _COMPARISON: tuple[ComparisonPrinter, ...] = (_text_answers, _json_answers)
    _EXPLANATION: tuple[ExplanationPrinter, ...] = (_text_answers, _json_answers)
    _VERIFICATION: tuple[VerificationPrinter, ...] = (_text_evidence, _json_evidence)
    _IDENTITY: tuple[IdentityPrinter, ...] = (_text_identity, _json_identity)
    _EVENTS: tuple[EventsPrinter, ...] = (_text_events, _json_events)
    _RTMR: tuple[RtmrPrinter, ...] = (_text_rtmr, _json_rtmr)
    _LAUNCH_MEASURE: tuple[LaunchMeasurePrinter, ...] = (_text_session, _json_session)
    _SESSION: tuple[SessionPrinter, ...] = (_text_session, _json_session)
    _TD_PARAMS: tuple[TdParamsPrinter, ...] = (_text_td, _json_td)
    _TD_INFO: tuple[TdInfoPrinter, ...] = (_text_td, _json_td)
    _PROFILES: tuple[ProfilesPrinter, ...] = (_text_tables, _json_tables)
    _PROFILE: tuple[ProfilePrinter, ...] = (_text_tables, _json_tables)
    _ABIS: tuple[AbisPrinter, ...] = (_text_tables, _json_tables)
    _ABI: tuple[AbiPrinter, ...] = (_text_tables, _json_tables)
    _CPUS: tuple[CpusPrinter, ...] = (_text_tables, _json_tables)
    _RULES: tuple[RulesPrinter, ...] = (_text_tables, _json_tables)
    _CATALOGUE: tuple[CataloguePrinter, ...] = (_text_catalogue, _json_catalogue)
    _VALUE: tuple[ValuePrinter, ...] = (_jsonl, _csv)
    _TABLE: tuple[TablePrinter, ...] = (_text_sweep,)
    _CONFIG: tuple[ConfigPrinter, ...] = (_qemu, _libvirt, _kata)
    _REFERENCE: tuple[ReferencePrinter, ...] = (
        _coco,
        _corim,
        _go_sev_guest,
        _go_tdx_guest,
        _in_toto,
        _predicate,
        _rego,
        _rvps,
        _sev_snp_measure,
        _snpguest,
    )
