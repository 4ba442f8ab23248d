"""
What starts a VMM with a launch, as data: the VMM itself, or a program above it.

Each passes some settings on, and has none for others; a launch that needs one of those cannot be
had with it.

Sources: QEMU 11.1.3 (qapi/qom.json, introspected over QMP), libvirt 12.8
(src/conf/schemas/domaincommon.rng), Kata Containers 7c6ba40 (src/runtime/pkg/katautils/config.go,
virtcontainers/qemu_amd64.go, pkg/govmm/qemu/qemu.go).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cvmplan.core.platform import SNP, TDX, Platform

_LAUNCH: Final = ("platform", "vmm", "abi", "vcpus", "cpu_signature", "memory")
_CPU: Final = ("cpu", "family", "model", "stepping")
_KERNEL: Final = ("kernel", "kernel_hash", "initrd", "initrd_hash", "append", "append_hash")
_CALLS: Final = ("backing", "prefault")  # how memory comes to the guest; no digest has it
_SNP: Final = ("policy", "host_data", "id_block", "id_auth", "kernel_hashes")
_SNP_MORE: Final = ("author_key_enabled", "vcek_disabled", "gosvw", "c_bit")
_TDX: Final = ("attributes", "mrconfigid", "mrowner", "mrownerconfig")
_ALL: Final = (*_LAUNCH, *_CPU, *_KERNEL, *_CALLS, *_SNP, *_SNP_MORE, *_TDX)


@dataclass(frozen=True, slots=True)
class Manager:
    """
    What starts a VMM.

    name       what it is called, as a target
    vmm        the profile whose launch it makes
    platforms  that it has configurations for
    takes      settings that it passes on, by name
    fixed      settings that it has no other value for
    igvm       it takes IGVM files
    absolute   it takes absolute paths only
    cpu        the CPU model that SNP guests have with it, "" for any
    boots      it always boots a kernel, with its hashes
    rom        firmware is a multiple of so many bytes (qemu hw/i386/x86-common.c
               x86_bios_rom_init)
    """

    name: str
    vmm: str = "qemu"
    platforms: tuple[Platform, ...] = (SNP, TDX)
    takes: tuple[str, ...] = _ALL
    fixed: Mapping[str, object] = field(default_factory=dict)
    igvm: bool = False
    absolute: bool = True
    cpu: str = ""
    boots: bool = False
    rom: int = 0x10000


_FIXED: Final = {
    "sev_features": "0x1", "page_order": "single-pass", "gpaw": 48, "tsc_khz": 0, "pad": "refuse",
}  # fmt: skip
_QEMU: Final = Manager("qemu", fixed=_FIXED, igvm=True, absolute=False)
_LIBVIRT: Final = Manager("libvirt", fixed=_FIXED)
_KATA: Final = Manager(
    "kata",
    takes=(*_LAUNCH, *_CPU, *_KERNEL, *_CALLS, *_SNP, "mrconfigid"),
    fixed={**_FIXED, "attributes": "0x10000000", "c_bit": 51},
    cpu="EPYC-v4",
    boots=True,
)
MANAGERS: Final = {one.name: one for one in (_QEMU, _LIBVIRT, _KATA)}
"""Target of `config` to what it can do."""
