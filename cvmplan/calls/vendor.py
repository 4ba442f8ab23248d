"""
The vendor's calls of a launch: KVM_MEMORY_ENCRYPT_OP with its command and that command's struct.

Sources: Linux Documentation/virt/kvm/x86/amd-memory-encryption.rst, intel-tdx.rst; for the
TDX patches v19 the mailing list, 2024-02-26.
"""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.calls.record import Packed, Repeat, SystemCall, Values, filled, ioctl
from cvmplan.core.blob import Blob
from cvmplan.core.values import PAGE
from cvmplan.kvm import layouts
from cvmplan.kvm.abi import find
from cvmplan.kvm.layouts import SEV_COMMANDS, STRUCTS
from cvmplan.kvm.memory import SetMemslot
from cvmplan.memory.contents import Contents, DigestAfter, Filled, Hashed, Made, Zeros
from cvmplan.operations.plan import Init, Op, Plan
from cvmplan.platforms.sev.ops import SevLaunchStart, SevLaunchUpdateData
from cvmplan.platforms.snp.ops import SnpLaunchFinish, SnpLaunchStart, SnpLaunchUpdate
from cvmplan.platforms.snp.steps import PageType
from cvmplan.platforms.tdx.ops import TdxExtend, TdxInitMemRegion, TdxInitVcpu, TdxInitVm


class VendorCalls:
    """The calls of one plan; each method yields those of one operation."""

    def __init__(self, made: Plan) -> None:
        self.plan = made
        self.abi = find(made.abi)
        self.platform = made.platform
        self.repeats = made.repeats
        self.v19 = self.abi.tdx_extend == "separate"
        self._inputs = {i.blob.name: n for n, i in enumerate(made.inputs)}
        self._slots = [op for op in made.ops if isinstance(op, SetMemslot)]

    def _memory(self, gpa: int) -> str:
        """Return where user space has the byte at `gpa`."""
        for slot in self._slots:
            if slot.gpa <= gpa < slot.gpa + slot.size:
                kind = "gmem" if self.abi.in_place and slot.gmem is not None else "memory"
                return f"&{kind}[{slot.slot}]+{gpa - slot.gpa:#x}"
        return "&memory"

    def _source(self, contents: Contents | None, number: int) -> int | str:
        """Return the address of contents; 0 where they lie in the guest's memory already."""
        match contents:
            case None:
                return 0
            case Blob(name, _, base):
                return f"&input[{self._inputs[name]}]+{base:#x}"
            case Made():
                return f"&op[{number}].source"
            case Zeros():
                return "&zeros"
            case Filled(what):
                return f"&{what}"
            case DigestAfter() | Hashed():
                return "&firmware"

    def _copy(self, to: str, contents: Contents | None, size: int, number: int) -> SystemCall:
        """Return memcpy of the contents of operation `number`."""
        source = str(self._source(contents, number))
        told = (("to", to), ("from", source), ("size", hex(size)))
        return SystemCall("memcpy", arguments=told)

    def _command(
        self, fd: str, name: str, number: int, data: Packed | int | str, flags: int | None = None
    ) -> SystemCall:
        """Return KVM_MEMORY_ENCRYPT_OP of a command, and the struct that it points to."""
        amd = name in SEV_COMMANDS
        values: dict[str, int | bytes | str] = {"id": number}
        values["data"] = "&data" if isinstance(data, Packed) else data
        if amd:
            values["sev_fd"] = "sev_fd"
        if flags is not None:
            values["flags"] = flags
        made = filled(STRUCTS["kvm_sev_cmd" if amd else "kvm_tdx_cmd"], values)
        held = data if isinstance(data, Packed) else None
        call = ioctl(fd, "KVM_MEMORY_ENCRYPT_OP")
        return call._replace(command=name, struct=made, data=held)

    def _sev(self, name: str, values: Values | None = None) -> SystemCall:
        """Return a command of AMD's; its struct is named as it is, in lower case."""
        named = STRUCTS.get({"KVM_SEV_INIT2": "kvm_sev_init"}.get(name, name.lower()))
        data: Packed | int = 0 if values is None or named is None else filled(named, values)
        return self._command("vm", name, SEV_COMMANDS[name], data)

    def _tdx(
        self, fd: str, name: str, data: Packed | int | str = 0, flags: int | None = None
    ) -> SystemCall:
        commands = layouts.TDX_V19_COMMANDS if self.v19 else layouts.TDX_COMMANDS
        return self._command(fd, name, commands[name], data, flags)

    # --- AMD -------------------------------------------------------------------------------------

    def _init(self, op: Init, number: int) -> Iterator[SystemCall]:
        del number
        if op.legacy:
            yield self._sev("KVM_SEV_ES_INIT")
        else:
            yield self._sev("KVM_SEV_INIT2", {"vmsa_features": op.vmsa_features})

    def _snp_launch_start(self, op: SnpLaunchStart, number: int) -> Iterator[SystemCall]:
        del number
        values = {"policy": op.policy, **_given(gosvw=op.gosvw)}
        yield self._sev("KVM_SEV_SNP_LAUNCH_START", values)

    def _snp_launch_update(self, op: SnpLaunchUpdate, number: int) -> Iterator[SystemCall]:
        values: Values = {
            "gfn_start": op.gpa // PAGE,
            "uaddr": 0 if op.page_type is PageType.ZERO else self._source(op.source, number),
            "len": op.size,
            "type": layouts.SNP_PAGE_TYPES[op.page_type.label],
        }
        call = self._sev("KVM_SEV_SNP_LAUNCH_UPDATE", values)
        again = Repeat("len", tuple(e for e in self.repeats if e == "EAGAIN"))
        repeat = again if self.repeats else None
        yield call._replace(repeat=repeat, retries=op.retry is not None)

    def _snp_launch_finish(self, op: SnpLaunchFinish, number: int) -> Iterator[SystemCall]:
        del number
        values: dict[str, int | bytes | str] = _given(host_data=op.host_data)
        if op.id_block is not None:
            values |= {"id_block_uaddr": "&id_block", "id_block_en": 1}
        if op.id_auth is not None:
            values |= {"id_auth_uaddr": "&id_auth"}
        values |= {name: 1 for name, on in _flags(op).items() if on}
        yield self._sev("KVM_SEV_SNP_LAUNCH_FINISH", values)

    def _sev_launch_start(self, op: SevLaunchStart, number: int) -> Iterator[SystemCall]:
        del number
        yield self._sev("KVM_SEV_LAUNCH_START", {"policy": op.policy})

    def _sev_launch_update_data(self, op: SevLaunchUpdateData, number: int) -> Iterator[SystemCall]:
        held = self._memory(op.gpa)
        yield self._copy(held, op.source, op.size, number)
        yield self._sev("KVM_SEV_LAUNCH_UPDATE_DATA", {"uaddr": held, "len": op.size})

    def _sev_launch_update_vmsa(self, op: Op, number: int) -> Iterator[SystemCall]:
        del op, number
        yield self._sev("KVM_SEV_LAUNCH_UPDATE_VMSA")

    def _sev_launch_measure(self, op: Op, number: int) -> Iterator[SystemCall]:
        del op, number
        yield self._sev("KVM_SEV_LAUNCH_MEASURE", {"uaddr": "&measurement", "len": "&length"})

    def _sev_launch_finish(self, op: Op, number: int) -> Iterator[SystemCall]:
        del op, number
        yield self._sev("KVM_SEV_LAUNCH_FINISH")

    # --- Intel -----------------------------------------------------------------------------------

    def _tdx_init_vm(self, op: TdxInitVm, number: int) -> Iterator[SystemCall]:
        del number
        identities = _given(
            mrconfigid=op.mrconfigid, mrowner=op.mrowner, mrownerconfig=op.mrownerconfig
        )
        values: dict[str, int | bytes | str] = {"attributes": op.attributes, **identities}
        if not self.v19:
            values["xfam"] = op.xfam
        layout = layouts.TDX_V19_INIT_VM if self.v19 else STRUCTS["kvm_tdx_init_vm"]
        call = self._tdx("vm", "KVM_TDX_INIT_VM", filled(layout, values))
        yield call._replace(followed_by="&cpuid")

    def _tdx_init_vcpu(self, op: TdxInitVcpu, number: int) -> Iterator[SystemCall]:
        del number
        for vcpu in range(op.count):
            yield self._tdx(f"vcpu:{vcpu}", "KVM_TDX_INIT_VCPU", op.rcx)

    def _tdx_init_mem_region(self, op: TdxInitMemRegion, number: int) -> Iterator[SystemCall]:
        source, pages = self._source(op.source, number), op.size // PAGE
        if self.v19:
            mapping: Values = {"base_gfn": op.gpa // PAGE, "nr_pages": pages, "source": source}
            made = filled(STRUCTS["kvm_memory_mapping"], mapping)
            yield ioctl("vcpu:0", "KVM_MEMORY_MAPPING")._replace(
                struct=made, repeat=Repeat("nr_pages")
            )
            return
        region: Values = {"source_addr": source, "gpa": op.gpa, "nr_pages": pages}
        data = filled(STRUCTS["kvm_tdx_init_mem_region"], region)
        flags = layouts.KVM_TDX_MEASURE_MEMORY_REGION if op.measured else 0
        call = self._tdx("vcpu:0", "KVM_TDX_INIT_MEM_REGION", data, flags)
        yield call._replace(repeat=Repeat("", self.repeats) if self.repeats else None)

    def _tdx_extend(self, op: TdxExtend, number: int) -> Iterator[SystemCall]:
        del number
        region: Values = {"base_gfn": op.gpa // PAGE, "nr_pages": op.size // PAGE}
        data = filled(STRUCTS["kvm_memory_mapping"], region)
        yield self._tdx("vm", "KVM_TDX_EXTEND_MEMORY", data)._replace(repeat=Repeat("nr_pages"))

    def _tdx_finalize(self, op: Op, number: int) -> Iterator[SystemCall]:
        del op, number
        yield self._tdx("vm", "KVM_TDX_FINALIZE_VM")


def _flags(op: SnpLaunchFinish) -> dict[str, bool]:
    return {"auth_key_en": op.author_key_enabled, "vcek_disabled": op.vcek_disabled}


def _given(**values: bytes | None) -> dict[str, int | bytes | str]:
    return {name: value for name, value in values.items() if value is not None}
