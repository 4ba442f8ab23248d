"""
A program that makes the ioctls of launches on /dev/kvm, for tracers to look at.

    python plain_vmm.py [default]

The commands of SEV, SNP and TDX are made on a VM of type 0, where the kernel refuses them; what
they ask for is there to be traced all the same.  `default`: none of them, and KVM_RUN at the end.
Layouts are typed in from the headers (struct module), not taken from the package.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import sys
from struct import pack
from typing import Final

CREATE_VM, CREATE_VCPU, RUN = 0xAE01, 0xAE41, 0xAE80
MEMORY_REGION, MEMORY_REGION2, CREATE_GMEM = 0x4020AE46, 0x40A0AE49, 0xC040AED4
ATTRIBUTES, PRE_FAULT, ENCRYPT_OP = 0x4020AED2, 0xC040AED5, 0xC008AEBA
MEMORY: Final = 1 << 21
ID_BLOCK: Final = bytes(range(96))
FAKE: Final = 0x7F0123400000  # a source that the kernel does not come to read
HELD: Final[list[object]] = []


def pointer(data: bytes) -> int:
    """Return the address of these bytes, which stay where they are."""
    held = ctypes.create_string_buffer(data, len(data))
    HELD.append(held)
    return ctypes.addressof(held)


def call(fd: int, number: int, argument: int | bytes) -> int:
    """Make an ioctl, and return what it returned."""
    try:
        told = bytearray(argument) if isinstance(argument, bytes) else argument
        result = fcntl.ioctl(fd, number, told)
    except OSError as error:
        return -(error.errno or 0)
    return int(result)


def command(fd: int, number: int, data: bytes = b"", *, flags: int = 0, value: int = 0) -> None:
    """Make a KVM_MEMORY_ENCRYPT_OP: struct kvm_sev_cmd, or kvm_tdx_cmd."""
    call(fd, ENCRYPT_OP, pack("<IIQQ", number, flags, pointer(data) if data else value, 0))


def sev(vm: int) -> None:
    """Ask for what a launch of SEV and SNP asks for."""
    command(vm, 0)
    command(vm, 1)
    command(vm, 22, pack("<QIHH32x", 0x20, 0, 2, 0))
    command(vm, 2, pack("<IIQIIQII", 0, 5, 0, 0, 0, 0, 0, 0))
    command(vm, 3, pack("<QII", FAKE, 0x3000, 0))
    command(vm, 4)
    command(vm, 6, pack("<QII", 0, 0, 0))  # asks for the length
    command(vm, 6, pack("<QII", FAKE, 48, 0))
    command(vm, 7)
    command(vm, 100, pack("<Q16sH38x", 0x30000, bytes(16), 0))
    for number in range(1, 7):
        gfn, size = 0x800 + 16 * number, 0x1000 * number
        command(vm, 101, pack("<QQQBBHI32x", gfn, FAKE + size, size, number, 0, 0, 0))
    finish = (0, 0, bytes(32), 0)
    command(vm, 102, pack("<QQBBB32s3xH32x", pointer(ID_BLOCK), 0, 1, *finish))
    command(vm, 102, pack("<QQBBB32s3xH32x", 0, 0, 0, *finish))


def tdx(vm: int) -> None:
    """Ask for what a launch of TDX asks for."""
    command(vm, 1, pack("<QQ240x", 0x10000000, 0xE7))
    command(vm, 2, value=0x809000)
    for flags in (0, 1):
        region = pack("<QQQ", FAKE + flags, 0x1000000 + 0x1000 * flags, 2 + flags)
        command(vm, 3, region, flags=flags)
    command(vm, 4)


def main() -> None:
    """Make the calls."""
    kvm = os.open("/dev/kvm", os.O_RDWR)
    vm = fcntl.ioctl(kvm, CREATE_VM, 0)
    memory = mmap.mmap(-1, MEMORY)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    call(vm, MEMORY_REGION, pack("<IIQQQ", 0, 0, 0, MEMORY, address))
    call(vm, MEMORY_REGION, pack("<IIQQQ", 0, 0, 0, 0, address))
    call(vm, MEMORY_REGION2, pack("<IIQQQQII112x", 1, 0, 1 << 32, MEMORY, address, 0, 0, 0))
    vcpu = fcntl.ioctl(vm, CREATE_VCPU, 0)
    call(vcpu, PRE_FAULT, pack("<QQQ40x", 1 << 32, 0x10000, 0))
    if sys.argv[1:] == ["default"]:
        call(vcpu, RUN, 0)
        call(vm, MEMORY_REGION, pack("<IIQQQ", 2, 0, 1 << 33, MEMORY, address))
        return
    gmem = pack("<QQ48x", 1 << 20, 0)
    number = call(vm, CREATE_GMEM, gmem)
    region = (1, 4, 1 << 34, 1 << 20, address, 0x1000, max(number, 0), 0)
    call(vm, MEMORY_REGION2, pack("<IIQQQQII112x", *region))
    call(vm, ATTRIBUTES, pack("<QQQQ", 0x10000, 0x20000, 8, 0))
    call(vm, ATTRIBUTES, pack("<QQQQ", 0x10000, 0x1000, 0, 0))
    call(vm, ENCRYPT_OP, 0)  # asks whether there is such a call
    sev(vm)
    call(kvm, CREATE_VM, 5)
    tdx(vm)


if __name__ == "__main__":
    main()
