"""
Numbers and byte strings as people write them, in manifests and options alike.

Each function takes what was written and returns the value, or raises ValueError with a
reason; who calls it knows the place and says so.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from cvmplan.core.names import spelled

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"
"""What a JSON document is made of."""

PAGE = 4096  # bytes of the only page size in which an initial image is added

U64 = (1 << 64) - 1
# AMD APM 2, 15.34.1: a bit of physical addresses, of which there are at most 52; firmware that
# ends at 4 GiB lies below it.  Processors have 47 (Naples, Rome) and 51 (since Milan).
C_BITS = (32, 51)
MOST_VCPUS = 4096  # Linux, arch/x86/Kconfig, KVM_MAX_NR_VCPUS: at most 4096
_INTEGER = re.compile(r"0x[0-9a-fA-F]{1,16}|0|[1-9][0-9]{0,19}")
_HEX = re.compile(r"[0-9a-fA-F]+")
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def integer(written: Json) -> int:
    """Return an integer of 0 to 2^64 - 1 from an integer, or a string in decimal or 0x hex."""
    if type(written) is int:
        value = written
    elif isinstance(written, str) and _INTEGER.fullmatch(written):
        value = int(written, 0)
    else:
        raise ValueError(f"{_quoted(written)} is not an integer (decimal or 0x…)")
    if not 0 <= value <= U64:
        raise ValueError(f"{_quoted(written)} is not between 0 and 2^64 - 1")
    return value


def size(written: Json) -> int:
    """Return a number of bytes: as `integer`, or with KiB, MiB, GiB, TiB behind it."""
    if isinstance(written, str) and written[-3:] in _UNITS:
        number = integer(written[:-3].rstrip(" "))
        return integer(number * _UNITS[written[-3:]])
    return integer(written)


def memory(written: Json) -> int:
    """Return a number of bytes: as `size`, or with K, M, G, T behind it (powers of 1024)."""
    unit = written[-1:].upper() if isinstance(written, str) else ""
    if isinstance(written, str) and unit and f"{unit}iB" in _UNITS and written[:-1].isdecimal():
        return size(f"{written[:-1]}{unit}iB")
    return size(written)


def within(low: int, high: int) -> Callable[[Json], int]:
    """Return a reader of integers between `low` and `high`, both included."""

    def read(written: Json) -> int:
        value = integer(written)
        if not low <= value <= high:
            raise ValueError(f"{_quoted(written)} is not between {_bounds(written, low, high)}")
        return value

    return read


def span(written: Json) -> tuple[int, int]:
    """Return (first byte, number of bytes) of a range written FIRST+SIZE or FIRST-LAST."""
    if isinstance(written, str) and "+" in written:
        first, _, length = written.partition("+")
        return integer(first), size(length)
    if isinstance(written, str) and "-" in written:
        first, _, last = written.partition("-")
        if integer(first) <= integer(last):
            return integer(first), integer(last) - integer(first) + 1
    raise ValueError(f"{_quoted(written)} is not a range: FIRST+SIZE or FIRST-LAST")


def write_span(first: int, length: int) -> str:
    """
    Return `length` bytes from `first` on as `span` reads them: FIRST-LAST, both included.

    FIRST+SIZE where no last byte exists: no bytes, or more than there are addresses.
    """
    last = first + length - 1
    return f"{first:#x}-{last:#x}" if first <= last <= U64 else f"{first:#x}+{length:#x}"


def octets(length: int) -> Callable[[Json], bytes]:
    """
    Return a reader of exactly `length` bytes, as people and tools write them.

    Hex in either case, with 0x, or with blanks, colons or line ends between; base64 of the
    bytes; base64 of the hex text.
    """

    def read(written: Json) -> bytes:
        if not isinstance(written, str):
            raise ValueError(f"{_quoted(written)} is not a string")  # noqa: TRY004 see the module
        hex_text = _compact_hex(written)
        if _is_shorter_hex(hex_text, length):
            problem = f"{_quoted(written)} is {len(hex_text) // 2} bytes in hex, not {length}"
            raise ValueError(f"{problem} ({2 * length} hex digits, or base64)")
        found = _as_bytes(written, hex_text, length)
        if found is None:
            raise ValueError(
                f"{_quoted(written)} is not {length} bytes ({2 * length} hex digits, or base64)"
            )
        return found

    return read


def _compact_hex(written: str) -> str:
    """Return hex digits without what people write between them and before them."""
    compact = "".join(written.replace(":", " ").split())
    return compact[2:] if compact[:2] in ("0x", "0X") else compact


def _as_bytes(written: str, hex_text: str, length: int) -> bytes | None:
    """Return so many bytes from hex, base64, or hex in base64; None for anything else."""
    if len(hex_text) == 2 * length and _HEX.fullmatch(hex_text):
        return bytes.fromhex(hex_text)
    try:
        decoded = b64decode("".join(written.split()), validate=True)
    except ValueError:
        return None
    if len(decoded) == length:
        return decoded
    text = decoded.decode().strip().removeprefix("0x") if decoded.isascii() else ""
    if len(text) == 2 * length and _HEX.fullmatch(text):
        return bytes.fromhex(text)
    return None


def _is_shorter_hex(written: str, length: int) -> bool:
    """Whether this is as long as base64 of `length` bytes, and yet a digest of fewer in hex."""
    if 3 * len(written) != 4 * length or len(written) % 2 or set(written) == {"A"}:  # zeros
        return False
    return _HEX.fullmatch(written) is not None


def digest(written: str) -> bytes:
    """Return a digest of 32 or 48 bytes, in each form that `octets` takes; ValueError."""
    hex_text = _compact_hex(written)
    for length in DIGESTS:
        found = _as_bytes(written, hex_text, length)
        if found is not None:
            return found
    raise ValueError(
        f"{_quoted(written)} is not a digest of 32 or 48 bytes (hex, base64, or @FILE)"
    )


DIGESTS = (32, 48)


FILE = "file:"


def octets_or_file(length: int) -> Callable[[Json], bytes | str]:
    """Return a reader as `octets`, which leaves file:PATH to whoever opens files."""

    def read(written: Json) -> bytes | str:
        if isinstance(written, str) and written.startswith(FILE):
            if written == FILE:
                raise ValueError(f"{_quoted(written)} names no file")
            return written
        try:
            return octets(length)(written)
        except ValueError as error:
            raise ValueError(f"{str(error).removesuffix(')')}, or file:PATH)") from None

    return read


def hex_string(written: Json) -> bytes:
    """Return the bytes of a string of hex digits, of any length."""
    if isinstance(written, str) and (not written or (written.isascii() and written.isalnum())):
        try:
            return bytes.fromhex(written)
        except ValueError:
            pass
    raise ValueError(f"{_quoted(written)} is not hex")


def one_of(*names: str) -> Callable[[Json], str]:
    """Return a reader of one of `names`, in any case."""

    def read(written: Json) -> str:
        found = spelled(written, names) if isinstance(written, str) else ""
        if found not in names:
            raise ValueError(f"{_quoted(written)} is not one of {', '.join(names)}")
        return found

    return read


def printable(line: str) -> str:
    """Return `line` with escapes in place of what a terminal would act on."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _bounds(written: Json, low: int, high: int) -> str:
    """Return two numbers in the base in which another one was written."""
    in_hex = isinstance(written, str) and written.startswith("0x")
    return f"{low:#x} and {high:#x}" if in_hex else f"{low} and {high}"


def _quoted(written: Json) -> str:
    text = repr(written[:60] if isinstance(written, str) else written)
    return text if len(text) <= 60 else f"{text[:57]}…"
