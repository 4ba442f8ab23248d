"""
What kernels refuse on the way to a launch, and whether that is modelled here.

`cvmplan abis NAME` prints the rows of the platforms that an interface has.  "check" in `where`
stands for every verb that judges a launch, "simulate" for the simulator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from cvmplan.kvm.interface import Abi

BOTH, SIMULATE, NOT = "check, simulate", "simulate", "not modelled"
_KVM = "linux virt/kvm/kvm_main.c, virt/kvm/guest_memfd.c"
_SEV = "linux arch/x86/kvm/svm/sev.c"
_TDX = "linux arch/x86/kvm/vmx/tdx.c"
_OPEN = ("snp", "tdx", "sev", "sev-es", "sw-protected", "default")
_SNP, _ES, _TD = ("snp",), ("sev", "sev-es"), ("tdx",)


class Refusal(NamedTuple):
    """A call, what about it is refused, the answer, and where that is modelled."""

    call: str
    situation: str
    answer: str
    where: str
    source: str
    platforms: tuple[str, ...] = _OPEN


REFUSALS: Final = (
    Refusal("KVM_CREATE_VM", "a VM type that the kernel does not have", "EINVAL", BOTH, _KVM),
    Refusal("KVM_CREATE_VM", "a host without the feature", "EINVAL", NOT, _KVM),
    Refusal("KVM_CREATE_GUEST_MEMFD", "size 0, unaligned, 2^63 and more; unknown flags", "EINVAL",
            SIMULATE, _KVM),
    Refusal("KVM_SET_USER_MEMORY_REGION2", "unaligned, past 2^52, a slot above 32763", "EINVAL",
            SIMULATE, _KVM),
    Refusal("KVM_SET_USER_MEMORY_REGION2", "past the host's own address width", "EINVAL", NOT,
            _KVM),
    Refusal("KVM_SET_USER_MEMORY_REGION2", "memory of another slot", "EEXIST", SIMULATE, _KVM),
    Refusal("KVM_SET_USER_MEMORY_REGION2", "a guest_memfd range bound twice",
            "EINVAL, from 7.2 EEXIST", SIMULATE, _KVM),
    Refusal("KVM_SET_USER_MEMORY_REGION2", "a slot with guest_memfd changed, read-only, logged",
            "EINVAL", "simulate, without read-only and logged", _KVM),
    Refusal("KVM_SET_MEMORY_ATTRIBUTES", "unaligned, empty, up to 2^64, not supported", "EINVAL",
            SIMULATE, _KVM),
    Refusal("KVM_CREATE_VCPU", "a vCPU number twice", "EEXIST", SIMULATE, _KVM),
    Refusal("KVM_PRE_FAULT_MEMORY", "unaligned, empty, flags", "EINVAL",
            "simulate, without flags", "linux arch/x86/kvm/mmu/mmu.c"),
    Refusal("KVM_PRE_FAULT_MEMORY", "before the launch is final (SNP, TDX)", "EOPNOTSUPP", BOTH,
            "linux arch/x86/kvm/mmu/mmu.c"),
    Refusal("KVM_PRE_FAULT_MEMORY", "no memslot", "ENOENT", BOTH, "linux arch/x86/kvm/mmu/mmu.c"),
    Refusal("KVM_SEV_INIT2", "after a vCPU, twice", "EINVAL", SIMULATE, _SEV, (*_SNP, *_ES)),
    Refusal("KVM_SEV_INIT2", "SEV_FEATURES that kernel or host do not have", "EINVAL", BOTH, _SEV,
            (*_SNP, *_ES)),
    Refusal("KVM_SEV_INIT2", "flags, a GHCB version above the kernel's", "EINVAL", NOT, _SEV,
            (*_SNP, *_ES)),
    Refusal("SNP_LAUNCH_START", "a guest policy that the kernel refuses", "EINVAL", BOTH, _SEV,
            _SNP),
    Refusal("SNP_LAUNCH_START", "twice, or on another VM", "EINVAL, ENOTTY", SIMULATE, _SEV, _SNP),
    Refusal("SNP_LAUNCH_START", "a policy that this firmware refuses (ABI version, SMT off)",
            "EIO", NOT, "AMD 56860", _SNP),
    Refusal("SNP_LAUNCH_UPDATE", "length 0", "0 up to 6.17, then EINVAL", SIMULATE, _SEV, _SNP),
    Refusal("SNP_LAUNCH_UPDATE", "unaligned, type VMSA, before the start", "EINVAL", SIMULATE,
            _SEV, _SNP),
    Refusal("SNP_LAUNCH_UPDATE", "a page that is not private, or was added", "EIO", BOTH, _SEV,
            _SNP),
    Refusal("SNP_LAUNCH_UPDATE", "a CPUID page that the firmware corrects", "EIO, fw_error 0x16",
            "recordings", "AMD 56860", _SNP),
    Refusal("SNP_LAUNCH_UPDATE", "EAGAIN, EINTR, no memory", "the errno", "recordings", _SEV, _SNP),
    Refusal("SNP_LAUNCH_FINISH", "an ID block without ID authentication", "EINVAL", BOTH, _SEV,
            _SNP),
    Refusal("SNP_LAUNCH_FINISH", "an ID block for another digest or policy", "EIO", BOTH,
            "AMD 56860", _SNP),
    Refusal("SNP_LAUNCH_FINISH", "a wrong signature of the ID block", "EIO", "idblock",
            "AMD 56860", _SNP),
    Refusal("SNP_LAUNCH_FINISH", "twice", "EINVAL", SIMULATE, _SEV, _SNP),
    Refusal("SNP_LAUNCH_FINISH, SEV_LAUNCH_UPDATE_VMSA", "a vCPU with a breakpoint in DR7",
            "EINVAL", BOTH, _SEV, (*_SNP, *_ES)),
    Refusal("SNP_LAUNCH_FINISH", "a vCPU under a debugger (KVM_SET_GUEST_DEBUG)", "EINVAL", NOT,
            _SEV, _SNP),
    Refusal("KVM_SET_SREGS", "CR0, CR4, EFER and CS that do not fit together", "EINVAL", NOT,
            "linux arch/x86/kvm/x86.c", (*_SNP, *_ES)),
    Refusal("KVM_TDX_INIT_VM", "ATTRIBUTES or XFAM outside what the kernel supports", "EINVAL",
            BOTH, _TDX, _TD),
    Refusal("KVM_TDX_INIT_VM", "ATTRIBUTES or XFAM that the module refuses", "EINVAL", BOTH,
            "intel/tdx-module tdh_mng_init.c", _TD),
    Refusal("KVM_TDX_INIT_VM", "CPUID that the module refuses, no key, no entropy",
            "EINVAL, ENOSPC, EAGAIN", NOT, _TDX, _TD),
    Refusal("KVM_TDX_INIT_VCPU", "after the end, twice; CPUID without X2APIC", "EINVAL",
            "simulate, without CPUID", _TDX, _TD),
    Refusal("KVM_TDX_INIT_MEM_REGION", "no vCPU, shared bit, unaligned, not private", "EINVAL",
            BOTH, _TDX, _TD),
    Refusal("KVM_TDX_INIT_MEM_REGION", "a page that was added", "EEXIST, from 7.0 EIO", BOTH, _TDX,
            _TD),
    Refusal("KVM_TDX_INIT_MEM_REGION", "address 0 as source", "EFAULT, EOPNOTSUPP, EINVAL",
            SIMULATE, _TDX, _TD),
    Refusal("KVM_TDX_INIT_MEM_REGION", "busy, interrupted, no memory", "the errno", "recordings",
            _TDX, _TD),
    Refusal("KVM_TDX_FINALIZE_VM", "no vCPU", "EIO, the VM is dead", SIMULATE, _TDX, _TD),
    Refusal("KVM_TDX_FINALIZE_VM", "a page that was mapped and not added, up to 6.18", "EINVAL",
            SIMULATE, _TDX, _TD),
    Refusal("KVM_SEV_LAUNCH_UPDATE_DATA", "not a multiple of 16 bytes", "EIO", BOTH, "AMD 55766",
            _ES),
    Refusal("KVM_SEV_LAUNCH_UPDATE_DATA", "memory that cannot be pinned", "ENOMEM", NOT, _SEV, _ES),
)  # fmt: skip


def of_interface(abi: Abi) -> Iterator[Refusal]:
    """Yield the refusals that an interface can meet."""
    return (r for r in REFUSALS if not {*r.platforms}.isdisjoint(abi.vm_types))
