"""
MRTD, as a fold over the launch trace: the shape of `snp.digest`, another chain.

One running SHA-384, fed a 128-byte block for each TDH.MEM.PAGE.ADD, and one such block
plus 256 bytes of contents for each TDH.MR.EXTEND (Intel TDX Module ABI specification, the
leaves of those names: "Extend TDCS.MRTD"; intel/tdx-module 72d8cff, tdh_mem_page_add.c,
tdh_mr_extend.c).  The stream is serial, so the next batch of blocks is built while a
thread hashes the last one, which OpenSSL does without the interpreter's lock.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from hashlib import sha384
from struct import Struct
from threading import Thread

from cvmplan.contents import byte_string, page_runs, part
from cvmplan.order import PAGE, Step, in_order
from cvmplan.plan import Coverage, Measurement
from cvmplan.tdx.steps import CHUNK, ORDER, MemPageAdd, MemPageAddExtend, MrExtend

BLOCK = Struct("<16sQ104x")  # leaf name, GPA, zeros
ADD, EXTEND = b"MEM.PAGE.ADD", b"MR.EXTEND"
BATCH = 256  # pages in one buffer: 1.5 MiB
CHUNKS = PAGE // CHUNK


def measure(platform: str, trace: Iterable[Step]) -> Measurement:
    """Return TDCS.MRTD as TDH.MR.FINALIZE will leave it; PlanError."""
    stream = _Stream()
    added = extended = 0
    for step in in_order(trace, ORDER):
        if isinstance(step, MemPageAdd | MemPageAddExtend):
            added += step.size // PAGE
        if isinstance(step, MrExtend | MemPageAddExtend):
            extended += step.size // PAGE
        stream.feed(step)
    coverage = Coverage(contents=extended, host_filled=added - extended)
    return Measurement(platform, "MRTD", "sha384", stream.close(), coverage)


class _Stream:
    """The running hash, and at most one batch that a thread is hashing."""

    def __init__(self) -> None:
        self._digest = sha384()
        self._thread: Thread | None = None
        self._blocks: dict[type[Step], _Blocks] = {}

    def feed(self, step: Step) -> None:
        """Hash what `step` adds to the stream."""
        if not isinstance(step, MemPageAdd | MemPageAddExtend | MrExtend):
            return
        if isinstance(step, MrExtend) and (step.gpa % PAGE or step.size % PAGE):
            self._update(_chunks(step))
            return
        kind = type(step)
        if kind not in self._blocks:
            self._blocks[kind] = _Blocks(add=kind is not MrExtend, extend=kind is not MemPageAdd)
        for buffer in self._blocks[kind].fill(step):
            self._update(buffer)

    def _update(self, buffer: bytes | memoryview) -> None:
        """Hash `buffer` once the batch before is done; the caller may go on meanwhile."""
        self._wait()
        if len(buffer) < 1 << 16:
            self._digest.update(buffer)
        else:
            self._thread = Thread(target=self._digest.update, args=(buffer,))
            self._thread.start()

    def _wait(self) -> None:
        if self._thread:
            self._thread.join()
            self._thread = None

    def close(self) -> bytes:
        """Return the 48-byte digest."""
        self._wait()
        return self._digest.digest()


def _chunks(step: MrExtend) -> bytes:
    """Return the stream of an extend that does not cover whole pages."""
    chunks = (
        BLOCK.pack(EXTEND, step.gpa + at) + byte_string(part(step.contents, at, CHUNK), CHUNK)
        for at in range(0, step.size, CHUNK)
    )
    return b"".join(chunks)


class _Blocks:
    """
    Two buffers of one kind of page run, filled in turn: while one is hashed, build the other.

    A page is its add block, its 16 extend blocks each followed by 256 bytes of contents,
    or both; only addresses and contents change from batch to batch.
    """

    def __init__(self, *, add: bool, extend: bool) -> None:
        page = (BLOCK.pack(ADD, 0) if add else b"") + (
            CHUNKS * (BLOCK.pack(EXTEND, 0) + bytes(CHUNK)) if extend else b""
        )
        self._stride = len(page)
        self._template = page * BATCH
        self._buffers = [bytearray(self._template), bytearray(self._template)]
        self._dirty = [False, False]
        first = BLOCK.size if add else 0
        step = BLOCK.size + CHUNK
        self._extends = [first + k * step for k in range(CHUNKS)] if extend else []
        # (place of a GPA in the page, what it adds to the page's address)
        self._places = ([(16, 0)] if add else []) + [
            (at + 16, k * CHUNK) for k, at in enumerate(self._extends)
        ]

    def fill(self, step: MemPageAdd | MemPageAddExtend | MrExtend) -> Iterator[memoryview]:
        """Yield the stream of `step`, a batch at a time."""
        gpa = step.gpa
        runs: Iterable[tuple[memoryview | None, int]] = [(None, step.size // PAGE)]
        if self._extends:
            runs = page_runs(step.contents, step.size)
        for view, count in runs:
            for done in range(0, count, BATCH):
                pages = min(BATCH, count - done)
                part_of = view[done * PAGE : (done + pages) * PAGE] if view is not None else None
                yield self._batch(gpa, pages, part_of)
                gpa += pages * PAGE

    def _batch(self, gpa: int, pages: int, view: memoryview | None) -> memoryview:
        self._buffers.reverse()
        self._dirty.reverse()
        buffer = self._buffers[0]
        if view is None and self._dirty[0]:
            buffer[:] = self._template
        self._dirty[0] = view is not None
        words, stride = memoryview(buffer).cast("Q"), self._stride // 8
        for place, offset in self._places:
            start = place // 8
            addresses = array("Q", range(gpa + offset, gpa + offset + pages * PAGE, PAGE))
            words[start : start + pages * stride : stride] = memoryview(addresses)
        if view is not None:
            self._copy(buffer, view)
        return memoryview(buffer)[: pages * self._stride]

    def _copy(self, buffer: bytearray, view: memoryview) -> None:
        """Put each 256-byte chunk behind its block."""
        source = 0
        for page in range(0, len(view) // PAGE * self._stride, self._stride):
            for at in self._extends:
                target = page + at + BLOCK.size
                buffer[target : target + CHUNK] = view[source : source + CHUNK]
                source += CHUNK
