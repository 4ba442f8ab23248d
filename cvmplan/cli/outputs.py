"""Where the output of a verb goes."""

from __future__ import annotations

import os
from typing import Any

from cvmplan.core.errors import ConfigError
from cvmplan.core.files import is_same
from cvmplan.core.outputs import descriptor


def output_file(output: str | None) -> str | None:
    """Return the file that `output` names, None for standard output: "-", or its name in /dev."""
    return None if output in (None, "-") or descriptor(str(output)) == 1 else output


def check_output(output: str | None, given: list[Any]) -> None:
    """Raise ConfigError where the output is a file that is given elsewhere: it would be lost."""
    if output is None or output_file(output) is None or not os.path.isfile(output):
        return
    texts = [one for value in given for one in (value if isinstance(value, list) else [value])]
    texts.remove(output)
    if any(isinstance(one, str) and "\0" not in one and is_same(one, output) for one in texts):
        raise ConfigError(f"{output} is also read", at="--output", hint="give a different file")
