"""
The options that several verbs share, made from the table of settings.

A verb is a function of a `Request` and its own options; `launch_verb` gives it all the
shared ones.  A page of options is data, not ten signatures.
"""

from __future__ import annotations

import functools
import inspect
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Optional, TypeAlias, TypeVar

import typer

from cvmplan import emit
from cvmplan.cli import COMPLETE, usual
from cvmplan.cli.outputs import check_output, output_file
from cvmplan.cli.process import CLOSED_PIPE, TICKER, discard, tell
from cvmplan.cli.request import Request
from cvmplan.cli.typed import Typed
from cvmplan.core import values
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, InputError
from cvmplan.core.files import EXAMPLES, Files
from cvmplan.core.mapped import confirm_all
from cvmplan.core.names import unknown
from cvmplan.core.outputs import whole_bytes, whole_file
from cvmplan.core.platform import Platform
from cvmplan.core.values import printable
from cvmplan.launch.given import Given
from cvmplan.launch.settings import SETTINGS, TOP, Kind
from cvmplan.planning import read
from cvmplan.planning.read import read_name, read_options
from cvmplan.planning.request import choose_vmm

T = TypeVar("T")
PLATFORM = "Platform to launch the image on.  [assumed: the one that it supports]"
JOBS = "Number of processes that hash page contents (SNP only)."
MOST_JOBS = 64
AT_ONCE = 1 << 18  # characters that are printed together


Image = Annotated[
    Optional[str],
    typer.Argument(
        metavar="IMAGE", help="Firmware, td-shim or IGVM image, manifest or plan; - reads stdin."
    ),
]
Example = Annotated[
    Optional[str],
    typer.Option(
        "--example", metavar="snp|tdx", help="Use a small built-in image instead of IMAGE."
    ),
]
Base = Annotated[
    Optional[str],
    typer.Option(
        "--base", metavar="DIR", help="Folder below which the files of a launch description lie."
    ),
]
NoDefaults = Annotated[
    bool,
    typer.Option("--no-defaults", help="Ignore cvmplan.toml and the variables CVMPLAN_*."),
]
Output = Annotated[
    Optional[str],
    typer.Option("--output", "-o", metavar="FILE", help="Output file (written atomically)."),
]


def format_of(output: emit.Output[Any], help: str = "Output format.") -> Any:
    """Return the option --format of a verb that prints `output`."""
    complete = completion("format", output.metavar)
    return typer.Option("--format", metavar=output.metavar, help=help, autocompletion=complete)


def option(kind: Any, name: str, metavar: str, text: str, *short: str) -> Any:
    """Return the annotation of the option `name`, of a `kind`."""
    names = (f"--{name.replace('_', '-')}", *short)
    complete = completion(name, metavar)
    made = typer.Option(*names, metavar=metavar or None, help=text, autocompletion=complete)
    return Annotated[kind, made]


def completion(name: str, metavar: str) -> Callable[[str], list[str]] | None:
    """Return what a shell is offered for the value of an option, None where none asks."""
    if COMPLETE not in os.environ:
        return None  # typer looks at each in turn, which takes milliseconds
    choices = [word for word in metavar.split("|") if word == word.lower()]

    def complete(incomplete: str) -> list[str]:
        known = read.NAMED.get(name, choices)
        return [one for one in known if one.startswith(incomplete)]

    return complete if name in read.NAMED or len(choices) > 1 else None


def launch_options() -> Shared:
    """Return the options of every verb that launches an image."""
    text = Optional[str]
    shared: Shared = {
        "path": (Image, None),
        "example": (Example, None),
        "platform": (
            option(text, "platform", "|".join(Platform), PLATFORM),
            None,
        ),
        "vmm": (
            option(
                text, "vmm", "NAME|FILE", "VMM profile; see 'cvmplan profiles'.  [assumed: qemu]"
            ),
            None,
        ),
        "abi": (
            option(
                text, "abi", "NAME", "Kernel interface; see 'cvmplan abis'.  [assumed: map-memory]"
            ),
            None,
        ),
    }
    for name, setting in SETTINGS.items():
        if setting.kind is Kind.FLAG:
            shared[name] = (option(bool, name, "", setting.help), False)
        else:
            kind = Optional[list[str]] if setting.kind is Kind.RANGES else text
            shared[name] = (option(kind, name, setting.metavar, setting.help), None)
    return shared | _around()


def _around() -> Shared:
    """Return what is asked beside the settings: files, progress, processes."""
    shared: Shared = {}
    shared["base"] = (Base, None)
    shared["no_defaults"] = (NoDefaults, False)
    shared["inputs"] = (
        option(
            Optional[list[str]],
            "inputs",
            "DIR",
            "Extra directory to search for a plan's inputs (repeatable).",
        ),
        None,
    )
    jobs = Annotated[int, typer.Option("--jobs", min=1, max=MOST_JOBS, metavar="N", help=JOBS)]
    shared["jobs"] = (jobs, 1)
    shared["quiet"] = (option(bool, "quiet", "", "Do not show progress."), False)
    shared["verbose"] = (
        option(bool, "verbose", "", "Print the files that are read to stderr."),
        False,
    )
    shared["allow_outside"] = (
        option(bool, "allow_outside", "", "Allow a manifest to name files outside its folder."),
        False,
    )
    return shared


Shared: TypeAlias = dict[str, tuple[Any, Any]]
"""Name to (annotation, default) of options."""


def launch_verb(function: Callable[..., None], path: Any = Image) -> Callable[..., None]:
    """
    Give `function(request, **own)` the shared options in place of `request`.

    `path` is the annotation of the argument that names the file.
    """
    return with_options(function, launch_options() | {"path": (path, None)}, request)


def with_options(
    function: Callable[..., None], shared: Shared, make: Callable[[Typed], T]
) -> Callable[..., None]:
    """Give `function(made, **own)` the options of `shared`: `make` makes of them what it gets."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    declared = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    own = {p.name: p.replace(kind=keyword) for p in declared}

    @functools.wraps(function)
    def verb(**values: Any) -> None:
        mine = {name: values.pop(name) for name in own}
        function(make(Typed(values)), **mine)

    signature = [
        inspect.Parameter(name, keyword, default=default, annotation=kind)
        for name, (kind, default) in shared.items()
    ]
    verb.__signature__ = inspect.Signature([*signature, *own.values()])  # type: ignore[attr-defined]  # read by typer
    verb.__annotations__ = {p.name: p.annotation for p in (*signature, *own.values())}
    return verb


def request(typed: Typed) -> Request:
    """Return what was asked for; ConfigError, InputError."""
    files, options = settings(typed)
    image = _open(files, typed.text("path"), typed.text("example"))
    jobs = typed.number("jobs") or 1
    return Request(image, choose_vmm(options, files.open), files, typed.flag("quiet"), jobs)


def settings(typed: Typed) -> tuple[Files, Given]:
    """Return what opens files, and the settings of a launch as they were given; ConfigError."""
    files = Files(
        allow_outside=typed.flag("allow_outside"),
        folders=tuple(typed.texts("inputs")),
        base=typed.text("base"),
        tell=_tell if typed.flag("verbose") else lambda _: None,
    )
    named = Given({n: read_name(n, v) for n in TOP if (v := typed.text(n)) is not None})
    given = named | read_options(typed.without(*TOP, *_NO_SETTINGS))
    return files, Given(usual=usual.read(files, ignored=typed.flag("no_defaults"))) | given


_NO_SETTINGS = (
    "path", "example", "base", "no_defaults", "inputs", "quiet", "verbose", "jobs", "allow_outside",
)  # fmt: skip


def digest_option(written: str) -> bytes:
    """
    Return the digest that --expect names, or that the file behind "@" holds; ConfigError.

    The file has the digest as text, or as 32 or 48 bytes.  InputError where it cannot be read.
    """
    if not written.startswith("@"):
        return _digest(written, "--expect")
    blob = Files().open(written[1:], "digest")
    data = bytes(blob.data[:MOST_DIGEST])
    if len(blob) in values.DIGESTS:
        return data
    return _digest(data.decode(errors="replace"), f"--expect {written}")


def _digest(written: str, at: str) -> bytes:
    try:
        return values.digest(written)
    except ValueError as error:
        raise ConfigError(str(error), at=at) from None


MOST_DIGEST = 4096  # bytes of a file that holds a digest


def _tell(message: str) -> None:
    """Say something on stderr, for --verbose."""
    tell(printable(message))


def _open(files: Files, path: str | None, example: str | None) -> Blob:
    if (path is None) == (example is None):
        problem = "IMAGE and --example" if path else "missing IMAGE (or --example)"
        raise ConfigError(problem, at="IMAGE", hint="try --example snp")
    if path is not None:
        return files.open(path, "image")
    return files.open(example_path(str(example)), "image")


def example_path(name: str) -> str:
    """Return what stands for the example `name` where a path may stand; ConfigError."""
    path = f"example:{name.lower()}"
    if path not in EXAMPLES:
        raise unknown("example", name, (one.partition(":")[2] for one in EXAMPLES), "--example")
    return path


def open_image(path: str | None, example: str | None) -> Blob:
    """Return the image that is named, or the example."""
    return _open(Files(), path, example)


def write(text: str | Iterable[str], output: str | None) -> None:
    """Print `text` or lines, or put them into the file `output`, whole or not at all."""
    lines = iter((text,) if isinstance(text, str) else text)
    path = output_file(output)
    if path is None:
        for piece in _pieces(lines):
            _print(piece)
        return
    check_output(path)
    with whole_file(path) as file:
        file.writelines(lines)


def _pieces(lines: Iterator[str]) -> Iterator[str]:
    """Yield what is printed together: some lines, or as many characters as `AT_ONCE`."""
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= AT_ONCE:
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)


def write_bytes(pieces: Iterable[bytes | memoryview], output: str | None) -> None:
    """Print bytes as they are, or put them into the file `output`, whole or not at all."""
    path = output_file(output)
    if path is None:
        for piece in pieces:
            _print(piece)
        return
    check_output(path)
    with whole_bytes(path) as file:
        file.writelines(pieces)


def _print(answer: str | bytes | memoryview) -> None:
    """Write `answer` to standard output; a reader that has gone ends the program quietly."""
    confirm_all()
    TICKER.stop()
    if sys.stdout is None:
        raise InputError("standard output is closed", at="-")
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        if isinstance(answer, str):
            sys.stdout.write(answer)
        else:
            sys.stdout.buffer.write(answer)
        sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout)  # the rest goes nowhere
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(CLOSED_PIPE) from None
        raise InputError(f"cannot write: {error.strerror}", at="standard output") from None
