"""cvmplan diff."""

from __future__ import annotations

import shlex
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import (
    Output,
    Shared,
    format_of,
    launch_options,
    request,
    with_options,
    write,
)
from cvmplan.cli.request import Request
from cvmplan.cli.typed import Typed
from cvmplan.core.errors import ConfigError
from cvmplan.emit import COMPARISON

if TYPE_CHECKING:
    pass

app = make_app()
Format = Annotated[str, format_of(COMPARISON)]
LAUNCH = "Image, plan, trace, recorded launch or event log; - reads stdin."
MORE = 'Options for this launch only, as one argument: "--vmm ec2 --vcpus 2".'


class Asked(NamedTuple):
    """A launch as it was asked for, and what stands behind --a or --b for it alone."""

    request: Request
    option: str
    own: str | None


def _shared() -> Shared:
    """Return the options: those of a launch hold for both."""
    options = launch_options()
    for name in ("path", "example", "jobs"):
        del options[name]
    paths: Shared = {
        n: (Annotated[str, typer.Argument(metavar=n.upper(), help=LAUNCH)], ...) for n in "ab"
    }
    more: Shared = {
        f"only_{n}": (
            Annotated[Optional[str], typer.Option(f"--{n}", metavar="OPTIONS", help=MORE)],
            None,
        )
        for n in "ab"
    }
    return paths | more | options


def _asked(typed: Typed) -> list[Asked]:
    """Return both launches."""
    own = {n: typed.text(f"only_{n}") for n in "ab"}
    paths = {n: typed.text(n) or "-" for n in "ab"}
    both = typed.without("a", "b", "only_a", "only_b")
    if list(paths.values()) == ["-", "-"]:
        raise ConfigError("only one of A and B can be stdin", at="-")
    found = []
    for n in "ab":
        chosen = _chosen(_options(own[n], f"--{n}", paths[n]))
        made = request(Typed({**both, **chosen, "path": paths[n], "example": None, "jobs": 1}))
        found.append(Asked(made, f"--{n}", own[n]))
    return found


def _options(written: str | None, at: str, path: str) -> Typed:
    """Return the options that are written for one launch alone; ConfigError."""
    try:
        words = shlex.split(written or "")
    except ValueError as error:
        raise ConfigError(str(error).lower(), at=at) from None
    found = Typed()
    one = make_app()
    one.command()(with_options(_nothing, launch_options(), found.update))
    command = typer.main.get_command(one)
    command.main([path, *words], prog_name=f"cvmplan diff {at}", standalone_mode=False)
    return found


def _nothing(made: None) -> None:
    del made


def _chosen(typed: Typed) -> Typed:
    """Return the options that were given."""
    return typed.only(*typed.given()).without("path", "jobs")


@app.command()
@partial(with_options, shared=_shared(), make=_asked)
def diff(asked: list[Asked], format: Format = "text", output: Output = None) -> None:
    """
    Compare two launches and print every difference; exit 1 if they differ.

    Options apply to both launches, --a and --b to one of them.  A plan, a trace or a recorded
    launch takes no options of its own.  Of two event logs of TDs, the first event of each
    register that differs is printed.
    """
    if _are_logs(asked):
        _diff_logs(asked, format, output)
        return
    from cvmplan.api.answers import compare_sides, side

    printer = COMPARISON.printer(format)
    images = [one.request.image for one in asked]
    a, b = (
        side(one.request, one.option if one.own else "", other)
        for one, other in zip(asked, reversed(images), strict=True)
    )
    found = compare_sides(a, b)
    write(printer.comparison(found), output)
    if found.differ:
        raise typer.Exit(1)


def _are_logs(asked: list[Asked]) -> bool:
    """Whether both are event logs of TDs."""
    from cvmplan.eventlog.forms import recognises

    return all(recognises(one.request.image) for one in asked)


def _diff_logs(asked: list[Asked], format: str, output: str | None) -> None:
    from cvmplan.emit import EVENTS
    from cvmplan.eventlog.difference import differences
    from cvmplan.eventlog.forms import read

    for one in asked:
        if [*one.request.options]:
            raise ConfigError("an event log takes no settings", at=one.request.image.name)
    a, b = (read(one.request.image) for one in asked)
    found = [*differences(a, b)]
    write(EVENTS.printer(format).log_differences(found), output)
    if found:
        raise typer.Exit(1)
