"""
ACPI as QEMU hands it over: tables, and the commands by which firmware links them.

Loader and RSDP follow from the tables, for the sets of tables that a q35 machine without
devices of their own makes; other sets are refused.

Sources: ACPI 6.5, 5.2; Debian's qemu 10.0.13+ds-0+deb13u1, hw/acpi/bios-linker-loader.c,
hw/acpi/aml-build.c (build_rsdp, build_rsdt) and hw/i386/acpi-build.c (acpi_build); edk2 c5aa7e7,
OvmfPkg/Library/AcpiPlatformLib/QemuFwCfgAcpi.c.  Equal to QEMU's own on 7.2.22, 10.0.13, 11.1.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct, pack
from typing import ClassVar, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.records import Frozen, record

MOST_BYTES: Final = 8 << 20
MOST_TABLES: Final = 64
_FACS, _FACP, _RSDT, _DSDT = b"FACS", b"FACP", b"RSDT", b"DSDT"
COVERED: Final = frozenset({
    _FACS, _FACP, _RSDT, _DSDT, b"APIC", b"HPET", b"MCFG", b"WAET", b"SRAT", b"SLIT", b"DMAR",
})  # fmt: skip
"""Signatures of tables that bring no command of their own."""
_WANTED: Final = frozenset({_FACS, _FACP, _RSDT, _DSDT, b"APIC", b"MCFG"})
_FACP_POINTERS: Final = ((36, 4), (40, 4), (140, 8))
_TABLES, _RSDP = b"etc/acpi/tables", b"etc/acpi/rsdp"
_LOADER_SIZE: Final = 4096
_COMMAND: Final = 128


@record
class TableHeader(Frozen):
    """The first two fields of a table."""

    LAYOUT: ClassVar = Struct("<4sI")
    signature: bytes
    length: int


@record
class Table(Frozen):
    """One table: signature, offset in the file, length in bytes."""

    signature: bytes
    offset: int
    length: int


@record
class Blobs(Frozen):
    """What firmware reads: the loader's commands, the RSDP and the tables, as measured."""

    loader: bytes
    rsdp: bytes
    tables: bytes


def tables(blob: Blob) -> tuple[Table, ...]:
    """Return the tables of etc/acpi/tables in file order; MalformedError, TruncatedError."""
    if len(blob) > MOST_BYTES:
        raise MalformedError(f"more than {MOST_BYTES >> 20} MiB of tables", at=blob.name)
    found: list[Table] = []
    at = 0
    while at + TableHeader.LAYOUT.size <= len(blob):
        head = blob.take(TableHeader, at)
        if not any(head.signature):
            break
        if head.length < TableHeader.LAYOUT.size or not head.signature.isalnum():
            raise MalformedError("not an ACPI table", at=blob.where(at))
        if len(found) == MOST_TABLES:
            raise MalformedError(f"more than {MOST_TABLES} tables", at=blob.where(at))
        blob.slice(at, at + head.length)
        found.append(Table(head.signature, at, head.length))
        at += head.length
    if bytes(blob.data[at:]).strip(b"\0"):
        raise MalformedError("bytes after the last table", at=blob.where(at))
    return tuple(found)


def derive(blob: Blob) -> Blobs:
    """
    Return the three files that firmware reads, from the tables alone.

    UnsupportedError: a set of tables for which the rule is not known to hold.
    """
    found = tables(blob)
    signatures = [table.signature for table in found]
    unknown = [s.decode("latin-1") for s in signatures if s not in COVERED]
    missing = sorted(s.decode() for s in _WANTED - set(signatures))
    twice = sorted({s.decode() for s in signatures if signatures.count(s) > 1})
    hint = "dump etc/table-loader and etc/acpi/rsdp too: 'cvmplan help acpi'"
    for names, what in ((unknown, "not covered"), (missing, "missing"), (twice, "twice")):
        if names:
            raise UnsupportedError(f"tables {what}: {', '.join(names)}", at=blob.name, hint=hint)
    rsdt = next(table for table in found if table.signature == _RSDT)
    if found[-1] != rsdt:
        raise UnsupportedError("the RSDT is not the last table", at=blob.name, hint=hint)
    rsdp = b"RSD PTR \0BOCHS \0" + pack("<I", rsdt.offset)
    commands = b"".join(_commands(found, rsdt))
    if len(commands) > _LOADER_SIZE:
        raise UnsupportedError("more commands than one page", at=blob.name, hint=hint)
    return Blobs(commands.ljust(_LOADER_SIZE, b"\0"), rsdp, bytes(blob.data))


def _commands(found: tuple[Table, ...], rsdt: Table) -> Iterator[bytes]:
    """Yield the loader's commands in QEMU's order."""
    yield _allocate(_RSDP, 16, 2)
    yield _allocate(_TABLES, 64, 1)
    for table in found:
        if table.signature == _FACS:
            continue
        pointers: list[tuple[int, int]] = []
        if table.signature == _FACP:
            pointers = list(_FACP_POINTERS)
        elif table == rsdt:
            pointers = [(at, 4) for at in range(36, table.length, 4)]
        for at, size in pointers:
            yield _pointer(_TABLES, table.offset + at, size)
        yield _checksum(_TABLES, table.offset + 9, table.offset, table.length)
    yield _pointer(_RSDP, 16, 4)
    yield _checksum(_RSDP, 8, 0, 20)


def _name(name: bytes) -> bytes:
    return name.ljust(56, b"\0")


def _allocate(name: bytes, align: int, zone: int) -> bytes:
    return (pack("<I", 1) + _name(name) + pack("<IB", align, zone)).ljust(_COMMAND, b"\0")


def _pointer(name: bytes, at: int, size: int) -> bytes:
    command = pack("<I", 2) + _name(name) + _name(_TABLES) + pack("<IB", at, size)
    return command.ljust(_COMMAND, b"\0")


def _checksum(name: bytes, at: int, start: int, length: int) -> bytes:
    command = pack("<I", 3) + _name(name) + pack("<III", at, start, length)
    return command.ljust(_COMMAND, b"\0")
