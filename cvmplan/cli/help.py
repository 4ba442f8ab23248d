"""cvmplan help."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Annotated, Final, Optional

import typer

from cvmplan.cli import VERBS, main, make_app
from cvmplan.core.names import unknown

app = make_app()
FOLDER: Final = os.path.join(os.path.dirname(os.path.dirname(__file__)), "docs")
Topic = Annotated[
    Optional[str], typer.Argument(metavar="[TOPIC]", help="Name of a page or of a verb.")
]


@app.command("help")
def show_help(topic: Topic = None) -> None:
    """
    Print a page of the documentation, or list the pages.

    Examples: 'cvmplan help mismatch', 'cvmplan help manifest', 'cvmplan help measure'.
    'cvmplan help recording.bt' prints the script of a page as it is.
    """
    if topic is None:
        sys.stdout.write(list_topics())
        return
    name = topic.lower()
    if name in topics():
        sys.stdout.write(render(read_page(name)))
    elif name in scripts():
        sys.stdout.write(read_file(name))
    elif name in VERBS:
        raise typer.Exit(main([name, "--help"]))
    else:
        known = [*topics(), *scripts(), *VERBS]
        raise unknown("topic", topic, known, more="'cvmplan help' lists the pages")


def topics() -> list[str]:
    """Return the names of the pages, sorted."""
    return sorted(n.removesuffix(".md") for n in os.listdir(FOLDER) if n.endswith(".md"))


def scripts() -> list[str]:
    """Return the names of the scripts that pages describe, sorted."""
    return sorted(n for n in os.listdir(FOLDER) if n.endswith(".bt"))


def read_page(name: str) -> str:
    """Return the Markdown of a page."""
    return read_file(f"{name}.md")


def read_file(name: str) -> str:
    """Return a file of the documentation as it is."""
    with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
        return file.read()


def list_topics() -> str:
    """Return a line for each page: its name and its title."""
    names = topics()
    width = max(map(len, names))
    lines = (f"{n:{width}}  {read_page(n).partition(chr(10))[0].lstrip('# ')}\n" for n in names)
    return f"{''.join(lines)}\n'cvmplan help TOPIC' prints a page.\n"


def render(page: str) -> str:
    """Return a page as the terminal shows it, as wide as that is."""
    from rich.console import Console
    from rich.markdown import Markdown

    width = shutil.get_terminal_size((80, 24)).columns
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(Markdown(page, code_theme="bw"))
    if console.is_terminal:
        return captured.get()
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
