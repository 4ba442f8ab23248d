"""cvmplan inspect."""

from __future__ import annotations

from typing import Annotated

from cvmplan.cli import make_app
from cvmplan.cli.options import Example, Image, Output, format_of, open_image, write
from cvmplan.emit import INSPECT

app = make_app()
Format = Annotated[str, format_of(INSPECT)]


@app.command()
def inspect(
    image: Image = None,
    example: Example = None,
    format: Format = "text",
    output: Output = None,
) -> None:
    """Print what a file declares: tables and sections with their file offsets."""
    from cvmplan import readers

    blob = open_image(image, example)
    _, reader = readers.recognise(blob)
    write(INSPECT.printer(format).inspect(reader.inspect(blob)), output)
