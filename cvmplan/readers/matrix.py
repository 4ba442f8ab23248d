"""Matrices of settings (cvmplan.matrix/1), in JSON, TOML or YAML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cvmplan.core.blob import Blob
from cvmplan.documents import text


def read(blob: Blob) -> Iterator[tuple[str, Sequence[str], dict[str, list[Any]]]]:
    """
    Yield (place, images, values of each setting as they are written) of each sweep.

    MalformedError where the document is wrong.
    """
    document = text.validate(blob, text.parse(blob), "matrix")
    for number, sweep in enumerate(document.sweeps):
        written = sweep.model_dump(exclude_none=True, exclude={"images"})
        lists = {n: v if isinstance(v, list) else [v] for n, v in written.items()}
        yield f"{blob.name}: sweeps[{number}]", sweep.images, lists
