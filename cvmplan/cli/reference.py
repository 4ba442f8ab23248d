"""cvmplan reference."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Final, NamedTuple, Optional, TypeVar

import typer

from cvmplan import __version__
from cvmplan.cli import make_app
from cvmplan.cli.folder import Contents, write_folder
from cvmplan.cli.options import (
    Shared,
    option,
    output_file,
    with_options,
    write,
)
from cvmplan.cli.process import tell
from cvmplan.cli.progress import bar
from cvmplan.cli.sweep import Asked, Jobs, Quiet, axes, computed, read_axes
from cvmplan.cli.typed import Typed
from cvmplan.core import values
from cvmplan.core.errors import ConfigError
from cvmplan.core.platform import SNP
from cvmplan.core.processes import in_order
from cvmplan.core.values import Json, printable
from cvmplan.emit import REFERENCE
from cvmplan.planning.read import option as flag
from cvmplan.planning.read import read_value
from cvmplan.reference.targets import TARGETS, check
from cvmplan.reference.values import Reference, Value, Wanted, of_rows
from cvmplan.sweep import run

app = make_app()
T = TypeVar("T")
_STORED = re.compile(r"[A-Za-z0-9._/-]{1,4096}")  # trustee 78962cd, is_valid_key of LocalFs
MOST_VALUES = 1 << 16
WANTED: Final = {
    "name": ("NAME", "Name of the values (rvps, rego).  [assumed: that of Trustee's policy]"),
    "policy": ("BITS", f"Guest policy (go-sev-guest).  [assumed: {SNP.policy:#x}]"),
    "min_tcb": ("TCB", "Least reported TCB_VERSION (go-sev-guest)."),
    **{f"rtmr{n}": ("HEX", f"Accepted value of RTMR{n}.") for n in range(4)},
    "xfam": ("BITS", "Accepted XFAM of a TD."),
    "td_attributes": ("BITS", "Accepted ATTRIBUTES of a TD (go-tdx-guest)."),
}
"""What an image cannot say: metavar and help."""
FLAGS: Final = {
    "self_contained": "Write the values into the policy (rego).",
    "script": "Write an executable plug-in (coco).",
}


class Order(NamedTuple):
    """What is to be measured, and what is wanted beside it."""

    asked: Asked
    wanted: Wanted


def _options() -> Shared:
    shared = axes()
    for name, (metavar, text) in WANTED.items():
        shared[name] = (option(Optional[str], name, metavar, text), None)
    for name, text in FLAGS.items():
        shared[name] = (option(bool, name, "", text), False)
    return shared


def _order(typed: Typed) -> Order:
    """Return what was asked for; ConfigError names the option."""

    def read(name: str, reader: Callable[[Json], T]) -> T | None:
        written = typed.text(name)
        return None if written is None else read_value(reader, written, flag(name))

    bits = values.within(0, (1 << 64) - 1)
    wanted = Wanted(
        name=typed.text("name"),
        policy=read("policy", bits),
        min_tcb=read("min_tcb", bits),
        rtmrs=tuple(read(f"rtmr{n}", values.octets(48)) for n in range(4)),
        xfam=read("xfam", bits),
        td_attributes=read("td_attributes", bits),
        **{name: typed.flag(name) for name in FLAGS},
    )
    return Order(read_axes(typed), wanted)


To = Annotated[str, typer.Option("--to", metavar="TARGET", help=f"{', '.join(TARGETS)}.")]
Beside = Annotated[
    Optional[str],
    typer.Option("--provenance", metavar="FILE", help="Also write cvmplan.reference/1 here."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files in the folder.")]
OUTPUT = "Output file; the folder where a target has one file for each value."
Output = Annotated[Optional[str], typer.Option("--output", "-o", metavar="FILE", help=OUTPUT)]


@app.command()
@partial(with_options, shared=_options(), make=_order)
def reference(
    order: Order,
    to: To,
    provenance: Beside = None,
    jobs: Jobs = 1,
    quiet: Quiet = False,
    force: Force = False,
    output: Output = None,
) -> None:
    """
    Write reference values for a verifier.

    The values are those of all combinations of images and settings, as for 'cvmplan sweep'.
    Where one of them cannot be launched, nothing is written and all refusals are listed.
    """
    if to not in TARGETS:
        hint = f"choose from {', '.join(TARGETS)}"
        raise ConfigError(f"unknown target {to!r}", at="--to", hint=hint)
    printer = REFERENCE.printer(to)
    made = Reference(_values(order.asked, jobs, quiet=quiet), order.wanted, __version__)
    check(to, made)
    _warn(to, made)
    _write(printer.reference(made), output, force=force)
    if provenance is not None:
        (beside,) = REFERENCE.printer("predicate").reference(made)
        write(beside, provenance)


def _write(documents: list[str], output: str | None, *, force: bool) -> None:
    """Write one document, or one file for each into a folder; ConfigError, InputError."""
    if not documents[1:]:
        write(documents[0], output)
        return
    if output is None or output_file(output) is None:
        problem = f"{len(documents)} values are {len(documents)} files"
        raise ConfigError(problem, at="--output", hint="-o FOLDER")
    files = {f"{n:03}.textproto": Contents(one.encode()) for n, one in enumerate(documents, 1)}
    write_folder(output, files, force=force)


def _values(asked: Asked, jobs: int, *, quiet: bool) -> tuple[Value, ...]:
    """Measure every combination; ConfigError for too many, PlanError with all refusals."""
    total = sum(product.size for product in asked.products)
    if total > MOST_VALUES:
        raise ConfigError(f"{total} combinations, at most {MOST_VALUES} fit", at="IMAGE")
    parcels = run.parcels(asked.products, asked.files, lambda _, vcpus: vcpus)
    with ExitStack() as stack, bar("measuring", total, quiet=quiet) as advance:
        rows = []
        for found in in_order(computed(stack, parcels, None, jobs)):
            rows += found
            advance(len(found))
    return of_rows(rows)


def _warn(to: str, made: Reference) -> None:
    """Say what the reader will do with a name that it cannot store."""
    name = made.wanted.name
    if name is not None and not _STORED.fullmatch(name):
        told = printable(name)
        tell(f"warning: --name: {told}: Trustee's LocalFs storage takes letters, digits and ._/-")
    if "policy" in TARGETS[to].takes and made.wanted.policy is None:
        tell(f"assumed: --policy {SNP.policy:#x}")
