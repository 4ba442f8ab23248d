"""
The vendor's calls of a launch: KVM_MEMORY_ENCRYPT_OP with its command and that command's struct.

Sources: Linux Documentation/virt/kvm/x86/amd-memory-encryption.rst, intel-tdx.rst; for the
TDX patches v19 the mailing list, 2024-02-26.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cvmplan.calls.record import CpuidBits, Packed, Placed, Repeat, SystemCall, filled, ioctl
from cvmplan.core.blob import Blob
from cvmplan.core.practice import usual
from cvmplan.core.values import PAGE
from cvmplan.kvm import layouts
from cvmplan.kvm.abi import find
from cvmplan.kvm.layouts import SEV_COMMANDS, STRUCTS
from cvmplan.kvm.memory import SetMemslot
from cvmplan.kvm.packing import Value, Values
from cvmplan.kvm.recorded import WIDTH_LEAF
from cvmplan.memory.contents import Contents, DigestAfter, Filled, Hashed, Made, Zeros
from cvmplan.operations.plan import Init, Op, Plan
from cvmplan.platforms.sev.ops import (
    SevLaunchStart,
    SevLaunchUpdateData,
    SevLaunchUpdateVmsa,
    Vcpus,
)
from cvmplan.platforms.snp.ops import SnpLaunchFinish, SnpLaunchStart, SnpLaunchUpdate, Vmsa
from cvmplan.platforms.snp.steps import PageType
from cvmplan.platforms.tdx.ops import TdxExtend, TdxInitMemRegion, TdxInitVcpu, TdxInitVm

V19_LACKS: Final = ("X86_APIC_BUS_CYCLES_NS",)
GPAW: Final = (WIDTH_LEAF, "eax", 0xFF0000)
"""Where KVM_TDX_INIT_VM reads the guest address width: linux arch/x86/kvm/vmx/tdx.c,
setup_tdparams_cpuids."""
MEASURE_SIZE: Final = 48
"""AMD 55766, LAUNCH_MEASURE: MEASURE (32 bytes) and MNONCE (16 bytes)."""
NO_SESSION: Final[Values] = {
    "handle": 0, "dh_uaddr": 0, "dh_len": 0, "session_uaddr": 0, "session_len": 0,
}  # fmt: skip
"""SEV's LAUNCH_START without a guest owner's certificate and session."""


class VendorCalls:
    """The calls of one plan; each method yields those of one operation."""

    def __init__(self, made: Plan) -> None:
        self.plan = made
        self.abi = find(made.abi)
        self.platform = made.platform
        self.practice = made.practice or usual(made.platform)
        self.v19 = self.abi.tdx_extend == "separate"
        self.legacy = any(isinstance(op, Init) and op.legacy for op in made.ops)
        skipped = V19_LACKS if self.v19 else ()
        self.reads_cpuid = self.practice.reads_cpuid and not self.v19
        self.enables = {n: a for n, a in self.practice.enables.items() if n not in skipped}
        gpaw = made.guest.get("gpaw")
        self.cpuid = (CpuidBits(*GPAW, gpaw << 16),) if gpaw else ()
        self._states = {vcpu: one.page for one in _states(made) for vcpu in one.vcpus}
        self._inputs = {i.blob.name: n for n, i in enumerate(made.inputs)}
        self._slots = [op for op in made.ops if isinstance(op, SetMemslot)]

    def _memory(self, gpa: int) -> str:
        """Return where user space has the byte at `gpa`."""
        for slot in self._slots:
            if slot.gpa <= gpa < slot.gpa + slot.size:
                kind = "gmem" if self.abi.in_place and slot.gmem is not None else "memory"
                number, offset = slot.shows
                return f"&{kind}[{number}]+{offset + gpa - slot.gpa:#x}"
        return "&memory"

    def _source(self, contents: Contents | None, number: int, size: int) -> int | str:
        """
        Return the address of contents; 0 where they lie in the guest's memory already.

        KVM takes whole pages from whole pages: an input that is none there is copied.
        """
        match contents:
            case None:
                return 0
            case Blob(name, data, base) if base % PAGE == 0 and len(data) == size:
                return f"&input[{self._inputs[name]}]+{base:#x}"
            case Blob() | Made():
                return f"&op[{number}].source"
            case Zeros():
                return "&zeros"
            case Filled(what):
                return f"&{what}"
            case DigestAfter() | Hashed():
                return "&firmware"

    def _copy(self, to: str, contents: Contents | None, size: int, number: int) -> SystemCall:
        """Return memcpy of the contents of operation `number`."""
        source = str(self._source(contents, number, size))
        told = (("to", to), ("from", source), ("size", hex(size)))
        return _with(SystemCall("memcpy", arguments=told), source, contents, size)

    def _command(
        self, fd: str, name: str, number: int, data: Packed | int | str, flags: int = 0
    ) -> SystemCall:
        """Return KVM_MEMORY_ENCRYPT_OP of a command, and the struct that it points to."""
        amd = name in SEV_COMMANDS
        values: dict[str, Value] = {"id": number}
        values["data"] = "&data" if isinstance(data, Packed) else data
        values |= {"sev_fd": "sev_fd"} if amd else {"flags": flags}
        made = filled(STRUCTS["kvm_sev_cmd" if amd else "kvm_tdx_cmd"], values)
        held = data if isinstance(data, Packed) else None
        call = ioctl(fd, "KVM_MEMORY_ENCRYPT_OP")
        return call._replace(command=name, struct=made, data=held)

    def _sev(self, name: str, values: Values | None = None) -> SystemCall:
        """Return a command of AMD's; its struct is named as it is, in lower case."""
        named = STRUCTS.get({"KVM_SEV_INIT2": "kvm_sev_init"}.get(name, name.lower()))
        data: Packed | int = 0 if values is None or named is None else filled(named, values)
        return self._command("vm", name, SEV_COMMANDS[name], data)

    def _tdx(self, fd: str, name: str, data: Packed | int | str = 0, flags: int = 0) -> SystemCall:
        commands = layouts.TDX_V19_COMMANDS if self.v19 else layouts.TDX_COMMANDS
        return self._command(fd, name, commands[name], data, flags)

    # --- AMD -------------------------------------------------------------------------------------

    def _init(self, op: Init, number: int) -> Iterator[SystemCall]:
        del number
        if op.legacy:
            yield self._sev("KVM_SEV_ES_INIT" if self.platform.vmsa else "KVM_SEV_INIT")
        else:
            features = {"vmsa_features": op.vmsa_features}
            yield self._sev("KVM_SEV_INIT2", {**features, "flags": 0, "ghcb_version": 0})

    def _snp_launch_start(self, op: SnpLaunchStart, number: int) -> Iterator[SystemCall]:
        del number
        values: Values = {"policy": op.policy, "gosvw": op.gosvw or bytes(16), "flags": 0}
        yield self._sev("KVM_SEV_SNP_LAUNCH_START", values)

    def _snp_launch_update(self, op: SnpLaunchUpdate, number: int) -> Iterator[SystemCall]:
        is_zero = op.page_type is PageType.ZERO
        source = 0 if is_zero else self._source(op.source, number, op.size)
        values: Values = {
            "gfn_start": op.gpa // PAGE,
            "uaddr": source,
            "len": op.size,
            "type": layouts.SNP_PAGE_TYPES[op.page_type.label],
            "flags": 0,
        }
        call = _with(self._sev("KVM_SEV_SNP_LAUNCH_UPDATE", values), source, op.source, op.size)
        again = self.practice.repeats
        repeat = Repeat("len", again) if again else None
        yield call._replace(repeat=repeat, retries=op.retry is not None)

    def _snp_launch_finish(self, op: SnpLaunchFinish, number: int) -> Iterator[SystemCall]:
        del number
        values: Values = {
            "id_block_uaddr": 0 if op.id_block is None else "&id_block",
            "id_auth_uaddr": 0 if op.id_auth is None else "&id_auth",
            "id_block_en": int(op.id_block is not None),
            "auth_key_en": int(op.author_key_enabled),
            "vcek_disabled": int(op.vcek_disabled),
            "host_data": op.host_data or bytes(32),
            "flags": 0,
        }
        held = (("&id_block", op.id_block), ("&id_auth", op.id_auth))
        contents = tuple(Placed(n, Made(data), len(data)) for n, data in held if data is not None)
        yield self._sev("KVM_SEV_SNP_LAUNCH_FINISH", values)._replace(contents=contents)

    def _sev_launch_start(self, op: SevLaunchStart, number: int) -> Iterator[SystemCall]:
        del number
        yield self._sev("KVM_SEV_LAUNCH_START", {**NO_SESSION, "policy": op.policy})

    def _sev_launch_update_data(self, op: SevLaunchUpdateData, number: int) -> Iterator[SystemCall]:
        held = self._memory(op.gpa)
        yield self._copy(held, op.source, op.size, number)
        yield self._sev("KVM_SEV_LAUNCH_UPDATE_DATA", {"uaddr": held, "len": op.size})

    def _sev_launch_update_vmsa(self, op: Op, number: int) -> Iterator[SystemCall]:
        del op, number
        yield self._sev("KVM_SEV_LAUNCH_UPDATE_VMSA")

    def _sev_launch_measure(self, op: Op, number: int) -> Iterator[SystemCall]:
        del op, number
        yield self._sev("KVM_SEV_LAUNCH_MEASURE", {"uaddr": "&measurement", "len": MEASURE_SIZE})

    def _sev_launch_finish(self, op: Op, number: int) -> Iterator[SystemCall]:
        del op, number
        yield self._sev("KVM_SEV_LAUNCH_FINISH")

    # --- Intel -----------------------------------------------------------------------------------

    def _tdx_init_vm(self, op: TdxInitVm, number: int) -> Iterator[SystemCall]:
        del number
        values: dict[str, Value] = {
            "attributes": op.attributes,
            "mrconfigid": op.mrconfigid or bytes(48),
            "mrowner": op.mrowner or bytes(48),
            "mrownerconfig": op.mrownerconfig or bytes(48),
        }
        if not self.v19:
            values["xfam"] = op.xfam
        layout = layouts.TDX_V19_INIT_VM if self.v19 else STRUCTS["kvm_tdx_init_vm"]
        call = self._tdx("vm", "KVM_TDX_INIT_VM", filled(layout, values))
        yield call._replace(followed_by="&cpuid2", cpuid=self.cpuid)

    def _tdx_init_vcpu(self, op: TdxInitVcpu, number: int) -> Iterator[SystemCall]:
        del number
        for vcpu in range(op.count):
            yield self._tdx(f"vcpu:{vcpu}", "KVM_TDX_INIT_VCPU", op.rcx)

    def _tdx_init_mem_region(self, op: TdxInitMemRegion, number: int) -> Iterator[SystemCall]:
        source, pages = self._source(op.source, number, op.size), op.size // PAGE
        if self.v19:
            made = filled(STRUCTS["kvm_memory_mapping"], _pages(op.gpa, pages, source))
            mapping = ioctl("vcpu:0", "KVM_MEMORY_MAPPING")
            mapping = mapping._replace(struct=made, repeat=Repeat("nr_pages"))
            yield _with(mapping, source, op.source, op.size)
            return
        region: Values = {"source_addr": source, "gpa": op.gpa, "nr_pages": pages}
        data = filled(STRUCTS["kvm_tdx_init_mem_region"], region)
        flags = layouts.KVM_TDX_MEASURE_MEMORY_REGION if op.measured else 0
        call = self._tdx("vcpu:0", "KVM_TDX_INIT_MEM_REGION", data, flags)
        call = _with(call, source, op.source, op.size)
        again = self.practice.repeats
        yield call._replace(repeat=Repeat("", again) if again else None)

    def _tdx_extend(self, op: TdxExtend, number: int) -> Iterator[SystemCall]:
        del number
        data = filled(STRUCTS["kvm_memory_mapping"], _pages(op.gpa, op.size // PAGE, 0))
        yield self._tdx("vm", "KVM_TDX_EXTEND_MEMORY", data)._replace(repeat=Repeat("nr_pages"))

    def _tdx_finalize(self, op: Op, number: int) -> Iterator[SystemCall]:
        del op, number
        yield self._tdx("vm", "KVM_TDX_FINALIZE_VM")


def _with(call: SystemCall, source: int | str, contents: Contents | None, size: int) -> SystemCall:
    """Return the call with what is put at its source first, if that is memory of its own."""
    if isinstance(contents, Blob | Made) and str(source).startswith("&op["):
        return call._replace(contents=(Placed(str(source), contents, size),))
    return call


def place(kind: str, number: int, offset: int) -> str:
    """Return the address of byte `offset` of a piece of memory."""
    return f"&{kind}[{number}]" + (f"+{offset:#x}" if offset else "")


def _pages(gpa: int, pages: int, source: int | str) -> Values:
    return {"base_gfn": gpa // PAGE, "nr_pages": pages, "flags": 0, "source": source}


def _states(made: Plan) -> Iterator[Vmsa | Vcpus]:
    """Yield the vCPU states that a plan hands over."""
    for op in made.ops:
        if isinstance(op, SnpLaunchFinish | SevLaunchUpdateVmsa):
            yield from op.vmsas
