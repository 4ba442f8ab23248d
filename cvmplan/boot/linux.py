"""
What the EFI stub of Linux measures: its load options and the initrd that it is given.

Source: Linux 6.12.117, drivers/firmware/efi/libstub/efi-stub-helper.c (efi_measure_tagged_event,
efi_convert_cmdline, efi_load_initrd); the CC protocol since v6.9 (ac93cbfc2a2c).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cvmplan.boot import direct, event_data
from cvmplan.boot.inputs import Inputs
from cvmplan.boot.node import TAG, Node
from cvmplan.core.blob import Blob

NO_TPM: Final = "if the TD has no TPM"
LOAD_OPTIONS: Final = 0x8F3B22ED
INITRD: Final = 0x8F3B22EC
_STUB: Final = "Linux 6.12.117, drivers/firmware/efi/libstub/efi-stub-helper.c"


def linux_events(inputs: Inputs, kernel: Blob) -> Iterator[Node]:
    """Yield what the stub of the kernel measures of load options and initrd."""
    if not direct.has_cc_stub(kernel):
        return  # Linux before 6.9 measures with a TPM alone
    has_initrd = inputs.initrd is not None and len(inputs.initrd) > 0
    yield from _load_options(inputs, initrd=has_initrd)
    yield from _initrd(inputs)


def option_events(inputs: Inputs, *, has_initrd: bool) -> Iterator[Node]:
    """Yield those of a kernel that is not given, but known to measure."""
    if inputs.append:
        yield from _load_options(inputs, initrd=has_initrd)
    yield from _initrd(inputs)


def _initrd(inputs: Inputs) -> Iterator[Node]:
    if inputs.initrd is None or not len(inputs.initrd):
        return
    if any(word in inputs.append for word in ("noinitrd", "efi=")):
        needs = "a command line without noinitrd and efi="
        yield _unknown(INITRD, "initrd", needs)
        return
    yield tagged(INITRD, b"Linux initrd\0", inputs.initrd.data, "initrd", ("initrd",))


def _load_options(inputs: Inputs, *, initrd: bool) -> Iterator[Node]:
    first = inputs.firmware.initrd_first if inputs.firmware is not None else None
    if initrd and first is None:
        needs = "a firmware image that shows where it puts initrd=initrd"
        yield _unknown(LOAD_OPTIONS, "load options", needs)
        return
    told = direct.load_options(inputs.append, initrd=initrd, initrd_first=bool(first))
    if told:
        depends = ("append", "initrd", "firmware")
        yield tagged(LOAD_OPTIONS, b"LOADED_IMAGE::LoadOptions\0", told, "load options", depends)


def tagged(
    tag: int, text: bytes, data: bytes | memoryview, what: str, depends: tuple[str, ...]
) -> Node:
    """Return an event of Linux's stub."""
    told = tag.to_bytes(4, "little") + len(text).to_bytes(4, "little") + text
    digest = event_data.digest(data)
    return Node(
        2, TAG, f"{tag:#x}", what, digest, told, depends=depends, condition=NO_TPM, source=_STUB
    )


def _unknown(tag: int, what: str, needs: str) -> Node:
    return Node(2, TAG, f"{tag:#x}", what, None, needs=needs)
