"""
Where a recorded VMM is known to do other calls than a plan has, and why that changes nothing.

Data: whoever finds another one adds a row here, with its reason.  What is in no row counts.
Sources: spec recordings of QEMU 7.2, 10.0 and 11.1; linux arch/x86/kvm/svm/sev.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REASONS: Final[Mapping[str, str]] = {
    "query": "asks what the kernel has, and changes nothing",
    "set-up": "sets up devices, clocks and interrupts, which no launch measures",
    "capability": "enables a capability that no launch measures",
    "registers": "sets registers in a different call; they are compared as the VMSA that follows",
    "memory": "the plan has the fewest memslots that hold its pages, the VMM those of all memory",
    "smm-memory": "memslots of system management mode, which show memory that the guest has anyway",
    "taken-back": "a memslot that is deleted again before the guest runs",
    "attribute-again": "makes memory private that is private already",
    "pinned": "pins memory of user space, in pieces of its own",
    "flash": "the plan has its firmware in a ROM; in flash it is read-only to the guest",
    "repeated": "called again for what the kernel left over, or after EAGAIN or EINTR",
    "asks-length": "asks for the length of the measurement before it is read",
    "zero-source": "KVM does not look at the source address of a ZERO page",
    "reserved": "reserved bytes that the kernel does not look at",
    "filled": "the VMM fills these pages at launch; their contents are not measured",
    "order": "calls in a different order; KVM takes both, and the order is not measured",
}
"""Deviation to the reason why it is harmless."""

KINDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("KVM_CHECK_EXTENSION", "KVM_GET_DEVICE_ATTR", "KVM_TDX_CAPABILITIES",
         "KVM_TDX_GET_CPUID", "open", "close", "mmap", "state"),
        "query",
    ),
    **dict.fromkeys(
        ("KVM_SET_CPUID2", "KVM_SET_REGS", "KVM_SET_SREGS", "KVM_SET_SREGS2", "KVM_SET_MSRS",
         "KVM_SET_DEBUGREGS", "KVM_SET_XSAVE", "KVM_SET_XCRS"),
        "registers",
    ),
    **dict.fromkeys(
        ("KVM_CREATE_GUEST_MEMFD", "KVM_SET_USER_MEMORY_REGION", "KVM_SET_USER_MEMORY_REGION2",
         "KVM_SET_MEMORY_ATTRIBUTES"),
        "memory",
    ),
    **dict.fromkeys(
        ("KVM_MEMORY_ENCRYPT_REG_REGION", "KVM_MEMORY_ENCRYPT_UNREG_REGION"), "pinned"
    ),
    "": "set-up",
    "KVM_RUN": "set-up",
    "KVM_SET_TSC_KHZ": "set-up",
}  # fmt: skip
"""Calls of either side that are not compared with each other, to the deviation that they are."""

CAPABILITIES: Final = frozenset({"KVM_CAP_MAX_VCPUS"})
"""Capabilities that a plan enables and a VMM need not."""
UNCHECKED: Final = frozenset({"pad0", "pad1", "pad2", "padding", "error", "hw_error", "handle"})
"""Fields that the kernel does not look at, writes itself, or takes 0 of as its default."""
POINTERS: Final = frozenset({"uaddr", "source_addr", "dh_uaddr", "session_uaddr", "sev_fd"})
"""Fields that are the process's own where the plan has none, and count where it has 0."""
ZERO_PAGE: Final = 3  # KVM_SEV_SNP_PAGE_TYPE_ZERO
