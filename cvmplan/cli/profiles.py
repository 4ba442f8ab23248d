"""cvmplan profiles."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, format_of, write
from cvmplan.emit import PROFILE, PROFILES

app = make_app()
Format = Annotated[str, format_of(PROFILES)]
Name = Annotated[
    Optional[str], typer.Argument(metavar="[NAME]", help="Print this profile in full.")
]


@app.command()
def profiles(name: Name = None, format: Format = "text", output: Output = None) -> None:
    """List the built-in VMM profiles, or print one with its sources and their confidence."""
    from cvmplan.profiles import PROFILES as KNOWN
    from cvmplan.profiles import find

    if name is None:
        write(PROFILES.printer(format).profiles([*KNOWN.values()]), output)
    else:
        write(PROFILE.printer(format).profile(find(name)), output)
