"""Run every benchmark and print one row for each: python -m tests.bench [--quick]."""

from __future__ import annotations

from argparse import ArgumentParser

from tests.bench import checks, evidence, folds, igvm, programs, search
from tests.bench.ratios import FULL, QUICK

BENCHMARKS = (
    *folds.BENCHMARKS,
    *programs.BENCHMARKS,
    *checks.BENCHMARKS,
    *igvm.BENCHMARKS,
    *search.BENCHMARKS,
    *evidence.BENCHMARKS,
)
HEAD = ("name", "what is compared", "median", "min", "max", "goal", "verdict")


def main() -> None:
    """Print the table, each row as soon as it is known."""
    parser = ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, means little")
    sizes = QUICK if parser.parse_args().quick else FULL
    first = max(len(b.name) for b in BENCHMARKS)
    second = max(len(b.compared.format(**sizes.words())) for b in BENCHMARKS)

    def show(name: str, compared: str, *rest: str) -> None:
        figures = "".join(f"{figure:>12}" for figure in rest[:-1])
        print(f"{name:{first}}  {compared:{second}}{figures}  {rest[-1]}", flush=True)

    show(*HEAD)
    for benchmark in BENCHMARKS:
        show(*benchmark.row(sizes))


if __name__ == "__main__":
    main()
