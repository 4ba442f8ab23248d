"""What a prediction is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from cvmplan.boot.firmware import Firmware
from cvmplan.core.blob import Blob
from cvmplan.core.records import Frozen, record


@record
class Inputs(Frozen):
    """
    What a prediction is made from; None where it was not given.

    `memory`: bytes; `secure_boot`: "absent", "off" or "on"; `header`: a version ("10.1"),
    "patched" or "unpatched"; `separator`: the register of the second separator, 0 or 1, where
    the firmware does not tell.  `uki` and `loader` are PE images, `disk` the one with the table.
    `extends`: what RTMR3 is extended by, name and digest.
    """

    firmware: Firmware | None = None
    memory: int | None = None
    kernel: Blob | None = None
    initrd: Blob | None = None
    append: str = ""
    uki: Blob | None = None
    loader: Blob | None = None
    disk: Blob | None = None
    secure_boot: str | None = None
    header: str | None = None
    separator: int | None = None
    acpi_tables: Blob | None = None
    smbios: Blob | None = None
    fw_cfg: Mapping[str, Blob] = field(default_factory=dict)
    boot_vars: Mapping[str, Blob] = field(default_factory=dict)
    extends: tuple[tuple[str, bytes], ...] = ()
