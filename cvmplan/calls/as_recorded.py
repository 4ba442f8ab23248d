"""The calls of a plan in the form of recorded ones, so that both can be compared field by field."""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.calls.make import calls
from cvmplan.calls.record import CpuidBits, Packed
from cvmplan.kvm.layouts import STRUCTS, unpack
from cvmplan.kvm.packing import pack
from cvmplan.kvm.recorded import Fields, RecordedCall
from cvmplan.operations.plan import Plan


def as_recorded(plan: Plan) -> Iterator[RecordedCall]:
    """
    Yield the ioctls of a plan; `line` is the number of their operation.

    A field that only the VMM knows (an address, a descriptor) is left out.  UnsupportedError
    as `calls`; calls that are no ioctl, or of an interface that nothing runs, are passed over.
    """
    for number, call in calls(plan):
        if call.number is None:
            continue
        argument = call.argument if isinstance(call.argument, int) else None
        yield RecordedCall(
            number, call.fd, call.name, call.number, argument,
            _known(call.struct), call.command, _known(call.data), _cpuid(call.cpuid),
        )  # fmt: skip


def _cpuid(bits: tuple[CpuidBits, ...]) -> bytes:
    """Return a kvm_cpuid2 with the bits that the launch decides."""
    made = b"".join(
        pack(STRUCTS["kvm_cpuid_entry2"], {"function": one.function, one.register: one.value})[0]
        for one in bits
    )
    return pack(STRUCTS["kvm_cpuid2"], {"nent": len(bits)})[0] + made if bits else b""


def _known(held: Packed | None) -> Fields:
    """Return the fields of a struct but for those that are symbols."""
    if held is None:
        return {}
    symbols = {name for name, value in held.values.items() if isinstance(value, str)}
    return {n: v for n, v in unpack(held.layout, held.data).items() if n not in symbols}
