"""
Recordings of a VMM's ioctls (cvmplan.recorded/2), made call by call: what a recorder writes.

Struct layouts here are typed in from the headers (struct module), not taken from the package.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

PAGE: Final = 4096
UADDR: Final = 0x7F0000000000
ENCRYPT: Final = "0xc008aeba"
TYPES: Final = {"normal": 1, "zero": 3, "unmeasured": 4, "secrets": 5, "cpuid": 6}
VM_TYPES: Final = {"sev": 2, "sev-es": 3, "snp": 4, "tdx": 5}


def taken(data: bytes, *, whole: bool = True) -> dict[str, Any]:
    """Contents as a recorder writes them; the bytes themselves where they are `whole`."""
    digest = sha256(data).hexdigest()
    made: dict[str, Any] = {"size": len(data), "sha256": digest, "zeros": not any(data)}
    return made | ({"hex": data.hex()} if whole and len(data) <= 8192 else {})


def segment(base: int = 0, selector: int = 0, kind: int = 3, s: int = 1) -> bytes:
    return struct.pack("<QIH8B2x", base, 0xFFFF, selector, kind, 1, 0, 0, s, 0, 0, 0)


def sregs(cs_base: int, cs_selector: int = 0xF000) -> bytes:
    """A kvm_sregs of the reset state with this code segment."""
    data = segment()
    segments = [segment(cs_base, cs_selector, 11), *[data] * 5, segment(kind=11, s=0),
                segment(kind=2, s=0)]  # fmt: skip
    tables = struct.pack("<QH6x", 0, 0xFFFF) * 2
    control = struct.pack("<7Q", 0x60000010, 0, 0, 0, 0, 0, 0xFEE00900)
    return b"".join(segments) + tables + control + bytes(32)


def regs(rip: int, rdx: int) -> bytes:
    return struct.pack("<18Q", 0, 0, 0, rdx, *[0] * 12, rip, 2)


@dataclass
class Tape:
    """Collects calls; `lines` are what is written."""

    platform: str = "snp"
    memory: int = 4 << 20
    base: int = 0
    lines: list[dict[str, Any]] = field(default_factory=list)

    def call(self, on: str, req: str, ret: int | None = 0, **more: Any) -> int:
        """Add a call and return its line."""
        told = {} if ret is None else {"ret": ret}
        self.lines.append({"n": len(self.lines), "on": on, "req": req, **more, **told})
        return len(self.lines)

    def begin(self, vcpus: int = 1, policy: int = 0x30000) -> None:
        """Create the VM with its memory, private, and the vCPUs."""
        self.call("kvm", "0x0000ae01", 10, arg=VM_TYPES[self.platform])
        if self.platform == "tdx":
            self.command(1, bytes(256) + struct.pack("<2I", 0, 0), flags=0)
        else:
            self.command(22, bytes(48))
        if self.platform == "snp":
            self.command(100, struct.pack("<Q56x", policy))
        for vcpu in range(vcpus):
            self.call("vm", "0x0000ae41", 20 + vcpu, arg=vcpu)
        self.slot()

    def slot(self) -> None:
        gmem: dict[str, Any] = {"in": struct.pack("<Q56x", self.memory).hex()}
        self.call("vm", "0xc040aed4", 15, **gmem)
        fields = (0, 4, self.base, self.memory, UADDR, 0, 15)
        held: dict[str, Any] = {"in": struct.pack("<2I4QI116x", *fields).hex()}
        self.call("vm", "0x40a0ae49", **held)
        private = struct.pack("<4Q", self.base, self.memory, 8, 0)
        attribute: dict[str, Any] = {"in": private.hex()}
        self.call("vm", "0x4020aed2", **attribute)

    def command(
        self, number: int, data: bytes | None = None, ret: int = 0, on: str = "vm", **more: Any
    ) -> int:
        """A command of KVM_MEMORY_ENCRYPT_OP."""
        flags = more.get("flags", 0)
        outer = struct.pack("<2IQQ", number, flags, 0x7FFE0000 if data else 0, 0)
        told = {} if data is None else {"data": data.hex()}
        where = {"i": 0} if on == "vcpu" else {}
        return self.call(
            on, ENCRYPT, ret, **where, **{"in": outer.hex()}, cmd=number, **told, **more
        )

    def update(
        self, gpa: int, size: int, page_type: str = "normal", ret: int = 0, **more: Any
    ) -> int:
        """KVM_SEV_SNP_LAUNCH_UPDATE."""
        uaddr = UADDR + gpa - self.base
        data = struct.pack("<3QB39x", gpa // PAGE, uaddr, size, TYPES[page_type])
        return self.command(101, data, ret, **more)

    def region(self, gpa: int, size: int, ret: int = 0, measured: bool = True, **more: Any) -> int:
        """KVM_TDX_INIT_MEM_REGION."""
        data = struct.pack("<3Q", UADDR + gpa - self.base, gpa, size // PAGE)
        return self.command(3, data, ret, "vcpu", flags=int(measured), **more)

    def state(self, vcpu: int, rip: int, cs_base: int, rdx: int, selector: int = 0xF000) -> None:
        """The registers of a vCPU in the end."""
        self.call(
            "vcpu", "0x00000000", i=vcpu, call="state", regs=regs(rip, rdx).hex(),
            sregs=sregs(cs_base, selector).hex(), msr_277="0x7040600070406",
        )  # fmt: skip

    def finish(self) -> int:
        """The end of the launch."""
        if self.platform == "tdx":
            return self.command(4, flags=0)
        return self.command(102, bytes(88))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.lines)

    def text(self) -> bytes:
        """What the recorder has written."""
        return written(self.lines)


def written(lines: list[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()
