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
    with_options,
    write,
    write_bytes,
)
from cvmplan.cli.outputs import output_file
from cvmplan.cli.process import tell, tell_warnings
from cvmplan.cli.progress import bar
from cvmplan.cli.sweep import Asked, Jobs, Quiet, axes, computed, read_axes
from cvmplan.cli.typed import Typed
from cvmplan.core import values
from cvmplan.core.errors import ConfigError
from cvmplan.core.files import Files
from cvmplan.core.names import spelled, unknown
from cvmplan.core.platform import SNP
from cvmplan.core.processes import in_order
from cvmplan.core.values import Json, printable
from cvmplan.emit import REFERENCE
from cvmplan.planning.read import option as flag
from cvmplan.planning.read import read_value
from cvmplan.planning.source import open_source
from cvmplan.readers import recognise
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
    "svn": ("N", "Security version of a guest with this value (corim)."),
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
        svn=read("svn", bits),
        rtmrs=tuple(read(f"rtmr{n}", values.octets(48)) for n in range(4)),
        xfam=read("xfam", bits),
        td_attributes=read("td_attributes", bits),
        **{name: typed.flag(name) for name in FLAGS},
    )
    return Order(read_axes(typed), wanted)


Key = Annotated[
    Optional[str],
    typer.Option("--key", metavar="FILE", help="Private key that signs (corim): P-384 or RSA."),
]
Cert = Annotated[
    Optional[list[str]],
    typer.Option("--cert", metavar="FILE", help="Certificate of the key, then its issuers."),
]
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
    key: Key = None,
    cert: Cert = None,
    output: Output = None,
) -> None:
    """
    Write reference values for a verifier.

    The values are those of all combinations of images and settings, as for 'cvmplan sweep'.
    Where one of them cannot be launched, nothing is written and all refusals are listed.
    """
    to = spelled(to, TARGETS)
    if to not in TARGETS:
        raise unknown("target", to, TARGETS, "--to")
    signs = _signer(to, key, cert or [])
    printer = REFERENCE.printer(to)
    made = Reference(_values(order.asked, jobs, quiet=quiet), order.wanted, __version__)
    check(to, made)
    _warn(to, made)
    documents = printer.reference(made)
    _write([signs(one) for one in documents] if signs else documents, output, force=force)
    if provenance is not None:
        (beside,) = REFERENCE.printer("predicate").reference(made)
        _write_one(beside, provenance)


def _signer(to: str, key: str | None, certs: list[str]) -> Callable[[str | bytes], bytes] | None:
    """Return what signs a document, None where nothing is to be signed; ConfigError, InputError."""
    if key is None and not certs:
        return None
    if to not in SIGNED:
        raise ConfigError(f"{to} is not signed", at="--key" if key else "--cert")
    if key is None or not certs:
        problem = "missing: a signature needs the key and its certificate"
        raise ConfigError(problem, at="--cert" if key else "--key")
    from cvmplan.evidence import certificates, chains, cose

    files = Files()
    private = cose.private_key(files.open(key, "key"))
    found = certificates.read_given([files.open(path, "certificate") for path in certs])
    name = chains.common_name(found.certificates[0]) or found.certificates[0].subject

    def sign(document: str | bytes) -> bytes:
        data = document.encode() if isinstance(document, str) else document
        return cose.sign(data, private, found.certificates, name)

    return sign


SIGNED: Final = ("corim",)


def _write_one(document: str | bytes, output: str | None) -> None:
    if isinstance(document, str):
        write(document, output)
    else:
        write_bytes((document,), output)


def _write(
    documents: list[str] | list[bytes] | list[str | bytes], output: str | None, *, force: bool
) -> None:
    """Write one document, or one file for each into a folder; ConfigError, InputError."""
    if not documents[1:]:
        _write_one(documents[0], output)
        return
    if output is None or output_file(output) is None:
        problem = f"{len(documents)} values are {len(documents)} files"
        raise ConfigError(problem, at="--output", hint="-o FOLDER")
    texts = (one if isinstance(one, bytes) else one.encode() for one in documents)
    files = {f"{n:03}.textproto": Contents(one) for n, one in enumerate(texts, 1)}
    write_folder(output, files, force=force)


def _tell_of_descriptions(asked: Asked) -> None:
    """Tell what is found in the launch descriptions, which values have no room for."""
    files = asked.files()
    paths = (path for product in asked.products for path in product.images if path != "-")
    for path in dict.fromkeys(paths):
        image = files.open(path, "image")
        recognised = recognise(image)
        if recognised[0] == "description":
            source = open_source(image, files.open, asked.reading, recognised)
            named = any("cpu" in product.settings for product in asked.products)
            found = source.declared.findings
            tell_warnings(one for one in found if not (named and one.rule == "host-cpu"))


def _values(asked: Asked, jobs: int, *, quiet: bool) -> tuple[Value, ...]:
    """Measure every combination; ConfigError for too many, PlanError with all refusals."""
    _tell_of_descriptions(asked)
    total = sum(product.size for product in asked.products)
    if total > MOST_VALUES:
        raise ConfigError(f"{total} combinations, at most {MOST_VALUES} fit", at="IMAGE")
    parcels = run.parcels(asked.products, asked.files, lambda _, vcpus: vcpus, asked.reading)
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
