"""
KVM's calls as data: ioctl numbers, the C structs behind them, capabilities, VM types,
sub-command ids.

Sources, unless a block names another one: Linux 6.18, include/uapi/linux/kvm.h and
arch/x86/include/uapi/asm/kvm.h, as QEMU 050b3d36 has them in linux-headers/.  What no released
kernel has: version 19 of the TDX series ("v19", mailing list, 2024-02-26), and in-place
conversion of guest_memfd, version 8 (mailing list, 2026-06-18).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from cvmplan.core.errors import PlanError


class Field(NamedTuple):
    """A field of a C struct; an array is one field of `size` bytes in all."""

    name: str
    offset: int
    size: int


class Struct(NamedTuple):
    """A C struct of the kernel's interface, reserved fields included."""

    name: str
    size: int
    fields: tuple[Field, ...]
    source: str


class Ioctl(NamedTuple):
    """
    An ioctl: its request number, and what its argument is.

    `argument` is "" (none), "int", or the struct that it points to; "a|b" is either of two.
    """

    name: str
    number: int
    argument: str


def struct(name: str, fields: str, source: str) -> Struct:
    """Lay out "name:bytes name:bytes …": every padding is a field, so offsets add up."""
    laid: list[Field] = []
    offset = 0
    for field in fields.split():
        label, _, size = field.partition(":")
        laid.append(Field(label, offset, int(size)))
        offset += int(size)
    return Struct(name, offset, tuple(laid), source)


def _words(*names: str) -> str:
    """Return fields of 8 bytes."""
    return " ".join(f"{name}:8" for name in " ".join(names).split())


_REGS: Final = _words("rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags")
_SREGS: Final = "cs:24 ds:24 es:24 fs:24 gs:24 ss:24 tr:24 ldt:24 gdt:16 idt:16 " + _words(
    "cr0 cr2 cr3 cr4 cr8 efer apic_base"
)

# Where each struct is declared.
_KVM = "Linux 6.18, include/uapi/linux/kvm.h"
_X86 = "Linux 6.18, arch/x86/include/uapi/asm/kvm.h"
_V19 = "'[PATCH v19 014/130] KVM: Add KVM vcpu ioctl to pre-populate guest memory', 2024-02-26"
_IN_PLACE = "in-place conversion of guest_memfd, v8, 2026-06-18, include/uapi/linux/kvm.h"

STRUCTS: Final[Mapping[str, Struct]] = {
    one.name: one
    for one in (
        # The VM and its memory.
        struct("kvm_enable_cap", "cap:4 flags:4 args:32 pad:64", _KVM),
        struct("kvm_device_attr", "flags:4 group:4 attr:8 addr:8", _KVM),
        struct("kvm_create_guest_memfd", "size:8 flags:8 reserved:48", _KVM),
        struct(
            "kvm_userspace_memory_region",
            "slot:4 flags:4 guest_phys_addr:8 memory_size:8 userspace_addr:8",
            _KVM,
        ),
        struct(
            "kvm_userspace_memory_region2",
            "slot:4 flags:4 guest_phys_addr:8 memory_size:8 userspace_addr:8 "
            "guest_memfd_offset:8 guest_memfd:4 pad1:4 pad2:112",
            _KVM,
        ),
        struct("kvm_memory_attributes", "address:8 size:8 attributes:8 flags:8", _KVM),
        struct("kvm_pre_fault_memory", "gpa:8 size:8 flags:8 padding:40", _KVM),
        struct("kvm_enc_region", "addr:8 size:8", _KVM),
        struct("kvm_cpuid2", "nent:4 padding:4", _X86),  # nent entries of 40 bytes follow
        struct(
            "kvm_cpuid_entry2",
            "function:4 index:4 flags:4 eax:4 ebx:4 ecx:4 edx:4 padding:12",
            _X86,
        ),
        # The registers of a vCPU; a segment and a descriptor table are structs of their own.
        struct("kvm_regs", _REGS, _X86),
        struct(
            "kvm_segment",
            "base:8 limit:4 selector:2 type:1 present:1 dpl:1 db:1 s:1 l:1 g:1 avl:1 "
            "unusable:1 padding:1",
            _X86,
        ),
        struct("kvm_dtable", "base:8 limit:2 padding:6", _X86),
        struct("kvm_sregs", f"{_SREGS} interrupt_bitmap:32", _X86),
        struct("kvm_sregs2", f"{_SREGS} flags:8 pdptrs:32", _X86),
        struct("kvm_debugregs", "db:32 dr6:8 dr7:8 flags:8 reserved:72", _X86),
        struct("kvm_xcr", "xcr:4 reserved:4 value:8", _X86),
        struct("kvm_xcrs", "nr_xcrs:4 flags:4 xcrs:256 padding:128", _X86),
        struct("kvm_msrs", "nmsrs:4 pad:4", _X86),  # nmsrs entries follow
        struct("kvm_msr_entry", "index:4 reserved:4 data:8", _X86),
        # `offset` is a union with `address`; a guest_memfd takes the offset.
        struct(
            "kvm_memory_attributes2",
            "offset:8 size:8 attributes:8 flags:8 error_offset:8 reserved:88",
            _IN_PLACE,
        ),
        # KVM_MEMORY_MAPPING, and in v19 also KVM_TDX_EXTEND_MEMORY.
        struct("kvm_memory_mapping", "base_gfn:8 nr_pages:8 flags:8 source:8", _V19),
        # KVM_MEMORY_ENCRYPT_OP, AMD.
        struct("kvm_sev_cmd", "id:4 pad0:4 data:8 error:4 sev_fd:4", _X86),
        struct("kvm_sev_init", "vmsa_features:8 flags:4 ghcb_version:2 pad1:2 pad2:32", _X86),
        struct(
            "kvm_sev_launch_start",
            "handle:4 policy:4 dh_uaddr:8 dh_len:4 pad0:4 session_uaddr:8 session_len:4 pad1:4",
            _X86,
        ),
        struct("kvm_sev_launch_update_data", "uaddr:8 len:4 pad0:4", _X86),
        struct("kvm_sev_launch_measure", "uaddr:8 len:4 pad0:4", _X86),
        struct("kvm_sev_snp_launch_start", "policy:8 gosvw:16 flags:2 pad0:6 pad1:32", _X86),
        struct(
            "kvm_sev_snp_launch_update",
            "gfn_start:8 uaddr:8 len:8 type:1 pad0:1 flags:2 pad1:4 pad2:32",
            _X86,
        ),
        struct(
            "kvm_sev_snp_launch_finish",
            "id_block_uaddr:8 id_auth_uaddr:8 id_block_en:1 auth_key_en:1 vcek_disabled:1 "
            "host_data:32 pad0:3 flags:2 pad1:32",
            _X86,
        ),
        # KVM_MEMORY_ENCRYPT_OP, Intel.  In v19 the last field is named `error`.
        struct("kvm_tdx_cmd", "id:4 flags:4 data:8 hw_error:8", _X86),
        # A kvm_cpuid2 follows, which is not counted here.
        struct(
            "kvm_tdx_init_vm",
            "attributes:8 xfam:8 mrconfigid:48 mrowner:48 mrownerconfig:48 reserved:96",
            _X86,
        ),
        struct("kvm_tdx_init_mem_region", "source_addr:8 gpa:8 nr_pages:8", _X86),
    )
}


# v19's form has no xfam, and 8192 bytes with the first entry of the kvm_cpuid2 that follows.
TDX_V19_INIT_VM: Final = struct(
    "kvm_tdx_init_vm",
    "attributes:8 mrconfigid:48 mrowner:48 mrownerconfig:48 reserved:8032",
    _V19,
)

# include/uapi/asm-generic/ioctl.h: direction, size of the argument, type, number.
KVMIO: Final = 0xAE


def _iow(nr: int, size: int) -> int:
    return 1 << 30 | size << 16 | KVMIO << 8 | nr


def _iowr(nr: int, size: int) -> int:
    return 3 << 30 | size << 16 | KVMIO << 8 | nr


IOCTLS: Final[Mapping[str, Ioctl]] = {
    ioctl.name: ioctl
    for ioctl in (
        # On /dev/kvm; KVM_CHECK_EXTENSION also on a VM.
        Ioctl("KVM_CREATE_VM", 0xAE01, "int"),
        Ioctl("KVM_CHECK_EXTENSION", 0xAE03, "int"),
        Ioctl("KVM_GET_DEVICE_ATTR", _iow(0xE2, 24), "kvm_device_attr"),
        # On a VM; TDX has KVM_MEMORY_ENCRYPT_OP on a vCPU too.
        Ioctl("KVM_CREATE_VCPU", 0xAE41, "int"),
        Ioctl("KVM_SET_USER_MEMORY_REGION", _iow(0x46, 32), "kvm_userspace_memory_region"),
        Ioctl("KVM_SET_USER_MEMORY_REGION2", 0x40A0AE49, "kvm_userspace_memory_region2"),
        Ioctl("KVM_ENABLE_CAP", 0x4068AEA3, "kvm_enable_cap"),
        Ioctl("KVM_SET_TSC_KHZ", 0xAEA2, "int"),
        Ioctl("KVM_MEMORY_ENCRYPT_OP", 0xC008AEBA, "kvm_sev_cmd|kvm_tdx_cmd"),
        Ioctl("KVM_MEMORY_ENCRYPT_REG_REGION", 0x8010AEBB, "kvm_enc_region"),
        Ioctl("KVM_MEMORY_ENCRYPT_UNREG_REGION", 0x8010AEBC, "kvm_enc_region"),
        Ioctl("KVM_SET_MEMORY_ATTRIBUTES", 0x4020AED2, "kvm_memory_attributes"),
        Ioctl("KVM_CREATE_GUEST_MEMFD", 0xC040AED4, "kvm_create_guest_memfd"),
        # On a vCPU.
        Ioctl("KVM_RUN", 0xAE80, ""),
        Ioctl("KVM_SET_CPUID2", 0x4008AE90, "kvm_cpuid2"),
        Ioctl("KVM_SET_REGS", _iow(0x82, 144), "kvm_regs"),
        Ioctl("KVM_SET_SREGS", _iow(0x84, 312), "kvm_sregs"),
        Ioctl("KVM_SET_SREGS2", _iow(0xCD, 320), "kvm_sregs2"),
        Ioctl("KVM_SET_MSRS", _iow(0x89, 8), "kvm_msrs"),
        Ioctl("KVM_SET_DEBUGREGS", _iow(0xA2, 128), "kvm_debugregs"),
        Ioctl("KVM_SET_XSAVE", _iow(0xA5, 4096), "kvm_xsave"),
        Ioctl("KVM_SET_XCRS", _iow(0xA7, 392), "kvm_xcrs"),
        Ioctl("KVM_PRE_FAULT_MEMORY", 0xC040AED5, "kvm_pre_fault_memory"),
        # On a vCPU, v19: the number of KVM_PRE_FAULT_MEMORY with a smaller struct.
        Ioctl("KVM_MEMORY_MAPPING", _iowr(0xD5, 32), "kvm_memory_mapping"),
        # On a guest_memfd, in-place conversion.
        Ioctl("KVM_SET_MEMORY_ATTRIBUTES2", 0xC080AED2, "kvm_memory_attributes2"),
    )
}

CAPABILITIES: Final[Mapping[str, int]] = {
    "KVM_CAP_MAX_VCPUS": 66,
    "KVM_CAP_SPLIT_IRQCHIP": 121,
    "KVM_CAP_EXIT_HYPERCALL": 201,
    "KVM_CAP_USER_MEMORY2": 231,
    "KVM_CAP_MEMORY_FAULT_INFO": 232,
    "KVM_CAP_MEMORY_ATTRIBUTES": 233,
    "KVM_CAP_GUEST_MEMFD": 234,
    "KVM_CAP_VM_TYPES": 235,
    "KVM_CAP_MEMORY_MAPPING": 236,  # v19; the number was given to the next one
    "KVM_CAP_PRE_FAULT_MEMORY": 236,
    "KVM_CAP_X86_APIC_BUS_CYCLES_NS": 237,
    "KVM_CAP_GUEST_MEMFD_FLAGS": 244,
}

TDX_V19_VM_TYPE: Final = 2  # v19, arch/x86/include/uapi/asm/kvm.h: KVM_X86_TDX_VM

# enum sev_cmd_id
SEV_COMMANDS: Final[Mapping[str, int]] = {
    "KVM_SEV_INIT": 0,
    "KVM_SEV_ES_INIT": 1,
    "KVM_SEV_LAUNCH_START": 2,
    "KVM_SEV_LAUNCH_UPDATE_DATA": 3,
    "KVM_SEV_LAUNCH_UPDATE_VMSA": 4,
    "KVM_SEV_LAUNCH_SECRET": 5,
    "KVM_SEV_LAUNCH_MEASURE": 6,
    "KVM_SEV_LAUNCH_FINISH": 7,
    "KVM_SEV_GUEST_STATUS": 16,
    "KVM_SEV_INIT2": 22,
    "KVM_SEV_SNP_LAUNCH_START": 100,
    "KVM_SEV_SNP_LAUNCH_UPDATE": 101,
    "KVM_SEV_SNP_LAUNCH_FINISH": 102,
}

# enum kvm_tdx_cmd_id
TDX_COMMANDS: Final[Mapping[str, int]] = {
    "KVM_TDX_CAPABILITIES": 0,
    "KVM_TDX_INIT_VM": 1,
    "KVM_TDX_INIT_VCPU": 2,
    "KVM_TDX_INIT_MEM_REGION": 3,
    "KVM_TDX_FINALIZE_VM": 4,
    "KVM_TDX_GET_CPUID": 5,
}

# v19, '[PATCH v19 075/130] KVM: TDX: Extend memory measurement with initial guest memory'.
TDX_V19_COMMANDS: Final[Mapping[str, int]] = {
    "KVM_TDX_CAPABILITIES": 0,
    "KVM_TDX_INIT_VM": 1,
    "KVM_TDX_INIT_VCPU": 2,
    "KVM_TDX_EXTEND_MEMORY": 3,
    "KVM_TDX_FINALIZE_VM": 4,
}

# KVM_SEV_SNP_PAGE_TYPE_*, which has no VMSA: KVM hands those over itself, as AMD 56860's type 2.
SNP_PAGE_TYPES: Final[Mapping[str, int]] = {
    "normal": 1,
    "vmsa": 2,
    "zero": 3,
    "unmeasured": 4,
    "secrets": 5,
    "cpuid": 6,
}

KVM_MEM_READONLY: Final = 1 << 1  # kvm_userspace_memory_region.flags
KVM_MEM_GUEST_MEMFD: Final = 1 << 2  # kvm_userspace_memory_region2.flags
KVM_MEMORY_ATTRIBUTE_PRIVATE: Final = 1 << 3  # kvm_memory_attributes.attributes
GUEST_MEMFD_FLAG_MMAP: Final = 1 << 0  # kvm_create_guest_memfd.flags
GUEST_MEMFD_FLAG_INIT_SHARED: Final = 1 << 1
KVM_TDX_MEASURE_MEMORY_REGION: Final = 1 << 0  # kvm_tdx_cmd.flags of KVM_TDX_INIT_MEM_REGION
KVM_X86_GRP_SEV: Final = 1  # kvm_device_attr.group on /dev/kvm
KVM_X86_SEV_VMSA_FEATURES: Final = 0  # its attr: the SEV_FEATURES that the host supports
# include/uapi/linux/kvm_para.h; KVM_CAP_EXIT_HYPERCALL takes 1 << number.
KVM_HC_MAP_GPA_RANGE: Final = 12


def unpack(struct: Struct, data: bytes) -> dict[str, int | bytes]:
    """
    Return the fields of `struct` at the start of `data`: an integer up to 8 bytes, else bytes.

    PlanError where `data` is shorter than the struct.
    """
    if len(data) < struct.size:
        raise PlanError(f"{len(data)} bytes for struct {struct.name}", hint=f"{struct.size} bytes")
    values: dict[str, int | bytes] = {}
    for name, offset, size in struct.fields:
        piece = bytes(data[offset : offset + size])
        values[name] = int.from_bytes(piece, "little") if size <= 8 else piece
    return values
