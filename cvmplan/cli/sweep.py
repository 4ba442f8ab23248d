"""cvmplan sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Annotated, Any, NamedTuple, Optional

import typer

from cvmplan.cli import make_app, usual
from cvmplan.cli.options import (
    MOST_JOBS,
    Base,
    Example,
    NoDefaults,
    Shared,
    example_path,
    option,
    with_options,
    write,
)
from cvmplan.cli.outputs import check_output, output_file
from cvmplan.cli.progress import bar
from cvmplan.cli.typed import Typed
from cvmplan.core.errors import ConfigError, PlanError
from cvmplan.core.files import Files
from cvmplan.core.names import spelled, unknown
from cvmplan.core.outputs import whole_file
from cvmplan.core.processes import in_order
from cvmplan.emit import TABLE, VALUE
from cvmplan.launch.given import Given
from cvmplan.launch.settings import READ_WITH, SETTINGS
from cvmplan.planning.read import read_options
from cvmplan.sweep import matrix, run
from cvmplan.sweep.matrix import COMMAS, ORDER, Product
from cvmplan.sweep.rows import Row

app = make_app()
DATABASE = "sqlite"
MOST_ROWS = 1 << 16  # of a table
MOST_LINES = 16 << 20  # bytes of a file of command lines
_TOP = {
    "platform": ("NAME,…", "Platforms to launch on.  [assumed: the one that the image supports]"),
    "vmm": ("NAME|FILE,…", "VMM profiles; see 'cvmplan profiles'.  [assumed: qemu]"),
    "abi": ("NAME,…", "Kernel interfaces; see 'cvmplan abis'.  [assumed: map-memory]"),
    "vcpus": ("N,N-N,…", "Numbers or ranges of vCPUs.  [assumed: 1]"),
}
"""Settings that say more as a list: metavar and help."""


class Asked(NamedTuple):
    """What is to be measured, the files that it may name, and how descriptions are read."""

    products: list[Product]
    files: Callable[[], Files]
    reading: Given


def axes() -> Shared:
    """Return the options that may have several values."""
    kind = Optional[list[str]]
    images = Annotated[
        Optional[list[str]],
        typer.Argument(metavar="IMAGE…", help="Images as for 'cvmplan measure'."),
    ]
    shared: Shared = {"images": (images, None)}
    shared["example"] = (Example, None)
    shared["matrix"] = (
        option(Optional[str], "matrix", "FILE", "Document with all images and values."),
        None,
    )
    for name in dict.fromkeys((*_TOP, *ORDER)):
        metavar, text = _TOP.get(name) or (SETTINGS[name].metavar, SETTINGS[name].help)
        commas = name in COMMAS and name not in _TOP
        shared[name] = (option(kind, name, f"{metavar},…" if commas else metavar, text), None)
    text = "File with one kernel command line per line."
    shared["append_file"] = (option(kind, "append_file", "FILE", text), None)
    for name in READ_WITH:
        setting = SETTINGS[name]
        shared[name] = (option(Optional[str], name, setting.metavar, setting.help), None)
    shared["base"] = (Base, None)
    shared["no_defaults"] = (NoDefaults, False)
    outside = "Allow a manifest or matrix to name files outside its folder."
    shared["allow_outside"] = (option(bool, "allow_outside", "", outside), False)
    return shared


def read_axes(typed: Typed) -> Asked:
    """Return what is to be measured; ConfigError."""
    outside = typed.flag("allow_outside")
    files = partial(Files, allow_outside=outside, base=typed.text("base"))
    found = usual.read(files(), ignored=typed.flag("no_defaults"))
    usual.tell_of(found)
    reading = Given(usual=found) | read_options(typed.only(*READ_WITH))
    images, document, example = typed.texts("images"), typed.text("matrix"), typed.text("example")
    images += [example_path(example)] if example is not None else []
    lines = [line for path in typed.texts("append_file") for line in _lines(files(), path)]
    written = {name: several for name in (*ORDER, "vcpus") if (several := typed.texts(name))}
    if lines:
        written["append"] = [*written.get("append", ()), *lines]
    if document is None:
        if not images:
            raise ConfigError("missing IMAGE (or --matrix)", at="IMAGE")
        return Asked([matrix.read(images, written, files().open)], files, reading)
    if images or written:
        at = "IMAGE" if images else f"--{next(iter(written)).replace('_', '-')}"
        raise ConfigError("cannot be combined with --matrix", at=at)
    opened = files()
    return Asked(matrix.read_matrix(opened.open(document, "matrix"), opened), files, reading)


def _lines(files: Files, path: str) -> list[str]:
    """Return the command lines in a file; ConfigError where there is none."""
    blob = files.open(path, "append")
    if len(blob) > MOST_LINES:
        raise ConfigError(f"the file is larger than {MOST_LINES >> 20} MiB", at=path)
    text = bytes(blob.data).decode("utf-8", "surrogateescape")
    lines = text.removesuffix("\n").split("\n") if text else []
    if not lines:
        raise ConfigError("the file has no lines", at=path)
    return lines


Jobs = Annotated[
    int, typer.Option("--jobs", min=1, max=MOST_JOBS, metavar="N", help="Number of processes.")
]
Cluster = Annotated[
    Optional[str],
    typer.Option("--executor", metavar="dask://HOST:PORT", help="Dask cluster to use."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Do not show progress.")]
FORMATS = f"{VALUE.metavar}|{TABLE.metavar}|{DATABASE}"
Format = Annotated[str, typer.Option("--format", metavar=FORMATS, help="Output format.")]
FILE = "Output file (written atomically), or the database to fill."
Output = Annotated[Optional[str], typer.Option("--output", "-o", metavar="FILE", help=FILE)]


@app.command()
@partial(with_options, shared=axes(), make=read_axes)
def sweep(
    asked: Asked,
    jobs: Jobs = 1,
    executor: Cluster = None,
    quiet: Quiet = False,
    format: Format = "jsonl",
    output: Output = None,
) -> None:
    """
    Measure every combination of images and values.

    Options can be repeated; those marked with … also take commas.  The number of vCPUs varies
    fastest, then SEV_FEATURES, then the CPU.  A combination that cannot be launched has an
    error instead of a digest.  A database (sqlite) keeps each result with everything that its
    digest depends on, and a second run computes only what is missing.
    """
    if executor is not None and jobs != 1:
        raise ConfigError("cannot be combined with --executor", at="--jobs")
    chosen = _format(format)
    if chosen == DATABASE and (output == "" or output_file(output) is None):
        raise ConfigError("sqlite needs an output file", at="--format", hint="-o values.db")
    with ExitStack() as stack:
        tally = _Tally(sum(product.size for product in asked.products), quiet=quiet)
        if chosen == DATABASE:
            from cvmplan.sweep.store import Store

            store = stack.enter_context(Store(str(output)))
            parcels = run.parcels(asked.products, asked.files, store.missing, asked.reading)
            for _, rows in tally.of(computed(stack, parcels, executor, jobs)):
                store.put(rows)
            return
        if chosen in TABLE.modules:
            write(TABLE.printer(chosen).table(_rows(asked, tally, stack, executor, jobs)), output)
            return
        printer = VALUE.printer(chosen)
        parcels = run.parcels(asked.products, asked.files, lambda _, vcpus: vcpus, asked.reading)
        put: Callable[[str], Any] = partial(write, output=None)
        path = output_file(output)
        if path is not None:
            check_output(path)
            put = stack.enter_context(whole_file(path)).write
        put(printer.heading())
        for rows in in_order(tally.of(computed(stack, parcels, executor, jobs))):
            put("".join(map(printer.value, rows)))


def _format(written: str) -> str:
    """Return the name of a format; ConfigError."""
    known = FORMATS.split("|")
    found = spelled(written, known)
    if found not in known:
        raise unknown("format", written, known, "--format", of="a sweep")
    return found


def _rows(
    asked: Asked, tally: _Tally, stack: ExitStack, executor: str | None, jobs: int
) -> list[Row]:
    """Return all results; ConfigError for more than a table has."""
    if tally.total > MOST_ROWS:
        problem = f"{tally.total} combinations, a table has at most {MOST_ROWS}"
        raise ConfigError(problem, at="--format", hint=f"--format {VALUE.metavar}")
    parcels = run.parcels(asked.products, asked.files, lambda _, vcpus: vcpus, asked.reading)
    finished = in_order(tally.of(computed(stack, parcels, executor, jobs)))
    return [row for rows in finished for row in rows]


def computed(
    stack: ExitStack, parcels: Iterable[run.Parcel], executor: str | None, jobs: int
) -> Iterator[run.Finished]:
    """Compute `parcels` with a cluster, several processes of this machine, or here."""
    if executor is not None:
        from cvmplan.sweep.cluster import connected
        from cvmplan.sweep.pool import Pool

        return Pool(*stack.enter_context(connected(executor))).run(parcels)
    if jobs > 1:
        from cvmplan.sweep.pool import forked

        return stack.enter_context(closing(forked(parcels, jobs)))
    return run.serial(parcels)


class _Tally:
    """Counts results on their way, and shows how far they are on a terminal."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self.total, self._quiet = total, quiet

    def of(self, finished: Iterable[run.Finished]) -> Iterator[run.Finished]:
        """Yield what is finished; PlanError at the end where nothing could be launched."""
        failures: list[str] = []
        measured = 0
        with bar("measuring", self.total, quiet=self._quiet) as advance:
            for number, rows in finished:
                wrong = [str(row["error"]) for row in rows if row["error"]]
                failures += wrong[: 1 - len(failures)]
                measured += len(rows) - len(wrong)
                advance(len(rows))
                yield number, rows
        if failures and not measured:
            raise PlanError(f"no configuration can be launched; the first: {failures[0]}")
