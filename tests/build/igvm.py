"""
An IGVM file: good as it stands, to be spoiled one field at a time.

    0              fixed header, 24 bytes (version 1) or 32 (version 2)
    ...            variable headers: type, length, payload, zeros up to a multiple of 8
    ...            file data, in the order of the headers that point at it, equal data once

Headers are added by methods that return the file, so that calls chain; the header added last
can be moved.  `spoil` sets fields of one header by their names in LAYOUTS, `fixed` those of the
fixed header; a field that nobody set takes the value that is right for the file, and so does
the checksum, which covers whatever the fixed header then calls its variable headers.

Source: ../shared/spec/igvm.md, sections 1.1 to 1.3, which is made from microsoft/igvm e6c3ff1,
igvm_defs/src/lib.rs and igvm/src/lib.rs.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

PAGE = 0x1000
KVM_VMSA = 0xFFFFFFFFF000  # where KVM measures every VMSA
OPTIONAL = 1 << 31  # of a header's type: readers may skip it
X64, AARCH64 = 0, 1
TDX_SHARED = 1 << 47  # shared_gpa_boundary of a TD with 48 address bits

NATIVE, VSM_ISOLATION, SEV_SNP, TDX, SEV, SEV_ES, CCA = range(7)
NORMAL, SECRETS, CPUID_DATA, CPUID_XF = range(4)
IS_2MB, UNMEASURED, SHARED = 1, 2, 4

SUPPORTED_PLATFORM = 0x1
GUEST_POLICY = 0x101
RELOCATABLE_REGION = 0x102
PAGE_TABLE_REGION = 0x103
CORIM_DOCUMENT = 0x104
CORIM_SIGNATURE = 0x105
CCA_POLICY = 0x106
PARAMETER_AREA = 0x301
PAGE_DATA = 0x302
PARAMETER_INSERT = 0x303
VP_CONTEXT = 0x304
REQUIRED_MEMORY = 0x305
RESERVED_DO_NOT_USE = 0x306
VP_COUNT = 0x307
SRAT = 0x308
MADT = 0x309
MMIO_RANGES = 0x30A
SNP_ID_BLOCK = 0x30B
MEMORY_MAP = 0x30C
ERROR_RANGE = 0x30D
COMMAND_LINE = 0x30E
SLIT = 0x30F
PPTT = 0x310
VBS_MEASUREMENT = 0x311
DEVICE_TREE = 0x312
ENVIRONMENT_INFO = 0x313

PARAMETERS = (
    VP_COUNT,
    SRAT,
    MADT,
    MMIO_RANGES,
    MEMORY_MAP,
    COMMAND_LINE,
    SLIT,
    PPTT,
    DEVICE_TREE,
    ENVIRONMENT_INFO,
)

Value = int | bytes


class Layout(NamedTuple):
    """Size of a payload, and (offset, struct format) of each of its fields."""

    size: int
    fields: dict[str, tuple[int, str]]


_CORIM = Layout(
    16, {"mask": (0, "I"), "file_offset": (4, "I"), "size_bytes": (8, "I"), "reserved": (12, "I")}
)
_PARAMETER = Layout(8, {"index": (0, "I"), "byte_offset": (4, "I")})

LAYOUTS: dict[int, Layout] = {
    SUPPORTED_PLATFORM: Layout(
        16,
        {
            "mask": (0, "I"),
            "highest_vtl": (4, "B"),
            "platform_type": (5, "B"),
            "platform_version": (6, "H"),
            "shared_gpa_boundary": (8, "Q"),
        },
    ),
    GUEST_POLICY: Layout(16, {"policy": (0, "Q"), "mask": (8, "I"), "reserved": (12, "I")}),
    RELOCATABLE_REGION: Layout(
        48,
        {
            "mask": (0, "I"),
            "vp_index": (4, "H"),
            "vtl": (6, "B"),
            "flags": (7, "B"),
            "alignment": (8, "Q"),
            "gpa": (16, "Q"),
            "size": (24, "Q"),
            "min_gpa": (32, "Q"),
            "max_gpa": (40, "Q"),
        },
    ),
    PAGE_TABLE_REGION: Layout(
        32,
        {
            "mask": (0, "I"),
            "vp_index": (4, "H"),
            "vtl": (6, "B"),
            "reserved": (7, "B"),
            "gpa": (8, "Q"),
            "size": (16, "Q"),
            "used_size": (24, "Q"),
        },
    ),
    CORIM_DOCUMENT: _CORIM,
    CORIM_SIGNATURE: _CORIM,
    CCA_POLICY: Layout(
        32,
        {
            "mask": (0, "I"),
            "reserved": (4, "I"),
            "required_zeroes": (8, "Q"),
            "required_ones": (16, "Q"),
            "hash_algorithm": (24, "B"),
            "lfa_policy": (25, "B"),
            "reserved2": (26, "6s"),
        },
    ),
    PARAMETER_AREA: Layout(
        16, {"number_of_bytes": (0, "Q"), "index": (8, "I"), "file_offset": (12, "I")}
    ),
    PAGE_DATA: Layout(
        24,
        {
            "gpa": (0, "Q"),
            "mask": (8, "I"),
            "file_offset": (12, "I"),
            "flags": (16, "I"),
            "data_type": (20, "H"),
            "reserved": (22, "H"),
        },
    ),
    PARAMETER_INSERT: Layout(16, {"gpa": (0, "Q"), "mask": (8, "I"), "index": (12, "I")}),
    VP_CONTEXT: Layout(
        20,
        {
            "gpa": (0, "Q"),
            "mask": (8, "I"),
            "file_offset": (12, "I"),
            "vp_index": (16, "H"),
            "reserved": (18, "H"),
        },
    ),
    REQUIRED_MEMORY: Layout(
        24,
        {
            "gpa": (0, "Q"),
            "mask": (8, "I"),
            "number_of_bytes": (12, "I"),
            "flags": (16, "I"),
            "reserved": (20, "I"),
        },
    ),
    SNP_ID_BLOCK: Layout(
        696,
        {
            "mask": (0, "I"),
            "author_key_enabled": (4, "B"),
            "reserved": (5, "3s"),
            "ld": (8, "48s"),
            "family_id": (56, "16s"),
            "image_id": (72, "16s"),
            "version": (88, "I"),
            "guest_svn": (92, "I"),
            "id_key_algorithm": (96, "I"),
            "author_key_algorithm": (100, "I"),
            "id_key_signature": (104, "144s"),
            "id_public_key": (248, "152s"),
            "author_key_signature": (400, "144s"),
            "author_public_key": (544, "152s"),
        },
    ),
    ERROR_RANGE: Layout(16, {"gpa": (0, "Q"), "mask": (8, "I"), "size_bytes": (12, "I")}),
    VBS_MEASUREMENT: Layout(
        864,
        {
            "mask": (0, "I"),
            "version": (4, "I"),
            "product_id": (8, "I"),
            "module_id": (12, "I"),
            "security_version": (16, "I"),
            "policy_flags": (20, "I"),
            "digest_algorithm": (24, "I"),
            "signing_algorithm": (28, "I"),
            "digest": (32, "64s"),
            "signature": (96, "256s"),
            "public_key": (352, "512s"),
        },
    ),
    **dict.fromkeys(PARAMETERS, _PARAMETER),
}

FIXED = {
    "magic": (0, "4s"),
    "format_version": (4, "I"),
    "variable_header_offset": (8, "I"),
    "variable_header_size": (12, "I"),
    "total_file_size": (16, "I"),
    "checksum": (20, "I"),
    "architecture": (24, "I"),  # from here on version 2 only
    "page_size": (28, "I"),
}
CHECKSUM_AT = FIXED["checksum"][0]


@dataclass
class Header:
    """One variable header; `length` and `padding` None: as they should be."""

    type: int
    values: dict[str, Value] = field(default_factory=dict)
    data: bytes | None = None  # what file_offset points at; None: it is 0
    raw: bytes | None = None  # the payload, of a type without a layout
    size: int | None = None  # cut the payload to this, or add zeros
    length: int | None = None
    padding: bytes | None = None

    def payload(self, file_offset: int = 0) -> bytes:
        """The bytes after type and length, up to the padding."""
        if self.raw is not None:
            made = bytearray(self.raw)
        else:
            size, fields = LAYOUTS[self.type & ~OPTIONAL]
            made = bytearray(size)
            _fill(made, fields, {"file_offset": file_offset, **self.values})
        if self.size is not None:
            made = made[: self.size].ljust(self.size, b"\0")
        return bytes(made)

    def build(self, file_offset: int) -> bytes:
        """The header, where its data begins at this offset of the file."""
        payload = self.payload(file_offset)
        length = len(payload) if self.length is None else self.length
        padding = bytes(-len(payload) % 8) if self.padding is None else self.padding
        return struct.pack("<II", self.type, length) + payload + padding


def _fill(made: bytearray, fields: dict[str, tuple[int, str]], values: Mapping[str, Value]) -> None:
    for name, value in values.items():
        if name == "file_offset" and name not in fields:
            continue  # a header without data
        offset, form = fields[name]
        struct.pack_into(f"<{form}", made, offset, value)


class Igvm:
    """What the file says. Public attributes may be set before `build`."""

    def __init__(
        self, version: int = 1, *, architecture: int = X64, share_data: bool = True
    ) -> None:
        """Start a file without headers; `share_data`: equal data lies in the file once."""
        self.version = version
        self.architecture = architecture
        self.share_data = share_data
        self.headers: list[Header] = []
        self.gap = b""  # between fixed header and variable headers
        self.tail = b""  # after the file, not in its total size
        self.fixed_values: dict[str, Value] = {}

    # Headers, in the order of their types.

    def platform(
        self, kind: int, mask: int, *, highest_vtl: int = 0, boundary: int | None = None
    ) -> Igvm:
        """A platform that the file is for, and the bit that stands for it."""
        right = TDX_SHARED if kind == TDX else 0
        return self._add(
            SUPPORTED_PLATFORM,
            mask=mask,
            highest_vtl=highest_vtl,
            platform_type=kind,
            platform_version=1,
            shared_gpa_boundary=right if boundary is None else boundary,
        )

    def policy(self, policy: int, mask: int) -> Igvm:
        """The guest policy."""
        return self._add(GUEST_POLICY, policy=policy, mask=mask)

    def relocatable_region(
        self,
        gpa: int,
        size: int,
        mask: int,
        *,
        alignment: int = PAGE,
        min_gpa: int = 0,
        max_gpa: int = 0x1_0000_0000,
        vp_index: int = 0,
        vtl: int = 0,
        flags: int = 0,
    ) -> Igvm:
        """Pages that a loader may move."""
        return self._add(
            RELOCATABLE_REGION,
            mask=mask,
            vp_index=vp_index,
            vtl=vtl,
            flags=flags,
            alignment=alignment,
            gpa=gpa,
            size=size,
            min_gpa=min_gpa,
            max_gpa=max_gpa,
        )

    def page_table_region(
        self, gpa: int, size: int, mask: int, *, used: int = PAGE, vp_index: int = 0, vtl: int = 0
    ) -> Igvm:
        """Page tables that a loader builds anew where it moved something."""
        return self._add(
            PAGE_TABLE_REGION,
            mask=mask,
            vp_index=vp_index,
            vtl=vtl,
            gpa=gpa,
            size=size,
            used_size=used,
        )

    def corim_document(self, data: bytes, mask: int) -> Igvm:
        """A CoRIM: reference values in CBOR."""
        return self._add(CORIM_DOCUMENT, data, mask=mask, size_bytes=len(data))

    def corim_signature(self, data: bytes, mask: int) -> Igvm:
        """The detached signature of the document before it."""
        return self._add(CORIM_SIGNATURE, data, mask=mask, size_bytes=len(data))

    def cca_policy(self, mask: int) -> Igvm:
        """The policy of an Arm realm."""
        return self._add(CCA_POLICY, mask=mask, hash_algorithm=0)

    def area(self, index: int, size: int, data: bytes | None = None) -> Igvm:
        """A parameter area of `size` bytes, zeros unless there is data."""
        return self._add(PARAMETER_AREA, data, number_of_bytes=size, index=index)

    def page(
        self, gpa: int, data: bytes | None, mask: int, *, flags: int = 0, data_type: int = NORMAL
    ) -> Igvm:
        """A page with these contents; None: no data in the file."""
        return self._add(PAGE_DATA, data, gpa=gpa, mask=mask, flags=flags, data_type=data_type)

    def insert(self, gpa: int, index: int, mask: int) -> Igvm:
        """Import a parameter area here."""
        return self._add(PARAMETER_INSERT, gpa=gpa, mask=mask, index=index)

    def vp_context(self, gpa: int, data: bytes | None, mask: int, vp_index: int = 0) -> Igvm:
        """Initial state of a vCPU, in the format of its one platform."""
        return self._add(VP_CONTEXT, data, gpa=gpa, mask=mask, vp_index=vp_index)

    def required_memory(self, gpa: int, size: int, mask: int, flags: int = 0) -> Igvm:
        """Memory that the guest must have."""
        return self._add(REQUIRED_MEMORY, gpa=gpa, mask=mask, number_of_bytes=size, flags=flags)

    def parameter(self, kind: int, index: int, offset: int = 0) -> Igvm:
        """What the host writes into an area: VP_COUNT, MEMORY_MAP ..."""
        return self._add(kind, index=index, byte_offset=offset)

    def id_block(self, mask: int, **values: Value) -> Igvm:
        """An SNP ID block without an author key; signature and keys are filler."""
        filler: dict[str, Value] = {
            "version": 1,
            "id_key_algorithm": 1,
            "id_key_signature": filling("id signature", 144),
            "id_public_key": struct.pack("<II", 2, 0) + filling("id key", 144),
        }
        return self._add(SNP_ID_BLOCK, mask=mask, **{**filler, **values})

    def error_range(self, gpa: int, size: int, mask: int) -> Igvm:
        """Pages whose use is an error."""
        return self._add(ERROR_RANGE, gpa=gpa, mask=mask, size_bytes=size)

    def vbs_measurement(self, mask: int, **values: Value) -> Igvm:
        """The signed boot measurement of VBS; digest and signature are filler."""
        filler: dict[str, Value] = {
            "version": 1,
            "digest_algorithm": 1,
            "signing_algorithm": 1,
            "digest": filling("boot digest", 64),
            "signature": filling("boot signature", 256),
            "public_key": filling("boot key", 512),
        }
        return self._add(VBS_MEASUREMENT, mask=mask, **{**filler, **values})

    def raw(self, kind: int, payload: bytes) -> Igvm:
        """A header of any type."""
        self.headers.append(Header(kind, raw=payload))
        return self

    def _add(self, kind: int, data: bytes | None = None, /, **values: Value) -> Igvm:
        self.headers.append(Header(kind, values, data))
        return self

    # Where they are.

    def number(self, kind: int, nth: int = 0) -> int:
        """The number of the nth header of a type, over all headers from 0; nth -1: the last."""
        return [n for n, header in enumerate(self.headers) if header.type == kind][nth]

    def header(self, kind: int, nth: int = 0) -> Header:
        """The nth header of a type."""
        return self.headers[self.number(kind, nth)]

    def at(self, number: int) -> int:
        """The file offset of a header; of one past the last: where the file data begins."""
        sizes = (len(header.build(0)) for header in self.headers[:number])
        return self._fixed_size + len(self.gap) + sum(sizes)

    @property
    def _fixed_size(self) -> int:
        return 24 if self.version == 1 else 32

    # Spoiling.

    def spoil(self, kind: int, nth: int = 0, /, **values: Value) -> Igvm:
        """Set fields of the nth header of a type."""
        self.header(kind, nth).values.update(values)
        return self

    def resize(self, kind: int, change: int, nth: int = 0) -> Igvm:
        """Make a payload, and the length that tells of it, longer or shorter."""
        header = self.header(kind, nth)
        header.size = len(header.payload()) + change
        return self

    def move(self, number: int, to: int) -> Igvm:
        """Put a header (-1: the last) where another is, before that."""
        header = self.headers.pop(number)
        self.headers.insert(to, header)
        return self

    def drop(self, kind: int, nth: int = 0) -> Igvm:
        """Leave out the nth header of a type."""
        del self.headers[self.number(kind, nth)]
        return self

    def fixed(self, **values: Value) -> Igvm:
        """Set fields of the fixed header."""
        self.fixed_values.update(values)
        return self

    def build(self) -> bytes:
        """The bytes of the file."""
        start = self.at(len(self.headers))
        data, places = bytearray(), dict[bytes, int]()
        headers = bytearray()
        for header in self.headers:
            place = 0
            if header.data is not None:
                place = start + len(data)
                if self.share_data:
                    place = places.setdefault(header.data, place)
                if place == start + len(data):
                    data += header.data
            headers += header.build(place)
        total = start + len(data)
        made = self._fixed_header(len(headers), total) + self.gap + headers + data
        if "checksum" not in self.fixed_values:
            made = with_checksum(made, self._fixed_size)
        return made + self.tail

    def _fixed_header(self, size: int, total: int) -> bytes:
        made = bytearray(32)
        right: dict[str, Value] = {
            "magic": b"IGVM",
            "format_version": self.version,
            "variable_header_offset": self._fixed_size + len(self.gap),
            "variable_header_size": size,
            "total_file_size": total,
            "architecture": self.architecture,
            "page_size": PAGE,
        }
        _fill(made, FIXED, {**right, **self.fixed_values})
        return bytes(made[: self._fixed_size])


def with_checksum(file: bytes, fixed_size: int | None = None) -> bytes:
    """The file with the checksum right for what it calls its headers, as far as they are there."""
    made = bytearray(file)
    if len(made) < 24:
        return file
    version, offset, size = struct.unpack_from("<III", made, 4)
    if fixed_size is None:
        fixed_size = 32 if version == 2 else 24
    struct.pack_into("<I", made, CHECKSUM_AT, 0)
    checksum = zlib.crc32(bytes(made[:fixed_size]) + made[offset : offset + size])
    struct.pack_into("<I", made, CHECKSUM_AT, checksum)
    return bytes(made)


def filling(seed: str, size: int = PAGE) -> bytes:
    """Bytes that differ from seed to seed."""
    return hashlib.shake_128(f"igvm {seed}".encode()).digest(size)


# What a VP_CONTEXT points at.

_SEGMENTS = {
    0x00: (0x0000, 0x93, 0xFFFF, 0),  # es: selector, attributes, limit, base
    0x10: (0xF000, 0x9B, 0xFFFF, 0xFFFF0000),  # cs
    0x20: (0x0000, 0x93, 0xFFFF, 0),  # ss
    0x30: (0x0000, 0x93, 0xFFFF, 0),  # ds
    0x40: (0x0000, 0x93, 0xFFFF, 0),  # fs
    0x50: (0x0000, 0x93, 0xFFFF, 0),  # gs
    0x60: (0x0000, 0x00, 0xFFFF, 0),  # gdtr
    0x70: (0x0000, 0x82, 0xFFFF, 0),  # ldtr
    0x80: (0x0000, 0x00, 0xFFFF, 0),  # idtr
    0x90: (0x0000, 0x8B, 0xFFFF, 0),  # tr
}


def vmsa(sev_features: int = 1, rip: int = 0xFFF0) -> bytes:
    """A VMSA in its reset state, with the values that KVM would set there too."""
    made = bytearray(PAGE)
    for offset, segment in _SEGMENTS.items():
        struct.pack_into("<HHIQ", made, offset, *segment)
    for offset, value in {
        0x0D0: 0x1000,  # efer: SVME
        0x148: 0x40,  # cr4: MCE
        0x158: 0x10,  # cr0: ET
        0x160: 0x400,  # dr7
        0x168: 0xFFFF0FF0,  # dr6
        0x170: 2,  # rflags
        0x178: rip,
        0x268: 0x0007040600070406,  # g_pat
        0x3B0: sev_features,
        0x3E8: 1,  # xcr0
    }.items():
        struct.pack_into("<Q", made, offset, value)
    struct.pack_into("<I", made, 0x408, 0x1F80)  # mxcsr
    struct.pack_into("<H", made, 0x410, 0x37F)  # x87_fcw
    return bytes(made)


def native_context(rip: int = 0x10000) -> bytes:
    """The state of a vCPU that starts in long mode, of NATIVE and SEV."""
    made = bytearray(PAGE)
    for offset, value in {
        0x80: rip,
        0x88: 2,  # rflags
        0xC8: 0x80000031,  # cr0: PG, NE, ET, PE
        0xD0: 0x12000,  # cr3
        0xD8: 0x20,  # cr4: PAE
        0xE0: 0xD00,  # efer: NXE, LMA, LME
    }.items():
        struct.pack_into("<Q", made, offset, value)
    struct.pack_into("<HH", made, 0xA8, 0x10, 0xA09B)  # code
    struct.pack_into("<II", made, 0xAC, 0, 0xFFFFFFFF)
    struct.pack_into("<HH", made, 0xB4, 0x18, 0xC093)  # data
    struct.pack_into("<II", made, 0xB8, 0, 0xFFFFFFFF)
    return bytes(made)


class VbsRegister(NamedTuple):
    """A register of a VBS vCPU by its Hyper-V name."""

    name: int
    value: int
    vtl: int = 0


VBS_REGISTERS = (
    VbsRegister(0x0002_0010, 0x10000),  # rip
    VbsRegister(0x0002_0011, 2),  # rflags
    VbsRegister(0x0004_0000, 0x80000031),  # cr0
    VbsRegister(0x0004_0002, 0x12000),  # cr3
    VbsRegister(0x0004_0003, 0x20),  # cr4
    VbsRegister(0x0008_0001, 0xD00),  # efer
)


def vbs_registers(
    registers: tuple[VbsRegister, ...] = VBS_REGISTERS, count: int | None = None
) -> bytes:
    """The state of a VBS vCPU; `count` in place of the right one."""
    rows = b"".join(
        struct.pack("<BI11s16s", reg.vtl, reg.name, b"", reg.value.to_bytes(16, "little"))
        for reg in registers
    )
    return struct.pack("<I", len(registers) if count is None else count) + rows


def cca_context() -> bytes:
    """The state of a realm's vCPU: x0 to x7, pc, flags."""
    return struct.pack("<10Q", *range(8), 0x10000, 1).ljust(PAGE, b"\0")


# Good files.

SNP_POLICY = 0x30000
SEV_ES_POLICY = 5


def good_snp() -> Igvm:
    """A file for SNP with a page of each type, a parameter area of two pages, and a VMSA."""
    return (
        Igvm()
        .platform(SEV_SNP, 1, highest_vtl=2)
        .policy(SNP_POLICY, 1)
        .required_memory(0x100000, 0x200000, 1)
        .area(0, 2 * PAGE)
        .parameter(VP_COUNT, 0)
        .parameter(MEMORY_MAP, 0, 0x18)
        .insert(0x30000, 0, 1)
        .page(0x10000, filling("snp 0"), 1)
        .page(0x11000, filling("snp 1"), 1)
        .page(0x12000, None, 1)
        .page(0x13000, filling("snp 2"), 1, flags=UNMEASURED)
        .page(0x14000, None, 1, data_type=SECRETS)
        .page(0x15000, filling("snp cpuid"), 1, data_type=CPUID_DATA)
        .page(0xFFFFF000, filling("snp reset"), 1)
        .vp_context(KVM_VMSA, vmsa(), 1)
    )


def good_tdx() -> Igvm:
    """A file for TDX: measured with and without data, unmeasured, an insert; no vCPU state."""
    return (
        Igvm()
        .platform(TDX, 2)
        .policy(0, 2)
        .required_memory(0x100000, 0x100000, 2)
        .area(0, 2 * PAGE)
        .parameter(VP_COUNT, 0)
        .insert(0x900000, 0, 2)
        .page(0x809000, None, 2)
        .page(0x80A000, filling("tdx 0"), 2, flags=UNMEASURED)
        .page(0x80B000, None, 2, flags=UNMEASURED)
        .page(0xFFFFE000, filling("tdx 1"), 2)
        .page(0xFFFFF000, filling("tdx reset"), 2)
    )


def good_vbs() -> Igvm:
    """A file for VBS: registers, a page of each kind, an insert."""
    return (
        Igvm()
        .platform(VSM_ISOLATION, 4)
        .required_memory(0x100000, 0x100000, 4)
        .vp_context(0, vbs_registers(), 4)
        .area(0, 2 * PAGE)
        .parameter(MEMORY_MAP, 0)
        .page(0x1000, filling("vbs 0"), 4)
        .page(0x2000, None, 4)
        .page(0x3000, filling("vbs 1"), 4, flags=UNMEASURED)
        .insert(0x8000, 0, 4)
    )


def good_multi() -> Igvm:
    """A file for SNP, TDX and VBS, with pages in common and pages of each alone at one GPA."""
    return (
        Igvm()
        .platform(SEV_SNP, 1, highest_vtl=2)
        .platform(TDX, 2)
        .platform(VSM_ISOLATION, 4)
        .policy(SNP_POLICY, 1)
        .policy(0, 2)
        .required_memory(0x100000, 0x100000, 7)
        .area(0, PAGE)
        .parameter(VP_COUNT, 0)
        .area(1, 2 * PAGE)
        .parameter(MEMORY_MAP, 1)
        .insert(0x30000, 0, 7)
        .insert(0x31000, 1, 3)
        .vp_context(0, vbs_registers(), 4)
        .page(0x10000, filling("multi common"), 7)
        .page(0x11000, filling("multi snp"), 1)
        .page(0x11000, filling("multi tdx"), 2)
        .page(0x11000, None, 4)
        .page(0x12000, None, 5)
        .page(0x12000, filling("multi tdx 2"), 2)
        .page(0x13000, None, 1, data_type=SECRETS)
        .page(0x14000, filling("multi cpuid"), 1, data_type=CPUID_DATA)
        .page(0xFFFFF000, filling("multi reset"), 2)
        .vp_context(KVM_VMSA, vmsa(), 1)
    )


def good_sev() -> Igvm:
    """A file for SEV, with the vCPU state of NATIVE."""
    return (
        Igvm(version=2)
        .platform(SEV, 0x10)
        .policy(1, 0x10)
        .page(0x10000, filling("sev 0"), 0x10)
        .page(0x11000, filling("sev 1"), 0x10)
        .vp_context(0, native_context(), 0x10)
    )


def good_sev_es() -> Igvm:
    """A file for SEV-ES."""
    return (
        Igvm(version=2)
        .platform(SEV_ES, 0x20)
        .policy(SEV_ES_POLICY, 0x20)
        .page(0x10000, filling("sev-es 0"), 0x20)
        .page(0x11000, filling("sev-es 1"), 0x20)
        .vp_context(KVM_VMSA, vmsa(sev_features=0), 0x20)
    )


def good_v2_native() -> Igvm:
    """A version 2 file for SNP, TDX and a guest without isolation."""
    return (
        Igvm(version=2)
        .platform(SEV_SNP, 1, highest_vtl=2)
        .platform(NATIVE, 8)
        .platform(TDX, 2)
        .policy(SNP_POLICY, 1)
        .area(0, PAGE)
        .parameter(ENVIRONMENT_INFO, 0, 4)
        .parameter(DEVICE_TREE, 0, 8)
        .insert(0x30000, 0, 0xB)
        .page(0x10000, filling("native common"), 0xB)
        .page(0x11000, filling("native alone"), 8)
        .vp_context(0, native_context(), 8)
        .vp_context(KVM_VMSA, vmsa(), 1)
    )


def good_cca() -> Igvm:
    """A file for an Arm realm."""
    return (
        Igvm(version=2, architecture=AARCH64)
        .platform(CCA, 0x40)
        .cca_policy(0x40)
        .page(0x10000, filling("cca 0"), 0x40)
        .vp_context(0, cca_context(), 0x40)
    )


def good_everything() -> Igvm:
    """A file for SNP, TDX and VBS with a header of every type that x64 has."""
    made = (
        Igvm()
        .platform(SEV_SNP, 1, highest_vtl=2)
        .platform(TDX, 2)
        .platform(VSM_ISOLATION, 4)
        .policy(SNP_POLICY, 1)
        .policy(0, 2)
        .relocatable_region(0x40000, 0x4000, 4)
        .page_table_region(0x50000, 0x4000, 4)
        .corim_document(filling("corim", 11), 1)
        .corim_signature(filling("corim signature", 5), 1)
        .required_memory(0x100000, 0x100000, 7)
        .area(0, 8 * PAGE)
    )
    for place, kind in enumerate(PARAMETERS):
        made.parameter(kind, 0, place * 0x100)
    return (
        made.area(1, PAGE, filling("everything area"))
        .insert(0x30000, 0, 7)
        .insert(0x38000, 1, 7)
        .page(0x10000, filling("everything 0"), 7)
        .page(0x12000, None, 7)
        .page(0x41000, filling("everything 1"), 7)
        .page(0x50000, filling("everything tables"), 4)
        .error_range(0x60000, 2 * PAGE, 4)
        .vp_context(0, vbs_registers(), 4)
        .vbs_measurement(4)
        .vp_context(KVM_VMSA, vmsa(), 1)
        .id_block(1)
    )
