"""
What a kernel interface is: the record that `kvm.abi` fills in.

The measurement depends on the interface in the four fields of `Abi` after its title and in
nothing else.  Each fact has its source, and how sure it is: "read" in the kernel's text or a
mail, or "inferred" from what was read; `kvm.asked` has those that a kernel was run for.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cvmplan.core.platform import OPEN, SNP, TDX, Platform

PAGE, LARGE, HUGE = 4096, 2 << 20, 1 << 30  # sizes the host maps with; memory/ has the guest's
WIDTHS: Final = range(36, 53)  # bits that physical addresses of hosts have
WIDEST: Final = WIDTHS.stop - 1
U64: Final = (1 << 64) - 1


class Fact(NamedTuple):
    """One fact of an interface: what it is about, why it is believed, and how sure it is."""

    id: str
    fact: str
    source: str
    confidence: str = "read"


class Bits(NamedTuple):
    """
    Which values of a mask are taken.

    `known` bits may be set, `must` bits have to be, `clear` bits may not be although they are
    known; `host` are known bits that only some hosts offer.
    """

    known: int = U64
    must: int = 0
    clear: int = 0
    host: int = 0

    def refuses(self, value: int) -> str | None:
        """Return why `value` is refused, None where it is taken."""
        for bits, problem in (
            (value & ~self.known, "not supported"),
            (self.must & ~value, "not set"),
            (value & self.clear, "set and must be clear"),
        ):
            if bits:
                return f"{bit_numbers(bits)} {problem}"
        return None


def bit_numbers(mask: int) -> str:
    """Name the bits of `mask`: "bit 17 is", "bits 16, 17 are"; at most eight by number."""
    numbers = [str(n) for n in range(64) if mask >> n & 1]
    if len(numbers) == 1:
        return f"bit {numbers[0]} is"
    return f"bits {', '.join(numbers[:8])}{' …' if len(numbers) > 8 else ''} are"


FIRMWARE_POLICY: Final = Bits(known=(1 << 26) - 1, must=1 << 17)
"""What SEV-SNP firmware takes as a guest policy.  Source: AMD 56860, "Guest Policy Structure"."""

SEV_POLICY: Final = Bits(known=(1 << 32) - 1)
"""
What LAUNCH_START of SEV and SEV-ES can be given: its field has 32 bits, of which KVM checks none.

Source: linux include/uapi: kvm_sev_launch_start; arch/x86/kvm/svm/sev.c sev_launch_start.
"""


class Abi(NamedTuple):
    """
    One kernel interface.

    vmsa_scope            vCPUs whose VMSA is measured: "all" or "boot-vcpu"
    es_fpu_state          SEV-ES x87 and SSE state: "legacy" (zero) or "init2"; None: a setting
    default_sev_features  SEV_FEATURES that the kernel sets by itself, None: the profile's
    tdx_extend            "fused" with the add, "separate" from it, or "either": the plan says

    vm_types              platforms that can be created
    runs                  a kernel that was built has it, so its refusals have an errno
    released              a release of Linux has it
    plans, simulates      whether plans are made for it, and simulated under it
    map_call              the operation that maps and does nothing else, "" where there is none
    map_early             platforms on which that is allowed before the guest is finalized
    map_again             what it answers where all is mapped: "nop", or an errno
    map_adds              mapping also adds and measures, zeros where no source is given
    map_level             largest page (bytes) that the kernel chooses for private memory
    shared_level          the same for memory behind a userspace address
    add_wants_map         platforms on which a page must be mapped before it is added
    tdx_add               operations that add pages of a TD
    double_add            platform to what a second add of a page answers; None: not an errno
    folio_check           an add refuses a page that was populated before, whatever happened since
    empty_add             what an SNP add of no page answers, "" for success
    no_source             platform to what an add from address 0 answers
    bound_twice           what a second binding of a guest_memfd range answers
    snp_policy            guest policies that SNP_LAUNCH_START takes
    sev_policy            guest policies that KVM_SEV_LAUNCH_START of SEV and SEV-ES takes
    snp_features          SEV_FEATURES that an SNP guest can have, None: not known
    es_features           the same for SEV-ES
    td_attributes         ATTRIBUTES that KVM_TDX_INIT_VM takes, None: what the module takes
    td_xfam               the same for XFAM; KVM then sets the bits that the module wants set
    not_modelled          platform to what it refuses and is not known here, in words
    dies                  a TD is dead after the module refused an add
    counts_mapped         a TD is not finalized while a page is mapped whose add failed
    attributes            where private attributes live: "vm" or "gmem"
    imports               a hypervisor imports each page with its type, vCPU states among them
    gmem_flags            flags that KVM_CREATE_GUEST_MEMFD takes
    gmem_default          default VMs may have memory from a guest_memfd
    in_place              pages are written into the guest_memfd and added where they are
    nearest               what runs today where nothing that was released has this interface
    """

    name: str
    title: str
    vmsa_scope: str = "all"
    es_fpu_state: str | None = None
    default_sev_features: int | None = None
    tdx_extend: str = "fused"
    vm_types: tuple[Platform, ...] = (*OPEN, SNP, TDX)
    runs: bool = True
    released: bool = False
    plans: bool = True
    simulates: bool = True
    map_call: str = "pre-fault-memory"
    map_early: tuple[Platform, ...] = OPEN
    map_again: str = "nop"
    map_adds: bool = False
    map_level: int = PAGE
    shared_level: int = HUGE
    add_wants_map: tuple[Platform, ...] = ()
    tdx_add: tuple[str, ...] = ("tdx-init-mem-region",)
    double_add: tuple[tuple[Platform, str | None], ...] = ((SNP, "EIO"), (TDX, "EEXIST"))
    folio_check: bool = True
    empty_add: str = ""
    no_source: tuple[tuple[Platform, str], ...] = ((SNP, "EIO"), (TDX, "EFAULT"))
    bound_twice: str = "EINVAL"
    snp_policy: Bits = FIRMWARE_POLICY
    sev_policy: Bits = SEV_POLICY
    snp_features: Bits | None = None
    es_features: Bits | None = None
    td_attributes: Bits | None = None
    td_xfam: Bits | None = None
    not_modelled: tuple[tuple[Platform, str], ...] = ()
    dies: bool = False
    counts_mapped: bool = False
    attributes: str = "vm"
    imports: bool = False
    gmem_flags: tuple[str, ...] = ()
    gmem_default: bool = False
    in_place: bool = False
    nearest: str = ""
    facts: tuple[Fact, ...] = ()
