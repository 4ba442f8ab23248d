"""
The JSON documents, as pydantic models: their shape, and the schemas made from it.

The only package that imports pydantic; each model is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from cvmplan.core.names import spelled, unknown

DOCUMENTS: Final = {
    "manifest": ("cvmplan.documents.manifest", "Manifest"),
    "plan": ("cvmplan.documents.plan", "PlanDocument"),
    "findings": ("cvmplan.documents.results", "Findings"),
    "measurement": ("cvmplan.documents.results", "MeasurementDocument"),
    "trace": ("cvmplan.documents.results", "Trace"),
    "map": ("cvmplan.documents.results", "Map"),
    "call": ("cvmplan.documents.calls", "CallLine"),
    "recorded": ("cvmplan.documents.recorded", "RecordedLine"),
    "recorded-calls": ("cvmplan.documents.recorded_call", "RecordedCallLine"),
    "simulation": ("cvmplan.documents.results", "SimulationDocument"),
    "diff": ("cvmplan.documents.diff", "DiffDocument"),
    "explanation": ("cvmplan.documents.explanation", "ExplanationDocument"),
    "matrix": ("cvmplan.documents.matrix", "Matrix"),
    "sweep": ("cvmplan.documents.matrix", "SweepLine"),
    "verification": ("cvmplan.documents.verification", "VerificationDocument"),
    "policy": ("cvmplan.documents.policy", "PolicyDocument"),
    "expect": ("cvmplan.documents.expect", "ExpectDocument"),
    "idblock": ("cvmplan.documents.identity", "IdBlockDocument"),
    "td-params": ("cvmplan.documents.td", "TdParamsDocument"),
    "td-info": ("cvmplan.documents.td", "TdInfoDocument"),
    "events": ("cvmplan.documents.events", "EventsDocument"),
    "log-diff": ("cvmplan.documents.events", "LogDiffDocument"),
    "rtmr": ("cvmplan.documents.rtmr", "RtmrDocument"),
    "launch-measure": ("cvmplan.documents.session", "LaunchMeasureDocument"),
    "session": ("cvmplan.documents.session", "SessionDocument"),
    "profile": ("cvmplan.documents.profile", "ProfileDocument"),
    "firmware": ("cvmplan.documents.firmware", "FirmwareDocument"),
    "reference": ("cvmplan.documents.reference", "ReferenceDocument"),
}


def model(name: str) -> Any:
    """Return the pydantic model of a document; ConfigError lists those that exist."""
    found = DOCUMENTS.get(spelled(name, DOCUMENTS))
    if found is None:
        raise unknown("document", name, DOCUMENTS)
    module, attribute = found
    return getattr(import_module(module), attribute)


def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a document; ConfigError lists those that exist."""
    made = model(name).model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
