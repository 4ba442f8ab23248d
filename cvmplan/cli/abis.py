"""cvmplan abis."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, format_of, write
from cvmplan.emit import ABI, ABIS

app = make_app()
Format = Annotated[str, format_of(ABIS)]
Name = Annotated[
    Optional[str], typer.Argument(metavar="[NAME]", help="Print this interface in full.")
]


@app.command()
def abis(name: Name = None, format: Format = "text", output: Output = None) -> None:
    """List the built-in kernel interfaces, or print one with its calls, facts and sources."""
    from cvmplan.kvm.abi import ABIS as KNOWN
    from cvmplan.kvm.abi import find
    from cvmplan.profiles.interfaces import interface

    if name is None:
        write(ABIS.printer(format).abis([*map(interface, KNOWN.values())]), output)
    else:
        write(ABI.printer(format).abi(interface(find(name, at="NAME"))), output)
