"""VMMs that launch firmware images; some take IGVM files too."""

from __future__ import annotations

from cvmplan.core.platform import DEFAULT, SEV, SEV_ES, SNP, SW_PROTECTED, TDX
from cvmplan.core.practice import BUS_CYCLE_NS, IRQCHIP_ROUTES, MAP_GPA_RANGE, Practice
from cvmplan.profiles.record import HARDWARE, RECORDED, SOURCE, TWO, Fact, Profile, State, Vmsa
from cvmplan.profiles.states import KVM_STATE, SVSM_STATE, WHOLE_STATE

_ZERO_SECTIONS = {
    "sec-mem": "zero", "secrets": "secrets", "cpuid": "cpuid", "svsm-caa": "zero",
    "kernel-hashes": "zero",
}  # fmt: skip
_QEMU_STATE: State = {"rdx": "cpu_signature", "mxcsr": 0x1F80, "x87_fcw": 0x37F}
_EC2_STATE: State = {"ss.attrib": 0x92, "tr.attrib": 0x83, "rdx": 0x600}
_GCE_STATE: State = {"g_pat": 0x70106, "rdx": 0x600}
_KVM_RESET: State = {"rdx": 0x600, "mxcsr": 0x1F80, "x87_fcw": 0x37F}
_QEMU_REFUSES = (
    "RELOCATABLE_REGION", "PAGE_TABLE_RELOCATION_REGION", "CCA_POLICY", "SRAT", "MMIO_RANGES",
    "ERROR_RANGE", "COMMAND_LINE", "SLIT", "PPTT", "VBS_MEASUREMENT", "DEVICE_TREE",
    "CORIM_DOCUMENT", "CORIM_SIGNATURE",
)  # fmt: skip

QEMU = Profile(
    name="qemu",
    title="QEMU on KVM: SNP 9.1 and later, TDX 10.1 and later on Linux 6.16, SEV and SEV-ES",
    platforms=(SNP, TDX, SEV, SEV_ES, SW_PROTECTED, DEFAULT),
    page_types=_ZERO_SECTIONS,
    vmsa=Vmsa(_QEMU_STATE, _QEMU_STATE),
    policies={SNP: 0x30000, SEV: 0x1, SEV_ES: 0x5},
    td_attributes=0x10000000,
    unhashed_kernels=("elf", "multiboot"),
    machine="q35",
    vcpus_first=True,
    start_first=True,
    augmented="add",
    section_types=(0, 1, 2, 3),
    legacy_pointer=False,
    aligned_data=True,
    loads_igvm=True,
    shared_pages="add",
    large_pages="whole",
    inserts_first=True,
    fixed_vmsa=True,
    takes=WHOLE_STATE,
    sets={"cr0": 0x10},
    guest_policy="last",
    wants_policy=True,
    one_id_block=True,
    readonly_pflash=True,
    practices={
        SNP: Practice(("EAGAIN",), {"EXIT_HYPERCALL": MAP_GPA_RANGE}),
        TDX: Practice(
            ("EAGAIN", "EINTR"),
            {
                "EXIT_HYPERCALL": MAP_GPA_RANGE,
                "SPLIT_IRQCHIP": IRQCHIP_ROUTES,
                "X86_APIC_BUS_CYCLES_NS": BUS_CYCLE_NS,
            },
            reads_cpuid=True,
            tsc_khz=0,
        ),
    },
    refuses=_QEMU_REFUSES,
    refuses_all=True,
    sources=(
        Fact(
            "IGVM: runs of alike pages wait for the next run while inserts do not; the flag shared "
            "is not looked at; a zero page is NORMAL; a VMSA is at 0xfffffffff000 and contains "
            "nothing that KVM cannot set; unknown headers of any platform are errors; the last "
            "guest policy, and where there is none 0, with which no guest starts",
            "qemu backends/igvm.c, target/i386/sev.c",
            SOURCE,
            commit="03025db6",
            id="igvm-order",
        ),
        Fact(
            "IGVM: of a VMSA all fields are set that it takes, and CR0.ET; further vCPUs have "
            "QEMU's reset state, RDX the signature of the CPU model",
            "qemu target/i386/sev.c sev_apply_cpu_context, check_vmsa_supported; "
            "target/i386/helper.c cpu_x86_update_cr0",
            SOURCE,
            since="10.1",
            id="igvm-vmsa",
        ),
        *KVM_STATE,
        Fact(
            "SNP: metadata in table order after the firmware, VMSAs last; page types ZERO, "
            "SECRETS and CPUID, the kernel-hashes page as NORMAL, the vCPU state",
            "EPYC Milan report under QEMU 10.0.2 (kernel hashes on, 2 vCPUs); "
            "qemu target/i386/sev.c sev_snp_launch_finish",
            HARDWARE,
            since="9.1",
            id="snp-order",
        ),
        Fact(
            "SNP: the firmware's own pages, NORMAL and directly below 4 GiB; the hashes page "
            "as ZERO without a kernel",
            "virtee/sev-snp-measure 0.0.13 guest.py, virtee/sev src/measurement",
            TWO,
            commit="8f2b337",
            id="snp-firmware",
        ),
        Fact(
            "TDX: sections in table order, each page added and at once extended when its "
            "section says MR.EXTEND; PAGE.AUG is not looked at; types above 3 are refused; "
            "metadata is read from the GUID table only; section data must start on a page of the "
            "file",
            "qemu target/i386/kvm/tdx.c tdx_finalize_vm, hw/i386/tdvf.c; "
            "linux arch/x86/kvm/vmx/tdx.c tdx_gmem_post_populate",
            TWO,
            commit="qemu 6f1035fc, linux 3829d81b",
            since="QEMU 10.1, Linux 6.16",
            id="tdx-order",
        ),
        Fact(
            "policies: SNP 0x30000, SEV 0x1; SEV-ES needs bit 2 on top",
            "qemu target/i386/sev.c, the defaults of sev-snp-guest and sev-guest",
            SOURCE,
            id="policies",
        ),
        Fact(
            "TDX: ATTRIBUTES 0x10000000 (SEPT_VE_DISABLE), XFAM of the CPU model, 0x3 at least",
            "qemu target/i386/kvm/tdx.c; calls of QEMU 11.1.3 recorded",
            TWO,
            since="10.1",
            id="td-masks",
        ),
        Fact(
            "adds with their order, types and lengths are those of a plan; an add is made again on "
            "EAGAIN, for SNP also while some of it is left over, for TDX also on EINTR; EBUSY and "
            "a refused CPUID page end the launch",
            "calls of QEMU 10.0.13 and 11.1.3 (Debian) recorded on 2026-11-25",
            RECORDED,
            since="10.0.13",
            id="calls",
        ),
        Fact(
            "SEV and SEV-ES are opened by KVM_SEV_INIT and KVM_SEV_ES_INIT on a VM of type 0, "
            "unless legacy-vm-type=off; then SEV-ES firmware as pflash is refused, since KVM has "
            "no read-only memslots there",
            "calls of QEMU 10.0.13 and 11.1.3 (Debian) recorded on 2026-11-25",
            RECORDED,
            since="10.0.13",
            id="sev-init",
        ),
        Fact(
            "TDX: EXIT_HYPERCALL, a split irqchip, the APIC bus and a TSC of 0 kHz (the host's) "
            "are set; the number of vCPUs is not; each vCPU's CPUID is read back",
            "calls of QEMU 11.1.3 (Debian) recorded on 2026-11-25",
            RECORDED,
            since="11.1.3",
            id="td-calls",
        ),
        Fact(
            "vCPUs before memslots, SEV's start too; memory of a q35: RAM up to 2.75 GiB below "
            "4 GiB, of more 2 GiB there; firmware and ROM apart, over RAM; no devices, no SMM",
            "calls of QEMU 10.0.13 and 11.1.3 (Debian) recorded on 2026-11-25",
            RECORDED,
            since="10.0.13",
            id="memory",
        ),
        Fact(
            "a multiboot or ELF kernel is started before the hashes are made, and with kernel "
            "hashes on that ends in an assertion",
            "qemu hw/i386/x86-common.c x86_load_linux, hw/i386/multiboot.c load_multiboot, "
            "load_elfboot; target/i386/sev.c",
            SOURCE,
            since="9.1",
            id="unhashed-kernels",
        ),
        Fact(
            "SEV and SEV-ES: firmware, then the 176-byte hash table, then each VMSA",
            "virtee/sev-snp-measure 0.0.13 guest.py, virtee/sev src/measurement",
            TWO,
            commit="8f2b337",
            id="sev-order",
        ),
        Fact(
            "SEV-ES: KVM_SEV_ES_INIT leaves MXCSR and FCW 0, KVM_SEV_INIT2 sets them",
            "qemu commit 0232673 message; linux arch/x86/kvm/svm/sev.c sev_es_sync_vmsa",
            SOURCE,
            id="fpu-state",
        ),
    ),
)

QEMU_82_TDX = Profile(
    name="qemu-8.2-tdx",
    title="QEMU 8.2 with the TDX patches v5, on 6.8-intel and other v19 kernels (Ubuntu 24.04)",
    platforms=(TDX,),
    page_order="two-pass",
    augmented="add",
    section_types=(0, 1, 2, 3),
    legacy_pointer=False,
    aligned_data=True,
    sources=(
        Fact(
            "all pages of a section are added, then all of them extended",
            "TD quote under QEMU 8.2.2 (dstack tdx-lite); kvm TDX series v19, patch 075/130, "
            "KVM_TDX_EXTEND_MEMORY; QEMU series v5, patch 45/65",
            HARDWARE,
            since="8.2",
            until="before 9.0",
            id="page-order",
        ),
        Fact(
            "types above 3 are refused, PAGE.AUG is ignored, metadata is read from the GUID table "
            "only; section data must start on a page of the file",
            "qemu hw/i386/tdvf.c as the series introduced it",
            SOURCE,
            id="sections",
        ),
    ),
)

EC2 = Profile(
    name="ec2",
    title="Amazon EC2",
    platforms=(SNP,),
    page_types=_ZERO_SECTIONS,
    cpuid_last=True,
    vmsa=Vmsa(boot={**_EC2_STATE, "cs.attrib": 0x9A}, others=_EC2_STATE),
    sources=(
        Fact(
            "the CPUID page comes after all other metadata pages",
            "virtee/sev-snp-measure 0.0.13 guest.py, virtee/sev-snp-measure-go guest.go",
            TWO,
            commit="8f2b337, 74f52d5",
            id="cpuid-last",
        ),
        Fact(
            "segment attributes of CS, SS and TR; no FPU state; RDX 0x600 (the Go and Rust "
            "tools still have 0)",
            "virtee/sev-snp-measure 0.0.13 vmsa.py, pull request 60: equal to a live c6a.xlarge "
            "with 4 vCPUs",
            HARDWARE,
            commit="8f2b337",
            id="vmsa",
        ),
    ),
)

GCE = Profile(
    name="gce",
    title="Google Compute Engine",
    platforms=(SNP, TDX),
    page_types={**_ZERO_SECTIONS, "sec-mem": "unmeasured"},
    vmsa=Vmsa(_GCE_STATE, _GCE_STATE),
    policies={SNP: 0x30000},
    augmented="add",
    section_types=(0, 1, 2, 3),
    covers_file=True,
    sources=(
        Fact(
            "SEC_MEM is UNMEASURED; G_PAT 0x70106; RDX 0x600; no FPU state",
            "google/gce-tcb-verifier sev/ld_from_ovmf.go, sev/abi.go; "
            "virtee/sev-snp-measure 0.0.13 vmsa.py",
            TWO,
            commit="74582c0, 8f2b337",
            id="vmsa",
        ),
        Fact(
            "policy 0x30000; 0x70000 is the most that an endorsement allows, and kernels refuse "
            "its bit 18",
            "two GCP Milan reports with verified chains; google/gce-tcb-verifier sevpolicy.go",
            HARDWARE,
            id="policies",
        ),
        Fact(
            "VMSAs at 0xfffffffff000 (48-bit products; the verifier has a wider one for Genoa)",
            "google/gce-tcb-verifier sev/abi.go ProductHighAddress",
            SOURCE,
            commit="74582c0",
            id="vmsa-address",
        ),
        Fact(
            "TDX: sections in table order, single pass, types 0 to 3; PAGE.AUG is not looked "
            "at; BFV and CFV make up the whole file",
            "google/gce-tcb-verifier tdx/measurement.go, ovmf/tdx_data.go",
            TWO,
            commit="74582c0",
            id="tdx-order",
        ),
    ),
)

TD_SHIM = Profile(
    name="td-shim",
    title="td-shim, as its own tools measure it (section types 4 to 8 included)",
    platforms=(TDX,),
    sources=(
        Fact(
            "single pass in table order; sections with PAGE.AUG are not added",
            "confidential-containers/td-shim td-shim-tools/src/tee_info_hash.rs and its "
            "Python twin",
            TWO,
            commit="125eeab",
            id="page-order",
        ),
    ),
)

SVSM_QEMU = Profile(
    name="svsm-qemu",
    title="QEMU of coconut-svsm before IGVM: an SVSM binary below the firmware (--svsm)",
    platforms=(SNP,),
    page_types=_ZERO_SECTIONS,
    vmsa=Vmsa(SVSM_STATE, SVSM_STATE, entry="flat", boot_entry="image"),
    svsm=True,
    sources=(
        Fact(
            "firmware, SVSM below its variable store, the SVSM's metadata; all vCPUs start "
            "at the SVSM's entry in 32-bit flat mode; FCW 0 (the tool means 0x37f but writes 0)",
            "virtee/sev-snp-measure 0.0.13 guest.py svsm_calc_launch_digest, vmsa.py VMSA_SVSM",
            SOURCE,
            commit="8f2b337",
            id="svsm",
        ),
    ),
)

LIBKRUN = Profile(
    name="libkrun",
    title="libkrun: a manifest lists its pages, KVM's reset state starts each vCPU",
    platforms=(SNP, TDX),
    vmsa=Vmsa(_KVM_RESET, _KVM_RESET, others_entry="reset-vector"),
    sources=(
        Fact(
            "SNP, in this order: NORMAL qboot at 0xffff0000 (64 KiB), NORMAL kernel, NORMAL initrd "
            "at 0xa00000, NORMAL 0x7000, ZERO 0x0, SECRETS 0x5000, CPUID 0x6000, ZERO 0x8000 to "
            "0xefff, then the VMSAs in KVM's reset state",
            "containers/libkrun src/vmm, the SEV launch",
            SOURCE,
            id="snp-order",
        ),
        Fact(
            "TDX: [0, 2 GiB) added without being measured, then qboot at 0xffff0000 added and "
            "extended; RCX of each vCPU 0",
            "containers/libkrun src/vmm, the TDX launch (before pull request 694)",
            SOURCE,
            id="tdx-order",
        ),
    ),
)
