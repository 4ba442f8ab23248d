"""
How Kata Containers' runtime in Go begins the kernel's command line.

Source: kata-containers 7c6ba40 (4.1.0) src/runtime/virtcontainers/{kernel_params,qemu,
qemu_amd64,qemu_arch_base}.go; two lines captured on hardware with 3.30.0 (c8s 9d6c0421).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

BASE: Final = (
    "tsc=reliable", "no_timer_check", "rcupdate.rcu_expedited=1", "i8042.direct=1",
    "i8042.dumbkbd=1", "i8042.nopnp=1", "i8042.noaux=1", "noreplace-smp", "reboot=k",
    "cryptomgr.notests", "net.ifnames=0", "pci=lastbus=0",
)  # fmt: skip
FLAGS: Final = {"ext4": "data=ordered,errors=remount-ro ro", "xfs": "ro", "erofs": "ro"}
"""File system of the guest's image to its mount options."""
UNITS: Final = (
    "systemd.unit=kata-containers.target", "systemd.mask=systemd-networkd.service",
    "systemd.mask=systemd-networkd.socket",
)  # fmt: skip


class Verity(NamedTuple):
    """The parameters of dm-verity, as the table of device mapper has them."""

    data_size: int
    hash_size: int
    blocks: int
    root_hash: str
    salt: str

    def parameter(self) -> str:
        """Return the kernel's parameter."""
        return (
            f'dm-mod.create="dm-verity,,,ro,0 {self.data_size // 512 * self.blocks} verity 1 '
            f"/dev/vda1 /dev/vda2 {self.data_size} {self.hash_size} {self.blocks} 0 sha256 "
            f'{self.root_hash} {self.salt}"'
        )

    def setting(self) -> str:
        """Return `kernel_verity_params`."""
        return (
            f"root_hash={self.root_hash},salt={self.salt},data_blocks={self.blocks},"
            f"data_block_size={self.data_size},hash_block_size={self.hash_size}"
        )


class Own(NamedTuple):
    """
    How Kata is configured, as far as its own parameters say it; `rootfs` "" for an initrd.

    `vcpus` is what follows nr_cpus=, "" where there is none (confidential guests since 4.0);
    `agent` are parameters of the agent.
    """

    scsi: bool
    debug: bool
    selinux: bool
    rootfs: str
    verity: Verity | None
    vcpus: str = ""
    agent: tuple[str, ...] = ()

    def parameters(self) -> str:
        """Return the parameters before `kernel_params`."""
        image = bool(self.rootfs)
        verbose = ("systemd.show_status=true", "systemd.log_level=debug")
        told = [*BASE, *(self._root() if image else ()), "console=hvc0", "console=hvc1"]
        if self.debug:
            told += ["debug", *(verbose if image else ())]
        else:
            told += ["quiet", *(["systemd.show_status=false"] if image else [])]
        told += ["panic=1", *([f"nr_cpus={self.vcpus}"] if self.vcpus else [])]
        told += [f"selinux={self.selinux:d}", *(UNITS if image else ())]
        return " ".join([*told, *(["scsi_mod.scan=none"] if self.scsi else []), *self.agent])

    def _root(self) -> Iterator[str]:
        if self.verity is not None:
            yield self.verity.parameter()
        yield "root=/dev/vda1" if self.verity is None else "root=/dev/dm-0"
        yield f"rootflags={FLAGS[self.rootfs]}"
        yield f"rootfstype={self.rootfs}"
