"""
How a VMM makes its calls, where nothing of it is measured: data of profiles and plans.

A capability is named without its prefix KVM_CAP_.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Final

from cvmplan.core.platform import Platform
from cvmplan.core.records import Frozen, record

VCPUS: Final = "vcpus"
MAP_GPA_RANGE: Final = 1 << 12  # KVM_CAP_EXIT_HYPERCALL: bit KVM_HC_MAP_GPA_RANGE
IRQCHIP_ROUTES: Final = 24  # KVM_CAP_SPLIT_IRQCHIP
BUS_CYCLE_NS: Final = 40  # KVM_CAP_X86_APIC_BUS_CYCLES_NS: the 25 MHz bus of TDX


@record
class Practice(Frozen):
    """
    What a VMM does about its calls on one platform.

    repeats      errors after which it makes an add again, and where the call returns what is
                 left, also while that is not 0; empty: it makes each call once
    enables      capability that it enables to its argument; `VCPUS` is the number of vCPUs
    reads_cpuid  TDX: it asks for the CPUID of each vCPU that the module decided on
    tsc_khz      TDX: the KVM_SET_TSC_KHZ that is assumed (0: the host's), None: not called
    """

    repeats: tuple[str, ...] = ("EAGAIN", "EINTR")
    enables: Mapping[str, int | str] = field(default_factory=dict)
    reads_cpuid: bool = False
    tsc_khz: int | None = None


_TD: Final[Mapping[str, int | str]] = {
    "MAX_VCPUS": VCPUS, "SPLIT_IRQCHIP": IRQCHIP_ROUTES, "X86_APIC_BUS_CYCLES_NS": BUS_CYCLE_NS,
}  # fmt: skip


def usual(platform: Platform) -> Practice:
    """
    Return what the kernel's documentation describes for a platform.

    Sources: Linux Documentation/virt/kvm/x86/intel-tdx.rst and api.rst
    (KVM_CAP_EXIT_HYPERCALL, KVM_MEMORY_ENCRYPT_OP).
    """
    if platform.secure_ept:
        return Practice(enables=_TD)
    if platform.page_info:
        return Practice(("EAGAIN",), {"EXIT_HYPERCALL": MAP_GPA_RANGE})
    return Practice(())
