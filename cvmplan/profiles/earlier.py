"""Earlier and rarer generations of VMMs: what they measured otherwise than `firmware` says."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cvmplan.core.platform import SNP, TDX
from cvmplan.profiles.firmware import EC2, GCE, QEMU
from cvmplan.profiles.record import SOURCE, TWO, Fact, State, Vmsa

WIDE_VMSA: Final = 0xFFFFFFFFFF000  # the last page of 52 bits
_NO_FPU: State = {"rdx": "cpu_signature"}
_NO_RDX: State = {"ss.attrib": 0x92, "tr.attrib": 0x83}
_GCE_STATE: State = {"g_pat": 0x70106, "rdx": 0x600}

QEMU_2023 = replace(
    QEMU,
    name="qemu-2023",
    title="QEMU of the SNP patches on AMD's host kernels up to 6.8: no FPU state",
    earlier=True,
    platforms=(SNP,),
    vmsa=Vmsa(_NO_FPU, _NO_FPU),
    loads_igvm=False,
    sources=(
        Fact(
            "KVM left MXCSR and FCW zero until the FPU state was copied in the series that "
            "brought KVM_SEV_INIT2; Linux 6.11, the first with SNP, copies it",
            "virtee/sev-snp-measure pull requests 48 and 49; linux arch/x86/kvm/svm/sev.c "
            "sev_es_sync_vmsa",
            TWO,
            until="AMD's kernels up to 6.8-rc5",
            id="fpu-state",
        ),
    ),
)
QEMU_2023_GENOA = replace(
    QEMU_2023,
    name="qemu-2023-genoa",
    title="the same on Genoa before version 9 of the series: VMSAs at 0x7fffffffff000",
    earlier=True,
    vmsa=Vmsa(_NO_FPU, _NO_FPU, gpa=0x7FFFFFFFFF000),
    sources=(
        Fact(
            "before the address of VMSAs was fixed it was the highest of the processor",
            "coconut-svsm/svsm issues 22 and 123 (RMP dumps)",
            SOURCE,
            until="version 8 of the KVM SNP series",
            id="vmsa-address",
        ),
    ),
)
QEMU_HASHES_FIRST = replace(
    QEMU_2023,
    name="qemu-hashes-first",
    title="QEMU of the SNP patches before March 2023: kernel hashes directly after the firmware",
    earlier=True,
    hashes_first=True,
    sources=(
        Fact(
            "the page that the SEV hash table is in is added as NORMAL after the firmware, "
            "only with a kernel, whether or not a section names it; no FPU state",
            "virtee/sev-snp-measure 0.0.4 guest.py, pull request 12",
            SOURCE,
            commit="0822532a",
            until="QEMU patches v3, 2023-03-02",
            id="hashes-first",
        ),
    ),
)
EC2_RDX_0 = replace(
    EC2,
    name="ec2-rdx-0",
    title="Amazon EC2 as tools knew it before April 2026: RDX 0",
    earlier=True,
    vmsa=Vmsa({**_NO_RDX, "cs.attrib": 0x9A}, _NO_RDX),
    sources=(
        Fact(
            "RDX is 0 where it is 0x600 now; when the service itself changed is not known",
            "virtee/sev-snp-measure pull requests 13 and 60; virtee/sev-snp-measure-go vmsa.go",
            TWO,
            until="2026-04-28, of the tool",
            id="vmsa",
        ),
    ),
)
GCE_GENOA = replace(
    GCE,
    name="gce-genoa",
    title="Google Compute Engine on Genoa: VMSAs at 0xffffffffff000",
    platforms=(SNP,),
    vmsa=Vmsa(_GCE_STATE, _GCE_STATE, gpa=WIDE_VMSA),
    sources=(
        Fact(
            "VMSAs at the last page of 52 bits, where Milan has the last of 48",
            "google/gce-tcb-verifier sev/measurement.go ProductHighAddress",
            SOURCE,
            commit="6d623b8c",
            id="vmsa-address",
        ),
    ),
)
GCE_2024 = replace(
    GCE,
    name="gce-2024",
    title="Google Compute Engine before October 2024: every TDX section extended",
    earlier=True,
    platforms=(TDX,),
    extends_all=True,
    sources=(
        Fact(
            "every section is extended, whatever its attribute; what the host fills later counts "
            "as zeros",
            "google/gce-tcb-verifier issue 49",
            SOURCE,
            until="2024-10",
            id="extends-all",
        ),
    ),
)
