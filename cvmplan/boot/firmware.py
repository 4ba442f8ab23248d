"""
What a firmware image tells of how it measures: found in the image, never taken from a version.

Each fact is a file or a text that is in the image or not.  What these do not decide is None.

Sources: edk2 c5aa7e7, OvmfPkg (TdTcg2Dxe, QemuFwCfgLib, PlatformBootManagerLib, the .fdf
files); seen in Debian's builds 2022.11, 2025.02 and 2026.08 of OvmfPkgX64 and IntelTdx.
"""

from __future__ import annotations

from typing import Final

from cvmplan.boot.event_data import DXE_VOLUME, MENU_APP, UI_APP
from cvmplan.core import guids
from cvmplan.core.blob import Blob
from cvmplan.core.errors import UnsupportedError
from cvmplan.core.records import Frozen, record
from cvmplan.images import firmware_volume, variable_store
from cvmplan.launch.model import Image
from cvmplan.platforms.tdx.hob import Section, sections_of
from cvmplan.profiles.boot import FW_CFG_EVENT

_TD_TCG2: Final = guids.of("f062221e-c607-44c2-b0b4-c3886331d351")
_SMBIOS: Final = guids.of("d27fed59-abb4-4fed-bead-2a878c7e4a7e")
_SECURE_BOOT: Final = guids.of("f0e6a44f-7195-41c3-ac64-54f202cd0a21")
_NAMED_BLOBS: Final = b"etc/boot/"
_INITRD_FIRST, _INITRD_LAST = b"\0initrd=initrd \0", b" initrd=initrd\0"
_CFV: Final = 1


@record
class Firmware(Frozen):
    """
    Facts of one image.

    `cfv`: the store's bytes as measured; `store`: its variables; `sections`: those that take
    RAM.  `measures`: it has a driver that extends RTMRs.  `fw_cfg`, `smbios`: it measures these.
    `named_blobs`: it prefers etc/boot/kernel.  `initrd_first`: where it puts the option for the
    initrd.  `secure_boot`: it was built with Secure Boot.  `menu`, `setup`: boot options that it
    makes (BootManagerMenuApp, UiApp).  None: neither is seen in the image.
    """

    name: str
    cfv: Blob
    store: tuple[variable_store.Variable, ...]
    sections: tuple[Section, ...]
    measures: bool
    fw_cfg: bool
    smbios: bool
    named_blobs: bool
    initrd_first: bool | None
    secure_boot: bool
    menu: bool
    setup: bool

    @property
    def separator_register(self) -> int | None:
        """
        The register that takes the second separator: 1 in edk2-stable202411 and later, else 0.

        None where it can't be told: only releases from 202502 on have a mark that shows.
        """
        return 1 if self.named_blobs or self.fw_cfg or self.smbios else None

    def value(self, vendor: bytes, name: str) -> bytes | None:
        """Return the value of a variable of the store, None where there is none."""
        for variable in self.store:
            if (variable.vendor, variable.name) == (vendor, name):
                return variable.value
        return None


def read(image: Image) -> Firmware:
    """
    Return the facts of a TDX firmware image of edk2.

    UnsupportedError: an image of another kind (td-shim), MalformedError, TruncatedError.
    """
    blob = image.blob
    stores = [s for s in image.sections if s.type == _CFV]
    if len(stores) != 1:
        problem = f"{len(stores)} variable stores, expected one"
        hint = "RTMRs are predicted for OVMF; for others use --template"
        raise UnsupportedError(problem, at=blob.name, hint=hint)
    start = stores[0].data_offset
    cfv = blob.slice(start, start + stores[0].raw_size)
    volumes = firmware_volume.volumes(blob)
    drivers = [v for v in volumes if v.name == DXE_VOLUME]
    if len(drivers) != 1:
        problem = f"{len(drivers)} volumes of drivers, expected one"
        raise UnsupportedError(problem, at=blob.name, hint="only images of OVMF are read")
    files, data = drivers[0].files, bytes(drivers[0].blob.data)
    first, last = _INITRD_FIRST in data, _INITRD_LAST in data
    return Firmware(
        name=blob.name,
        cfv=cfv,
        store=variable_store.read(cfv),
        sections=sections_of(image.regions),
        measures=_TD_TCG2 in files,
        fw_cfg=any(FW_CFG_EVENT in bytes(v.blob.data) for v in volumes if v.name),
        smbios=_SMBIOS in files,
        named_blobs=_NAMED_BLOBS in data,
        initrd_first=first if first != last else None,
        secure_boot=_SECURE_BOOT in files,
        menu=MENU_APP in files,
        setup=UI_APP in files,
    )
