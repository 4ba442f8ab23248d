"""
One recorded ioctl: its structs as fields, by the layouts of `layouts`, and what it was given.

A recording is what a real VMM did (`cvmplan.recorded/2`); readers make these records, the
simulator judges them and comparisons hold them against the calls of a plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from cvmplan.kvm.layouts import IOCTLS, SEV_COMMANDS, STRUCTS, TDX_COMMANDS, unpack

Fields: TypeAlias = Mapping[str, int | bytes]
"""Field of a struct to its value: an integer up to 8 bytes, else bytes."""
NAMES: Final[Mapping[int, str]] = {one.number: one.name for one in IOCTLS.values()}
"""Number of an ioctl to its name."""
SEV_NAMES: Final[Mapping[int, str]] = {number: name for name, number in SEV_COMMANDS.items()}
TDX_NAMES: Final[Mapping[int, str]] = {number: name for name, number in TDX_COMMANDS.items()}
FIRMWARE: Final = "psp"
"""The descriptor of /dev/sev."""
COMMAND_STRUCTS: Final[Mapping[str, str]] = {
    "KVM_SEV_INIT2": "kvm_sev_init",
    **{name: name.lower() for name in (*SEV_COMMANDS, *TDX_COMMANDS) if name.lower() in STRUCTS},
}
"""Command of KVM_MEMORY_ENCRYPT_OP to the struct that its `data` points to."""


WIDTH_LEAF: Final = 0x80000008  # CPUID: EAX[23:16] is the guest's address width


def gpaw_of(follows: bytes) -> int:
    """
    Return the guest address width, 48 or 52 bits, that the kvm_cpuid2 of a TD asks for.

    Source: linux arch/x86/kvm/vmx/tdx.c, setup_tdparams_cpuids.
    """
    header, entry = STRUCTS["kvm_cpuid2"], STRUCTS["kvm_cpuid_entry2"]
    for at in range(header.size, len(follows) - entry.size + 1, entry.size):
        one = unpack(entry, follows[at:])
        if one["function"] == WIDTH_LEAF:
            return 52 if int(one["eax"]) >> 16 & 0xFF == 52 else 48
    return 48


class Taken(NamedTuple):
    """
    The bytes that a call took from user space: how many, their SHA-256, and themselves.

    `data` is None where the recording has no more than the hash; `zeros`: it says that all are 0.
    """

    size: int
    sha256: bytes
    data: bytes | None = None
    zeros: bool = False


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """
    One recorded call.

    line      where it stands in the recording, from 1
    fd        what it was made on: "kvm", "vm", "vcpu:0", "gmem:0", `FIRMWARE`
    name      of the ioctl, "" for one that has no name here
    number    of the ioctl
    argument  an integer argument, None where it is a struct
    fields    of the struct that it points to
    command   of KVM_MEMORY_ENCRYPT_OP, "" for others
    data      fields of that command's own struct
    follows   what follows that struct (the kvm_cpuid2 of KVM_TDX_INIT_VM)
    source    contents that the call took, None where none were recorded
    returned  what it returned: 0 or a descriptor, an errno as a negative number, None: unknown
    fw_error  what the firmware answered, None where that was not recorded
    """

    line: int
    fd: str
    name: str
    number: int
    argument: int | None = None
    fields: Fields = field(default_factory=dict)
    command: str = ""
    data: Fields = field(default_factory=dict)
    follows: bytes = b""
    source: Taken | None = None
    returned: int | None = None
    fw_error: int | None = None

    @property
    def failed(self) -> bool:
        """Whether it returned an errno."""
        return self.returned is not None and self.returned < 0

    @property
    def words(self) -> str:
        """What it is called: its command, or the ioctl."""
        return self.command or self.name or hex(self.number)
