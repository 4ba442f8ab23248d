"""cvmplan abis."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Format, Output, write

app = make_app()
Name = Annotated[Optional[str], typer.Argument(metavar="[NAME]", help="One interface, in full.")]


@app.command()
def abis(name: Name = None, format: Format = "text", output: Output = None) -> None:
    """Print the kernel interfaces that are built in; with NAME its calls, facts and sources."""
    from cvmplan.emit import emitter
    from cvmplan.kvm.abi import find

    if name is None:
        write(emitter(format, "abis").abis(), output)
    else:
        write(emitter(format, "abi").abi(find(name, at="NAME")), output)
