"""
What kernels refuse on the way to a launch, and whether that is modelled here.

`cvmplan abis NAME` prints the rows of the platforms that an interface has, and those of
`profiles.refusals`.  "check" in `where` stands for every verb that judges a launch, "simulate"
for the simulator; tests have a launch for each of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from cvmplan.core.platform import (
    DEFAULT,
    FLAT,
    OF_KVM,
    POLICED,
    SEV,
    SW_PROTECTED,
    WITH_PAGE_INFO,
    WITH_SECURE_EPT,
    WITH_VMSA,
    Platform,
)
from cvmplan.kvm.interface import Abi

CHECK, SIMULATE, BOTH, NOT = "check", "simulate", "check, simulate", "not modelled"
READ = "recordings"  # known where a recording says so
WARNS = "check, simulate; measure warns"  # since its digest is needed to make the block
_KVM = "linux virt/kvm/kvm_main.c, virt/kvm/guest_memfd.c"
_MMU = "linux arch/x86/kvm/mmu/mmu.c"
_SEV = "linux arch/x86/kvm/svm/sev.c"
_TDX = "linux arch/x86/kvm/vmx/tdx.c"
_X86 = "linux arch/x86/kvm/x86.c"
_MODULE = "intel/tdx-module tdh_mng_init.c"
_SNP, _ES, _TD = WITH_PAGE_INFO, FLAT, WITH_SECURE_EPT
_AMD = POLICED


class Refusal(NamedTuple):
    """A call, what about it is refused, the answer, and where that is modelled."""

    call: str
    situation: str
    answer: str
    where: str
    source: str
    platforms: tuple[Platform, ...] = OF_KVM


_MEMORY: Final = (
    ("KVM_CREATE_VM", "a VM type that the kernel does not have", "EINVAL", BOTH, _KVM),
    ("KVM_CREATE_VM", "a host without the feature", "EINVAL", NOT, _KVM),
    ("KVM_CREATE_GUEST_MEMFD", "size 0 or unaligned", "EINVAL", SIMULATE, _KVM),
    ("KVM_CREATE_GUEST_MEMFD", "2^63 bytes and more", "EINVAL", SIMULATE, _KVM),
    ("KVM_CREATE_GUEST_MEMFD", "flags that the kernel does not have", "EINVAL", SIMULATE, _KVM),
    ("KVM_SET_USER_MEMORY_REGION2", "unaligned, or past 2^52", "EINVAL", SIMULATE, _KVM),
    ("KVM_SET_USER_MEMORY_REGION2", "a slot above 32763", "EINVAL", SIMULATE, _KVM),
    ("KVM_SET_USER_MEMORY_REGION2", "past the host's own address width", "EINVAL", NOT, _KVM),
    ("KVM_SET_USER_MEMORY_REGION2", "memory of a different slot", "EEXIST", SIMULATE, _KVM),
    ("KVM_SET_USER_MEMORY_REGION2", "a guest_memfd range bound twice", "EINVAL, from 7.2 EEXIST",
     SIMULATE, _KVM),
    ("KVM_SET_USER_MEMORY_REGION2", "past the end of the guest_memfd", "EINVAL", SIMULATE, _KVM),
    ("KVM_SET_USER_MEMORY_REGION2", "a slot with guest_memfd changed", "EINVAL", SIMULATE, _KVM),
    ("KVM_SET_USER_MEMORY_REGION2", "a slot with guest_memfd, read-only or logged", "EINVAL", NOT,
     _KVM),
    ("KVM_SET_MEMORY_ATTRIBUTES", "unaligned or empty", "EINVAL", SIMULATE, _KVM),
    ("KVM_SET_MEMORY_ATTRIBUTES", "private memory of a default VM", "EINVAL", SIMULATE, _KVM,
     (DEFAULT,)),
    ("KVM_CREATE_VCPU", "a vCPU number twice", "EEXIST", SIMULATE, _KVM),
    ("KVM_CREATE_VCPU", "more vCPUs than the kernel was built for", "EINVAL", NOT, _KVM),
    ("KVM_PRE_FAULT_MEMORY", "unaligned or empty", "EINVAL", SIMULATE, _KVM),
    ("KVM_PRE_FAULT_MEMORY", "flags", "EINVAL", NOT, _KVM),
    ("KVM_PRE_FAULT_MEMORY", "before the launch is final", "EOPNOTSUPP", SIMULATE, _MMU,
     (*_SNP, *_TD)),
    ("KVM_PRE_FAULT_MEMORY", "no memslot", "ENOENT", SIMULATE, _MMU),
    ("KVM_PRE_FAULT_MEMORY", "private memory without a guest_memfd", "EFAULT", SIMULATE, _MMU,
     (SW_PROTECTED,)),
    ("KVM_RUN", "before the launch is final", "EINVAL", NOT, _TDX, _TD),
)  # fmt: skip
_OF_SNP: Final = (
    ("KVM_SEV_INIT2", "twice, or after a vCPU", "EINVAL", SIMULATE, _SEV, _AMD),
    ("KVM_SEV_INIT2", "SEV_FEATURES that the kernel does not have", "EINVAL", BOTH, _SEV,
     WITH_VMSA),
    ("KVM_SEV_INIT2", "SEV_FEATURES that this host does not have", "EINVAL", NOT, _SEV,
     WITH_VMSA),
    ("KVM_SEV_INIT2", "flags, a GHCB version above the kernel's", "EINVAL", NOT, _SEV, _AMD),
    ("SNP_LAUNCH_START", "a guest policy that the kernel refuses", "EINVAL", BOTH, _SEV, _SNP),
    ("SNP_LAUNCH_START", "policy bit 17 clear", "EINVAL", BOTH, "AMD 56860", _SNP),
    ("SNP_LAUNCH_START", "twice", "EINVAL", SIMULATE, _SEV, _SNP),
    ("SNP_LAUNCH_START", "a VM that is not an SNP guest", "ENOTTY", SIMULATE, _SEV, _AMD),
    ("SNP_LAUNCH_START", "a policy that this host's firmware refuses", "EIO", NOT,
     "AMD 56860", _SNP),
    ("SNP_LAUNCH_UPDATE", "length 0", "0 up to 6.17, then EINVAL", SIMULATE, _SEV, _SNP),
    ("SNP_LAUNCH_UPDATE", "unaligned, or of type VMSA", "EINVAL", SIMULATE, _SEV, _SNP),
    ("SNP_LAUNCH_UPDATE", "before the start", "EINVAL", SIMULATE, _SEV, _SNP),
    ("SNP_LAUNCH_UPDATE", "after the finish", "EIO, fw_error 0x2", SIMULATE, _SEV, _SNP),
    ("SNP_LAUNCH_UPDATE", "a page that was added", "EIO", BOTH, _SEV, _SNP),
    ("SNP_LAUNCH_UPDATE", "a page that is not private", "EIO", SIMULATE, _SEV, _SNP),
    ("SNP_LAUNCH_UPDATE", "address 0 as source", "EIO, from 7.3 EINVAL", SIMULATE, _SEV, _SNP),
    ("SNP_LAUNCH_UPDATE", "an unaligned source, from 7.0", "EINVAL", NOT, _SEV, _SNP),
    ("SNP_LAUNCH_UPDATE", "a CPUID page that the firmware corrects", "EIO, fw_error 0x16", READ,
     "AMD 56860", _SNP),
    ("SNP_LAUNCH_UPDATE", "EAGAIN, EINTR, no memory", "the errno", READ, _SEV, _SNP),
    ("SNP_LAUNCH_FINISH", "an ID block without ID authentication", "EINVAL", BOTH, _SEV, _SNP),
    ("SNP_LAUNCH_FINISH", "an ID block for a different digest", "EIO, fw_error 0xb", WARNS,
     "AMD 56860", _SNP),
    ("SNP_LAUNCH_FINISH", "an ID block for a different policy", "EIO, fw_error 0x7", WARNS,
     "AMD 56860", _SNP),
    ("SNP_LAUNCH_FINISH", "a wrong signature of the ID block", "EIO, fw_error 0xa", NOT,
     "AMD 56860", _SNP),
    ("SNP_LAUNCH_FINISH", "twice", "EINVAL", SIMULATE, _SEV, _SNP),
    ("SNP_LAUNCH_FINISH", "while vCPUs are being created", "EBUSY", NOT, _SEV, _SNP),
    ("SNP_LAUNCH_FINISH, SEV_LAUNCH_UPDATE_VMSA", "a vCPU with a breakpoint in DR7", "EINVAL",
     BOTH, _SEV, WITH_VMSA),
    ("SNP_LAUNCH_FINISH", "a vCPU under a debugger (KVM_SET_GUEST_DEBUG)", "EINVAL", NOT, _SEV,
     _SNP),
    ("KVM_SET_SREGS", "inconsistent CR0, CR4, EFER and CS", "EINVAL", NOT, _X86, _AMD),
    ("KVM_MEMORY_ENCRYPT_OP", "a command of SEV on an SNP guest", "EPERM", SIMULATE, _SEV, _SNP),
)  # fmt: skip
_OF_SEV: Final = (
    ("KVM_SEV_LAUNCH_START", "a policy whose ES bit is not the VM's", "EIO, fw_error 0xd", BOTH,
     f"{_SEV} sev_asid_new; AMD 55766, ACTIVATE", _ES),
    ("KVM_SEV_LAUNCH_START", "an API version, a session or a certificate that is not taken", "EIO",
     NOT, "AMD 55766", _ES),
    ("KVM_SEV_LAUNCH_*", "in a different state of the launch", "EIO, fw_error 0x2", SIMULATE,
     "AMD 55766", _ES),
    ("KVM_SEV_LAUNCH_UPDATE_DATA", "not a multiple of 16 bytes", "EIO, fw_error 0x4", BOTH,
     "AMD 55766", _ES),
    ("KVM_SEV_LAUNCH_UPDATE_DATA", "memory that cannot be pinned", "ENOMEM", NOT, _SEV, _ES),
    ("KVM_SEV_LAUNCH_UPDATE_VMSA", "a VM without encrypted state", "ENOTTY", SIMULATE, _SEV,
     (SEV,)),
)  # fmt: skip
_OF_TDX: Final = (
    ("KVM_TDX_CAPABILITIES", "fewer CPUID entries than the module has", "E2BIG", NOT, _TDX, _TD),
    ("KVM_TDX_INIT_VM", "twice", "EINVAL", SIMULATE, _TDX, _TD),
    ("KVM_TDX_INIT_VM", "ATTRIBUTES or XFAM that the kernel does not have", "EINVAL", BOTH, _TDX,
     _TD),
    ("KVM_TDX_INIT_VM", "XFAM that this host does not have", "EINVAL", NOT, _TDX, _TD),
    ("KVM_TDX_INIT_VM", "ATTRIBUTES or XFAM that every module refuses", "EINVAL", BOTH, _MODULE,
     _TD),
    ("KVM_TDX_INIT_VM", "more vCPUs than the module takes", "EINVAL", "check, as a note", _MODULE,
     _TD),
    ("KVM_TDX_INIT_VM", "more vCPUs than the host has processors", "EINVAL", NOT, _TDX, _TD),
    ("KVM_TDX_INIT_VM", "a GPAW of 52 without a 5-level EPT", "EINVAL", NOT, _TDX, _TD),
    ("KVM_TDX_INIT_VM", "CPUID that kernel or module refuse", "EINVAL, E2BIG", NOT, _TDX, _TD),
    ("KVM_TDX_INIT_VM", "no key, no entropy", "ENOSPC, EAGAIN", NOT, _TDX, _TD),
    ("KVM_CREATE_VCPU", "before KVM_TDX_INIT_VM", "EIO", SIMULATE, _TDX, _TD),
    ("KVM_TDX_INIT_VCPU", "twice", "EINVAL", SIMULATE, _TDX, _TD),
    ("KVM_TDX_INIT_VCPU", "CPUID without X2APIC", "EINVAL", NOT, _TDX, _TD),
    ("KVM_TDX_INIT_MEM_REGION", "no initialised vCPU", "EINVAL", SIMULATE, _TDX, _TD),
    ("KVM_TDX_INIT_MEM_REGION", "an address with the shared bit", "EINVAL", BOTH, _TDX, _TD),
    ("KVM_TDX_INIT_MEM_REGION", "unaligned, empty, or not private", "EINVAL", SIMULATE, _TDX, _TD),
    ("KVM_TDX_INIT_MEM_REGION", "after the end", "EINVAL", SIMULATE, _TDX, _TD),
    ("KVM_TDX_INIT_MEM_REGION", "a page that was added", "EEXIST, from 7.0 EIO", BOTH, _TDX, _TD),
    ("KVM_TDX_INIT_MEM_REGION", "address 0 as source",
     "EFAULT, 7.1 and 7.2 EOPNOTSUPP, from 7.3 EINVAL", SIMULATE, _TDX, _TD),
    ("KVM_TDX_INIT_MEM_REGION", "busy, interrupted, no memory", "the errno", READ, _TDX, _TD),
    ("KVM_TDX_FINALIZE_VM", "twice", "EINVAL", SIMULATE, _TDX, _TD),
    ("KVM_TDX_FINALIZE_VM", "no vCPU", "EIO, the VM is dead", SIMULATE, _TDX, _TD),
    ("KVM_TDX_FINALIZE_VM", "a page that was mapped and not added, up to 6.18", "EINVAL", READ,
     _TDX, _TD),
    ("KVM_TDX_*", "vCPUs that are being created, from 6.19", "EBUSY", NOT, _TDX, _TD),
)  # fmt: skip
REFUSALS: Final = tuple(Refusal(*row) for row in (*_MEMORY, *_OF_SNP, *_OF_SEV, *_OF_TDX))


def of_interface(abi: Abi, rows: Iterable[Refusal] = REFUSALS) -> Iterator[Refusal]:
    """Yield those of the refusals that an interface can meet."""
    return (r for r in rows if not {*r.platforms}.isdisjoint(abi.vm_types))
