"""
The platforms: what each kind of guest is, in one table.

A platform is a record that is written as its name.  Whoever wants to know something of a
platform asks the record: nobody else lists platforms or compares their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from cvmplan.core.names import spelled, unknown

VMSA_GPA: Final = 0xFFFFFFFFF000
"""Where KVM measures each VMSA.  Source: linux arch/x86/kvm/svm/sev.c, INITIAL_VMSA_GPA."""
_MEASURED: Final = {
    "page": "measured", "empty-page": "measured", "unmeasured": "unmeasured",
    "insert": "unmeasured", "error-range": "inaccessible",
}  # fmt: skip
_SEV: Final = {**_MEASURED, "unmeasured": "shared", "insert": "shared"}
_SNP: Final = {
    "page": "normal", "empty-page": "normal", "unmeasured": "unmeasured",
    "secrets": "secrets", "cpuid": "cpuid", "cpuid-xf": "cpuid",
    "insert": "unmeasured", "error-range": "inaccessible", "vp-context": "vmsa",
    "other-context": "vmsa",
}  # fmt: skip
_TDX: Final = {**_MEASURED, "secrets": "measured", "cpuid": "measured", "cpuid-xf": "measured"}

_PRIVATE: Final = ("USER_MEMORY2", "GUEST_MEMFD", "MEMORY_ATTRIBUTES")


class Facts(NamedTuple):
    """
    What is known of a platform; `Platform` says what each field is.

    Sources: linux include/uapi and arch/x86/include/uapi/asm/kvm.h (`vm_type`), AMD 56860 and
    55766 (`register`, `policy`), Intel TDX module 1.5 (MRTD), microsoft/igvm (VBS).
    """

    package: str
    register: str = ""
    algorithm: str = ""
    digest_size: int = 0
    sealed_by: str = ""
    page_types: tuple[str, ...] = ()
    igvm_types: Mapping[str, str] = MappingProxyType({})
    vm_type: int | None = None
    calls: str = ""
    steps: str = ""
    capabilities: tuple[str, ...] = ()
    policy: int | None = None
    backings: tuple[str, ...] = ()
    evidence: str = ""
    confidential: bool = False
    private: bool = False
    page_info: bool = False
    secure_ept: bool = False
    vmsa: bool = False
    init_choice: bool = False
    takes_rom: bool = False
    plain: bool = False


class Platform(StrEnum):
    """
    A platform, by the name that options and documents use.

    package       its code under `cvmplan.platforms`: operations, steps, planner, digest
    register      where its measurement is read, "" where nothing is measured
    algorithm     of the measurement, as hashlib names it
    digest_size   bytes of the measurement, 0 where nothing is measured
    sealed_by     the step that ends the measurement, "" where it is known after each
    page_types    what the regions of a manifest may be
    igvm_types    role of an IGVM file's page to its page type; what is not there it cannot do
    vm_type       KVM_X86_*_VM, None where KVM has none
    calls         the prefix of the names of its vendor's operations
    steps         the prefix of the names of its firmware's commands
    capabilities  KVM_CAP_… that such a VM cannot do without
    policy        guest policy where neither profile nor file has one, None: there is none
    backings      what its memory may come from under KVM, the usual first
    evidence      what its hardware signs: "report", "quote", "" for nothing that is read here
    confidential  KVM maps its private memory only once the guest is final
    private       its memory is private and comes from a guest_memfd
    page_info     each page is measured with its PAGE_INFO, so the digest is known after each
    secure_ept    its private memory is mapped by a secure EPT that the module keeps
    vmsa          the registers of its vCPUs are encrypted and measured
    init_choice   an older call (KVM_SEV_INIT, KVM_SEV_ES_INIT) or KVM_SEV_INIT2 opens it
    takes_rom     it measures a file without any table as it is
    plain         KVM_X86_DEFAULT_VM: SMM has memslots of its own, KVM_SEV_INIT could follow
    """

    SNP = "snp"
    TDX = "tdx"
    SEV = "sev"
    SEV_ES = "sev-es"
    VBS = "vbs"
    SW_PROTECTED = "sw-protected"
    DEFAULT = "default"

    package: str
    register: str
    algorithm: str
    digest_size: int
    sealed_by: str
    page_types: tuple[str, ...]
    igvm_types: Mapping[str, str]
    vm_type: int | None
    calls: str
    steps: str
    capabilities: tuple[str, ...]
    policy: int | None
    backings: tuple[str, ...]
    evidence: str
    confidential: bool
    private: bool
    page_info: bool
    secure_ept: bool
    vmsa: bool
    init_choice: bool
    takes_rom: bool
    plain: bool

    @property
    def measured(self) -> bool:
        """Whether its launch is measured at all."""
        return bool(self.digest_size)

    @property
    def shares_gmem(self) -> bool:
        """Whether its memory may come from a guest_memfd without being private."""
        return not self.private and "guest-memfd" in self.backings


FACTS: Final = {
    Platform.SNP: Facts(
        "snp", "MEASUREMENT", "sha384", 48,
        page_types=("normal", "zero", "unmeasured", "secrets", "cpuid", "vmsa"),
        igvm_types=_SNP, vm_type=4, calls="snp", steps="SNP_",
        capabilities=_PRIVATE, policy=0x30000,
        backings=("guest-memfd",), evidence="report", confidential=True, private=True,
        page_info=True, vmsa=True,
    ),
    Platform.TDX: Facts(
        "tdx", "MRTD", "sha384", 48, "TDH.MR.FINALIZE",
        page_types=("measured", "unmeasured", "augmented"),
        igvm_types=_TDX, vm_type=5, calls="tdx", steps="TDH.",
        capabilities=_PRIVATE,
        backings=("guest-memfd",), evidence="quote", confidential=True, private=True,
        secure_ept=True,
    ),
    Platform.SEV: Facts(
        "sev", "LD", "sha256", 32, "LAUNCH_MEASURE", page_types=("measured",),
        igvm_types=_SEV, vm_type=2, calls="sev", steps="LAUNCH_START",
        policy=0x1, backings=("vma",), init_choice=True, takes_rom=True,
    ),
    Platform.SEV_ES: Facts(
        "sev", "LD", "sha256", 32, "LAUNCH_MEASURE", page_types=("measured",),
        igvm_types=_SEV, vm_type=3, calls="sev", steps="LAUNCH_START",
        policy=0x5, backings=("vma",), vmsa=True, init_choice=True, takes_rom=True,
    ),
    Platform.VBS: Facts(
        "vbs", "BOOT_DIGEST", "sha256", 32, "COMPLETE_IMPORT",
        page_types=("measured", "unmeasured", "error-range"),
        igvm_types={**_MEASURED, "error-range": "error-range"}, steps="IMPORT_",
    ),
    Platform.SW_PROTECTED: Facts(
        "vm", page_types=("mapped",), vm_type=1, backings=("guest-memfd",), private=True,
        capabilities=(*_PRIVATE, "PRE_FAULT_MEMORY"),
    ),
    Platform.DEFAULT: Facts(
        "vm", page_types=("mapped",), vm_type=0, backings=("vma", "guest-memfd"), plain=True,
        capabilities=("PRE_FAULT_MEMORY",),
    ),
}  # fmt: skip
for _platform, _facts in FACTS.items():
    vars(_platform).update(_facts._asdict())


def of_state(found: Iterable[Platform], *, vmsa: bool) -> Platform:
    """Return the one of `found` whose vCPU states are measured, or are not; the only one."""
    only = tuple(found)
    return only[0] if len(only) == 1 else next(p for p in only if p.vmsa == vmsa)


MEANT: Final = {
    **dict.fromkeys(("sev-snp", "sevsnp", "sev-snp-guest", "amd-sev-snp", "amd"), Platform.SNP),
    **dict.fromkeys(("tdx-guest", "intel-tdx", "intel", "td"), Platform.TDX),
    **dict.fromkeys(("seves", "sev-es-guest"), Platform.SEV_ES),
}
"""What other tools call platforms, for hints."""


def find(name: str, at: str = "--platform") -> Platform:
    """Return the platform `name`, in any case; ConfigError at `at` lists those that exist."""
    try:
        return Platform(spelled(name, Platform))
    except ValueError:
        meant = MEANT.get(name[:20].strip().lower().replace("_", "-"), "")
        raise unknown("platform", name, Platform, at, meant=meant) from None


# Groups that tables and messages name; each follows from the facts.
OF_KVM: Final = tuple(
    sorted((p for p in Platform if p.vm_type is not None), key=lambda p: p.vm_type or 0)
)
OPEN: Final = tuple(p for p in OF_KVM if not p.confidential)
"""Platforms of KVM whose memory can be mapped before the guest is final."""
CONFIDENTIAL: Final = tuple(p for p in Platform if p.confidential)
"""Platforms whose private memory KVM maps once the guest is final."""
POLICED: Final = tuple(p for p in Platform if p.policy is not None)
"""AMD's platforms: those with a guest policy."""
WITH_VMSA: Final = tuple(p for p in Platform if p.vmsa)
FLAT: Final = tuple(p for p in POLICED if not p.page_info)
"""SEV and SEV-ES: one flat hash over what is encrypted."""
FLAT_WITH_VMSA: Final = tuple(p for p in FLAT if p.vmsa)
WITH_PAGE_INFO: Final = tuple(p for p in Platform if p.page_info)
WITH_SECURE_EPT: Final = tuple(p for p in Platform if p.secure_ept)
UNMEASURED: Final = tuple(p for p in Platform if not p.measured)
WITH_INIT_CHOICE: Final = tuple(p for p in Platform if p.init_choice)
SNP, TDX, SEV, SEV_ES, VBS, SW_PROTECTED, DEFAULT = Platform
"""For tables of VMMs, kernels and formats, which say what they have; code asks the record."""
