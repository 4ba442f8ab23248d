"""
What an IGVM file declares for one platform, as regions in file order.

Compatibility masks are expanded to single platforms before anything is compared; what a
page becomes under a loader is decided by its profile.  Source: as `igvm_headers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack_from
from typing import Any, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import InputError, MalformedError, UnsupportedError
from cvmplan.core.findings import Finding
from cvmplan.core.values import MOST_VCPUS, PAGE
from cvmplan.images import igvm_headers as headers
from cvmplan.images import igvm_rules
from cvmplan.images.igvm_headers import PAGE_DATA, Fields, File, Header
from cvmplan.images.inspection import Inspection, Table
from cvmplan.launch.model import IdBlock, Image, VpState
from cvmplan.memory.contents import Contents, Filled
from cvmplan.memory.regions import IS_2MB, UNMEASURED, Region, Role, Rows

LARGE = 2 << 20
NAMES: Final = {
    "snp": "SEV_SNP",
    "tdx": "TDX",
    "vbs": "VSM_ISOLATION",
    "sev": "SEV",
    "sev-es": "SEV_ES",
}
"""Platform to its name in the file."""
DATA_ROLES: Final = (Role.PAGE, Role.SECRETS, Role.CPUID, Role.CPUID_XF)


def platforms(blob: Blob) -> tuple[str, ...]:
    """Return the platforms that the file declares, of those that can be launched."""
    declared = headers.parse(blob).platforms
    return tuple(p for p, name in NAMES.items() if name in declared)


def read(blob: Blob, platform: str) -> Image:
    """Return what the file declares for `platform`; MalformedError, UnsupportedError."""
    file = headers.parse(blob)
    findings = igvm_rules.check(file)
    name = NAMES.get(platform, "")
    if name not in file.platforms:
        raise UnsupportedError(
            f"the file has no {platform} platform",
            at=blob.name,
            hint=f"it declares {', '.join(file.platforms)}",
        )
    mine = _Reader(file, file.platforms[name], name)
    regions = tuple(mine.regions())
    return Image(
        blob,
        regions,
        (*file.findings, *findings, *mine.findings),
        format="igvm",
        states=tuple(mine.states),
        registers=tuple(mine.registers),
        policies=tuple(mine.policies),
        id_blocks=tuple(mine.id_blocks),
        required=tuple(mine.required),
        names=mine.names,
        all_names=mine.all_names,
    )


class _Reader:
    """Goes through the headers of one platform, in file order."""

    def __init__(self, file: File, mask: int, platform: str) -> None:
        self._file = file
        self._mask = mask
        self._platform = platform
        others = [m for name, m in file.platforms.items() if name == "SEV_ES" != platform]
        self._other_vmsas = sum(others) if platform == "SEV_SNP" else 0
        self._areas: dict[int, int] = {}
        self.findings: list[Finding] = []
        self.states: list[VpState] = []
        self.registers: list[tuple[int, tuple[tuple[int, bytes], ...]]] = []
        self.policies: list[int] = []
        self.id_blocks: list[IdBlock] = []
        self.required: list[tuple[int, int, str]] = []
        self.names: dict[str, str] = {}
        self.all_names: dict[str, str] = {}

    def regions(self) -> Iterator[Region]:
        """Yield what covers guest memory, and note the rest."""
        for header in self._file.headers:
            if header.type == PAGE_DATA:
                if header.fields[1] & self._mask:
                    yield self._pages(header)
                continue
            named = header.named()
            at = self._file.blob.where(header.offset)
            self.all_names.setdefault(header.name, at)
            mask = named.get("compatibility_mask", self._mask)
            if not mask & self._mask:
                if header.name == "VP_CONTEXT" and mask & self._other_vmsas:
                    yield self._other_context(header, named, at)
                continue
            self.names.setdefault(header.name, at)
            yield from self._other(header, named, at)

    def _rows(self, header: Header, each: int = 0) -> Rows:
        return Rows(self._file.blob.name, header.name, header.number, header.offset, each)

    def _pages(self, header: Header) -> Region:
        gpa, mask, offset, flags, data_type, _ = header.fields
        role = DATA_ROLES[data_type]
        if role is Role.PAGE and flags & UNMEASURED:
            role = Role.UNMEASURED
        elif role is Role.PAGE and not offset:
            role = Role.EMPTY_PAGE
        size = LARGE if flags & IS_2MB else header.pages * PAGE
        if flags & IS_2MB:
            self.names.setdefault("IS_2MB_PAGE", self._file.blob.where(header.offset))
        length = PAGE if flags & IS_2MB else size
        data = self._file.blob.slice(offset, offset + length) if offset else None
        rows = self._rows(header, 32 if header.pages > 1 else 0)
        return Region(
            gpa, size, role, rows.at(0), contents=data, at=self._file.blob.where(header.offset),
            rows=rows, kind=(mask, flags, data_type),
        )  # fmt: skip

    def _other(self, header: Header, named: Fields, at: str) -> Iterator[Region]:
        rows = self._rows(header)

        def region(role: Role, size: int, contents: Contents | None = None) -> Region:
            gpa = named["gpa"]
            return Region(gpa, size, role, rows.at(0), contents=contents, at=at, rows=rows)

        match header.name:
            case "PARAMETER_AREA":
                self._areas[named["parameter_area_index"]] = named["number_of_bytes"]
            case "PARAMETER_INSERT":
                size = self._areas[named["parameter_area_index"]]
                yield region(Role.INSERT, size, Filled("parameters"))
            case "ERROR_RANGE":
                yield region(Role.ERROR_RANGE, named["size_bytes"])
            case "VP_CONTEXT":
                page = self._context(named, at)
                yield from () if page is None else (region(Role.VP_CONTEXT, PAGE, page),)
            case "REQUIRED_MEMORY":
                self._require(header, named, rows.at(0))
            case "GUEST_POLICY":
                self.policies.append(named["policy"])
            case "SNP_ID_BLOCK":
                self.id_blocks.append(IdBlock(named.octets("ld"), at, dict(named.items())))
            case "RELOCATABLE_REGION":
                first = named["relocation_region_gpa"]
                problem = f"header {header.number}: the region at {first:#x} may move"
                self.findings.append(Finding("relocatable", problem, at=at))

    def _other_context(self, header: Header, named: Fields, at: str) -> Region:
        """Return the VMSA of another platform, which one tool measures with those of SNP."""
        page, rows = self._file.data(named["file_offset"], PAGE, at), self._rows(header)
        origin = rows.at(0)
        return Region(
            named["gpa"], PAGE, Role.OTHER_CONTEXT, origin, contents=page, at=at, rows=rows
        )

    def _context(self, named: Fields, at: str) -> Blob | None:
        """Take the state of a vCPU; return its page where that is a page of the guest."""
        offset = named["file_offset"]
        if self._platform in ("SEV_SNP", "SEV_ES"):
            if len(self.states) == MOST_VCPUS:
                raise UnsupportedError(f"more than {MOST_VCPUS} VP contexts", at=at)
            page = self._file.data(offset, PAGE, at)
            self.states.append(VpState(named["vp_index"], named["gpa"], bytes(page.data), at))
            return page if self._platform == "SEV_SNP" else None
        if self._platform == "VSM_ISOLATION":
            data = self._file.blob.data
            count = int.from_bytes(data[offset : offset + 4], "little")
            rows = [unpack_from("<BI11x16s", data, offset + 4 + n * 32) for n in range(count)]
            registers = tuple((name, value) for _, name, value in rows)
            vtl = rows[0][0] if rows else 0
            if named["vp_index"]:
                raise UnsupportedError("VBS registers of a different VP than 0", at=at)
            if vtl in (known for known, _ in self.registers):
                raise MalformedError(f"registers of VTL {vtl} are there already", at=at)
            self.registers.append((vtl, registers))
        return None

    def _require(self, header: Header, named: Fields, origin: str) -> None:
        size = named["number_of_bytes"]
        if size:
            self.required.append((named["gpa"], size, origin))
            problem = f"header {header.number} requires {size:#x} bytes of memory"
            first, last = named["gpa"], named["gpa"] + size - PAGE
            self.findings.append(Finding("required-memory", problem, first, last))


def inspect(blob: Blob) -> Inspection:
    """Return all headers in file order with their offsets, runs of pages as one row."""
    file = headers.parse(blob)
    findings: tuple[Finding, ...] = file.findings
    table: Table = {"name": "variable headers", "rows": []}
    try:
        findings = (*findings, *igvm_rules.check(file))
    except (InputError, UnsupportedError) as error:
        table = {"name": "variable headers", "problem": str(error), "rows": []}
    table["rows"] = [_row(header) for header in file.headers]
    return {
        "format": f"igvm version {file.version}",
        "allows": list(file.platforms),
        "tables": [table],
        "findings": findings,
    }


def _row(header: Header) -> dict[str, Any]:
    number = str(header.number)
    if header.pages > 1:
        number += f"-{header.number + header.pages - 1}"
    fields = " ".join(
        f"{name}={value.hex() if isinstance(value, bytes) else hex(value)}"
        for name, value in header.named().items()
        if not isinstance(value, bytes) or len(value) <= 48
    )
    return {"header": number, "at": hex(header.offset), "name": header.name, "fields": fields}
