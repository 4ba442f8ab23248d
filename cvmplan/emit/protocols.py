"""
What a module of an output has: one function, from a record to text.

A function returns the whole text, or yields its lines once nothing can go wrong any more:
nothing is printed before an error.  It computes nothing: digests come with the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cvmplan.boot.against import Difference
    from cvmplan.boot.node import Register
    from cvmplan.boot.template import Match
    from cvmplan.calls.planned import Planned
    from cvmplan.comparison.found import Comparison
    from cvmplan.core.findings import Rule
    from cvmplan.eventlog.difference import LogDifference
    from cvmplan.eventlog.rtmr import Replay
    from cvmplan.evidence.idblock import Shown
    from cvmplan.evidence.verify import Verification
    from cvmplan.explanation.answer import Explanation
    from cvmplan.images.inspection import Inspection
    from cvmplan.launch.configuration import Configuration
    from cvmplan.memory.owners import Owners
    from cvmplan.operations.checked import Checks
    from cvmplan.operations.measure import Measurement
    from cvmplan.operations.outcome import Trace
    from cvmplan.operations.plan import Plan
    from cvmplan.planning.report import Report
    from cvmplan.platforms.tdx.params import Described
    from cvmplan.platforms.tdx.report import Identity
    from cvmplan.profiles import Profile
    from cvmplan.profiles.cpus import Cpu
    from cvmplan.profiles.interfaces import Interface
    from cvmplan.readers.firmware import Firmware
    from cvmplan.reference.values import Reference
    from cvmplan.sev_session.answers import LaunchMeasure, SessionAnswer
    from cvmplan.simulator.answers import Simulation
    from cvmplan.sweep.rows import Row


class ChecksPrinter(Protocol):
    """Prints what `check` found."""

    def checks(self, made: Checks) -> str | Iterable[str]:
        """Return the findings about all files, or yield them."""


class MapPrinter(Protocol):
    """Prints who owns which pages."""

    def guest_map(self, owners: Owners) -> str:
        """Return the map."""


class ReportPrinter(Protocol):
    """Prints what a reviewer reads about a launch."""

    def report(self, found: Report) -> str:
        """Return the report."""


class InspectPrinter(Protocol):
    """Prints what a file declares."""

    def inspect(self, document: Inspection) -> str:
        """Return its tables."""


class PlanPrinter(Protocol):
    """Prints a plan."""

    def plan(self, made: Planned) -> str:
        """Return the plan."""


class TracePrinter(Protocol):
    """Prints the firmware commands of a plan."""

    def trace(self, made: Trace) -> str | Iterable[str]:
        """Return the commands, or yield them."""


class MeasurementPrinter(Protocol):
    """Prints a measurement and what it depends on."""

    def measurement(self, plan: Plan, result: Measurement) -> str:
        """Return the measurement."""


class SimulationPrinter(Protocol):
    """Prints what a kernel answers."""

    def simulation(self, outcome: Simulation) -> str:
        """Return the answers."""


class ComparisonPrinter(Protocol):
    """Prints where two launches part."""

    def comparison(self, found: Comparison) -> str:
        """Return the differences."""


class ExplanationPrinter(Protocol):
    """Prints which settings have a measurement."""

    def explanation(self, answer: Explanation) -> str:
        """Return the answer of the search."""


class VerificationPrinter(Protocol):
    """Prints evidence beside a plan."""

    def verification(self, found: Verification) -> str | Iterable[str]:
        """Return what was compared, or yield it."""


class IdentityPrinter(Protocol):
    """Prints an ID block."""

    def identity(self, shown: Shown) -> str:
        """Return the block, and what was written or checked."""


class EventsPrinter(Protocol):
    """Prints an event log."""

    def events(self, replay: Replay) -> str | Iterable[str]:
        """Return the events, and the registers that they lead to, or yield them."""

    def log_differences(self, found: Sequence[LogDifference]) -> str:
        """Return where two logs differ."""


class RtmrPrinter(Protocol):
    """Prints predicted events and registers."""

    def rtmr(
        self,
        matches: Sequence[Match],
        registers: Sequence[Register],
        differences: Sequence[Difference] | None = None,
    ) -> str:
        """Return the events, the registers, and how a log differs."""


class LaunchMeasurePrinter(Protocol):
    """Prints what SEV firmware answers to LAUNCH_MEASURE."""

    def launch_measure(self, answer: LaunchMeasure) -> str:
        """Return the measurement."""


class SessionPrinter(Protocol):
    """Prints a session with SEV firmware."""

    def session(self, answer: SessionAnswer) -> str:
        """Return the session, none of its keys."""


class TdParamsPrinter(Protocol):
    """Prints TD_PARAMS."""

    def td_params(self, answer: Described) -> str:
        """Return the fields and the findings."""


class TdInfoPrinter(Protocol):
    """Prints TDINFO."""

    def td_info(self, answer: Identity) -> str:
        """Return the fields, and TEE_INFO_HASH."""


class ProfilesPrinter(Protocol):
    """Prints the built-in profiles."""

    def profiles(self, known: Sequence[Profile]) -> str:
        """Return all of them."""


class ProfilePrinter(Protocol):
    """Prints one profile."""

    def profile(self, chosen: Profile) -> str:
        """Return it in full."""


class AbisPrinter(Protocol):
    """Prints the kernel interfaces."""

    def abis(self, known: Sequence[Interface]) -> str:
        """Return all of them."""


class AbiPrinter(Protocol):
    """Prints one kernel interface."""

    def abi(self, shown: Interface) -> str:
        """Return it in full."""


class CpusPrinter(Protocol):
    """Prints CPU models and processors with their signatures."""

    def cpus(self, known: Sequence[Cpu]) -> str:
        """Return the whole output."""


class RulesPrinter(Protocol):
    """Prints the catalogue of rules."""

    def rules(self, known: Mapping[str, Rule]) -> str:
        """Return all of them."""


class CataloguePrinter(Protocol):
    """Prints firmware that is known by its digests."""

    def catalogue(self, known: Sequence[Firmware]) -> str:
        """Return all of them."""

    def firmware(self, one: Firmware) -> str:
        """Return one in full."""


class ValuePrinter(Protocol):
    """Prints the results of a sweep, one a line."""

    def heading(self) -> str:
        """Return what comes before the first."""

    def value(self, row: Row) -> str:
        """Return one result."""


class TablePrinter(Protocol):
    """Prints the results of a sweep together."""

    def table(self, rows: Sequence[Row]) -> str:
        """Return all of them; there is at least one."""


class ReferencePrinter(Protocol):
    """Prints reference values for a verifier."""

    def reference(self, made: Reference) -> list[str] | list[bytes]:
        """Return the documents: one, or one for each value where there is room for one."""


class ConfigPrinter(Protocol):
    """Prints what makes a VMM do a launch."""

    def config(self, made: Configuration) -> str:
        """Return the configuration; UnsupportedError where its form has no room for one."""
