"""
Measurements of many configurations: the product of what may vary, each launch measured once.

`matrix` says what varies, `rows` what a result is keyed by, `run` computes, `pool` has other
processes compute, `cluster` finds those of other machines, `store` keeps results in SQLite.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from itertools import chain
from typing import TypeAlias, TypedDict, Unpack, cast

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError
from cvmplan.core.files import Files
from cvmplan.core.inputs import Input
from cvmplan.core.processes import in_order
from cvmplan.planning.request import naming_parameters
from cvmplan.profiles import Profile
from cvmplan.sweep import matrix, run
from cvmplan.sweep.pool import Pool
from cvmplan.sweep.rows import Row

NAME = "image"  # of one that is given as bytes
Several: TypeAlias = int | str | Profile | Sequence[int | str | Profile]
"""One value of a setting, or several; `vcpus` takes ranges as well ("1-512")."""


class Lists(TypedDict, total=False):
    """What may vary in a sweep: the values of each setting."""

    platform: Several
    vmm: Several
    abi: Several
    kernel: Several
    kernel_hash: Several
    initrd: Several
    initrd_hash: Several
    append: Several
    append_hash: Several
    firmware_digest: Several
    firmware_size: Several
    svsm: Several
    vars_size: Several
    reset_eip: Several
    c_bit: Several
    gpaw: Several
    page_order: Several
    pad: Several
    es_init: Several
    cpu: Several
    sev_features: Several
    vcpus: Several


def sweep_image(
    image: str | os.PathLike[str] | bytes,
    /,
    *,
    executor: Executor | None = None,
    **lists: Unpack[Lists],
) -> Iterator[Row]:
    """
    Yield the measurements of an image, a path or its bytes, with every combination of settings.

    Each of `lists` is one value or a list of values of a setting; `vcpus` also takes ranges
    ("1-512").  Rows are dicts with the keys `rows.COLUMNS`, in the order of the lists, with
    `vcpus` varying fastest; a launch that is refused has an `error` and no `digest`.
    `executor` is any `concurrent.futures.Executor`.  ConfigError for an unknown setting or a wrong
    value, InputError for a file that cannot be read, UnsupportedError if it is not an image.

    >>> from cvmplan import sweep_image
    >>> rows = sweep_image("example:snp", vcpus="1-2", cpu=["EPYC-Milan", "EPYC-Genoa"])
    >>> [(row["cpu"], row["vcpus"]) for row in rows][:3]
    [('EPYC-Milan', 1), ('EPYC-Milan', 2), ('EPYC-Genoa', 1)]
    """
    path = NAME if isinstance(image, bytes) else os.fspath(image)

    def files() -> Files:
        made = Files()
        if isinstance(image, bytes):
            made.inputs[NAME] = Input("image", NAME, Blob(NAME, memoryview(image)))
        return made

    with naming_parameters():
        written = {n: _listed(n, cast("Several", several)) for n, several in lists.items()}
        product = matrix.read([path], written, files().open)
    parcels = run.parcels([product], files, lambda _, vcpus: vcpus)
    finished = Pool(executor).run(parcels) if executor else run.serial(parcels)
    return chain.from_iterable(in_order(finished))


def _listed(name: str, several: Several) -> list[matrix.Piece]:
    """Return one value, or several, as a list; ConfigError for a value of a wrong type."""
    pieces = [*several] if isinstance(several, list | tuple | range) else [several]
    made = [piece for piece in pieces if isinstance(piece, int | str | Profile)]
    if len(made) < len(pieces):
        raise ConfigError(f"{str(several)[:60]!r} has the wrong type", at=name)
    return made
