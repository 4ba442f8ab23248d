"""KVM's structs and numbers, against the C compiler and against what spec/kvm.md says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from cvmplan.core.errors import PlanError
from cvmplan.core.platform import OF_KVM, Platform
from cvmplan.kvm import layouts
from cvmplan.kvm.layouts import STRUCTS
from cvmplan.kvm.packing import pack

# (a) The installed headers.  CPATH=directory tries others.

HEADERS = "#include <linux/kvm.h>\n#include <asm/kvm.h>\n#include <linux/kvm_para.h>\n"
LATER_PADDING = re.compile(r"pad\d*|padding|reserved")  # an older header may leave it implicit
# kvm_tdx_init_vm ends in C with the header of a kvm_cpuid2, which layouts.py counts apart.
END = {"kvm_tdx_init_vm": "offsetof(struct kvm_tdx_init_vm, cpuid)"}
# What is in C under the name that it has in layouts.py, or under the one given here.
CONSTANTS: dict[str, int] = {
    **{name: ioctl.number for name, ioctl in layouts.IOCTLS.items()},
    **layouts.CAPABILITIES,
    **layouts.SEV_COMMANDS,
    **layouts.TDX_COMMANDS,
    "KVM_X86_DEFAULT_VM": int(Platform.DEFAULT.vm_type or 0),
    "KVM_X86_SW_PROTECTED_VM": int(Platform.SW_PROTECTED.vm_type or 0),
    "KVM_X86_SEV_VM": int(Platform.SEV.vm_type or 0),
    "KVM_X86_SEV_ES_VM": int(Platform.SEV_ES.vm_type or 0),
    "KVM_X86_SNP_VM": int(Platform.SNP.vm_type or 0),
    "KVM_X86_TDX_VM": int(Platform.TDX.vm_type or 0),
    "KVM_SEV_SNP_PAGE_TYPE_NORMAL": layouts.SNP_PAGE_TYPES["normal"],
    "KVM_SEV_SNP_PAGE_TYPE_ZERO": layouts.SNP_PAGE_TYPES["zero"],
    "KVM_SEV_SNP_PAGE_TYPE_UNMEASURED": layouts.SNP_PAGE_TYPES["unmeasured"],
    "KVM_SEV_SNP_PAGE_TYPE_SECRETS": layouts.SNP_PAGE_TYPES["secrets"],
    "KVM_SEV_SNP_PAGE_TYPE_CPUID": layouts.SNP_PAGE_TYPES["cpuid"],
    "KVMIO": layouts.KVMIO,
    "KVM_MEM_GUEST_MEMFD": layouts.KVM_MEM_GUEST_MEMFD,
    "KVM_MEMORY_ATTRIBUTE_PRIVATE": layouts.KVM_MEMORY_ATTRIBUTE_PRIVATE,
    "GUEST_MEMFD_FLAG_MMAP": layouts.GUEST_MEMFD_FLAG_MMAP,
    "GUEST_MEMFD_FLAG_INIT_SHARED": layouts.GUEST_MEMFD_FLAG_INIT_SHARED,
    "KVM_TDX_MEASURE_MEMORY_REGION": layouts.KVM_TDX_MEASURE_MEMORY_REGION,
    "KVM_X86_GRP_SEV": layouts.KVM_X86_GRP_SEV,
    "KVM_X86_SEV_VMSA_FEATURES": layouts.KVM_X86_SEV_VMSA_FEATURES,
    "KVM_HC_MAP_GPA_RANGE": layouts.KVM_HC_MAP_GPA_RANGE,
}


class Compiler:
    """A C compiler, and the text of the headers that it finds."""

    def __init__(self, path: str, directory: Path) -> None:
        self.path = path
        self.directory = directory
        self.text = self.run("-E", "-dD", "-x", "c", "-", source=HEADERS)

    def run(self, *options: str, source: str) -> str:
        done = subprocess.run(
            [self.path, *options],
            input=source,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
        return done.stdout

    def values(self, expressions: Mapping[str, str]) -> dict[str, int]:
        """Compile and run a program that prints each expression."""
        prints = "".join(
            f'printf("{name} %llu\\n", (unsigned long long)({c}));\n'
            for name, c in expressions.items()
        )
        source = (
            f"{HEADERS}#include <stddef.h>\n#include <stdio.h>\nint main(void) {{\n{prints}}}\n"
        )
        program = str(self.directory / "program")
        self.run("-x", "c", "-o", program, "-", source=source)
        printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
        return {name: int(value) for name, value in map(str.split, printed.splitlines())}

    def body(self, struct: str) -> str:
        """Return what stands between the braces of a struct, "" if no header has it."""
        found = re.search(rf"\bstruct {struct} \{{(.*?)\n\}}", self.text, re.DOTALL)
        return found[1] if found else ""


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    path = shutil.which("cc") or shutil.which("gcc")
    if path is None:
        pytest.skip("there is no C compiler")
    try:
        found = Compiler(path, tmp_path_factory.mktemp("c"))
    except subprocess.CalledProcessError:
        pytest.skip("the C compiler finds no <linux/kvm.h>")
    if not found.body("kvm_cpuid2"):
        pytest.skip("the <linux/kvm.h> of the C compiler is not that of x86")
    return found


@pytest.fixture(scope="module")
def numbers(compiler: Compiler) -> dict[str, int]:
    return compiler.values({n: n for n in CONSTANTS if re.search(rf"\b{n}\b", compiler.text)})


@pytest.mark.parametrize("name", STRUCTS)
def test_structs_lie_as_the_c_compiler_lays_them(name: str, compiler: Compiler) -> None:
    body = compiler.body(name)
    if not body:
        pytest.skip(f"the header lacks struct {name}")
    named = [
        field
        for field in STRUCTS[name].fields
        if re.search(rf"\b{field.name}\b", body) or not LATER_PADDING.fullmatch(field.name)
    ]
    asked = {"": END.get(name, f"sizeof(struct {name})")}
    for field in named:
        asked[f"{field.name}@"] = f"offsetof(struct {name}, {field.name})"
        asked[f"{field.name}:"] = f"sizeof(((struct {name} *)0)->{field.name})"
    found = compiler.values({f"={key}": c for key, c in asked.items()})
    assert found.pop("=") == STRUCTS[name].size
    for field in named:
        assert (found[f"={field.name}@"], found[f"={field.name}:"]) == (field.offset, field.size)


@pytest.mark.parametrize("name", CONSTANTS)
def test_numbers_are_those_of_the_headers(name: str, numbers: dict[str, int]) -> None:
    if name not in numbers:
        pytest.skip(f"the header lacks {name}")
    assert CONSTANTS[name] == numbers[name]


# (b) Facts, typed in: sizes, numbers and the offsets with @ in spec/kvm.md 1.1 to 2.5; the other
# offsets were printed by gcc from the headers that layouts.py names.

LAID: dict[str, tuple[int, str]] = {
    "kvm_enable_cap": (104, "cap@0 flags@4 args@8 pad@40"),
    "kvm_device_attr": (24, "flags@0 group@4 attr@8 addr@16"),
    "kvm_create_guest_memfd": (64, "size@0 flags@8 reserved@16"),
    "kvm_userspace_memory_region": (
        32,
        "slot@0 flags@4 guest_phys_addr@8 memory_size@16 userspace_addr@24",
    ),
    "kvm_userspace_memory_region2": (
        160,
        (
            "slot@0 flags@4 guest_phys_addr@8 memory_size@16 userspace_addr@24 "
            "guest_memfd_offset@32 guest_memfd@40 pad1@44 pad2@48"
        ),
    ),
    "kvm_memory_attributes": (32, "address@0 size@8 attributes@16 flags@24"),
    "kvm_memory_attributes2": (
        128,
        "offset@0 size@8 attributes@16 flags@24 error_offset@32 reserved@40",
    ),
    "kvm_pre_fault_memory": (64, "gpa@0 size@8 flags@16 padding@24"),
    "kvm_memory_mapping": (32, "base_gfn@0 nr_pages@8 flags@16 source@24"),
    "kvm_enc_region": (16, "addr@0 size@8"),
    "kvm_cpuid2": (8, "nent@0 padding@4"),
    "kvm_cpuid_entry2": (40, "function@0 index@4 flags@8 eax@12 ebx@16 ecx@20 edx@24 padding@28"),
    "kvm_regs": (
        144,
        (
            "rax@0 rbx@8 rcx@16 rdx@24 rsi@32 rdi@40 rsp@48 rbp@56 r8@64 r9@72 r10@80 r11@88 "
            "r12@96 r13@104 r14@112 r15@120 rip@128 rflags@136"
        ),
    ),
    "kvm_segment": (
        24,
        (
            "base@0 limit@8 selector@12 type@14 present@15 dpl@16 db@17 s@18 l@19 g@20 avl@21 "
            "unusable@22 padding@23"
        ),
    ),
    "kvm_dtable": (16, "base@0 limit@8 padding@10"),
    "kvm_sregs": (
        312,
        (
            "cs@0 ds@24 es@48 fs@72 gs@96 ss@120 tr@144 ldt@168 gdt@192 idt@208 cr0@224 cr2@232 "
            "cr3@240 cr4@248 cr8@256 efer@264 apic_base@272 interrupt_bitmap@280"
        ),
    ),
    "kvm_sregs2": (
        320,
        (
            "cs@0 ds@24 es@48 fs@72 gs@96 ss@120 tr@144 ldt@168 gdt@192 idt@208 cr0@224 cr2@232 "
            "cr3@240 cr4@248 cr8@256 efer@264 apic_base@272 flags@280 pdptrs@288"
        ),
    ),
    "kvm_debugregs": (128, "db@0 dr6@32 dr7@40 flags@48 reserved@56"),
    "kvm_xcr": (16, "xcr@0 reserved@4 value@8"),
    "kvm_xcrs": (392, "nr_xcrs@0 flags@4 xcrs@8 padding@264"),
    "kvm_msrs": (8, "nmsrs@0 pad@4"),
    "kvm_msr_entry": (16, "index@0 reserved@4 data@8"),
    "kvm_sev_cmd": (24, "id@0 pad0@4 data@8 error@16 sev_fd@20"),
    "kvm_sev_init": (48, "vmsa_features@0 flags@8 ghcb_version@12 pad1@14 pad2@16"),
    "kvm_sev_launch_start": (
        40,
        "handle@0 policy@4 dh_uaddr@8 dh_len@16 pad0@20 session_uaddr@24 session_len@32 pad1@36",
    ),
    "kvm_sev_launch_update_data": (16, "uaddr@0 len@8 pad0@12"),
    "kvm_sev_launch_measure": (16, "uaddr@0 len@8 pad0@12"),
    "kvm_sev_snp_launch_start": (64, "policy@0 gosvw@8 flags@24 pad0@26 pad1@32"),
    "kvm_sev_snp_launch_update": (
        64,
        "gfn_start@0 uaddr@8 len@16 type@24 pad0@25 flags@26 pad1@28 pad2@32",
    ),
    "kvm_sev_snp_launch_finish": (
        88,
        (
            "id_block_uaddr@0 id_auth_uaddr@8 id_block_en@16 auth_key_en@17 vcek_disabled@18 "
            "host_data@19 pad0@51 flags@54 pad1@56"
        ),
    ),
    "kvm_tdx_cmd": (24, "id@0 flags@4 data@8 hw_error@16"),
    "kvm_tdx_init_vm": (
        256,
        "attributes@0 xfam@8 mrconfigid@16 mrowner@64 mrownerconfig@112 reserved@160",
    ),
    "kvm_tdx_init_mem_region": (24, "source_addr@0 gpa@8 nr_pages@16"),
}

# Direction (0 none, 1 write, 2 read), number and size of the argument are those of the headers.
REQUESTS: dict[str, tuple[int, str, tuple[int, int, int]]] = {
    "KVM_CREATE_VM": (0xAE01, "int", (0, 0x01, 0)),
    "KVM_CHECK_EXTENSION": (0xAE03, "int", (0, 0x03, 0)),
    "KVM_GET_DEVICE_ATTR": (0x4018AEE2, "kvm_device_attr", (1, 0xE2, 24)),
    "KVM_CREATE_VCPU": (0xAE41, "int", (0, 0x41, 0)),
    "KVM_SET_USER_MEMORY_REGION": (0x4020AE46, "kvm_userspace_memory_region", (1, 0x46, 32)),
    "KVM_SET_USER_MEMORY_REGION2": (0x40A0AE49, "kvm_userspace_memory_region2", (1, 0x49, 160)),
    "KVM_ENABLE_CAP": (0x4068AEA3, "kvm_enable_cap", (1, 0xA3, 104)),
    "KVM_SET_TSC_KHZ": (0xAEA2, "int", (0, 0xA2, 0)),
    "KVM_MEMORY_ENCRYPT_OP": (0xC008AEBA, "kvm_sev_cmd|kvm_tdx_cmd", (3, 0xBA, 8)),
    "KVM_MEMORY_ENCRYPT_REG_REGION": (0x8010AEBB, "kvm_enc_region", (2, 0xBB, 16)),
    "KVM_MEMORY_ENCRYPT_UNREG_REGION": (0x8010AEBC, "kvm_enc_region", (2, 0xBC, 16)),
    "KVM_SET_MEMORY_ATTRIBUTES": (0x4020AED2, "kvm_memory_attributes", (1, 0xD2, 32)),
    "KVM_SET_MEMORY_ATTRIBUTES2": (0xC080AED2, "kvm_memory_attributes2", (3, 0xD2, 128)),
    "KVM_CREATE_GUEST_MEMFD": (0xC040AED4, "kvm_create_guest_memfd", (3, 0xD4, 64)),
    "KVM_PRE_FAULT_MEMORY": (0xC040AED5, "kvm_pre_fault_memory", (3, 0xD5, 64)),
    "KVM_MEMORY_MAPPING": (0xC020AED5, "kvm_memory_mapping", (3, 0xD5, 32)),
    "KVM_SET_CPUID2": (0x4008AE90, "kvm_cpuid2", (1, 0x90, 8)),
    "KVM_SET_REGS": (0x4090AE82, "kvm_regs", (1, 0x82, 144)),
    "KVM_SET_SREGS": (0x4138AE84, "kvm_sregs", (1, 0x84, 312)),
    "KVM_SET_SREGS2": (0x4140AECD, "kvm_sregs2", (1, 0xCD, 320)),
    "KVM_SET_MSRS": (0x4008AE89, "kvm_msrs", (1, 0x89, 8)),
    "KVM_SET_DEBUGREGS": (0x4080AEA2, "kvm_debugregs", (1, 0xA2, 128)),
    "KVM_SET_XSAVE": (0x5000AEA5, "kvm_xsave", (1, 0xA5, 4096)),
    "KVM_SET_XCRS": (0x4188AEA7, "kvm_xcrs", (1, 0xA7, 392)),
    "KVM_RUN": (0xAE80, "", (0, 0x80, 0)),
}


def test_every_struct_and_every_ioctl_has_its_facts_here() -> None:
    assert set(STRUCTS) == set(LAID)
    assert set(layouts.IOCTLS) == set(REQUESTS)


@pytest.mark.parametrize("name", LAID)
def test_structs_have_the_sizes_and_offsets_of_the_specification(name: str) -> None:
    size, fields = LAID[name]
    struct = STRUCTS[name]
    assert (struct.name, struct.size) == (name, size)
    assert " ".join(f"{field.name}@{field.offset}" for field in struct.fields) == fields
    assert struct.source


@pytest.mark.parametrize("name", REQUESTS)
def test_request_numbers_are_made_of_direction_size_and_number(name: str) -> None:
    number, argument, (direction, nr, size) = REQUESTS[name]
    assert layouts.IOCTLS[name] == (name, number, argument)
    assert layouts.IOCTLS[name].number == direction << 30 | size << 16 | 0xAE << 8 | nr


def test_capabilities_have_the_numbers_of_the_specification() -> None:
    assert layouts.CAPABILITIES == {
        "KVM_CAP_EXIT_HYPERCALL": 201,
        "KVM_CAP_USER_MEMORY2": 231,
        "KVM_CAP_MEMORY_FAULT_INFO": 232,
        "KVM_CAP_MEMORY_ATTRIBUTES": 233,
        "KVM_CAP_GUEST_MEMFD": 234,
        "KVM_CAP_VM_TYPES": 235,
        "KVM_CAP_MEMORY_MAPPING": 236,
        "KVM_CAP_PRE_FAULT_MEMORY": 236,
        "KVM_CAP_X86_APIC_BUS_CYCLES_NS": 237,
        "KVM_CAP_GUEST_MEMFD_FLAGS": 244,
        "KVM_CAP_MAX_VCPUS": 66,
        "KVM_CAP_SPLIT_IRQCHIP": 121,
    }


def test_vm_and_page_types_have_the_numbers_of_the_specification() -> None:
    types = {"default": 0, "sw-protected": 1, "sev": 2, "sev-es": 3, "snp": 4, "tdx": 5}
    assert types == {str(p): p.vm_type for p in OF_KVM}
    assert layouts.TDX_V19_VM_TYPE == 2
    pages = {"normal": 1, "vmsa": 2, "zero": 3, "unmeasured": 4, "secrets": 5, "cpuid": 6}
    assert pages == layouts.SNP_PAGE_TYPES


def test_sev_commands_have_the_ids_of_the_specification() -> None:
    assert layouts.SEV_COMMANDS == {
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


def test_tdx_commands_have_the_ids_of_mainline_and_of_version_19() -> None:
    both = {"KVM_TDX_CAPABILITIES": 0, "KVM_TDX_INIT_VM": 1, "KVM_TDX_INIT_VCPU": 2}
    both["KVM_TDX_FINALIZE_VM"] = 4
    mainline = {"KVM_TDX_INIT_MEM_REGION": 3, "KVM_TDX_GET_CPUID": 5}
    assert both | mainline == layouts.TDX_COMMANDS
    assert both | {"KVM_TDX_EXTEND_MEMORY": 3} == layouts.TDX_V19_COMMANDS


def test_flags_have_the_bits_of_the_specification() -> None:
    assert layouts.KVM_MEM_GUEST_MEMFD == 4
    assert layouts.KVM_MEMORY_ATTRIBUTE_PRIVATE == 8
    assert layouts.GUEST_MEMFD_FLAG_MMAP == 1
    assert layouts.GUEST_MEMFD_FLAG_INIT_SHARED == 2
    assert layouts.KVM_TDX_MEASURE_MEMORY_REGION == 1
    assert layouts.KVM_X86_GRP_SEV == 1
    assert layouts.KVM_X86_SEV_VMSA_FEATURES == 0
    assert layouts.KVM_HC_MAP_GPA_RANGE == 12


# (c) The specification itself, where a checkout has it beside it.

SPEC = Path(__file__).parents[2] / "shared" / "spec" / "kvm.md"


def test_ioctl_numbers_are_those_that_the_specification_compiled() -> None:
    if not SPEC.exists():
        pytest.skip(f"there is no {SPEC}")
    section = SPEC.read_text().partition("### 2.1 ")[2].partition("### 2.2 ")[0]
    pairs = re.findall(r"\b([A-Z][A-Z0-9_]+) (0x[0-9a-f]+)", section)
    assert len(pairs) >= 14
    for name, number in pairs:
        full = name if name.startswith("KVM_") else f"KVM_MEMORY_ENCRYPT_{name}"
        assert layouts.IOCTLS[full].number == int(number, 16), name


# (d) pack()

Values = dict[str, int | bytes | str]


def test_integers_are_packed_little_endian_and_the_rest_is_zero() -> None:
    data, relocations = pack(STRUCTS["kvm_pre_fault_memory"], {"gpa": 0xFFC00000, "size": 0x1000})
    assert data == bytes.fromhex("0000c0ff00000000 0010000000000000") + bytes(48)
    assert relocations == ()


def test_a_symbol_is_zeros_and_a_relocation_where_it_stands() -> None:
    struct = STRUCTS["kvm_userspace_memory_region2"]
    values: Values = {"guest_memfd": "gmem0", "slot": 1, "flags": 4, "userspace_addr": "hva0"}
    data, relocations = pack(struct, values)
    assert relocations == ((24, "hva0"), (40, "gmem0"))
    assert data == b"\1\0\0\0\4" + bytes(155)


def test_the_finish_of_an_snp_launch_has_its_host_data_at_19() -> None:
    values: Values = {
        "id_block_uaddr": "id-block",
        "id_auth_uaddr": "id-auth",
        "id_block_en": 1,
        "auth_key_en": 1,
        "host_data": bytes(range(1, 33)),
        "flags": 0x0201,
    }
    data, relocations = pack(STRUCTS["kvm_sev_snp_launch_finish"], values)
    assert data[16:19] == b"\1\1\0"
    assert data[19:51] == bytes(range(1, 33))
    assert data[51:] == b"\0\0\0\1\2" + bytes(32)
    assert relocations == ((0, "id-block"), (8, "id-auth"))


def test_short_bytes_and_integers_fill_an_array_from_its_start() -> None:
    data, _ = pack(STRUCTS["kvm_enable_cap"], {"cap": 201, "args": 1 << 12, "pad": b"\xff"})
    assert data == bytes.fromhex("c9000000 00000000 0010000000000000") + bytes(24) + (
        b"\xff" + bytes(63)
    )


def test_the_largest_value_of_a_field_is_packed() -> None:
    data, _ = pack(STRUCTS["kvm_sev_snp_launch_update"], {"type": 255, "flags": 65535})
    assert data == bytes(24) + b"\xff\0\xff\xff" + bytes(36)


REFUSED: dict[str, tuple[str, Values, str]] = {
    "a value too large": (
        "kvm_sev_snp_launch_update",
        {"type": 256},
        "kvm_sev_snp_launch_update.type, 1 bytes, does not contain 0x100",
    ),
    "a value below zero": (
        "kvm_sev_cmd",
        {"sev_fd": -1},
        "kvm_sev_cmd.sev_fd, 4 bytes, does not contain -0x1",
    ),
    "an unknown field": (
        "kvm_tdx_cmd",
        {"id": 1, "error": 0},
        "struct kvm_tdx_cmd has no field 'error'",
    ),
    "too many bytes": (
        "kvm_sev_snp_launch_finish",
        {"host_data": bytes(33)},
        "kvm_sev_snp_launch_finish.host_data, 32 bytes, does not contain 33 bytes",
    ),
    "a symbol in an array": (
        "kvm_tdx_init_vm",
        {"mrowner": "owner"},
        "kvm_tdx_init_vm.mrowner, 48 bytes, contains no address, such as owner",
    ),
    "a symbol in a flag": (
        "kvm_sev_snp_launch_start",
        {"flags": "here"},
        "kvm_sev_snp_launch_start.flags, 2 bytes, contains no address, such as here",
    ),
}


@pytest.mark.parametrize(("name", "values", "why"), REFUSED.values(), ids=REFUSED)
def test_what_a_struct_does_not_hold_is_refused_by_name(
    name: str, values: Values, why: str
) -> None:
    with pytest.raises(PlanError) as caught:
        pack(STRUCTS[name], values)
    assert str(caught.value) == why
