"""
A plan as the system calls that a VMM makes, in JSON Lines: one object a call.

Numbers, structs and bytes are exact; what only the VMM knows is symbolic (`&memory[0]+0x1000`,
`&input[0]+0x84000`, `gmem[0]`), zero in the bytes, and listed under `relocations`.  `contents`
says what the VMM puts at an address that is no input's.  An interface that no kernel has gives
symbolic calls: a name and fields, no number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from cvmplan.calls.planned import Planned
from cvmplan.calls.record import CpuidBits, Packed, Repeat, SystemCall, Wants
from cvmplan.core.values import Json
from cvmplan.emit.fields import fields_of, is_said, plan_value, source
from cvmplan.kvm.packing import Value
from cvmplan.operations.plan import Op

RETRY: Final = "once, with the page that the firmware corrected, on INVALID_PARAM"


def plan(made: Planned) -> str:
    """Return one line a call, in the order in which they are made."""
    index = {i.blob.name: n for n, i in enumerate(made.plan.inputs)}
    rows = (
        {"seq": number, "op": made.plan.ops[number].name, **_call(call, index)}
        for number, call in made.calls()
    )
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def _call(call: SystemCall, index: Mapping[str, int]) -> dict[str, Json]:
    """Return a call as an object, what it does not have left out."""
    repeat: dict[str, Json] = {} if call.repeat is None else {"repeat": _repeat(call.repeat)}
    told: dict[str, Json] = {
        "fd": call.fd or None,
        "call": call.name,
        "ioctl": None if call.number is None else hex(call.number),
        "argument": call.argument,
        "capability": call.capability or None,
        "wants": _wants(call.wants) or None,
        "returns": call.returns or None,
        "command": call.command or None,
    }
    made: dict[str, Json] = {name: value for name, value in told.items() if value is not None}
    made |= {} if call.command else repeat
    made |= _struct(call.struct) if call.struct else {}
    if call.data is not None:
        after: dict[str, Json] = {"followed_by": call.followed_by} if call.followed_by else {}
        made["data"] = {**_struct(call.data), **after}
    made |= {"cpuid": [_bits(one) for one in call.cpuid]} if call.cpuid else {}
    made |= repeat if call.command else {}
    made |= {"retry": RETRY} if call.retries else {}
    made |= dict(call.arguments)
    if call.contents:
        made["contents"] = {
            one.address: {**source(one.held, index), "size": hex(one.size)} for one in call.contents
        }
    return made if call.symbolic is None else {**made, "symbolic": _symbolic(call.symbolic, index)}


def _repeat(repeat: Repeat) -> str:
    """Return when a call is made again, in words."""
    errors = " and ".join(repeat.errors)
    if repeat.field == "nent":
        return f"on {errors}, with room for more entries"
    if repeat.field:
        return f"while {repeat.field} is not 0" + (f", and on {errors}" if errors else "")
    return f"on {errors}, with the struct as it was left"


def _bits(one: CpuidBits) -> dict[str, Json]:
    """Return bits of a CPUID register that the launch decides."""
    return {
        "function": hex(one.function),
        "register": one.register,
        "mask": hex(one.mask),
        "value": hex(one.value),
    }


def _wants(wants: Wants | None) -> str:
    if wants is None:
        return ""
    return "not 0" if wants.bit is None else f"bit {wants.bit}"


def _struct(held: Packed) -> dict[str, Json]:
    """Return a struct as named fields and as bytes."""
    named = held.layout.fields
    shown = {f.name: _shown(held.values[f.name]) for f in named if f.name in held.values}
    made: dict[str, Json] = {"struct": held.layout.name, "fields": shown, "bytes": held.data.hex()}
    if held.relocations:
        made["relocations"] = [{"offset": at, "address": name} for at, name in held.relocations]
    return made


def _shown(value: Value) -> Json:
    if isinstance(value, Mapping):
        return {name: _shown(one) for name, one in value.items()}
    if isinstance(value, int):
        return hex(value)
    return value.hex() if isinstance(value, bytes) else value


def _symbolic(op: Op, index: Mapping[str, int]) -> dict[str, Json]:
    """Return an operation of an interface that nothing runs: its fields."""
    return {
        name.replace("_", "-"): plan_value(name, value, index)
        for name, value in fields_of(op)
        if is_said(value)
    }
