"""
The VBS boot digest, as a fold over the launch trace: one more chain, as `platforms.snp.digest` is.

Each page and each register replaces the digest by SHA-256(digest || chunk), and the digest
begins as zeros (microsoft/igvm e6c3ff1, igvm/src/measurement/vbs.rs: VpGpaPageChunk,
VbsRegisterChunk, create_record_entry).  A page counts with its number and how it may be used;
its contents count where it is measured, else 4096 zeros stand in for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import repeat
from struct import Struct

from cvmplan.core.platform import Platform
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import page_runs
from cvmplan.operations.measure import Coverage, Measurement
from cvmplan.operations.steps import Step, in_order
from cvmplan.platforms.vbs.steps import ORDER, ImportPages, ImportRegisters

HEADER = "<IIQ"  # bytes of the chunk, its type, reserved
PAGE_CHUNK = Struct(HEADER + "Q")  # metadata; page number and contents follow
PAGE_CHUNK_SIZE = PAGE_CHUNK.size + 8 + PAGE
REGISTER_CHUNK = Struct(HEADER + "4xB7xI16s")  # VTL, name, value; zeros before and between
VP_REGISTER, VP_GPA_PAGE = 0, 2  # chunk types
DATA_UNMEASURED = 1 << 2  # metadata, above the two bits of acceptance
ZERO_PAGE = bytes(PAGE)
BEGIN = bytes(32)


def measure(platform: Platform, trace: Iterable[Step]) -> Measurement:
    """Return the boot digest that the hypervisor will report; PlanError."""
    digest = BEGIN
    counts = dict.fromkeys(("contents", "host_filled", "vmsas"), 0)
    for step in in_order(trace, ORDER):
        if isinstance(step, ImportPages):
            digest = _after_pages(digest, step)
            counts["contents" if step.measured else "host_filled"] += step.size // PAGE
        elif isinstance(step, ImportRegisters):
            digest = _after_registers(digest, step)
            counts["vmsas"] += 1
    return Measurement(platform, "BOOT_DIGEST", "sha256", digest, Coverage(**counts))


def _after_pages(digest: bytes, step: ImportPages) -> bytes:
    metadata = step.acceptance | (0 if step.measured else DATA_UNMEASURED)
    head = PAGE_CHUNK.pack(PAGE_CHUNK_SIZE, VP_GPA_PAGE, 0, metadata)
    number = step.gpa // PAGE
    for page in _pages(step):
        link = sha256(digest + head + number.to_bytes(8, "little"))
        link.update(page)
        digest = link.digest()
        number += 1
    return digest


def _pages(step: ImportPages) -> Iterator[bytes | memoryview]:
    """Yield what is hashed for each page of a run; nothing is copied."""
    if not step.measured:
        yield from repeat(ZERO_PAGE, step.size // PAGE)
        return
    for view, count in page_runs(step.contents, step.size):
        if view is None:
            yield from repeat(ZERO_PAGE, count)
        else:
            yield from (view[at : at + PAGE] for at in range(0, len(view), PAGE))


def _after_registers(digest: bytes, step: ImportRegisters) -> bytes:
    for name, value in step.registers:
        chunk = REGISTER_CHUNK.pack(REGISTER_CHUNK.size, VP_REGISTER, 0, step.vtl, name, value)
        digest = sha256(digest + chunk).digest()
    return digest
