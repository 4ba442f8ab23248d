"""What a benchmark is, and how two things are compared on a machine that is not quiet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Final

PAGE: Final = 4096
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured: bytes, and how many times (pairs)."""

    fold: int = 256 * MIB
    fold_pairs: int = 7
    image: int = 4 * MIB
    image_pairs: int = 25
    process_pairs: int = 25
    sparse: int = 1024 * MIB
    memory_runs: int = 3
    regions: int = 100_000
    check_pairs: int = 5
    igvm: int = 512 * MIB
    igvm_pairs: int = 5
    big: int = 1024 * MIB
    big_pairs: int = 5
    vcpus: int = 512
    log: int = 59 * MIB
    log_pairs: int = 7

    def words(self) -> dict[str, str]:
        """Name the sizes as the table writes them."""
        spans = {n: getattr(self, n) for n in ("fold", "image", "sparse", "igvm", "big", "log")}
        counts = {"regions": f"{self.regions}", "digests": f"{32 * self.vcpus}"}
        return {n: f"{s // MIB} MiB" for n, s in spans.items()} | counts


FULL: Final = Sizes()
QUICK: Final = Sizes(
    fold=4 * MIB,
    fold_pairs=3,
    image_pairs=3,
    process_pairs=2,
    sparse=32 * MIB,
    memory_runs=1,
    regions=2000,
    check_pairs=3,
    igvm=16 * MIB,
    igvm_pairs=2,
    big=64 * MIB,
    big_pairs=2,
    vcpus=16,
    log=4 * MIB,
    log_pairs=2,
)


class SkippedError(Exception):
    """A benchmark cannot be run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """
    One row of the table; `compared` may name sizes in braces.

    `run` returns the figures: ratios, or MiB where that is the `unit`.  `goal` is what their
    median should not exceed, None where the row is for information only.
    """

    name: str
    compared: str
    run: Callable[[Sizes], list[float]]
    goal: float | None = None
    unit: str = ""

    def row(self, sizes: Sizes) -> tuple[str, ...]:
        """Run the benchmark and return name, what is compared, median, min, max, goal, verdict."""
        compared = self.compared.format(**sizes.words())
        goal = "-" if self.goal is None else f"{self.goal:.2f}{self.unit}"
        try:
            figures = self.run(sizes)
        except SkippedError as reason:
            return self.name, compared, "-", "-", "-", goal, f"skipped: {reason}"
        middle = median(figures)
        spread = tuple(f"{f:.2f}{self.unit}" for f in (middle, min(figures), max(figures)))
        verdict = "-" if self.goal is None else "met" if middle <= self.goal else "missed"
        return self.name, compared, *spread, goal, verdict


def seconds(action: Callable[[], object]) -> float:
    """Return how long `action` takes."""
    start = perf_counter()
    action()
    return perf_counter() - start


def alternate(
    ours: Callable[[], object], bare: Callable[[], object], pairs: int, inner: int = 1
) -> list[float]:
    """
    Return the ratio ours / bare of each of `pairs` pairs, the two done in turn.

    Both are done once before, untimed; `inner` times in a row where one time is too short.
    """
    ours()
    bare()
    ratios = []
    for _ in range(pairs):
        first = sum(seconds(ours) for _ in range(inner))
        ratios.append(first / sum(seconds(bare) for _ in range(inner)))
    return ratios
