"""The options of a verb that takes several files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Optional

import typer

from cvmplan.cli.options import example_path, launch_options, settings, with_options
from cvmplan.cli.request import Request
from cvmplan.cli.typed import Typed
from cvmplan.core.errors import ConfigError
from cvmplan.planning.request import choose_vmm

Images = Annotated[
    Optional[list[str]],
    typer.Argument(
        metavar="FILE...", help="Images as of every verb, one or more; - reads stdin.",
        show_default=False,
    ),
]  # fmt: skip


def several_verb(function: Callable[..., None]) -> Callable[..., None]:
    """Give `function(asked, **own)` the options of a launch, and one or more files."""
    return with_options(function, launch_options() | {"path": (Images, None)}, several)


@dataclass(frozen=True, slots=True)
class Several:
    """The files that were named, and what returns the request for one of them."""

    names: tuple[str, ...]
    opened: Callable[[str], Request]


def several(typed: Typed) -> Several:
    """Return what was asked for of each file; ConfigError, InputError."""
    files, options = settings(typed)
    chosen = choose_vmm(options, files.open)
    named, example = typed.texts("path"), typed.text("example")
    if bool(named) == (example is not None):
        problem = "FILE and --example" if named else "missing FILE (or --example)"
        raise ConfigError(problem, at="FILE", hint="try --example snp")
    names = named or [example_path(str(example))]

    def opened(name: str) -> Request:
        mine = files.again()
        return Request(mine.open(name, "image"), chosen, mine)

    return Several(tuple(names), opened)
