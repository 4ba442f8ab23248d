"""python -m cvmplan."""

from cvmplan.cli import entry

entry()
