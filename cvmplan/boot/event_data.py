"""
The bytes that are hashed for each kind of event: pure functions of what firmware measures.

Sources: TCG PC Client Platform Firmware Profile 1.06, "Event Types"; edk2 c5aa7e7,
OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c (MeasureVariable, MeasureSeparatorEvent,
OnReadyToBoot, OnExitBootServices) and OvmfPkg/Library/PlatformBootManagerLib.
"""

from __future__ import annotations

from hashlib import sha384
from struct import pack
from typing import Final

from cvmplan.core import guids
from cvmplan.core.errors import UnsupportedError
from cvmplan.profiles.boot import FW_CFG_EVENT

SEPARATOR: Final = bytes(4)
CALLING: Final = b"Calling EFI Application from Boot Option"
RETURNING: Final = b"Returning from EFI Application from Boot Option"
EXIT_INVOKED: Final = b"Exit Boot Services Invocation"
EXIT_SUCCESS: Final = b"Exit Boot Services Returned with Success"
EXIT_FAILURE: Final = b"Exit Boot Services Returned with Failure"

GLOBAL: Final = guids.of("8be4df61-93ca-11d2-aa0d-00e098032b8c")
SECURITY: Final = guids.of("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
SECURE_BOOT: Final = {
    "SecureBoot": GLOBAL, "PK": GLOBAL, "KEK": GLOBAL, "db": SECURITY, "dbx": SECURITY,
}  # fmt: skip
"""The variables that are measured whether they are there or not, in this order."""

UI_APP: Final = guids.of("462caa21-7614-4503-836e-8ab6f4662331")
MENU_APP: Final = guids.of("eec25bdc-67f2-4d95-b1d5-f81b2039d11d")
DXE_VOLUME: Final = guids.of("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
_END_OF_PATH: Final = bytes.fromhex("7fff0400")
_HIDDEN_APPLICATION, _CATEGORY_APPLICATION = 0x109, 0x101


def digest(data: bytes | memoryview) -> bytes:
    """Return the SHA-384 of what is measured."""
    return sha384(data).digest()


def variable(vendor: bytes, name: str, value: bytes) -> bytes:
    """Return UEFI_VARIABLE_DATA: PFP 1.06, "UEFI_VARIABLE_DATA"."""
    return vendor + pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


def boot_order(numbers: tuple[int, ...]) -> bytes:
    """Return the value of BootOrder."""
    return pack(f"<{len(numbers)}H", *numbers)


def load_option(attributes: int, description: str, path: bytes, optional: bytes = b"") -> bytes:
    """Return EFI_LOAD_OPTION: UEFI 2.10, 3.1.3."""
    head = pack("<IH", attributes, len(path))
    return head + description.encode("utf-16-le") + b"\0\0" + path + optional


def application_path(file: bytes) -> bytes:
    """Return the device path of a file in the volume of drivers."""
    return b"\x04\x07\x14\0" + DXE_VOLUME + b"\x04\x06\x14\0" + file + _END_OF_PATH


UI_OPTION: Final = load_option(_HIDDEN_APPLICATION, "UiApp", application_path(UI_APP))
MENU_OPTION: Final = load_option(
    _HIDDEN_APPLICATION, "BootManagerMenuApp", application_path(MENU_APP)
)
SETUP_OPTION: Final = load_option(
    _CATEGORY_APPLICATION, "EFI Firmware Setup", application_path(UI_APP)
)
"""Boot options that OVMF makes of itself: until 202502, and from 202505 on."""


def fw_cfg_name(name: str) -> bytes:
    """Return the event data of a measured fw_cfg item: edk2, QemuFwCfgCacheInit.c."""
    return FW_CFG_EVENT + name.encode().ljust(56, b"\0")


def options_text(text: str) -> bytes:
    """
    Return a command line as UTF-16 with its end, as firmware and stubs pass it on.

    UnsupportedError: characters that firmware does not pass on as they are.
    """
    if not text.isascii() or "\0" in text:
        hint = "firmware turns bytes above 0x7F into something that is not predicted"
        raise UnsupportedError("a command line that is not ASCII", at="--append", hint=hint)
    return text.encode("utf-16-le") + b"\0\0"


def cpio(path: str, data: bytes) -> bytes:
    """
    Return the archive that a systemd stub makes of one file, under .extra.

    systemd 257, src/boot/cpio.c: pack_cpio_one, pack_cpio_prefix, pack_cpio_trailer.
    """
    prefix, _, _ = path.rpartition("/")
    folder = _cpio_entry(1, 0o040555, prefix, b"")
    return folder + _cpio_entry(2, 0o100444, path, data) + _TRAILER


_TRAILER: Final = b"070701" + b"0" * 39 + b"1" + b"0" * 55 + b"B" + b"0" * 8 + b"TRAILER!!!\0\0\0\0"


def _cpio_entry(inode: int, mode: int, name: str, data: bytes) -> bytes:
    raw = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
    return padded(b"070701" + b"".join(b"%08x" % n for n in fields) + raw) + padded(data)


def padded(data: bytes, to: int = 4) -> bytes:
    """Return `data` with zeros behind it up to a multiple of `to`."""
    return data + bytes(-len(data) % to)
