"""
How Kata Containers' runtimes, in Go and in Rust, begin the kernel's command line.

Sources: kata-containers 7c6ba40 (4.1.0) src/runtime/virtcontainers/{hypervisor,qemu,qemu_amd64,
qemu_arch_base}.go, pkg/katautils/config.go (SetKernelParams), pkg/oci/utils.go (KernelParams);
src/runtime-rs/crates/hypervisor/src/{kernel_param.rs,qemu/cmdline_generator.rs},
src/libs/kata-types/src/config/hypervisor/mod.rs.  Two lines captured on hardware with 3.30.0 (c8s
9d6c0421).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    How the runtime in Go is configured, as far as its own parameters say it.

    `rootfs` is "" for an initrd.  `vcpus` is what follows nr_cpus=, "" where there is none
    (confidential guests since 4.0).  `agent` are parameters of the agent.
    """

    scsi: bool
    debug: bool
    selinux: bool
    rootfs: str
    verity: Verity | None
    vcpus: str = ""
    agent: tuple[str, ...] = ()
    iommu: bool = False
    serial: bool = False

    def first(self) -> Iterator[str]:
        """Yield the parameters that nothing replaces."""
        verbose = ("systemd.show_status=true", "systemd.log_level=debug")
        yield from BASE
        yield from ("intel_iommu=on", "iommu=pt") if self.iommu else ()
        yield from root(self.rootfs, self.verity) if self.rootfs else ()
        yield from ("console=ttyS0",) if self.serial else ("console=hvc0", "console=hvc1")
        if self.debug:
            yield from ("debug", *(verbose if self.rootfs else ()))
        else:
            yield from ("quiet", *(["systemd.show_status=false"] if self.rootfs else []))
        yield "panic=1"
        yield from [f"nr_cpus={self.vcpus}"] if self.vcpus else []
        yield f"selinux={self.selinux:d}"

    def then(self) -> Iterator[str]:
        """Yield the parameters before those of the configuration, which annotations replace."""
        yield from UNITS if self.rootfs else ()
        yield from ["scsi_mod.scan=none"] if self.scsi else []
        yield from self.agent

    def parameters(self) -> str:
        """Return the parameters before `kernel_params`."""
        return " ".join((*self.first(), *self.then()))


def of_rust(*, debug: bool, rootfs: str, verity: Verity | None) -> Iterator[str]:
    """Yield what the runtime in Rust puts before the parameters of agent and configuration."""
    yield from ("reboot=k", "panic=1", *UNITS)
    yield from ["agent.log_vport=1025"] if debug else []
    yield from root(rootfs, verity) if rootfs else ()


def root(rootfs: str, verity: Verity | None) -> Iterator[str]:
    """Yield the parameters of the root file system on a block device."""
    if verity is not None:
        yield verity.parameter()
    yield "root=/dev/vda1" if verity is None else "root=/dev/dm-0"
    yield f"rootflags={FLAGS[rootfs]}"
    yield f"rootfstype={rootfs}"


def split(written: str) -> list[str]:
    """Return parameters as Kata writes them again: those with an empty value without its "="."""
    words, begin, inside = [], 0, False
    for at, letter in enumerate(written):
        inside ^= letter == '"'
        if letter == " " and not inside:
            words.append(written[begin:at])
            begin = at + 1
    words.append(written[begin:])
    return [
        word.removesuffix("=") if word.endswith("=") else word for word in words if word.strip()
    ]


def replaced(held: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return parameters with others behind them, in place of those of the same key."""
    more = [*others]
    keys = {key_of(one) for one in more}
    return [*(one for one in held if key_of(one) not in keys), *more]


def key_of(parameter: str) -> str:
    """Return what a parameter sets."""
    return parameter.partition("=")[0]
