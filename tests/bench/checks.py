"""The checks of the map against the parsing that precedes them."""

from __future__ import annotations

import json
from random import Random

from cvmplan.core.blob import Blob
from cvmplan.core.files import Files
from cvmplan.kvm import abi
from cvmplan.memory.gpamap import Limits, check_regions
from cvmplan.readers import calls, manifest
from cvmplan.simulator.simulate import simulate
from tests.bench.ratios import MIB, PAGE, Benchmark, Sizes, alternate
from tests.plans import guest, memory, plan, update

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


def checks(sizes: Sizes) -> list[float]:
    """Check many regions, and parse the manifest that declares them."""
    blob = many_regions(sizes.regions)
    declared = manifest.read(blob, Files().open)
    regions, ram = declared.regions, declared.memory
    return alternate(
        lambda: check_regions(regions, LIMITS, ram),
        lambda: manifest.read(blob, Files().open),
        sizes.check_pairs,
    )


def single_adds(count: int) -> Blob:
    """A plan of `count` adds of one page each."""
    adds = [update(n * PAGE, page_type="zero") for n in range(count)]
    held = memory(-(-count * PAGE // MIB) * MIB)
    return Blob("plan.json", memoryview(dumps(plan("snp", guest("snp", *adds, memory_ops=held)))))


def dumps(document: object) -> bytes:
    """Return a document as bytes."""
    return json.dumps(document).encode()


def simulation(sizes: Sizes) -> list[float]:
    """Simulate a plan of many single-page adds, and read it."""
    blob = single_adds(sizes.regions)
    read = calls.read(blob, Files().find)
    kernel = abi.find("kvm-6.11")
    return alternate(
        lambda: simulate(read.platform, kernel, read.calls, read.gpaw),
        lambda: calls.read(blob, Files().find),
        sizes.check_pairs,
    )


BENCHMARKS = (
    Benchmark("simulate", "{regions} single-page adds, about the time to read", simulation, 1.0),
    Benchmark("checks", "{regions} regions, about the time it takes to parse", checks, 1.0),
)
