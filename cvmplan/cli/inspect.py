"""cvmplan inspect."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Example, Image, Output, format_of, open_image, write
from cvmplan.core.blob import Blob
from cvmplan.core.errors import UnsupportedError
from cvmplan.emit import INSPECT
from cvmplan.images.inspection import Inspection

app = make_app()
MOST_HEAD = 1 << 16  # bytes in which a document of ours says what it is
Select = Annotated[
    Optional[str],
    typer.Option("--select", metavar="NAME", help="Which of several pieces of evidence."),
]
Format = Annotated[str, format_of(INSPECT)]


@app.command()
def inspect(
    image: Image = None,
    example: Example = None,
    select: Select = None,
    format: Format = "text",
    output: Output = None,
) -> None:
    """
    Print what a file declares: the tables and sections of an image with their file offsets.

    Of evidence (SNP report, TDX quote, TDREPORT, raw or wrapped) the fields and what they
    mean, and the certificates that come with it.  'cvmplan verify' judges it.
    """
    printer = INSPECT.printer(format)
    write(printer.inspect(_inspection(open_image(image, example), select)), output)


def _inspection(blob: Blob, select: str | None) -> Inspection:
    """Return what a file declares; a JSON document without a schema may be evidence."""
    from cvmplan import readers

    try:
        name, reader = readers.recognise(blob)
    except UnsupportedError:
        found = _evidence(blob, select)
        if found is None:
            raise
        return found
    if name == "manifest" and b'"schema"' not in bytes(blob.data[:MOST_HEAD]):
        found = _evidence(blob, select)
        if found is not None:
            return found
    shown: Inspection = reader.inspect(blob)
    return shown


def _evidence(blob: Blob, select: str | None) -> Inspection | None:
    from cvmplan.evidence import inspection

    return inspection.find(blob, select)
