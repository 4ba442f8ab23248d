"""
A VMM that makes the calls of a plan: it knows no more of KVM than what the lines say.

    python fake_vmm.py CALLS SOURCES FILE...

CALLS are the lines of `plan --format calls`, SOURCES what the plan itself has of contents (symbol
to hex), the FILEs its inputs.  It ends with KVM_RUN.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import re
import sys
from ctypes import addressof, c_char
from typing import Any, Final

RUN: Final = 0xAE80
ROOM: Final = 1 << 21
ENTRIES: Final = (100).to_bytes(4, "little")
FILLED: Final = {"&capabilities": bytes(2048) + ENTRIES, "&cpuid2": ENTRIES}
"""Memory in which the kernel finds how many CPUID entries there is room for."""
SYMBOL: Final = re.compile(r"(&?[a-z_0-9]+)(?:\[(\d+)\])?(?:\.source)?(?:\+(0x[0-9a-f]+))?")


class Vmm:
    """Makes calls one after the other; `fds` and memory are by the names of the plan."""

    def __init__(self, inputs: list[bytes], sources: dict[str, str]) -> None:
        self.fds = {"kvm": os.open("/dev/kvm", os.O_RDWR), "sev_fd": os.open("/dev/sev", os.O_RDWR)}
        self.held: dict[str, Any] = {}  # what addresses are of
        for number, data in enumerate(inputs):
            self._room(f"&input[{number}]", data)
        for name, written in sources.items():
            self._room(name, bytes.fromhex(written), ROOM)

    def _room(self, name: str, data: bytes = b"", size: int = 0) -> int:
        """Return the address of memory with this name; it is made once."""
        if name not in self.held:
            self.held[name] = mmap.mmap(-1, max(size, len(data), 4096))
            data = data or FILLED.get(name, b"")
            self.held[name][: len(data)] = data
        return addressof(c_char.from_buffer(self.held[name]))

    def _value(self, symbol: str, data: int, memory: int) -> int:
        found = SYMBOL.fullmatch(symbol)
        assert found, symbol
        name, number, offset = found.groups()
        if symbol == "&data":
            return data
        if name == "gmem":
            return self.fds[f"gmem:{number}"]
        if name in self.fds:
            return self.fds[name]
        whole = symbol.partition("+")[0]
        return self._room(whole, size=memory or ROOM) + int(offset or "0", 16)

    def _struct(self, held: dict[str, Any], data: int = 0) -> bytearray:
        """Return the bytes of a struct with its relocations filled in."""
        made = bytearray.fromhex(held["bytes"])
        memory = int(held["fields"].get("memory_size", "0"), 16)
        fields = {place["offset"]: place["address"] for place in held.get("relocations", [])}
        for at, symbol in fields.items():
            size = 4 if symbol == "sev_fd" or symbol.startswith("gmem[") else 8
            value = self._value(symbol, data, memory)
            made[at : at + size] = value.to_bytes(size, "little")
        return made

    def call(self, line: dict[str, Any]) -> None:
        """Make one call."""
        if line["call"] == "memcpy":
            source = self._value(line["from"], 0, 0)
            self._copy(line["to"], source, int(line["size"], 16))
            return
        if "ioctl" not in line:
            return
        fd, number = self.fds[line["fd"]], int(line["ioctl"], 16)
        told = 0
        if "data" in line:
            held = self._struct(line["data"]) + cpuid(line.get("cpuid", []))
            told = self._room(f"data {len(self.held)}", bytes(held))
        argument: Any = line.get("argument", 0)
        if "struct" in line:
            argument = self._struct(line, told)
        elif isinstance(argument, str):
            argument = bytearray(4096)
        if line.get("command") == "KVM_SEV_LAUNCH_MEASURE":
            self._ask_length(fd, number, argument, f"data {len(self.held) - 1}")
        result = fcntl.ioctl(fd, number, argument)
        if "returns" in line:
            self.fds[line["returns"]] = result

    def _ask_length(self, fd: int, number: int, argument: bytearray, name: str) -> None:
        """Let the kernel say how long the measurement is, by asking for none of it."""
        uaddr = self.held[name][:8]
        self.held[name][:12] = bytes(12)
        try:
            fcntl.ioctl(fd, number, argument)
        except OSError:
            self.held[name][:8] = uaddr

    def _copy(self, to: str, source: int, size: int) -> None:
        name, _, offset = to.partition("+")
        at = int(offset, 16)
        held = next(h for n, h in self.held.items() if addressof(c_char.from_buffer(h)) <= source
                    < addressof(c_char.from_buffer(h)) + len(h))  # fmt: skip
        start = source - addressof(c_char.from_buffer(held))
        self.held[name][at : at + size] = held[start : start + size]


def cpuid(bits: list[dict[str, str]]) -> bytes:
    """Return a kvm_cpuid2 with the bits that a launch decides (EAX), all others 0."""
    made = len(bits).to_bytes(8, "little")
    for one in bits:
        entry = bytearray(40)
        entry[:4] = int(one["function"], 16).to_bytes(4, "little")
        entry[12:16] = int(one["value"], 16).to_bytes(4, "little")
        made += entry
    return made


def main() -> None:
    """Make the calls, then start the first vCPU."""
    with open(sys.argv[1]) as file:
        lines = [json.loads(line) for line in file]
    with open(sys.argv[2]) as file:
        sources = json.load(file)
    inputs = []
    for name in sys.argv[3:]:
        with open(name, "rb") as data:
            inputs.append(data.read())
    vmm = Vmm(inputs, sources)
    for line in lines:
        vmm.call(line)
    fcntl.ioctl(vmm.fds["vcpu:0"], RUN, 0)


if __name__ == "__main__":
    main()
