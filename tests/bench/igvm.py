"""A large IGVM file: parsing it, the chain, and the hashing that several processes share."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from cvmplan.core.blob import Blob
from cvmplan.core.files import map_file
from tests.bench.folds import hash_pages
from tests.bench.programs import environment, peak_anonymous, script
from tests.bench.ratios import MIB, PAGE, Benchmark, Sizes, SkippedError, alternate

HEADERS, HEADER = 24, 32  # bytes before the variable headers, and of a page header
VMSA = 0xFFFFFFFFF000


def write_igvm(path: Path, pages: int) -> None:
    """Write an SNP file of `pages` pages with contents, one header each, and a VMSA."""
    platform = struct.pack("<IIIBBHQ", 1, 16, 1, 0, 2, 1, 0)
    policy = struct.pack("<IIQII", 0x101, 16, 0x30000, 1, 0)
    size = len(platform + policy) + pages * HEADER + HEADER
    data = HEADERS + size
    body = b"".join(
        struct.pack("<IIQIIIHH", 0x302, 24, (1 << 32) + n * PAGE, 1, data + n * PAGE, 0, 0, 0)
        for n in range(pages)
    )
    vmsa = struct.pack("<IIQIIHHI", 0x304, 20, VMSA, 1, data, 0, 0, 0)
    headers = platform + policy + body + vmsa
    fixed = struct.pack("<4sIIIII", b"IGVM", 1, HEADERS, size, data + pages * PAGE, 0)
    checksum = zlib.crc32(headers, zlib.crc32(fixed))
    random = Random(pages)  # noqa: S311 contents, not secrets
    with path.open("wb") as file:
        file.write(fixed[:20] + struct.pack("<I", checksum) + headers)
        for _ in range(0, pages * PAGE, MIB):
            file.write(random.randbytes(MIB))


def command(path: Path, jobs: int = 1) -> list[str]:
    """Return the command line that measures a file."""
    return [script("cvmplan"), "measure", str(path), "--bare", "--jobs", str(jobs)]


def contents(path: Path, pages: int) -> Blob:
    """Return the pages of a file that was written."""
    blob = map_file(str(path))
    return blob.slice(len(blob) - pages * PAGE, len(blob))


def igvm(sizes: Sizes) -> list[float]:
    """Start the program on a file and let it measure, against hashing the file's pages."""
    pages = sizes.igvm // PAGE
    with TemporaryDirectory() as folder:
        path = Path(folder, "big.igvm")
        write_igvm(path, pages)
        data = contents(path, pages).data
        env = environment(folder)
        return alternate(
            lambda: subprocess.run(command(path), check=True, capture_output=True, env=env),
            lambda: hash_pages(data),
            sizes.igvm_pairs,
        )


def jobs(sizes: Sizes) -> list[float]:
    """Measure with two processes and with one, which must agree."""
    if (os.cpu_count() or 1) < 2:
        raise SkippedError("one processor")
    with TemporaryDirectory() as folder:
        path = Path(folder, "big.igvm")
        write_igvm(path, sizes.igvm // PAGE)
        env = environment(folder)

        def run(number: int) -> bytes:
            done = subprocess.run(command(path, number), check=True, capture_output=True, env=env)
            return done.stdout

        if run(1) != run(2):
            raise RuntimeError("two processes and one disagree")
        return alternate(lambda: run(2), lambda: run(1), sizes.igvm_pairs)


def memory(sizes: Sizes) -> list[float]:
    """Return how much more memory a file of many pages takes than one of few, in MiB."""
    with TemporaryDirectory() as folder:
        small, big = Path(folder, "small.igvm"), Path(folder, "big.igvm")
        write_igvm(small, MIB // PAGE)
        write_igvm(big, sizes.igvm // PAGE)
        env = environment(folder)
        subprocess.run([sys.executable, "-c", ""], check=True, env=env)
        peak_anonymous(command(small), env)
        return [
            (peak_anonymous(command(big), env) - peak_anonymous(command(small), env)) / MIB
            for _ in range(sizes.memory_runs)
        ]


BENCHMARKS = (
    Benchmark("igvm", "{igvm} IGVM file, the whole program / bare hashing", igvm, 1.5),
    Benchmark("igvm, 2 jobs", "{igvm} IGVM file, two processes / one", jobs, 0.75),
    Benchmark("igvm, memory", "{igvm} IGVM file above one of 1 MiB", memory, 60, " MiB"),
)
