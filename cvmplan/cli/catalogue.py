"""cvmplan catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, format_of, write
from cvmplan.core.errors import ConfigError
from cvmplan.emit import CATALOGUE

if TYPE_CHECKING:
    from cvmplan.catalogue.made import Made

app = make_app()
Format = Annotated[str, format_of(CATALOGUE)]
Words = Annotated[
    Optional[list[str]],
    typer.Argument(metavar="[NAME | add FILE]", help="Firmware to show, or a file to add."),
]
Catalogues = Annotated[
    Optional[list[str]],
    typer.Option(
        "--catalogue",
        metavar="FILE",
        help="Catalogue to read before the others (repeatable), or to add to.",
    ),
]
Name = Annotated[
    Optional[str],
    typer.Option("--name", metavar="NAME", help="Name of an added file.  [assumed: the file's]"),
]
Release = Annotated[
    Optional[str],
    typer.Option("--version", metavar="TEXT", help="Version of an added file."),
]
Where = Annotated[
    Optional[str],
    typer.Option("--source", metavar="TEXT", help="Where an added file can be had."),
]
ADD = "add"


@app.command()
def catalogue(
    words: Words = None,
    catalogues: Catalogues = None,
    name: Name = None,
    version: Release = None,
    source: Where = None,
    format: Format = "text",
    output: Output = None,
) -> None:
    """
    List firmware that is known by its digests, show one, or add a file.

    'explain' without IMAGE searches the catalogue, and catalogue:NAME can be an IMAGE on SNP.  The
    package has a catalogue; 'add' writes to the user's own, $XDG_DATA_HOME/cvmplan/firmware.json,
    or to --catalogue FILE.
    """
    from cvmplan.catalogue.known import find, load

    printer = CATALOGUE.printer(format)
    asked, paths = words or [], catalogues or []
    if asked[:1] == [ADD] and len(asked) == 2:
        made = _added(asked[1], paths, name, version or "", source or "")
        write(printer.firmware(made.firmware), output)
        return
    for option, value in (("name", name), ("version", version), ("source", source)):
        if value is not None:
            raise ConfigError("needs 'add FILE'", at=f"--{option}")
    if len(asked) > 1 or asked == [ADD]:
        hint = "cvmplan catalogue add FILE"
        raise ConfigError("expected NAME, or add FILE", at="catalogue", hint=hint)
    known = load(paths)
    if asked:
        write(printer.firmware(find(known, asked[0], asked[0]).firmware), output)
    else:
        write(printer.catalogue([one.firmware for one in known]), output)


def _added(path: str, paths: list[str], name: str | None, version: str, source: str) -> Made:
    """Add a file to the catalogue that is named, or the user's; say what it cannot be used for."""
    from cvmplan.catalogue.known import add
    from cvmplan.catalogue.made import Names, make, name_of
    from cvmplan.cli.process import tell
    from cvmplan.core.files import Files
    from cvmplan.core.values import printable

    if len(paths) > 1:
        raise ConfigError("can be given once with add", at="--catalogue")
    files = Files()
    blob = files.open(path, "image")
    made = make(blob, files.open, Names(name or name_of(path), version, source))
    add(made.firmware, paths[0] if paths else None)
    for platform, reason in made.left_out:
        tell(printable(f"not for {platform}: {reason}"))
    return made
