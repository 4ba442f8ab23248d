"""
Plan and measure confidential-VM launches.

    from cvmplan import measure, plan_image

    plan = plan_image("OVMF.fd", platform="snp", vmm="qemu", vcpus=4)
    print(measure(plan).digest.hex())

Functions take an image (a path, or bytes) and settings, and return records: `to_dict()` is the
JSON document that the verb prints.  `help(cvmplan.plan_image)` and the others have examples.
All errors are CvmplanErrors.  The names below are imported when they are used; importing the
package imports nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cvmplan.api.evidence import verify
    from cvmplan.api.request import (
        check,
        diff,
        explain,
        map_image,
        measure_pages,
        plan_image,
        report,
        simulate,
    )
    from cvmplan.comparison.found import Comparison, Difference
    from cvmplan.core.blob import Blob
    from cvmplan.core.errors import (
        ConfigError,
        CvmplanError,
        InputError,
        MalformedError,
        MapError,
        MismatchError,
        PlanError,
        TruncatedError,
        UnsupportedError,
    )
    from cvmplan.core.findings import Finding, Findings
    from cvmplan.core.platform import Platform
    from cvmplan.evidence.lines import Line
    from cvmplan.evidence.verify import Verification
    from cvmplan.explanation.answer import Change, Explanation
    from cvmplan.launch.settings import Settings
    from cvmplan.memory.gpamap import GpaMap
    from cvmplan.memory.owners import Owner, Owners
    from cvmplan.memory.regions import Region
    from cvmplan.operations.measure import Coverage, Measurement, measure
    from cvmplan.operations.plan import Op, Plan
    from cvmplan.planning.report import Report
    from cvmplan.profiles import Profile
    from cvmplan.simulator.answers import Answer, Result, Simulation
    from cvmplan.sweep import sweep_image
    from cvmplan.sweep.rows import Row

__version__ = "0.1.0"

_HOMES = {
    "Answer": "simulator.answers",
    "Blob": "core.blob",
    "Change": "explanation.answer",
    "Comparison": "comparison.found",
    "ConfigError": "core.errors",
    "Coverage": "operations.measure",
    "CvmplanError": "core.errors",
    "Difference": "comparison.found",
    "Explanation": "explanation.answer",
    "Finding": "core.findings",
    "Findings": "core.findings",
    "GpaMap": "memory.gpamap",
    "InputError": "core.errors",
    "Line": "evidence.lines",
    "MalformedError": "core.errors",
    "MapError": "core.errors",
    "Measurement": "operations.measure",
    "MismatchError": "core.errors",
    "Op": "operations.plan",
    "Owner": "memory.owners",
    "Owners": "memory.owners",
    "Plan": "operations.plan",
    "PlanError": "core.errors",
    "Platform": "core.platform",
    "Profile": "profiles",
    "Region": "memory.regions",
    "Report": "planning.report",
    "Result": "simulator.answers",
    "Row": "sweep.rows",
    "Settings": "launch.settings",
    "Simulation": "simulator.answers",
    "TruncatedError": "core.errors",
    "UnsupportedError": "core.errors",
    "Verification": "evidence.verify",
    "check": "api.request",
    "diff": "api.request",
    "explain": "api.request",
    "map_image": "api.request",
    "measure": "operations.measure",
    "measure_pages": "api.request",
    "plan_image": "api.request",
    "report": "api.request",
    "simulate": "api.request",
    "sweep_image": "sweep",
    "verify": "api.evidence",
}

__all__ = [
    "Answer",
    "Blob",
    "Change",
    "Comparison",
    "ConfigError",
    "Coverage",
    "CvmplanError",
    "Difference",
    "Explanation",
    "Finding",
    "Findings",
    "GpaMap",
    "InputError",
    "Line",
    "MalformedError",
    "MapError",
    "Measurement",
    "MismatchError",
    "Op",
    "Owner",
    "Owners",
    "Plan",
    "PlanError",
    "Platform",
    "Profile",
    "Region",
    "Report",
    "Result",
    "Row",
    "Settings",
    "Simulation",
    "TruncatedError",
    "UnsupportedError",
    "Verification",
    "check",
    "diff",
    "explain",
    "map_image",
    "measure",
    "measure_pages",
    "plan_image",
    "report",
    "simulate",
    "sweep_image",
    "verify",
]


if not TYPE_CHECKING:  # a type checker knows the names above, and refuses others

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
