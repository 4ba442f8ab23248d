"""
MRTD, as a fold over the launch trace: the shape of `platforms.snp.digest`, another chain.

One running SHA-384, fed a 128-byte block for each TDH.MEM.PAGE.ADD, and one such block
plus 256 bytes of contents for each TDH.MR.EXTEND (Intel TDX Module ABI specification, the
leaves of those names: "Extend TDCS.MRTD"; intel/tdx-module 72d8cff, tdh_mem_page_add.c,
tdh_mr_extend.c).  The stream is serial, so it is written into one buffer while a thread
hashes another, which OpenSSL does without the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha384
from itertools import repeat
from queue import SimpleQueue
from struct import Struct
from threading import Thread
from typing import Any, Self

from cvmplan.core.platform import Platform
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import byte_string, page_runs, part
from cvmplan.operations.measure import Coverage, Measurement
from cvmplan.operations.steps import Step, in_order
from cvmplan.platforms.tdx.steps import CHUNK, ORDER, MemPageAdd, MemPageAddExtend, MrExtend

ADD, EXTEND = b"MEM.PAGE.ADD", b"MR.EXTEND"
CHUNKS = PAGE // CHUNK
BLOCK = "16sQ104x"  # leaf name, GPA, zeros
PAGE_ADD = Struct(f"<{BLOCK}")
CHUNK_EXTEND = Struct(f"<{BLOCK}{CHUNK}s")
PAGE_EXTEND = Struct("<" + f"{BLOCK}{CHUNK}s" * CHUNKS)
PAGE_ADD_EXTEND = Struct("<" + BLOCK + f"{BLOCK}{CHUNK}s" * CHUNKS)
PAGE_CHUNKS = Struct(f"{CHUNK}s" * CHUNKS)
NO_CHUNKS = (b"",) * CHUNKS  # zeros: a chunk is padded
BUFFER = 128 * PAGE_ADD_EXTEND.size  # bytes; two of them


def measure(platform: Platform, trace: Iterable[Step]) -> Measurement:
    """Return TDCS.MRTD as TDH.MR.FINALIZE will leave it; PlanError."""
    added = extended = 0
    with _Stream() as stream:
        for step in in_order(trace, ORDER):
            if isinstance(step, MemPageAdd | MemPageAddExtend):
                added += step.size // PAGE
            if isinstance(step, MrExtend | MemPageAddExtend):
                extended += step.size // PAGE
            stream.feed(step)
        digest = stream.close()
    coverage = Coverage(contents=extended, host_filled=added - extended)
    return Measurement(platform, "MRTD", "sha384", digest, coverage)


class _Stream:
    """The running hash, and a buffer that is filled while a thread hashes the other."""

    def __init__(self) -> None:
        self._digest = sha384()
        self._buffer = bytearray(BUFFER)
        self._used = 0
        self._full: SimpleQueue[tuple[bytearray, int] | None] = SimpleQueue()
        self._empty: SimpleQueue[bytearray] = SimpleQueue()
        self._thread: Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._join()

    def feed(self, step: Step) -> None:
        """Hash what `step` adds to the stream."""
        if isinstance(step, MemPageAdd):
            self._write(
                PAGE_ADD, ((ADD, gpa) for gpa in range(step.gpa, step.gpa + step.size, PAGE))
            )
        elif isinstance(step, MemPageAddExtend):
            self._write(PAGE_ADD_EXTEND, _pages(step, [ADD, 0]))
        elif isinstance(step, MrExtend) and step.gpa % PAGE == step.size % PAGE == 0:
            self._write(PAGE_EXTEND, _pages(step, []))
        elif isinstance(step, MrExtend):
            self._write(CHUNK_EXTEND, _chunks(step))

    def _write(self, layout: Struct, rows: Iterable[Iterable[Any]]) -> None:
        """Put one `layout` after another into the stream."""
        buffer, used, pack, size = self._buffer, self._used, layout.pack_into, layout.size
        for row in rows:
            if used + size > BUFFER:
                buffer, used = self._next(used), 0
            pack(buffer, used, *row)
            used += size
        self._used = used

    def _next(self, used: int) -> bytearray:
        """Have the buffer hashed and return an empty one."""
        if self._thread is None:
            self._empty.put(bytearray(BUFFER))
            self._thread = Thread(target=self._hash)
            self._thread.start()
        self._full.put((self._buffer, used))
        self._buffer = self._empty.get()
        return self._buffer

    def _hash(self) -> None:
        """Hash full buffers, in the thread."""
        while (full := self._full.get()) is not None:
            buffer, used = full
            self._digest.update(memoryview(buffer)[:used])
            self._empty.put(buffer)

    def _join(self) -> None:
        if self._thread:
            self._full.put(None)
            self._thread.join()
            self._thread = None

    def close(self) -> bytes:
        """Return the 48-byte digest."""
        self._join()
        self._digest.update(memoryview(self._buffer)[: self._used])
        return self._digest.digest()


def _pages(step: MemPageAddExtend | MrExtend, add: list[Any]) -> Iterator[list[Any]]:
    """Yield what the layout of each page holds; always the same list, filled anew."""
    row = [*add, *((EXTEND, 0, b"") * CHUNKS)]
    gpas, chunks = slice(len(add) + 1, None, 3), slice(len(add) + 2, None, 3)
    gpa = step.gpa
    for view, count in page_runs(step.contents, step.size):
        pages: Iterable[tuple[bytes, ...]] = repeat(NO_CHUNKS, count)
        if view is not None:
            pages = PAGE_CHUNKS.iter_unpack(view)
        for page in pages:
            row[1] = gpa
            row[gpas] = range(gpa, gpa + PAGE, CHUNK)
            row[chunks] = page
            yield row
            gpa += PAGE


def _chunks(step: MrExtend) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield the extends of a run that does not cover whole pages."""
    for at in range(0, step.size, CHUNK):
        yield EXTEND, step.gpa + at, byte_string(part(step.contents, at, CHUNK), CHUNK)
