"""The log of a TPM, found in the memory of a guest."""

from __future__ import annotations

from struct import error, unpack_from

from cvmplan.boot.node import SEPARATOR, TAG
from cvmplan.eventlog.event import Event

SPEC = b"Spec ID Event03\0"
SIZES = {0x4: 20, 0xB: 32, 0xC: 48, 0xD: 64, 0x12: 32}


def find(memory: bytes) -> list[tuple[int, int, bytes, bytes]]:
    """Return PCR, type, SHA-384 and data of the events of the longest log in `memory`."""
    logs, at = [], 0
    while (at := memory.find(SPEC, at)) >= 0:
        if at >= 32:
            logs.append(_read(memory, at - 32))
        at += 1
    return max(logs, key=len)


def _read(memory: bytes, at: int) -> list[tuple[int, int, bytes, bytes]]:
    found: list[tuple[int, int, bytes, bytes]] = []
    at += 32 + unpack_from("<I", memory, at + 28)[0]
    while at + 12 < len(memory):
        try:
            pcr, kind, count = unpack_from("<III", memory, at)
            at += 12
            if not 1 <= count <= 5 or pcr > 23:
                break
            digests = {}
            for _ in range(count):
                algorithm = unpack_from("<H", memory, at)[0]
                digests[algorithm] = memory[at + 2 : at + 2 + SIZES[algorithm]]
                at += 2 + SIZES[algorithm]
            size = unpack_from("<I", memory, at)[0]
            found.append((pcr, kind, digests[0xC], memory[at + 4 : at + 4 + size]))
            at += 4 + size
        except (KeyError, error):
            break
    return found


def as_of_td(log: list[tuple[int, int, bytes, bytes]]) -> list[Event]:
    """Return the events that a TD would have too, by its registers, separators left out."""
    found = []
    for number, (pcr, kind, digest, data) in enumerate(log):
        index = 1 if pcr in (1, 7) else 2 if pcr < 8 else 3
        only_tpm = pcr == 0 or kind == SEPARATOR or (pcr, kind) == (5, TAG)
        if not only_tpm:
            found.append(Event(number, "log", index, kind, digest, data))
    return found
