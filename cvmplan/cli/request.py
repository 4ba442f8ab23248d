"""What a verb was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cvmplan.cli import usual
from cvmplan.launch.documented import Said, document_settings
from cvmplan.planning import request as planning

if TYPE_CHECKING:
    from cvmplan.launch.model import Launch
    from cvmplan.operations.plan import Plan


@dataclass(frozen=True, slots=True)
class Request(planning.Request):
    """
    What was asked for, and how: quietly, and in how many processes.

    `marks`: the output itself marks the values that are usual; else they are said on stderr.
    """

    quiet: bool = False
    jobs: int = 1
    marks: bool = False

    def plan(self) -> Plan:
        """Return the plan as `planning.Request.plan`, and say what of it is usual."""
        made = planning.Request.plan(self)
        self._tell(made.assumed, made.places)
        return made

    def launch(self) -> Launch:
        """Return the launch as `planning.Request.launch`, and say what of it is usual."""
        made = planning.Request.launch(self)
        self._tell(document_settings(made.assumed), made.places)
        return made

    def _tell(self, assumed: Mapping[str, Said], places: Mapping[str, str]) -> None:
        if not self.marks:
            usual.tell_of_launch(assumed, places)
