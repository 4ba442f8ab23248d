"""The peer that is installed from PyPI, virtee/sev-snp-measure, as a function of a machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pytest

guest = pytest.importorskip("sevsnpmeasure.guest", reason="sev-snp-measure is not installed")
vcpu_types = pytest.importorskip("sevsnpmeasure.vcpu_types")
SevMode = pytest.importorskip("sevsnpmeasure.sev_mode").SevMode
VMMType = pytest.importorskip("sevsnpmeasure.vmm_types").VMMType

MODES: Final = {
    "snp": SevMode.SEV_SNP,
    "sev": SevMode.SEV,
    "sev-es": SevMode.SEV_ES,
    "svsm": SevMode.SEV_SNP_SVSM,
}
VMMS: Final = {"qemu": VMMType.QEMU, "ec2": VMMType.ec2, "gce": VMMType.gce}
EPYC_V4: Final = "EPYC-v4"


@dataclass(frozen=True)
class Boot:
    """A kernel, what goes with it, and how both programs are told of them."""

    kernel: bytes
    initrd: bytes | None = None
    append: str | None = None


@dataclass(frozen=True)
class Machine:
    """One launch, as it is asked of both programs."""

    mode: str = "snp"
    vmm: str = "qemu"
    vcpus: int = 1
    cpu: str = EPYC_V4
    features: int = 1
    boot: Boot | None = None
    firmware_digest: str = ""
    options: tuple[str, ...] = ()


def theirs(file: str, kernel: str, initrd: str, machine: Machine) -> str:
    """The peer's digest."""
    append = machine.boot.append if machine.boot else None
    digest: bytes = guest.calc_launch_digest(
        MODES[machine.mode],
        machine.vcpus,
        vcpu_types.CPU_SIGS[machine.cpu],
        file,
        kernel,
        initrd,
        append or "",
        machine.features,
        machine.firmware_digest,
        VMMS[machine.vmm],
    )
    return digest.hex()
