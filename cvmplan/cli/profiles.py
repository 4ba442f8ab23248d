"""cvmplan profiles."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Format, Output, write

app = make_app()
Name = Annotated[Optional[str], typer.Argument(metavar="[NAME]", help="One profile, in full.")]


@app.command()
def profiles(name: Name = None, format: Format = "text", output: Output = None) -> None:
    """Print the VMM profiles that are built in, with sources and how sure each is."""
    from cvmplan.emit import emitter
    from cvmplan.profiles import find

    if name is None:
        write(emitter(format, "profiles").profiles(), output)
    else:
        write(emitter(format, "profile").profile(find(name)), output)
