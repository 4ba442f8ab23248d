"""
Recordings of a real VMM's ioctls (cvmplan.recorded/2): each line as a `RecordedCall`.

Structs are decoded by the layouts of `kvm.layouts`; a struct that is longer than its layout
is one that the recorder copied with what followed it.  Lines are judged one by one, so the time
is linear and a wrong line is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.places import spell
from cvmplan.documents import text
from cvmplan.kvm.layouts import IOCTLS, STRUCTS, Struct, unpack
from cvmplan.kvm.recorded import (
    COMMAND_STRUCTS,
    FIRMWARE,
    NAMES,
    SEV_NAMES,
    TDX_NAMES,
    Fields,
    RecordedCall,
    Taken,
)
from cvmplan.simulator.vcpu_state import Registers

if TYPE_CHECKING:
    from cvmplan.documents.recorded_call import RecordedCallLine, TakenDocument


_LINE = re.compile(rb'\A\s*+\{(?:[^{}]|\{[^{}]*+\})*"req"\s*+:')
ENCRYPT: Final = IOCTLS["KVM_MEMORY_ENCRYPT_OP"].number
REGISTERS: Final = {
    "KVM_SET_REGS": "regs", "KVM_SET_SREGS": "sregs", "KVM_SET_SREGS2": "sregs",
    "KVM_SET_DEBUGREGS": "debugregs", "KVM_SET_XCRS": "xcrs", "KVM_SET_XSAVE": "xsave",
}  # fmt: skip
"""Call to the registers that it sets, as a struct."""
SIZES: Final = {
    "regs": ("kvm_regs",), "sregs": ("kvm_sregs", "kvm_sregs2"), "debugregs": ("kvm_debugregs",),
    "xcrs": ("kvm_xcrs",),
}  # fmt: skip
MOST_LINE: Final = 1 << 16  # bytes
MOST_CALLS: Final = 1 << 17  # lines; a launch has some hundreds
MSR_ENTRY: Final = STRUCTS["kvm_msr_entry"]


class Line(NamedTuple):
    """A call; registers that it sets, or with `final` those that a vCPU had in the end."""

    call: RecordedCall
    gmem: int | None = None
    registers: Registers | None = None
    final: bool = False
    id_block: Taken | None = None
    id_auth: Taken | None = None


def recognises(head: bytes) -> bool:
    """Whether a text begins with the object of a recorded ioctl."""
    return _LINE.match(head) is not None


def read_lines(blob: Blob, lines: Iterator[tuple[int, str]]) -> Iterator[Line]:
    """
    Yield the calls of numbered `lines`; MalformedError with the line, UnsupportedError where
    there are too many.

    Whether a command is AMD's or Intel's is told by the VM that was created.
    """
    from pydantic import ValidationError

    from cvmplan import documents
    from cvmplan.documents.fields import problems

    model = documents.model("recorded-calls")
    intel = False
    for number, line in lines:
        at = f"{blob.name}:{number}"
        if number > MOST_CALLS:
            raise UnsupportedError(f"a recording of more than {MOST_CALLS} calls", at=at)
        try:
            document = model.model_validate(text.parse_line(line))
        except ValidationError as error:
            path, reason = problems(error)[0]
            where = f"{at}: {spell(path[:1])}" if path else at
            raise MalformedError(reason, at=where) from None
        except (ValueError, RecursionError):
            raise MalformedError("not JSON, or a duplicate key", at=at) from None
        made = _Reader(document, number, at).line(intel=intel)
        if made.call.name == "KVM_CREATE_VM":
            intel = made.call.argument == TDX_VM
        yield made


TDX_VM: Final = 5  # KVM_X86_TDX_VM


class _Reader:
    """Reads one line."""

    def __init__(self, document: RecordedCallLine, number: int, at: str) -> None:
        self._document = document
        self._number = number
        self._at = at

    def line(self, *, intel: bool) -> Line:
        """Return the line; `intel`: a command is one of TDX."""
        document = self._document
        number = int(document.req, 16)
        on = document.on
        fd = {"sev": FIRMWARE}.get(on, on)
        fd = f"{on}:{document.i or 0}" if on in ("vcpu", "gmem") else fd
        name = "" if document.call else NAMES.get(number, "")
        call = RecordedCall(
            self._number, fd, document.call or name, number, document.arg,
            returned=document.ret, fw_error=document.fw_error, source=self._taken("source"),
        )  # fmt: skip
        if document.call == "state":
            return Line(call, registers=self._state(), final=True)
        if name and document.in_ is not None:
            call = replace(call, fields=self._struct(IOCTLS[name].argument, document.in_))
        if number == ENCRYPT:
            call = self._command(call, intel=intel)
        blocks = self._taken("id_block"), self._taken("id_auth")
        return Line(call, document.gmem, self._set(name), False, *blocks)

    def _wrong(self, why: str, key: str) -> MalformedError:
        return MalformedError(why, at=f"{self._at}: {key}")

    def _struct(self, name: str, data: bytes) -> Fields:
        layout = STRUCTS.get(name)
        return {} if layout is None else self._unpack(layout, data, "in")

    def _unpack(self, layout: Struct, data: bytes, key: str) -> dict[str, int | bytes]:
        if len(data) < layout.size:
            raise self._wrong(f"{len(data)} bytes, struct {layout.name} has {layout.size}", key)
        return unpack(layout, data)

    def _command(self, call: RecordedCall, *, intel: bool) -> RecordedCall:
        document = self._document
        layout = STRUCTS["kvm_tdx_cmd" if intel else "kvm_sev_cmd"]
        fields = call.fields
        if document.in_ is not None:
            fields = self._unpack(layout, document.in_, "in")
        number = fields.get("id", document.cmd)
        if not isinstance(number, int):
            raise self._wrong("a command without its number", "cmd")
        name = (TDX_NAMES if intel else SEV_NAMES).get(number, f"command {number}")
        call = replace(call, fields=fields, command=name)
        inner = STRUCTS.get(COMMAND_STRUCTS.get(name, ""))
        data = self._bytes(document.data)
        if inner is None or data is None:
            return call
        made = self._unpack(inner, data, "data")
        return replace(call, data=made, follows=data[inner.size :])

    def _bytes(self, data: bytes | TakenDocument | int | None) -> bytes | None:
        """Return the bytes of a command's struct, None where there are none."""
        if isinstance(data, bytes):
            return data
        if data is None or isinstance(data, int) or data.hex is None:
            return None
        return bytes(data.hex).ljust(min(data.size, MOST_LINE), b"\0")

    def _taken(self, key: str) -> Taken | None:
        """Return contents as they were recorded; MalformedError where the bytes are others."""
        held = getattr(self._document, key)
        if held is None:
            return None
        digest = bytes.fromhex(held.sha256)
        if held.hex is None:
            return Taken(held.size, digest, zeros=held.zeros)
        if len(held.hex) > held.size or held.size > MOST_LINE:
            raise self._wrong(f"{len(held.hex)} bytes of {held.size}", f"{key}.hex")
        data = held.hex.ljust(held.size, b"\0")
        if sha256(data).digest() != digest:
            raise self._wrong("the SHA-256 is that of other bytes", key)
        return Taken(held.size, digest, data, not any(data))

    def _state(self) -> Registers:
        """Return the registers of a vCPU in the end; a struct of zeros is one not known."""
        found = {name: self._registers(name) for name in ("regs", *SIZES, "xsave")}
        held = {name: data for name, data in found.items() if any(data)}
        return Registers(**held, msrs=self._document.state_msrs)

    def _registers(self, name: str) -> bytes:
        data: bytes = getattr(self._document, name) or b""
        sizes = [STRUCTS[struct].size for struct in SIZES.get(name, ())]
        if data and sizes and len(data) not in sizes:
            wanted = " or ".join(map(str, sizes))
            raise self._wrong(f"{len(data)} bytes, expected {wanted}", name)
        return data

    def _set(self, name: str) -> Registers | None:
        """Return the registers that a call sets, None where it sets none."""
        document = self._document
        if document.on != "vcpu" or (document.ret or 0) < 0:
            return None
        if name in REGISTERS and document.in_ is not None:
            made = Registers()
            setattr(made, REGISTERS[name], document.in_)
            return made
        if name == "KVM_SET_MSRS" and document.msrs:
            return Registers(msrs=dict(self._entries(document.msrs)))
        return None

    def _entries(self, data: bytes) -> Iterator[tuple[int, int]]:
        if len(data) % MSR_ENTRY.size:
            raise self._wrong(f"{len(data)} bytes are not whole entries", "msrs")
        for at in range(0, len(data), MSR_ENTRY.size):
            entry = unpack(MSR_ENTRY, data[at : at + MSR_ENTRY.size])
            yield int(entry["index"]), int(entry["data"])
