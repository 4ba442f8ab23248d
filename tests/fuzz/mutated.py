"""Decoders of evidence on inputs that are changed at random: bits, bytes, lengths, splices."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from random import Random
from typing import Any, Final

import cvmplan
from cvmplan.core.blob import Blob
from cvmplan.core.errors import CvmplanError
from cvmplan.core.platform import Platform
from cvmplan.eventlog import forms, rtmr
from cvmplan.evidence import (
    certificates,
    collateral,
    cose,
    evidence,
    inspection,
    policy,
    revocation,
    wrappers,
)
from cvmplan.readers import expect
from cvmplan.reference import read as references
from tests.build import eventlog, intel
from tests.build import evidence as made
from tests.forgeries import Quoted, Report
from tests.fuzz.corpus import inputs
from tests.fuzz.harness import taken_off

LARGEST: Final = 1 << 16  # bytes of a seed
ODD: Final = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\0\0\0\0", b"{", b'"', b"-")
MEMORY: Final = 300 << 20  # bytes that no input may cost
Reader = Callable[[Blob], object]


def replayed(blob: Blob) -> object:
    return rtmr.replayed(forms.read(blob), {})


def everything(blob: Blob) -> object:
    return evidence.read(blob, trailing=True)


def judged(blob: Blob) -> object:
    return cvmplan.verify(bytes(blob.data), at="2026-01-01", ignore_trailing=True)


READERS: Final[dict[str, Reader]] = {
    **{f"wrapper-{one.name}": partial(taken_off, one) for one in wrappers.DECODERS},
    "evidence": everything,
    "inspection": inspection.find,
    "verify": judged,
    "certificates": certificates.read,
    "revocations": revocation.read,
    "collateral": lambda blob: collateral.read([blob]),
    "policy": lambda blob: policy.from_file(Platform.SNP, blob),
    "expect": expect.read,
    "events": replayed,
    "references": references.read,
    "cose": cose.read,
}
"""What takes evidence, or what it is judged with, from outside."""

EVENTS: Final = [
    {"imr": 3, "event_type": 0x08000001, "digest": b"\1" * 48, "event": "a", "event_payload": b"b"}
]


@cache
def seeds(name: str) -> list[bytes]:
    """The inputs that a reader reads whole, made and of hardware, those of others at last."""
    found = {n: d for n, d in inputs().items() if len(d) <= LARGEST}
    report, quote = Report().build()[0], Quoted().build()[0]
    document = intel.Published().document()
    own: dict[str, list[bytes]] = {
        "wrapper-dstack 0": [made.dstack_0(quote, EVENTS)],
        "wrapper-dstack 1": [made.dstack_1(quote, EVENTS, numbers=False)],
        "wrapper-extended report": [report],
        "wrapper-MSG_REPORT_RSP": [bytes(4) + (1184).to_bytes(4, "little") + bytes(24) + report],
        "revocations": [intel.revocations(intel.authority()[1], [1, 2, 3])],
        "collateral": [json.dumps(document).encode()],
        "policy": [
            b'schema = "cvmplan.policy/1"\n[snp]\nvmpl = 0\nmin_tcb = {snp = 1, tee = 0}\n',
            b'{"schema": "cvmplan.policy/1", "snp": {"policy": "0x30000", "min_version": "1.55"}}',
        ],
        "expect": [
            b'{"schema": "cvmplan.expect/1", "launches": [{"image": "a.fd", "settings": '
            b'{"vcpus": 2, "cpu": "EPYC"}, "registers": {"MEASUREMENT": "' + b"00" * 48 + b'"}}]}',
            b'schema = "cvmplan.expect/1"\n[[launches]]\n[launches.registers]\nMRTD = "'
            + b"ab" * 48
            + b'"\n',
        ],
        "events": [eventlog.Log().build()],
    }
    kept = list(own.get(name, []))
    for data in found.values():
        try:
            if READERS[name](Blob("seed", memoryview(data))):
                kept.append(data)
        except CvmplanError:
            continue
    return kept or [report, quote]


def mutate(random: Random, pool: list[bytes]) -> bytes:
    """Return one input, changed in one to four places."""
    data = bytearray(random.choice(pool))
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        what = random.randrange(7)
        if what == 0 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif what == 1:
            odd = random.choice(ODD)
            data[at : at + len(odd)] = odd
        elif what == 2:
            del data[at:]
        elif what == 3:
            del data[at : at + random.randrange(64)]
        elif what == 4:
            part = data[at : at + random.randrange(256)]
            data[at:at] = part * random.randint(1, 3)
        elif what == 5:
            other = random.choice(pool)
            data[at:] = other[random.randrange(len(other) + 1) :]
        else:
            data[at : at + 4] = random.randbytes(4)
        if not data:
            data = bytearray(b"\0")
    return bytes(data[: 2 * LARGEST])


def wrong(name: str, cases: int | None = None, seconds: float = 0) -> Iterator[str]:
    """Yield what a reader does wrong, over so many cases, or for so long; then how many it saw."""
    random, pool = Random(name), seeds(name)  # noqa: S311 a sample, not a secret
    begun, number = time.monotonic(), 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while number < cases if cases is not None else time.monotonic() - begun < seconds:
        number += 1
        data = mutate(random, pool)
        start = time.process_time()
        try:
            READERS[name](Blob("input", memoryview(data)))
        except CvmplanError as error:
            if "\n" in str(error):
                yield f"{name}: an error of several lines: {str(error)[:200]!r}"
        except Exception as error:  # noqa: BLE001 this is what is looked for
            yield f"{name}: {type(error).__name__}: {str(error)[:200]}, of {data[:64].hex()}…"
        if time.process_time() - start > 2:
            yield f"{name}: {time.process_time() - start:.1f} s for {len(data)} bytes"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > MEMORY >> 10:
        yield f"{name}: {grown >> 10} MiB more"
    COUNTED[name] = number


COUNTED: Final[dict[str, Any]] = {}
"""Reader by name to the cases that it was last given."""
