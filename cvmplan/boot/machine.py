"""
RTMR0: what firmware measures of the machine that it runs on, and of its own settings.

Sources: edk2 c5aa7e7, OvmfPkg/Library/PeilessStartupLib and PlatformPei (TD HOB, CFV),
OvmfPkg/Library/QemuFwCfgLib/QemuFwCfgCacheInit.c, OvmfPkg/Tcg/TdTcg2Dxe,
OvmfPkg/Library/AcpiPlatformLib, MdeModulePkg/Universal/SmbiosMeasurementDxe, BdsDxe.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import iter_unpack
from typing import Final

from cvmplan.boot import acpi, event_data, smbios
from cvmplan.boot.firmware import Firmware
from cvmplan.boot.inputs import Inputs
from cvmplan.boot.node import (
    AUTHORITY,
    BLOB2,
    CONFIG,
    DRIVER_CONFIG,
    HANDOFF,
    HANDOFF2,
    SEPARATOR,
    VARIABLE_BOOT,
    Node,
)
from cvmplan.core.errors import ConfigError
from cvmplan.platforms.tdx.hob import hob_list
from cvmplan.profiles.machines import Q35

FW_CFG_ITEMS: Final = {
    "etc/extra-pci-roots": 8, "BootMenu": 2, "etc/boot-menu-wait": 2,
    "etc/reserved-memory-end": 8, "opt/ovmf/X-PciMmio64Mb": 0, "bootorder": 0,
}  # fmt: skip
"""What is measured of fw_cfg, in order, and the size that each must have (0: any but none)."""
_DIRECT_BOOT_ORDER: Final = b"/rom@genroms/linuxboot_dma.bin\0"
_SECURE_BOOT: Final = {"absent": b"", "off": b"\0", "on": b"\1"}
_ACPI: Final = b"ACPI DATA"
PLAIN: Final = (
    "if the VMM was given no -boot menu, bootindex, splash-time, expander bridge or memory slots"
)


def rtmr0(inputs: Inputs, second: int | None) -> Iterator[Node]:
    """Yield the events of RTMR0; errors as in predict."""
    firmware = inputs.firmware
    if firmware is None:
        yield _unknown(HANDOFF2, "TdxTable", "the machine", "the firmware image")
        return
    yield _td_hob(inputs, firmware)
    name = b"\x03CFV"
    yield _known(BLOB2, "CFV", "variable store (CFV)", firmware.cfv.data, name, ("firmware",))
    if firmware.fw_cfg:
        yield from _fw_cfg(inputs)
    yield from _secure_boot(inputs, firmware)
    yield _separator()
    if second == 0:
        yield from _acpi_and_boot(inputs, firmware)
        yield _separator()
    elif second is None:
        yield from _acpi_and_boot(inputs, firmware)
        yield _unknown(SEPARATOR, "separator", "separator or none", "--separator rtmr0|rtmr1")
    else:
        yield from _acpi_and_boot(inputs, firmware)
    if inputs.secure_boot == "on":
        needs = "--template: which key of db verified the image"
        yield _unknown(AUTHORITY, "db", "the key that verified what is booted", needs)


def _known(
    kind: int, key: str, what: str, hashed: bytes | memoryview, data: bytes,
    depends: tuple[str, ...], condition: str = "",
) -> Node:  # fmt: skip
    digest = event_data.digest(hashed)
    source = "edk2 c5aa7e7, OvmfPkg"
    return Node(
        0, kind, key, what, digest, data, depends=depends, condition=condition, source=source
    )


def _unknown(kind: int, key: str, what: str, needs: str) -> Node:
    return Node(0, kind, key, what, None, needs=needs)


def _separator() -> Node:
    data = event_data.SEPARATOR
    return _known(SEPARATOR, "separator", "separator", data, data, ())


def _td_hob(inputs: Inputs, firmware: Firmware) -> Node:
    if inputs.memory is None:
        return _unknown(HANDOFF2, "TdxTable", "TD HOB", "--memory")
    blocks = hob_list(firmware.sections, Q35.ram(inputs.memory))
    data = b"\x09TdxTable\0"
    condition = "if the machine is a q35 without max-ram-below-4g"
    return _known(HANDOFF2, "TdxTable", "TD HOB", blocks, data, ("memory", "firmware"), condition)


def _fw_cfg(inputs: Inputs) -> Iterator[Node]:
    """Yield the items of fw_cfg that are measured: those given, else a plain machine's."""
    for name, size in FW_CFG_ITEMS.items():
        blob = inputs.fw_cfg.get(name)
        condition = "" if blob is not None else PLAIN
        data = b"" if blob is None else bytes(blob.data)
        if blob is None and name == "BootMenu":
            data = bytes(2)
        elif blob is None and name == "bootorder":
            if inputs.kernel is None:
                yield _unknown(CONFIG, name, f"fw_cfg {name}", "--fw-cfg bootorder=FILE")
                continue
            data = _DIRECT_BOOT_ORDER
        if data and size in (0, len(data)):
            told = event_data.fw_cfg_name(name)
            yield _known(CONFIG, name, f"fw_cfg {name}", data, told, ("fw_cfg",), condition)


def _secure_boot(inputs: Inputs, firmware: Firmware) -> Iterator[Node]:
    """Yield the variables of Secure Boot; ConfigError where the option cannot be."""
    enrolled = bool(firmware.value(event_data.GLOBAL, "PK"))
    word = inputs.secure_boot
    if word in ("on", "off") and not firmware.secure_boot:
        raise ConfigError("the firmware was built without Secure Boot", at="--secure-boot")
    if word == "on" and not enrolled:
        raise ConfigError("the variable store has no PK", at="--secure-boot")
    if word is None and not firmware.secure_boot and not enrolled:
        word = "absent"
    for name, vendor in event_data.SECURE_BOOT.items():
        if name == "SecureBoot":
            if word is None:
                needs = "--secure-boot absent|off|on"
                yield _unknown(DRIVER_CONFIG, name, "variable SecureBoot", needs)
                continue
            value = _SECURE_BOOT[word]
        else:
            value = firmware.value(vendor, name) or b""
        yield _variable(vendor, name, value)
    revoked = firmware.value(event_data.SECURITY, "dbt")
    if revoked is not None:
        yield _variable(event_data.SECURITY, "dbt", revoked)


def _variable(vendor: bytes, name: str, value: bytes) -> Node:
    whole = event_data.variable(vendor, name, value)
    what = f"variable {name}{'' if value else ', empty'}"
    return _known(DRIVER_CONFIG, name, what, whole, whole, ("firmware", "secure_boot"))


def _acpi_and_boot(inputs: Inputs, firmware: Firmware) -> Iterator[Node]:
    yield from _acpi(inputs)
    if firmware.smbios:
        yield _smbios(inputs)
    yield from _boot_variables(inputs, firmware)


def _acpi(inputs: Inputs) -> Iterator[Node]:
    if inputs.acpi_tables is None:
        yield _unknown(CONFIG, "ACPI DATA", "ACPI tables", "--acpi-tables FILE")
        return
    found = acpi.derive(inputs.acpi_tables)
    for name, data in (
        ("etc/table-loader", found.loader),
        ("etc/acpi/rsdp", found.rsdp),
        ("etc/acpi/tables", found.tables),
    ):
        yield _known(CONFIG, "ACPI DATA", f"ACPI {name}", data, _ACPI, ("acpi_tables",))


def _smbios(inputs: Inputs) -> Node:
    what = "SMBIOS structures"
    if inputs.smbios is None:
        return _unknown(HANDOFF, "SMBIOS", what, "--smbios FILE")
    table = smbios.installed(inputs.smbios, None)
    return _known(HANDOFF, "SMBIOS", what, smbios.measured(table), b"", ("smbios",))


def _boot_variables(inputs: Inputs, firmware: Firmware) -> Iterator[Node]:
    """Yield BootOrder and the options that it names: those given, else what firmware makes."""
    values = _made(inputs, firmware) if inputs.kernel is not None else None
    values = {**(values or {}), **{name: bytes(b.data) for name, b in inputs.boot_vars.items()}}
    order = values.get("BootOrder")
    if order is None:
        yield _unknown(VARIABLE_BOOT, "BootOrder", "boot variables", "--boot-var BootOrder=FILE")
        return
    if len(order) % 2:
        raise ConfigError(
            f"{len(order)} bytes, expected two bytes per number", at="--boot-var BootOrder"
        )
    names = ["BootOrder", *(f"Boot{number:04X}" for (number,) in iter_unpack("<H", order))]
    for name in names:
        value = values.get(name)
        if value is None:
            yield _unknown(VARIABLE_BOOT, name, f"variable {name}", f"--boot-var {name}=FILE")
            continue
        whole = event_data.variable(event_data.GLOBAL, name, value)
        given = name in inputs.boot_vars
        depends, condition = (("boot_vars",), "") if given else (("firmware",), PLAIN)
        yield _known(VARIABLE_BOOT, name, f"variable {name}", value, whole, depends, condition)


def is_boot_variable(name: str) -> bool:
    """Whether this is the name of a variable that is measured when firmware boots."""
    digits = name.removeprefix("Boot")
    is_option = len(digits) == 4 and all(c in "0123456789ABCDEF" for c in digits)
    return name == "BootOrder" or (name.startswith("Boot") and is_option)


def _made(inputs: Inputs, firmware: Firmware) -> dict[str, bytes] | None:
    """
    Return the variables that firmware makes in a direct boot, None where that is not sure.

    A store that already has boot variables, and firmware without UiApp among its drivers
    (IntelTdx builds of 2026), have not been seen.
    """
    menu = inputs.fw_cfg.get("BootMenu")
    asked = menu is not None and any(menu.data)
    if asked or any(v.name.startswith("Boot") for v in firmware.store) or not firmware.setup:
        return None
    if not firmware.menu:
        return {"BootOrder": event_data.boot_order((0,)), "Boot0000": event_data.UI_OPTION}
    return {
        "BootOrder": event_data.boot_order((0, 1)),
        "Boot0000": event_data.MENU_OPTION,
        "Boot0001": event_data.SETUP_OPTION,
    }
