"""The checks of the map against the parsing that precedes them."""

from __future__ import annotations

import json
from random import Random

from cvmplan.blob import Blob
from cvmplan.gpamap import Limits, check_regions
from cvmplan.readers import manifest
from tests.bench.ratios import PAGE, Benchmark, Sizes, alternate

LIMITS = Limits(1 << 52, "the 52 bits of a physical address")


def many_regions(count: int) -> Blob:
    """A manifest of `count` one-page regions, every second page, in no order."""
    pages = list(range(0, 2 * count, 2))
    Random(count).shuffle(pages)  # noqa: S311 an order, not a secret
    regions = [{"gpa": hex(n * PAGE), "size": "0x1000", "type": "zero"} for n in pages]
    document = {
        "schema": manifest.SCHEMA,
        "platform": "snp",
        "memory": [{"gpa": "0x0", "size": hex(2 * count * PAGE)}],
        "required": [{"gpa": hex(n * PAGE), "size": "0x1000"} for n in pages[:100]],
        "regions": regions,
    }
    return Blob("manifest.json", memoryview(json.dumps(document).encode()))


def opener(path: str, role: str, beside: str | None = None) -> Blob:
    """Open nothing: the manifest names no file."""
    raise FileNotFoundError(path, role, beside)


def checks(sizes: Sizes) -> list[float]:
    """Check many regions, and parse the manifest that declares them."""
    blob = many_regions(sizes.regions)
    declared = manifest.read(blob, opener)
    regions, memory = declared.regions, declared.memory
    return alternate(
        lambda: check_regions(regions, LIMITS, memory),
        lambda: manifest.read(blob, opener),
        sizes.check_pairs,
    )


BENCHMARKS = (
    Benchmark("checks", "{regions} regions, about the time it takes to parse", checks, 1.0),
)
