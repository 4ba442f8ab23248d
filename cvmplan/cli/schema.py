"""cvmplan schema."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, write

app = make_app()
Name = Annotated[Optional[str], typer.Argument(metavar="[NAME]", help="Name of a document.")]


@app.command()
def schema(name: Name = None, output: Output = None) -> None:
    """Print the JSON Schema of a document, or list the documents."""
    from cvmplan import documents
    from cvmplan.emit.json import dumps

    if name is None:
        write("".join(f"{known}\n" for known in documents.DOCUMENTS), output)
    else:
        write(dumps(documents.schema(name)), output)
