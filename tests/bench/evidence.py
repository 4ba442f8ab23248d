"""Evidence: a quote beside importing cryptography, a large log beside hashing its bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha384
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.eventlog.forms import read
from cvmplan.eventlog.rtmr import replayed
from tests.bench.programs import environment, output
from tests.bench.ratios import Benchmark, Sizes, alternate
from tests.build.eventlog import EFI_ACTION, Log, LogEvent
from tests.build.evidence import intel, td_quote

DATA: Final = 1024  # bytes of an event
TIMED: Final = """
import json, sys
from time import perf_counter
start = perf_counter()
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
imported = perf_counter()
import cvmplan
found = cvmplan.verify(sys.argv[1], pin=[sys.argv[2]], at="2026-01-01", pins={"mrtd": "00" * 48})
checked = perf_counter()
print(json.dumps([found.holds, imported - start, checked - imported]))
"""


def quote(sizes: Sizes) -> list[float]:
    """Open and check a quote in a new process, in which cryptography was imported before."""
    chain = intel()
    attributes, xfam = (1 << 28).to_bytes(8, "little"), b"\xe7" + bytes(7)
    with TemporaryDirectory() as folder:
        path = Path(folder, "quote")
        path.write_bytes(td_quote(chain, td_attributes=attributes, xfam=xfam))
        command = [sys.executable, "-c", TIMED, str(path), chain[-1].pin]
        ratios = []
        for _ in range(sizes.process_pairs + 1):
            holds, importing, checking = json.loads(output(command, environment(folder)))
            if not holds:
                raise RuntimeError("the quote of the benchmark does not hold")
            ratios.append(checking / importing)
        return ratios[1:]


def log(sizes: Sizes) -> list[float]:
    """Read and replay a log, and hash as many bytes."""
    events = [
        LogEvent(data=b"%08d" % n * (DATA // 8), type=EFI_ACTION, index=1 + n % 4)
        for n in range(sizes.log // DATA)
    ]
    blob = Blob("log", memoryview(Log(events).build()))
    return alternate(
        lambda: replayed(read(blob), {}), lambda: sha384(blob.data).digest(), sizes.log_pairs
    )


def log_memory(sizes: Sizes) -> list[float]:
    """Print a log as JSON, and take the memory that the program needs, in MiB."""
    events = [LogEvent(data=bytes(DATA), type=EFI_ACTION) for _ in range(sizes.log // DATA)]
    program = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout="
    program += "subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    with TemporaryDirectory() as folder:
        path = Path(folder, "log")
        path.write_bytes(Log(events).build())
        ours = [sys.executable, "-m", "cvmplan", "events", str(path), "--format", "json"]
        command = [sys.executable, "-c", program, *ours]
        told = [
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
            for _ in range(sizes.memory_runs)
        ]
        return [int(one) / 1024 for one in told]


BENCHMARKS = (
    Benchmark("quote", "opening and checking a quote / importing cryptography", quote, 1.5),
    Benchmark("log", "a log of {log}, replayed / hashed as a whole", log),
    Benchmark("log, memory", "a log of {log} as JSON", log_memory, 300, " MiB"),
)
