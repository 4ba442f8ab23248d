"""
Measurements of many configurations: the product of what may vary, each launch measured once.

`matrix` says what varies, `rows` what a result is keyed by, `run` computes, `pool` has other
processes compute, `cluster` finds those of other machines, `store` keeps results in SQLite.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from itertools import chain
from typing import Any

from cvmplan.core.blob import Blob
from cvmplan.core.files import Files
from cvmplan.core.inputs import Input
from cvmplan.core.processes import in_order
from cvmplan.sweep import matrix, run
from cvmplan.sweep.pool import Pool
from cvmplan.sweep.rows import Row

NAME = "image"  # of one that is given as bytes


def sweep_image(
    image: str | os.PathLike[str] | bytes, /, *, executor: Executor | None = None, **lists: Any
) -> Iterator[Row]:
    """
    Yield the measurements of an image, a path or its bytes, with every combination of settings.

    Each of `lists` is one value or a list of values of a setting (`matrix.ORDER`, and `vcpus`,
    which takes ranges: "1-512").  Rows are dicts with the keys `rows.COLUMNS`, in the order of
    the lists, those of `vcpus` fastest; a launch that is refused has an `error` and no `digest`.
    `executor`: any; its processes get the image with their work.  ConfigError, InputError,
    UnsupportedError for what is no image or no setting.
    """
    path = NAME if isinstance(image, bytes) else os.fspath(image)

    def files() -> Files:
        made = Files()
        if isinstance(image, bytes):
            made.inputs[NAME] = Input("image", NAME, Blob(NAME, memoryview(image)))
        return made

    written = {n: list(v) if isinstance(v, list | tuple | range) else [v] for n, v in lists.items()}
    product = matrix.read([path], written, files().open)
    parcels = run.parcels([product], files, lambda _, vcpus: vcpus)
    finished = Pool(executor).run(parcels) if executor else run.serial(parcels)
    return chain.from_iterable(in_order(finished))
