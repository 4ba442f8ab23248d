"""The launches that are recorded: how QEMU is told of each, and how cvmplan is."""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from tests.build.ovmf import Ovmf, tdx_sections

SIZE: Final = 0x20000  # of the images: QEMU takes multiples of 64 KiB
SNP_IMAGE: Final = Ovmf(size=SIZE, seed="recorded snp", zero_pages=(1, 2, 5)).build()
TDX_IMAGE: Final = Ovmf(
    size=SIZE, seed="recorded tdx", zero_pages=(1, 2, 5), hash_table=(0, 0), sev_sections=None,
    tdx_sections=tdx_sections(SIZE, cfv=0x8000),
).build()  # fmt: skip


def linux_kernel() -> bytes:
    """A setup header that QEMU's loader takes (boot protocol 2.12, one setup sector), no code."""
    made = bytearray(0x1400)
    made[0x1F1] = 1
    made[0x1FE:0x200] = b"\x55\xaa"
    made[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", made, 0x206, 0x20C)
    made[0x211] = 1
    struct.pack_into("<I", made, 0x22C, 0x7FFFFFFF)
    struct.pack_into("<I", made, 0x238, 255)
    return bytes(made)


FILES: Final = {
    "snp.fd": SNP_IMAGE,
    "tdx.fd": TDX_IMAGE,
    "kernel": linux_kernel(),
    "initrd": b"initrd of the matrix" * 300,
}
"""What launches are made of; both programs run in a folder with these files."""
OLD, NEW = "qemu-10.0", "qemu-11.1"
XFAM: Final = 0x1AE7  # what the recorder's KVM offers, and QEMU takes with -cpu host


@dataclass(frozen=True)
class Launch:
    """
    One launch.

    qemu     arguments of QEMU
    options  of cvmplan, the image first
    vmms     the binaries that are recorded
    fault    that the recorder injects
    stops    (operation, errno) at which the VMM ends; None: it goes on to the end
    says     what QEMU prints where it ends before it adds anything
    same     it is measured as planned (a VMM that does not notice a rest is not)
    """

    name: str
    qemu: tuple[str, ...]
    options: tuple[str, ...]
    vmms: tuple[str, ...] = (OLD, NEW)
    fault: str = ""
    stops: tuple[str, str] | None = None
    says: str = ""
    same: bool = True


def _b64(data: bytes) -> str:
    return b64encode(data).decode()


def _memory(size: str) -> tuple[str, ...]:
    return ("-m", size, "-object", f"memory-backend-memfd,id=m,size={size},share=on")


def snp(
    name: str,
    cpu: str = "EPYC-v4",
    vcpus: int = 1,
    *,
    policy: str = "0x30000",
    size: str = "512M",
    guest: str = "",
    rest: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
) -> Launch:
    """An SNP launch; `guest` are properties of sev-snp-guest, `rest` further arguments."""
    arguments = (
        "-machine", "q35,confidential-guest-support=s,memory-backend=m", *_memory(size),
        "-object", f"sev-snp-guest,id=s,cbitpos=0,reduced-phys-bits=1,policy={policy}{guest}",
        "-cpu", cpu, "-smp", str(vcpus), "-bios", "snp.fd", *rest,
    )  # fmt: skip
    told = (
        "snp.fd", "--platform", "snp", "--cpu", cpu, "--vcpus", str(vcpus), "--policy", policy,
        "--memory", size,
    )  # fmt: skip
    return Launch(f"snp-{name}", arguments, (*told, *options))


PFLASH: Final = ("-drive", "if=pflash,format=raw,unit=0,readonly=on,file=snp.fd")
BIOS: Final = ("-bios", "snp.fd")


def sev(name: str, policy: int, legacy: str, firmware: tuple[str, ...]) -> Launch:
    """A SEV or, with bit 2 of the policy, SEV-ES launch of two vCPUs."""
    kind = "" if legacy == "auto" else f",legacy-vm-type={legacy}"
    arguments = (
        "-machine", "q35,confidential-guest-support=s", "-m", "512M", "-object",
        f"sev-guest,id=s,cbitpos=0,reduced-phys-bits=1,policy={policy:#x}{kind}",
        "-cpu", "EPYC-v4", "-smp", "2", *firmware,
    )  # fmt: skip
    platform = "sev-es" if policy & 4 else "sev"
    told: tuple[str, ...] = ("snp.fd", "--platform", platform, "--vcpus", "2", "--memory", "512M")
    told += ("--cpu", "EPYC-v4") if policy & 4 else ()
    told += () if legacy == "auto" else ("--es-init", "init2" if legacy == "off" else "legacy")
    refused = policy & 4 and legacy == "off" and firmware == PFLASH
    says = "pflash with kvm requires KVM readonly memory support" if refused else ""
    return Launch(name, arguments, told, says=says)


def tdx(
    name: str,
    vcpus: int = 1,
    *,
    size: str = "512M",
    guest: str = "",
    rest: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
) -> Launch:
    """A TDX launch; `guest` are properties of tdx-guest."""
    arguments = (
        "-machine", "q35,confidential-guest-support=s,kernel-irqchip=split", "-m", size,
        "-object", f"tdx-guest,id=s{guest}", "-cpu", "host", "-smp", str(vcpus),
        "-bios", "tdx.fd", *rest,
    )  # fmt: skip
    told = (
        "tdx.fd", "--platform", "tdx", "--abi", "kvm-6.18", "--vcpus", str(vcpus),
        "--memory", size, "--xfam", hex(XFAM),
    )  # fmt: skip
    return Launch(f"tdx-{name}", arguments, (*told, *options), vmms=(NEW,))


KERNEL: Final = ("-kernel", "kernel", "-append", "console=ttyS0")
OF_KERNEL: Final = ("--kernel", "kernel", "--append", "console=ttyS0")
HOST_DATA: Final = sha256(b"recorded host data").digest()
MRCONFIGID: Final = bytes(range(48))
HASHES: Final = ",kernel-hashes=on"
DIGEST: Final = (
    "0b58f06f20730b0376e8075944f14efa1ab85a849a113ee7"
    "3ff2af166f040b8e3ab2b29a6d31142156fb43e3a33d9665"
)
"""The launch digest of SNP with one vCPU, by sev-snp-measure 0.0.13."""
ID_BLOCK: Final = bytes.fromhex(DIGEST) + bytes(32) + struct.pack("<IIQ", 1, 0, 0x30000)
ID_AUTH: Final = bytes(4096)  # not signed: no firmware looks at it here


def of_snp() -> Iterator[Launch]:
    """Counts of vCPUs, CPU models, kernels, identities, memory."""
    for vcpus in (1, 3, 64):
        yield snp(str(vcpus), vcpus=vcpus)
    for cpu in ("EPYC", "EPYC-Rome-v2", "EPYC-Milan-v2", "EPYC-Genoa"):
        yield snp(cpu, cpu, 2)
    yield replace(snp("EPYC-Turin", "EPYC-Turin", 2), vmms=(NEW,))
    yield snp("kernel", guest=HASHES, rest=KERNEL, options=OF_KERNEL)
    with_initrd = (*OF_KERNEL, "--initrd", "initrd")
    yield snp("initrd", guest=HASHES, rest=(*KERNEL, "-initrd", "initrd"), options=with_initrd)
    given = f",host-data={_b64(HOST_DATA)}"
    yield snp("host-data", guest=given, options=("--host-data", HOST_DATA.hex()))
    given = f",id-block={_b64(ID_BLOCK)},id-auth={_b64(ID_AUTH)}"
    told = ("--id-block", ID_BLOCK.hex(), "--id-auth", ID_AUTH.hex())
    yield snp("id-block", guest=given, options=told)
    yield snp("policy", policy="0xb0000")
    yield snp("5G", size="5G")


def of_sev() -> Iterator[Launch]:
    """Every legacy-vm-type, from ROM and from flash."""
    for legacy in ("auto", "on", "off"):
        for how, firmware in (("bios", BIOS), ("pflash", PFLASH)):
            yield sev(f"sev-{legacy}-{how}", 0x1, legacy, firmware)
            yield sev(f"sev-es-{legacy}-{how}", 0x5, legacy, firmware)


def of_tdx() -> Iterator[Launch]:
    """Counts of vCPUs, memory, identities, a kernel."""
    yield tdx("1")
    yield tdx("3", 3)
    yield tdx("5G", size="5G")
    given = f",mrconfigid={_b64(MRCONFIGID)}"
    yield tdx("mrconfigid", guest=given, options=("--mrconfigid", MRCONFIGID.hex()))
    yield tdx("kernel", rest=KERNEL)


def faults() -> Iterator[Launch]:
    """What a kernel or the firmware may answer to an add, and what the VMM does then."""
    for fault in ("partial", "again"):
        yield replace(snp(f"fault-{fault}"), fault=fault)
    for fault, errno in (("intr", "EINTR"), ("busy", "EBUSY"), ("cpuid", "EIO")):
        yield replace(snp(f"fault-{fault}"), fault=fault, stops=("snp-launch-update", errno))
    for fault in ("again", "intr"):
        yield replace(tdx(f"fault-{fault}"), fault=fault)
    yield replace(tdx("fault-partial"), fault="partial", same=False)
    yield replace(tdx("fault-busy"), fault="busy", stops=("tdx-init-mem-region", "EBUSY"))


LAUNCHES: Final = {one.name: one for one in (*of_snp(), *of_sev(), *of_tdx(), *faults())}


def of_models(models: Iterable[str]) -> Iterator[Launch]:
    """SNP with two vCPUs of each CPU model that a binary knows."""
    for model in models:
        yield snp(f"model-{model}", model, 2)
