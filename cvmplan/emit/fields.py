"""The fields of operations and steps, as documents have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TypeAlias

from cvmplan.core.blob import Blob
from cvmplan.core.errors import PlanError
from cvmplan.core.practice import Practice
from cvmplan.core.values import Json
from cvmplan.memory.contents import Contents, DigestAfter, Filled, Hashed, Made, Zeros
from cvmplan.operations.plan import Op
from cvmplan.operations.steps import Step
from cvmplan.platforms.sev.ops import Vcpus
from cvmplan.platforms.snp.ops import Vmsa
from cvmplan.platforms.snp.steps import PageType

Item: TypeAlias = str | Vmsa | Vcpus | tuple[int, bytes]
Value: TypeAlias = int | str | bytes | PageType | range | Contents | tuple[Item, ...] | None
"""What a field of an operation or a step can hold."""

HEX_FIELDS = {
    "gpa", "size", "policy", "vmsa_features", "attributes", "xfam", "rcx", "gmem_offset", "offset",
    "memory_offset",
}  # fmt: skip


def fields_of(said: Op | Step) -> Iterator[tuple[str, Value]]:
    """Yield the fields of an operation or a step."""
    for field in fields(said):  # type: ignore[arg-type]  # every concrete one is a dataclass
        yield field.name, getattr(said, field.name)


def is_said(value: Value) -> bool:
    """Whether a field says something: neither absent, nor off, nor empty."""
    return value is not None and value is not False and value != ()


def practice_of(practice: Practice) -> dict[str, Json]:
    """Return how a VMM makes its calls, as documents have it."""
    made: dict[str, Json] = {
        "repeats": list(practice.repeats),
        "enables": {n: v if isinstance(v, str) else hex(v) for n, v in practice.enables.items()},
        "reads_cpuid": practice.reads_cpuid,
    }
    return made if practice.tsc_khz is None else {**made, "tsc_khz": practice.tsc_khz}


def plan_value(name: str, value: Value, index: Mapping[str, int]) -> Json:
    """Return a field as documents have it; `index` maps an input's name to its number."""
    if isinstance(value, PageType):
        return value.label
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, range):
        return vcpus(value)
    if isinstance(value, tuple):
        return [_item(one) for one in value]
    if isinstance(value, int):
        return hex(value) if name in HEX_FIELDS else value
    return value if value is None or isinstance(value, str) else source(value, index)


def _item(item: Item) -> Json:
    if isinstance(item, Vmsa):
        return {"vcpus": vcpus(item.vcpus), "gpa": hex(item.gpa), "hex": _used(item.page)}
    if isinstance(item, Vcpus):
        return {"vcpus": vcpus(item.vcpus), "hex": _used(item.page)}
    if isinstance(item, str):
        return item
    name, held = item
    return {"name": hex(name), "value": held.hex()}


def _used(page: bytes) -> str:
    return page.rstrip(b"\0").hex()


def source(contents: Contents, index: Mapping[str, int]) -> dict[str, Json]:
    """Return where contents are; `index` maps an input's name to its number."""
    match contents:
        case Blob(name, data, base):
            return {"input": index[name], "offset": base, "length": len(data)}
        case Made(data, at):
            return {"hex": data.hex(), **({"at": at} if at else {})}
        case Zeros():
            return {"zeros": True}
        case Filled(what):
            return {"vmm": what}
        case DigestAfter(digest):
            return {"digest_after": digest.hex()}
        case Hashed():
            raise PlanError("a plan names contents, not the hashes of pages")


def vcpus(numbers: range) -> str:
    """Write a run of vCPUs: "0" or "1-3"."""
    if len(numbers) == 1:
        return str(numbers.start)
    return f"{numbers.start}-{numbers.stop - 1}"
