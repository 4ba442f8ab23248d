"""cvmplan inspect."""

from __future__ import annotations

from cvmplan.cli import make_app
from cvmplan.cli.options import Example, Format, Image, Output, open_image, write

app = make_app()


@app.command()
def inspect(
    image: Image = None,
    example: Example = None,
    format: Format = "text",
    output: Output = None,
) -> None:
    """Print what the file declares: tables, sections, and where in the file they stand."""
    from cvmplan import readers
    from cvmplan.emit import emitter

    blob = open_image(image, example)
    _, reader = readers.recognise(blob)
    write(emitter(format, "inspect").inspect(reader.inspect(blob)), output)
