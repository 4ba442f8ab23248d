"""
A VMM that knows nothing but the lines of `plan --format calls` and the inputs by their number.

It makes each call in order, with the bytes as they are printed, the relocations filled in, and
again where `repeat` or `retry` says so.  Any other answer ends it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from tests.executor.kernel import Kernel

Call = dict[str, Any]
INPUT: Final = re.compile(r"&input\[(\d+)\]\+0x([0-9a-f]+)")
ON: Final = re.compile(r"\bon ([A-Z0-9]+(?: and [A-Z0-9]+)*)")
WHILE: Final = re.compile(r"while (\w+) is not 0")
RETRY: Final = "once, with the page that the firmware corrected, on INVALID_PARAM"
LEFT: Final = {"kvm_sev_snp_launch_update": ("len", 16)}  # what a call leaves, and its offset
NENT: Final = {"&capabilities": 2048, "&cpuid2": 0}  # where the number of entries is
ROOM: Final = 1 << 40  # for what has no size of its own: memory behind a slot, zeros, answers
OF_THE_HOST: Final = ("&secrets", "&cpuid", "&hob", "&parameters", "&firmware")
INVALID_PARAM: Final = 0x16


class Stopped(Exception):  # noqa: N818 - what the VMM does, not a fault of the test
    """An answer that the printed calls do not cover."""

    def __init__(self, call: Call, answer: str) -> None:
        super().__init__(f"{call['seq']}: {call.get('command') or call['call']}: {answer}")
        self.seq, self.answer = call["seq"], answer


class Vmm:
    """One process: its memory, where each symbol is, and its descriptors."""

    def __init__(self, kernel: Kernel, inputs: Sequence[bytes]) -> None:
        self.kernel = kernel
        self.memory = kernel.memory
        self.inputs = [self.memory.put(data) for data in inputs]
        self.symbols = {"sev_fd": 99}
        self.fds = {"kvm": 3}

    def run(self, text: str) -> None:
        """Make the calls of a text; `Stopped` where it does not say how to go on."""
        for line in text.splitlines():
            self._make(json.loads(line))

    def _make(self, call: Call) -> None:
        for name, held in call.get("contents", {}).items():
            self.symbols[name] = self._contents(held)
        if call["call"] == "memcpy":
            data = self.memory.read(self._address(call["from"]), int(call["size"], 16))
            self.memory.write(self._address(call["to"]), data)
            return
        number, argument = int(call["ioctl"], 16), self._argument(call)
        retries = 1 if call.get("retry") == RETRY else 0
        while True:
            value, errno = self.kernel.ioctl(self.fds[call["fd"]], number, argument)
            rest = errno is None and self._rest(call)
            if errno is None and not rest:
                break
            if retries and self.memory.number(argument + 16, 4) == INVALID_PARAM:
                retries -= 1
            elif not self._covers(call.get("repeat", ""), errno):
                raise Stopped(call, errno or "a rest")
        self._note(call, value)

    def _covers(self, repeat: str, errno: str | None) -> bool:
        """Whether a call is made again; on E2BIG with room for more entries."""
        if errno is None:
            return WHILE.search(repeat) is not None
        on = ON.search(repeat)
        if errno == "E2BIG" and "with room for more entries" in repeat:
            for name in NENT.keys() & self.symbols.keys():
                at = self.symbols[name] + NENT[name]
                self.memory.write(at, (self.memory.number(at, 4) + 6).to_bytes(4, "little"))
        return on is not None and errno in on[1].split(" and ")

    def _note(self, call: Call, value: int) -> None:
        """Note the descriptor that a call returns, and check what it was asked for."""
        if "returns" in call:
            self.fds[call["returns"]] = value
            kind, _, number = call["returns"].partition(":")
            self.symbols[f"{kind}[{number}]"] = value
        wants = call.get("wants", "")
        bit = wants.removeprefix("bit ")
        if wants and not (value if wants == "not 0" else value >> int(bit) & 1):
            raise Stopped(call, f"{call['capability']} is {value:#x}")

    # --- the argument of a call ------------------------------------------------------------------

    def _argument(self, call: Call) -> int:
        """Return a call's argument, its structs in memory."""
        if "data" in call:
            self.symbols["&data"] = self._struct(call["data"], call.get("cpuid"))
        if "bytes" in call:
            return self._struct(call, None)
        argument = call.get("argument", 0)
        if argument == "&cpuid2":
            return self.memory.put(self._cpuid(call.get("cpuid")))
        return self._address(argument) if isinstance(argument, str) else argument

    def _struct(self, struct: Call, cpuid: list[Call] | None) -> int:
        data = bytearray.fromhex(struct["bytes"])
        for place in struct.get("relocations", []):
            value, size = self._address(place["address"]), 8
            if place["address"] == "sev_fd" or place["address"].startswith("gmem["):
                size = 4
            at = place["offset"]
            assert data[at : at + size] == bytes(size)
            data[at : at + size] = value.to_bytes(size, "little")
        follows = self._cpuid(cpuid) if struct.get("followed_by") == "&cpuid2" else b""
        return self.memory.put(bytes(data) + follows)

    def _cpuid(self, bits: list[Call] | None) -> bytes:
        """Return a kvm_cpuid2 of entries that have the bits of the launch."""
        rows = [(int(b["function"], 16), b["register"], int(b["value"], 16)) for b in bits or []]
        data = len(rows).to_bytes(8, "little")
        for function, register, value in rows:
            assert register == "eax"
            words = (function, 0, 0, value, 0, 0, 0, 0, 0, 0)
            data += b"".join(word.to_bytes(4, "little") for word in words)
        return data

    def _contents(self, held: Call) -> int:
        if "hex" in held:
            data = bytes(held.get("at", 0)) + bytes.fromhex(held["hex"])
        else:
            source = self.inputs[held["input"]] + held["offset"]
            data = self.memory.read(source, held["length"])
        return self.memory.put(data.ljust(int(held["size"], 16), b"\0"))

    def _address(self, symbol: str) -> int:
        """Return where a symbol is; memory of the VMM's own is made when it is first named."""
        if found := INPUT.fullmatch(symbol):
            return self.inputs[int(found[1])] + int(found[2], 16)
        base, _, offset = symbol.partition("+")
        if base not in self.symbols:
            assert not base.startswith(("&op[", "&id_")), f"nothing says what {base} is"
            self.symbols[base] = self.memory.reserve(ROOM, 0xA5 if base in OF_THE_HOST else 0)
        return self.symbols[base] + int(offset or "0", 16)

    # --- its answer ------------------------------------------------------------------------------

    def _rest(self, call: Call) -> int:
        """Return what the call has left of its range, 0 where it has none."""
        name, at = LEFT.get(call.get("data", {}).get("struct"), ("", 0))
        return self.memory.number(self.symbols["&data"] + at, 8) if name else 0
