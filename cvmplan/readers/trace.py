"""Traces (cvmplan.trace/1), whole or as JSON Lines: the firmware commands of a launch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.core.places import spell
from cvmplan.core.platform import Platform, of_state
from cvmplan.documents import text
from cvmplan.readers.log_lines import BOM, lines

if TYPE_CHECKING:
    from cvmplan.documents.results import TraceCommand

SCHEMA: Final = re.compile(rb'"schema"\s*+:\s*+"cvmplan\.trace/')
LINE: Final = re.compile(rb'\A\s*+\{\s*+"step"\s*+:')
HEAD: Final = 1 << 16  # bytes in which the schema is looked for


def recognises(blob: Blob) -> bool:
    """Whether the text is a trace, or its first line is a command."""
    head = bytes(blob.data[:HEAD]).removeprefix(BOM)
    return LINE.match(head) is not None or SCHEMA.search(head) is not None


def read(blob: Blob) -> tuple[Platform, list[Any]]:
    """Return the platform and the commands of a trace; MalformedError."""
    if LINE.match(bytes(blob.data[:HEAD]).removeprefix(BOM)):
        commands = [*_lines(blob)]
        return _platform(blob, commands), commands
    document = text.validate(blob, text.parse(blob), "trace")
    if not document.platform.measured and any(step.digest for step in document.steps):
        problem = f"a digest, and {document.platform} guests have none"
        raise MalformedError(problem, at=blob.name)
    return document.platform, document.steps


def _lines(blob: Blob) -> Iterator[Any]:
    from pydantic import ValidationError

    from cvmplan.documents.fields import problems
    from cvmplan.documents.results import TraceCommand

    for number, line in lines(blob):
        at = f"{blob.name}:{number}"
        try:
            yield TraceCommand.model_validate(text.parse_line(line))
        except ValidationError as error:
            path, reason = problems(error)[0]
            where = f"{at}: {spell(path)}" if path else at
            raise MalformedError(reason, at=where) from None
        except (ValueError, RecursionError):
            raise MalformedError("not JSON, or a duplicate key", at=at) from None


def _platform(blob: Blob, commands: list[TraceCommand]) -> Platform:
    """Return the platform that has such commands."""
    names = {command.command for command in commands}
    found = [p for p in Platform if p.steps and any(n.startswith(p.steps) for n in names)]
    if not found:
        raise MalformedError("has no command of a launch", at=blob.name)
    alike = [p for p in found if p.steps == found[0].steps]
    return of_state(alike, vmsa="LAUNCH_UPDATE_VMSA" in names)
