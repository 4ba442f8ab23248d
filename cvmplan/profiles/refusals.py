"""
What VMMs refuse before they ask the kernel, and whether that is modelled here.

The rows are printed below those of `kvm.refusals`, whose words they use.
"""

from __future__ import annotations

from typing import Final

from cvmplan.core.platform import SEV, SEV_ES, SNP, TDX
from cvmplan.kvm.refusals import CHECK, NOT, Refusal

REFUSALS: Final = (
    Refusal(
        "QEMU",
        "a kernel that it does not hash, with kernel hashes",
        "ends (assertion)",
        CHECK,
        "qemu 10.2.2 hw/i386/x86-common.c, load_multiboot, load_elfboot",
        (SNP, SEV, SEV_ES),
    ),
    Refusal(
        "QEMU",
        "one of ID block and ID authentication",
        "does not start",
        CHECK,
        "qemu 10.2.2 target/i386/sev.c",
        (SNP,),
    ),
    Refusal(
        "QEMU",
        "SEV-ES through KVM_SEV_INIT2 with pflash (no READONLY_MEM)",
        "ends",
        NOT,
        "qemu 11.1.3, recorded",
        (SEV_ES,),
    ),
    Refusal(
        "QEMU", "fewer than two TDX sections", "ends", NOT, "qemu 6f1035fc hw/i386/tdvf.c", (TDX,)
    ),
    Refusal(
        "every VMM",
        "an image without a page, or without the vCPU state that is taken from it",
        "nothing starts",
        CHECK,
        "sources of the profiles ('cvmplan profiles NAME')",
    ),
)
