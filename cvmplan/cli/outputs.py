"""Where the output of a verb goes."""

from __future__ import annotations

from cvmplan.core.errors import ConfigError
from cvmplan.core.files import was_read
from cvmplan.core.outputs import descriptor


def output_file(output: str | None) -> str | None:
    """Return the file that `output` names, None for standard output: "-", or its name in /dev."""
    return None if output in (None, "-") or descriptor(str(output)) == 1 else output


def check_output(path: str) -> None:
    """Raise ConfigError where the file `path` was read for the output: it would be lost."""
    if was_read(path):
        raise ConfigError(f"{path} is also read", at="--output", hint="give a different file")
