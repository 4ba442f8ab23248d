"""
What firmware is handed for a direct boot: the kernel as QEMU leaves it, and its load options.

Sources: Debian's qemu 10.2.2+ds-1 and 10.0.13+ds-0+deb13u1, hw/i386/x86-common.c
(x86_load_linux); Linux 6.12, Documentation/arch/x86/boot.rst;
edk2 c5aa7e7, OvmfPkg/Library/X86QemuLoadImageLib and GenericQemuLoadImageLib; Linux 6.12.117,
drivers/firmware/efi/libstub/efi-stub-helper.c.
"""

from __future__ import annotations

from struct import pack_into, unpack_from
from typing import Final

from cvmplan.boot.event_data import options_text
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, UnsupportedError
from cvmplan.profiles.machines import Q35

MOST_KERNEL: Final = 256 << 20
MOST_INITRD: Final = 4 << 30
MIB: Final = 1 << 20
_ACPI_DATA: Final = 0x28000
_CANDIDATE: Final = 8192  # bytes of the file that are looked at as a header
_MAGIC: Final = 0x53726448  # "HdrS"
_CC_PROTOCOL: Final = bytes.fromhex("3d1a7596f472a641")
"""The first half of EFI_CC_MEASUREMENT_PROTOCOL_GUID, an immediate in the stub's code."""
_VGA: Final = {"normal": 0xFFFF, "ext": 0xFFFE, "ask": 0xFFFD}


def has_cc_stub(kernel: Blob) -> bool:
    """Whether the kernel's EFI stub measures through the CC protocol if there is no TPM."""
    return _CC_PROTOCOL in bytes(kernel.data)


def is_linux(kernel: Blob) -> bool:
    """Whether a setup header of protocol 2.00 or later stands where Linux has it."""
    data = kernel.data
    return len(data) >= 0x250 and unpack_from("<I", data, 0x202)[0] == _MAGIC


def patched(kernel: Blob, memory: int, append: str, initrd: int) -> Blob:
    """
    Return the kernel with the fields of its header that an old QEMU writes.

    `initrd` is the initrd's size, 0 where there is none; `memory` in bytes.  A file without a
    header is returned as it is.  UnsupportedError: a kernel that is not loaded high, or an
    initrd that does not fit below what the kernel allows.
    """
    if not is_linux(kernel):
        return kernel
    head = bytearray(kernel.data[:_CANDIDATE])
    protocol = unpack_from("<H", head, 0x206)[0]
    if protocol < 0x202 or not head[0x211] & 1:
        hint = "what a VMM writes into other kernels is not predicted"
        problem = f"boot protocol {protocol:#x}, or a kernel loaded low"
        raise UnsupportedError(problem, at=kernel.where(0x206), hint=hint)
    pack_into("<B", head, 0x210, 0xB0)
    head[0x211] |= 0x80
    pack_into("<H", head, 0x224, 0xFE00)
    pack_into("<I", head, 0x228, 0x20000)
    mode = vga_mode(append)
    if mode is not None:
        pack_into("<H", head, 0x1FA, mode)
    if initrd:
        address = _initrd_address(kernel, head, protocol, memory, initrd)
        pack_into("<II", head, 0x218, address, initrd)
    return Blob(kernel.name, memoryview(bytes(head) + bytes(kernel.data[_CANDIDATE:])))


def vga_mode(append: str) -> int | None:
    """Return the mode that `vga=` asks for, None where it does not stand there; ConfigError."""
    found = append.find("vga=")
    if found < 0:
        return None
    word = append[found + 4 :].split(" ", 1)[0].split(",", 1)[0]
    for name, mode in _VGA.items():
        if word.startswith(name):
            return mode
    try:
        return int(word, 0) & 0xFFFF
    except ValueError as error:
        raise ConfigError(f"vga={word!r} is not a mode", at="--append") from error


def _initrd_address(kernel: Blob, head: bytearray, protocol: int, memory: int, initrd: int) -> int:
    """Return where QEMU says that the initrd lies."""
    highest: int
    if protocol >= 0x20C and head[0x236] & 2:
        highest = 0xFFFFFFFF
    elif protocol >= 0x203:
        highest = unpack_from("<I", head, 0x22C)[0]
    else:
        highest = 0x37FFFFFF
    low = Q35.ram(memory)[0][1]
    if highest >= low - _ACPI_DATA:
        highest = low - _ACPI_DATA - 1
    if initrd >= highest:
        problem = f"an initrd of {initrd} bytes does not fit below {highest:#x}"
        raise UnsupportedError(problem, at=kernel.name, hint="give the TD more memory")
    return (highest - initrd) & ~4095


def load_options(append: str, *, initrd: bool, initrd_first: bool, shim: bool = False) -> bytes:
    """
    Return the load options that firmware gives a kernel, b"" where it gives none.

    `initrd_first`: edk2-stable202508 and later put the option for it before the rest.
    UnsupportedError for text that is not ASCII.
    """
    text = append
    if initrd:
        text = f"initrd=initrd {append}" if initrd_first else f"{append} initrd=initrd"
    if shim:
        text = f"kernel {text}"
    return options_text(text) if text else b""
