"""
IGVM files as they are: the fixed header, and every variable header with its rules.

Source: microsoft/igvm e6c3ff1, igvm_defs/src/lib.rs (layouts), igvm/src/lib.rs (rules).
Nothing in the file is trusted: every size, offset and sum is bounded before it is used.
Neighbouring page headers that continue each other are one `Header` with its pages.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator
from struct import Struct
from typing import Any, Final, NamedTuple
from zlib import crc32

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.findings import Finding
from cvmplan.core.values import PAGE
from cvmplan.memory.regions import IS_2MB, SHARED, UNMEASURED

MAGIC: Final = b"IGVM"
OPTIONAL: Final = 1 << 31  # of a header's type: who does not know it may skip it
FIXED: Final = Struct("<4sIIIII")
FIXED_2: Final = Struct("<II")
HEAD: Final = Struct("<II")
MOST_AREA: Final = 1 << 40  # bytes of one parameter area
AARCH64: Final = 1
EITHER: Final = ("NATIVE", "VSM_ISOLATION")  # platforms of both architectures
PLATFORMS: Final = ("NATIVE", "VSM_ISOLATION", "SEV_SNP", "TDX", "SEV", "SEV_ES", "CCA")
KNOWN_FLAGS: Final = IS_2MB | UNMEASURED | SHARED


class Layout(NamedTuple):
    """A variable header: its name, its struct, and the names of the struct's fields."""

    name: str
    struct: Struct
    fields: tuple[str, ...]


def _layout(name: str, form: str, fields: str) -> Layout:
    return Layout(name, Struct(f"<{form}"), tuple(fields.split()))


_PARAMETER = "II", "parameter_area_index byte_offset"
LAYOUTS: Final[dict[int, Layout]] = {
    0x1: _layout(
        "SUPPORTED_PLATFORM", "IBBHQ",
        "compatibility_mask highest_vtl platform_type platform_version shared_gpa_boundary",
    ),
    0x101: _layout("GUEST_POLICY", "QII", "policy compatibility_mask reserved"),
    0x102: _layout(
        "RELOCATABLE_REGION", "IHBBQQQQQ",
        "compatibility_mask vp_index vtl flags relocation_alignment relocation_region_gpa "
        "relocation_region_size minimum_relocation_gpa maximum_relocation_gpa",
    ),
    0x103: _layout(
        "PAGE_TABLE_RELOCATION_REGION", "IHBBQQQ",
        "compatibility_mask vp_index vtl reserved gpa size used_size",
    ),
    0x104: _layout("CORIM_DOCUMENT", "IIII", "compatibility_mask file_offset size_bytes reserved"),
    0x105: _layout("CORIM_SIGNATURE", "IIII", "compatibility_mask file_offset size_bytes reserved"),
    0x106: _layout(
        "CCA_POLICY", "IIQQBB6s",
        "compatibility_mask reserved req_zeroes req_ones hash_algorithm lfa reserved_tail",
    ),
    0x301: _layout(
        "PARAMETER_AREA", "QII", "number_of_bytes parameter_area_index file_offset"
    ),
    0x302: _layout(
        "PAGE_DATA", "QIIIHH", "gpa compatibility_mask file_offset flags data_type reserved"
    ),
    0x303: _layout("PARAMETER_INSERT", "QII", "gpa compatibility_mask parameter_area_index"),
    0x304: _layout(
        "VP_CONTEXT", "QIIHH", "gpa compatibility_mask file_offset vp_index reserved"
    ),
    0x305: _layout(
        "REQUIRED_MEMORY", "QIIII", "gpa compatibility_mask number_of_bytes flags reserved"
    ),
    0x307: _layout("VP_COUNT_PARAMETER", *_PARAMETER),
    0x308: _layout("SRAT", *_PARAMETER),
    0x309: _layout("MADT", *_PARAMETER),
    0x30A: _layout("MMIO_RANGES", *_PARAMETER),
    0x30B: _layout(
        "SNP_ID_BLOCK", "IB3s48s16s16sIIII144s152s144s152s",
        "compatibility_mask author_key_enabled reserved ld family_id image_id version guest_svn "
        "id_key_algorithm author_key_algorithm id_key_signature id_public_key "
        "author_key_signature author_public_key",
    ),
    0x30C: _layout("MEMORY_MAP", *_PARAMETER),
    0x30D: _layout("ERROR_RANGE", "QII", "gpa compatibility_mask size_bytes"),
    0x30E: _layout("COMMAND_LINE", *_PARAMETER),
    0x30F: _layout("SLIT", *_PARAMETER),
    0x310: _layout("PPTT", *_PARAMETER),
    0x311: _layout(
        "VBS_MEASUREMENT", "IIIIIIII64s256s512s",
        "compatibility_mask version product_id module_id security_version policy_flags "
        "boot_digest_algorithm signing_algorithm boot_measurement_digest signature public_key",
    ),
    0x312: _layout("DEVICE_TREE", *_PARAMETER),
    0x313: _layout("ENVIRONMENT_INFO_PARAMETER", *_PARAMETER),
}  # fmt: skip
PAGE_DATA: Final = 0x302
_PAGE: Final = LAYOUTS[PAGE_DATA].struct
_PAGE_BYTES: Final = HEAD.size + _PAGE.size


class Fields:
    """The fields of a header by their names: numbers, and bytes where its layout has them."""

    def __init__(self, values: dict[str, int | bytes]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> int:
        """Return a field that is a number."""
        value = self._values[name]
        return value if isinstance(value, int) else 0

    def octets(self, name: str) -> bytes:
        """Return a field that is bytes."""
        value = self._values[name]
        return value if isinstance(value, bytes) else b""

    def number(self, name: str) -> int | None:
        """Return a number, None where the header has no such field."""
        return self[name] if name in self._values else None

    def get(self, name: str, default: int) -> int:
        """Return a number, `default` where the header has no such field."""
        return self[name] if name in self._values else default

    def items(self) -> ItemsView[str, int | bytes]:
        """Return names and values, in the order of the layout."""
        return self._values.items()

    def is_set(self, prefix: str, *but: str) -> bool:
        """Whether a field whose name begins so, but for some, has a bit set."""
        found = (v for n, v in self.items() if n.startswith(prefix) and n not in but)
        return any(any(v) if isinstance(v, bytes) else v for v in found)


class Header(NamedTuple):
    """
    A variable header, or `pages` page headers that continue each other.

    `number` counts all headers of the file from 0, `offset` is where it begins in the
    file; `fields` are those of its layout, of the first page for a run.
    """

    number: int
    offset: int
    type: int
    fields: tuple[Any, ...]
    pages: int = 1

    @property
    def name(self) -> str:
        """The header's name in the specification."""
        return LAYOUTS[self.type].name

    def named(self) -> Fields:
        """Return the fields by their names."""
        return Fields(dict(zip(LAYOUTS[self.type].fields, self.fields, strict=True)))


class File(NamedTuple):
    """
    An IGVM file: `headers` in their order, `data_start` the file offset behind them.

    `platforms` maps a platform's name to its compatibility mask.
    """

    blob: Blob
    version: int
    headers: tuple[Header, ...]
    data_start: int
    platforms: dict[str, int]
    findings: tuple[Finding, ...]

    def data(self, offset: int, size: int, at: str) -> Blob:
        """Return `size` bytes of file data; MalformedError where they are not file data."""
        if offset < self.data_start or offset + size > len(self.blob):
            raise MalformedError(
                f"file_offset {offset:#x} with {size:#x} bytes is outside the file data", at=at
            )
        return self.blob.slice(offset, offset + size)


def parse(blob: Blob) -> File:
    """Return the headers of an IGVM file; MalformedError, UnsupportedError with the file offset."""
    version, start, size, architecture = _fixed(blob)
    findings: list[Finding] = []
    if start > FIXED.size + (FIXED_2.size if version == 2 else 0):
        problem = "bytes between the fixed and the variable headers, which no checksum covers"
        findings.append(Finding("non-zero-padding", problem, at=blob.where(FIXED.size)))
    if start + size == len(blob):
        findings.append(Finding("no-file-data", "the file has headers and no data", at=blob.name))
    headers = tuple(_headers(blob, start, start + size, findings))
    platforms = dict(_platform(blob, h) for h in headers if h.type == 0x1)
    names = [h for h in headers if h.type == 0x1]
    for platform in platforms:
        if (platform == "CCA") != (architecture == AARCH64) and platform not in EITHER:
            problem = f"platform {platform} in a file of architecture {architecture}"
            raise MalformedError(problem, at=blob.name)
    if not platforms or len(platforms) != len(names) or len({*platforms.values()}) != len(names):
        raise MalformedError("no platform header, or one platform or mask twice", at=blob.name)
    return File(blob, version, headers, start + size, platforms, tuple(findings))


def _fixed(blob: Blob) -> tuple[int, int, int, int]:
    """Return (version, offset of the variable headers, their size, architecture)."""
    head = blob.slice(0, FIXED.size)
    magic, version, start, size, total, checksum = FIXED.unpack(head.data)
    if magic != MAGIC:
        raise MalformedError(f"the magic is {magic!r}, expected {MAGIC!r}", at=blob.where(0))
    if version not in (1, 2):
        raise UnsupportedError(f"format version {version}", at=blob.where(4))
    length = FIXED.size + (FIXED_2.size if version == 2 else 0)
    if start % 8 or start < length or start + size > len(blob):
        problem = f"variable headers of {size:#x} bytes at {start:#x} are not inside the file"
        raise MalformedError(problem, at=blob.where(8))
    if total != len(blob):
        problem = f"total_file_size is {total:#x}, the file has {len(blob):#x} bytes"
        raise MalformedError(problem, at=blob.where(16))
    fixed = bytearray(blob.slice(0, length).data)
    fixed[20:24] = bytes(4)
    found = crc32(blob.slice(start, start + size).data, crc32(fixed))
    if found != checksum:
        raise MalformedError(
            f"checksum {checksum:#010x}, expected {found:#010x}", at=blob.where(20)
        )
    architecture = 0
    if version == 2:
        architecture, page = FIXED_2.unpack(blob.slice(FIXED.size, length).data)
        if architecture not in (0, 1) or page != PAGE:
            problem = f"architecture {architecture} with pages of {page} bytes"
            raise UnsupportedError(problem, at=blob.where(FIXED.size))
    return version, start, size, architecture


def _headers(blob: Blob, at: int, end: int, findings: list[Finding]) -> Iterator[Header]:
    """Yield the headers of [at, end), runs of pages as one."""
    data, number, section = blob.data, 0, 0
    while at < end:
        if end - at < HEAD.size:
            raise MalformedError("half a variable header", at=blob.where(at))
        kind, length = HEAD.unpack_from(data, at)
        padded = at + HEAD.size + -(-length // 8) * 8
        if padded > end:
            problem = f"a header of {length:#x} bytes reaches past the variable headers"
            raise MalformedError(problem, at=blob.where(at))
        layout = LAYOUTS.get(kind & ~OPTIONAL)
        if layout is None and kind & OPTIONAL:
            at, number = padded, number + 1
            continue
        if layout is None or length != layout.struct.size:
            raise MalformedError(
                f"header type {kind:#x} of {length:#x} bytes is not known", at=blob.where(at)
            )
        section = _in_section(blob, kind & ~OPTIONAL, section, at)
        if any(data[at + HEAD.size + length : padded]):
            problem = f"header {number} ({layout.name}) has padding that is not zero"
            findings.append(Finding("non-zero-padding", problem, at=blob.where(at)))
        if kind == PAGE_DATA:
            header = _page_run(blob, number, at, end)
            padded = at + header.pages * _PAGE_BYTES
        else:
            fields = layout.struct.unpack_from(data, at + HEAD.size)
            header = Header(number, at, kind & ~OPTIONAL, fields)
        yield header
        at, number = padded, number + header.pages


def _in_section(blob: Blob, kind: int, section: int, at: int) -> int:
    """Return the section of a header: platforms, initialisation, directives, in this order."""
    mine = 1 if kind <= 0x100 else 2 if kind <= 0x200 else 3
    if mine < section:
        raise MalformedError(f"{LAYOUTS[kind].name} after a later section", at=blob.where(at))
    return mine


def _page_run(blob: Blob, number: int, at: int, end: int) -> Header:
    """Return the page header at `at` with all that continue it: next page, next data, all alike."""
    data, first = blob.data, at
    fields = _PAGE.unpack_from(data, at + HEAD.size)
    gpa, mask, offset, flags, data_type, reserved = fields
    _check_page(blob, at, gpa, data_type, reserved)
    step = PAGE if offset else 0
    count = 1
    unpack = _PAGE_HEADER.unpack_from
    last = end - _PAGE_BYTES
    while not flags & IS_2MB:
        at += _PAGE_BYTES
        gpa += PAGE
        offset += step
        following = (PAGE_DATA, _PAGE.size, gpa, mask, offset, flags, data_type, 0)
        if at > last or unpack(data, at) != following:
            break
        count += 1
    return Header(number, first, PAGE_DATA, fields, count)


_PAGE_HEADER: Final = Struct("<IIQIIIHH")


def _check_page(blob: Blob, at: int, gpa: int, data_type: int, reserved: int) -> None:
    if gpa % PAGE:
        raise MalformedError(f"PAGE_DATA gpa {gpa:#x} is not on a page", at=blob.where(at))
    if data_type > 3 or reserved:
        problem = f"PAGE_DATA data_type {data_type}, reserved {reserved:#x}"
        raise MalformedError(problem, at=blob.where(at))


def _platform(blob: Blob, header: Header) -> tuple[str, int]:
    """Return a platform's name and its mask; MalformedError."""
    mask, vtl, kind, version, boundary = header.fields
    at = blob.where(header.offset)
    if mask == 0 or mask & (mask - 1):
        raise MalformedError(f"platform mask {mask:#x} is not one bit", at=at)
    if kind >= len(PLATFORMS) or vtl not in (0, 2) or version != 1:
        problem = f"platform type {kind}, version {version}, highest VTL {vtl}"
        raise MalformedError(problem, at=at)
    if boundary and PLATFORMS[kind] in ("NATIVE", "VSM_ISOLATION"):
        raise MalformedError(f"{PLATFORMS[kind]} with shared_gpa_boundary {boundary:#x}", at=at)
    return PLATFORMS[kind], mask
