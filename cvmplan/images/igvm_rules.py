"""
The rules of an IGVM file that one header alone cannot break, checked before anything is used.

Source: microsoft/igvm e6c3ff1, igvm/src/lib.rs, and the specification where the crate is
laxer (masks that name no platform, parameters outside their area, key without an author).
"""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.core.errors import MalformedError
from cvmplan.core.findings import Finding
from cvmplan.core.values import PAGE
from cvmplan.images.igvm_headers import KNOWN_FLAGS, MOST_AREA, PAGE_DATA, Fields, File, Header

MOST_REGISTERS = 1024
MOST_VTL = 2
NATIVE_CONTEXT = 0xE8  # bytes of a native context; the rest of its page is zero
CCA_CONTEXT = 80
RELOCATIONS = ("RELOCATABLE_REGION", "PAGE_TABLE_RELOCATION_REGION")
RESERVED = {"GUEST_POLICY", "PAGE_TABLE_RELOCATION_REGION", "CORIM_DOCUMENT", "CORIM_SIGNATURE",
            "CCA_POLICY", "VP_CONTEXT", "REQUIRED_MEMORY"}  # fmt: skip


def check(file: File) -> list[Finding]:
    """Return what is doubtful about `file`; MalformedError with the place of what is wrong."""
    areas = _Areas(file)
    corim: set[tuple[str, int]] = set()
    findings: list[Finding] = []
    for header in file.headers:
        at = file.blob.where(header.offset)
        named = header.named()
        findings += _mask(file, header, named, at)
        if header.name in RESERVED and _nonzero(named):
            raise MalformedError(f"{header.name} has reserved bits that are not 0", at=at)
        if header.type == PAGE_DATA:
            findings += _pages(file, header, named, at)
        elif header.name in ("PARAMETER_INSERT", "VP_CONTEXT", "REQUIRED_MEMORY", "ERROR_RANGE"):
            _check_range(header, named, at)
        elif header.name.startswith("CORIM_"):
            _check_corim(file, header, named, corim, at)
        elif header.name == "SNP_ID_BLOCK":
            findings += _check_id_block(named, at)
        areas.see(header, named, at)
        if header.name == "VP_CONTEXT":
            _check_context(file, named, at)
    _check_relocations(file)
    return findings


def _nonzero(named: Fields) -> bool:
    return named.is_set("reserved")


def _mask(file: File, header: Header, named: Fields, at: str) -> Iterator[Finding]:
    mask = named.number("compatibility_mask")
    declared = sum(file.platforms.values())
    if mask is not None and (mask == 0 or mask & ~declared):
        problem = f"header {header.number} ({header.name}) has mask {mask:#x}, of which "
        problem += f"{mask & declared:#x} is a platform of this file"
        yield Finding("mask-undeclared", problem, at=at)


def _pages(file: File, header: Header, named: Fields, at: str) -> Iterator[Finding]:
    if named["flags"] & ~KNOWN_FLAGS:
        problem = f"header {header.number} (PAGE_DATA) has flags {named['flags']:#x}"
        yield Finding("reserved-flags", problem, at=at)
    if named["file_offset"]:
        file.data(named["file_offset"], header.pages * PAGE, at)
    if named["gpa"] + header.pages * PAGE > 1 << 64:
        raise MalformedError(f"PAGE_DATA runs past 2^64 from {named['gpa']:#x}", at=at)


def _check_range(header: Header, named: Fields, at: str) -> None:
    """Check address and size of what covers guest memory."""
    native = header.name == "VP_CONTEXT" and named["gpa"] == 0
    if named["gpa"] % PAGE and not native:
        raise MalformedError(f"{header.name} gpa {named['gpa']:#x} is not on a page", at=at)
    size = named.get("number_of_bytes", named.get("size_bytes", 0))
    if size % PAGE or named["gpa"] + size > 1 << 64:
        raise MalformedError(f"{header.name} of {size:#x} bytes at {named['gpa']:#x}", at=at)


def _check_corim(
    file: File, header: Header, named: Fields, seen: set[tuple[str, int]], at: str
) -> None:
    file.data(named["file_offset"], named["size_bytes"], at)
    for mask in file.platforms.values():
        if not named["compatibility_mask"] & mask:
            continue
        if (header.name, mask) in seen:
            raise MalformedError(f"{header.name} is given twice for mask {mask:#x}", at=at)
        if header.name == "CORIM_SIGNATURE" and ("CORIM_DOCUMENT", mask) not in seen:
            raise MalformedError("a CORIM signature before its document", at=at)
        seen.add((header.name, mask))


def _check_id_block(named: Fields, at: str) -> Iterator[Finding]:
    if named["author_key_enabled"] not in (0, 1) or named.is_set("reserved"):
        raise MalformedError("SNP_ID_BLOCK has reserved bits that are not 0", at=at)
    if named["author_key_enabled"] and not any(named.octets("author_public_key")):
        raise MalformedError("author_key_enabled, and the author key is zero", at=at)
    if not named["author_key_enabled"] and named.is_set("author_", "author_key_enabled"):
        problem = "SNP_ID_BLOCK has author fields, and no author key is enabled"
        yield Finding("non-zero-padding", problem, at=at)


class _Areas:
    """The parameter areas seen so far: declared once, then filled, then inserted once."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._open: dict[int, int] = {}  # index to bytes
        self._seen: set[int] = set()
        self._tables = [
            (h.named()["gpa"], h.named()["gpa"] + h.named()["size"])
            for h in file.headers
            if h.name == "PAGE_TABLE_RELOCATION_REGION"
        ]

    def see(self, header: Header, named: Fields, at: str) -> None:
        """Check a header that declares, fills or inserts an area; MalformedError."""
        index = named.number("parameter_area_index")
        if index is None:
            return
        if header.name == "PARAMETER_AREA":
            self._declare(index, named, at)
            return
        if index not in self._open:
            raise MalformedError(f"{header.name} of area {index}, which is not open", at=at)
        if header.name == "PARAMETER_INSERT":
            size = self._open.pop(index)
            if named["gpa"] + size > 1 << 64:
                raise MalformedError(f"an insert of {size:#x} bytes runs past 2^64", at=at)
            if any(low <= named["gpa"] < high for low, high in self._tables):
                raise MalformedError("an insert inside the page-table region", at=at)
        elif named["byte_offset"] + 4 > self._open[index]:
            raise MalformedError(f"{header.name} is outside area {index}", at=at)

    def _declare(self, index: int, named: Fields, at: str) -> None:
        size = named["number_of_bytes"]
        if index in self._seen:
            raise MalformedError(f"parameter area {index} is declared twice", at=at)
        if size % PAGE or size > MOST_AREA:
            raise MalformedError(f"a parameter area of {size:#x} bytes", at=at)
        if named["file_offset"]:
            self._file.data(named["file_offset"], size, at)
        self._seen.add(index)
        self._open[index] = size


def _check_context(file: File, named: Fields, at: str) -> None:
    """Check a VP context: of one platform that is there, and as that platform has it."""
    owners = [name for name, mask in file.platforms.items() if mask == named["compatibility_mask"]]
    if not owners or owners[0] == "TDX":
        raise MalformedError("a VP context is of one platform of the file, and not of TDX", at=at)
    if owners[0] == "VSM_ISOLATION":
        count = int.from_bytes(file.data(named["file_offset"], 4, at).data, "little")
        if count > MOST_REGISTERS:
            raise MalformedError(f"a VP context of {count} registers", at=at)
        rows = file.data(named["file_offset"], 4 + 32 * count, at).data
        levels = {rows[4 + 32 * n] for n in range(count)}
        if len(levels) > 1 or any(level > MOST_VTL for level in levels):
            raise MalformedError(f"registers of VTLs {sorted(levels)} in one context", at=at)
        return
    page = file.data(named["file_offset"], PAGE, at).data
    used = {"NATIVE": NATIVE_CONTEXT, "SEV": NATIVE_CONTEXT, "CCA": CCA_CONTEXT}.get(owners[0])
    if used is not None and any(page[used:]):
        raise MalformedError(f"a {owners[0]} context has bytes after its end", at=at)


def _check_relocations(file: File) -> None:
    """Check that relocation regions of one platform are apart, and are of a VP that there is."""
    others = [(h, h.named()) for h in file.headers if h.type != PAGE_DATA]
    for name, mask in file.platforms.items():
        mine = [(h, n) for h, n in others if n.get("compatibility_mask", 0) & mask]
        moving = [_moving(file, h, n) for h, n in mine if h.name in RELOCATIONS]
        if sum(h.name == "PAGE_TABLE_RELOCATION_REGION" for h, _ in mine) > 1:
            raise MalformedError(f"two page-table regions for {name}", at=file.blob.name)
        contexts = {_owner(file, n) for h, n in mine if h.name == "VP_CONTEXT"}
        end = 0
        for low, high, owner, at in sorted(moving):
            if low < end:
                raise MalformedError("two relocation regions overlap", at=at)
            if name == "VSM_ISOLATION" and owner not in contexts:
                raise MalformedError("a relocation region without its VP context", at=at)
            end = high


def _moving(file: File, header: Header, named: Fields) -> tuple[int, int, tuple[int, int], str]:
    """Return (begin, end, (VP index, VTL), place) of a relocation region; MalformedError."""
    low = named.get("relocation_region_gpa", named.get("gpa", 0))
    high = low + named.get("relocation_region_size", named.get("size", 0))
    at = file.blob.where(header.offset)
    if named["vtl"] > MOST_VTL or high > 1 << 64:
        raise MalformedError(f"a relocation region of VTL {named['vtl']} to {high:#x}", at=at)
    return low, high, (named["vp_index"], named["vtl"]), at


def _owner(file: File, named: Fields) -> tuple[int, int]:
    """Return (VP index, VTL) of a VBS context, which has been checked."""
    offset = named["file_offset"]
    count = int.from_bytes(file.blob.data[offset : offset + 4], "little")
    return named["vp_index"], file.blob.data[offset + 4] if count else 0
