"""The answers of kernels that are kept here: JSON, compressed, by the kernel's name."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from cvmplan.host.cases import text
from cvmplan.host.compared import Answer

FILE: Final = Path(__file__).parent / "answers.json.xz"


class Kept(NamedTuple):
    """A kernel's release, the day it was asked, and its answers by case and line."""

    release: str
    date: str
    answers: Mapping[tuple[int, int], Answer]


@cache
def read() -> dict[str, Kept]:
    """Return the answers by kernel; ValueError where they are of other cases than there are now."""
    held = json.loads(lzma.decompress(FILE.read_bytes()))
    if held["cases"] != text():
        raise ValueError("the cases have changed since kernels were asked")
    return {
        name: Kept(release, date, {(r[0], r[1]): _answer(r[2:]) for r in rows})
        for name, (release, date, rows) in held["kernels"].items()
    }


def _answer(row: list[int]) -> Answer:
    ret, errno, gpa, size, last, at, rest, *pages = row
    return Answer(ret, errno, (gpa, size), (last, at, rest), (pages[0], pages[1], pages[2]))


def write(kernels: Mapping[str, Kept]) -> int:
    """Write the answers of kernels and return how many bytes they take."""
    rows = {
        name: (one.release, one.date, [[*key, *_flat(told)] for key, told in one.answers.items()])
        for name, one in sorted(kernels.items())
    }
    held = json.dumps({"cases": text(), "kernels": rows}, separators=(",", ":"))
    return FILE.write_bytes(lzma.compress(held.encode(), preset=9))


def _flat(answer: Answer) -> list[int]:
    return [answer.ret, answer.errno, *answer.left, *answer.last, *answer.pages]
