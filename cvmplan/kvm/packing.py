"""Structs of KVM's interface packed from their fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from cvmplan.core.errors import PlanError
from cvmplan.kvm.layouts import STRUCTS, Field, Struct

Value: TypeAlias = "int | bytes | str | Mapping[str, int | bytes | str]"
Values: TypeAlias = Mapping[str, Value]
"""Field of a struct to its value: a number, bytes, a symbol, or the fields of a struct in it."""
NESTED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"), "kvm_segment"),
    **dict.fromkeys(("gdt", "idt"), "kvm_dtable"),
}
"""Field to the struct that it is."""
NOT_LOOKED_AT: Final = frozenset({"pad", "pad0", "pad1", "pad2", "padding", "error", "hw_error"})
"""Fields that nobody gives: padding, and what the kernel writes itself."""


def is_reserved(name: str) -> bool:
    """Whether a field is one that nobody gives: reserved, padding, an answer of the kernel."""
    last = name.rpartition(".")[2]
    return last in NOT_LOOKED_AT or last.startswith("reserved")


def pack(struct: Struct, values: Values) -> tuple[bytes, tuple[tuple[int, str], ...]]:
    """
    Return the bytes of `struct`, little-endian, and its relocations: (offset, symbol).

    An integer fills its field, bytes fill theirs from the start, a mapping one that is a struct
    itself; a field without a value is zero.  A string names what only the VMM knows (an address,
    a file descriptor): zeros and a relocation, as wide as the field of 4 or 8 bytes there.
    """
    names = [field.name for field in struct.fields]
    for name in values:
        if name not in names:
            raise PlanError(
                f"struct {struct.name} has no field {name!r}", hint=f"it has {', '.join(names)}"
            )
    packed = bytearray()
    relocations: list[tuple[int, str]] = []
    for field in struct.fields:
        value = values.get(field.name, 0)
        if isinstance(value, Mapping):
            value = pack(STRUCTS[NESTED[field.name]], value)[0]
        if isinstance(value, str):
            if field.size not in (4, 8):
                raise _refused(struct, field, f"contains no address, such as {value}")
            relocations.append((field.offset, value))
            value = 0
        if isinstance(value, int):
            if not 0 <= value < 1 << 8 * field.size:
                raise _refused(struct, field, f"does not contain {value:#x}")
            value = value.to_bytes(field.size, "little")
        if len(value) > field.size:
            raise _refused(struct, field, f"does not contain {len(value)} bytes")
        packed += value.ljust(field.size, b"\0")
    return bytes(packed), tuple(relocations)


def _refused(struct: Struct, field: Field, why: str) -> PlanError:
    return PlanError(f"{struct.name}.{field.name}, {field.size} bytes, {why}")
