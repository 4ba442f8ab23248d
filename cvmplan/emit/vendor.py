"""
The vendor's calls of a launch: KVM_MEMORY_ENCRYPT_OP with its command and that command's struct.

Sources: Linux Documentation/virt/kvm/x86/amd-memory-encryption.rst, intel-tdx.rst; for the
TDX patches v19 the mailing list, 2024-02-26.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from cvmplan.core.blob import Blob
from cvmplan.core.values import PAGE
from cvmplan.kvm import layouts
from cvmplan.kvm.abi import find
from cvmplan.kvm.layouts import IOCTLS, SEV_COMMANDS, STRUCTS, Struct, pack
from cvmplan.kvm.memory import SetMemslot
from cvmplan.memory.contents import Contents, DigestAfter, Filled, Hashed, Made, Zeros
from cvmplan.operations.plan import Plan

Call: TypeAlias = dict[str, Any]
Values: TypeAlias = Mapping[str, int | bytes | str]


def ioctl(fd: str, name: str, **more: Any) -> Call:
    """Return an ioctl on a file descriptor, by the name of its request."""
    return {"fd": fd, "call": name, "ioctl": f"{IOCTLS[name].number:#x}", **more}


def struct(layout: Struct, values: Values) -> Call:
    """Return a struct as named fields and as bytes."""
    data, relocations = pack(layout, values)
    shown = {
        field.name: _shown(values[field.name]) for field in layout.fields if field.name in values
    }
    made: Call = {"struct": layout.name, "fields": shown, "bytes": data.hex()}
    if relocations:
        made["relocations"] = [{"offset": at, "address": symbol} for at, symbol in relocations]
    return made


def _shown(value: int | bytes | str) -> str:
    if isinstance(value, int):
        return hex(value)
    return value.hex() if isinstance(value, bytes) else value


class VendorCalls:
    """The calls of one plan; each method yields those of one operation."""

    def __init__(self, made: Plan) -> None:
        self.plan = made
        self.abi = find(made.abi)
        self.platform = made.platform
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

    def _command(
        self, fd: str, name: str, number: int, data: Call | int | str, **more: Any
    ) -> Call:
        """Return KVM_MEMORY_ENCRYPT_OP of a command, and the struct that it points to."""
        amd = name in SEV_COMMANDS
        values: dict[str, int | bytes | str] = {"id": number}
        values["data"] = "&data" if isinstance(data, dict) else data
        if amd:
            values["sev_fd"] = "sev_fd"
        if "flags" in more:
            values["flags"] = more.pop("flags")
        made = struct(STRUCTS["kvm_sev_cmd" if amd else "kvm_tdx_cmd"], values)
        if isinstance(data, dict):
            made["data"] = data
        return ioctl(fd, "KVM_MEMORY_ENCRYPT_OP", command=name, **made, **more)

    def _sev(self, name: str, values: Values | None = None, **more: Any) -> Call:
        """Return a command of AMD's; its struct is named as it is, in lower case."""
        named = STRUCTS.get({"KVM_SEV_INIT2": "kvm_sev_init"}.get(name, name.lower()))
        data: Call | int = 0 if values is None or named is None else struct(named, values)
        return self._command("vm", name, SEV_COMMANDS[name], data, **more)

    def _tdx(self, fd: str, name: str, data: Call | int | str = 0, **more: Any) -> Call:
        commands = layouts.TDX_V19_COMMANDS if self.v19 else layouts.TDX_COMMANDS
        return self._command(fd, name, commands[name], data, **more)

    # --- AMD -------------------------------------------------------------------------------------

    def _init(self, op: Any, number: int) -> Iterator[Call]:
        del number
        if op.legacy:
            yield self._sev("KVM_SEV_ES_INIT")
        else:
            yield self._sev("KVM_SEV_INIT2", {"vmsa_features": op.vmsa_features})

    def _snp_launch_start(self, op: Any, number: int) -> Iterator[Call]:
        del number
        values = {"policy": op.policy, **_given(gosvw=op.gosvw)}
        yield self._sev("KVM_SEV_SNP_LAUNCH_START", values)

    def _snp_launch_update(self, op: Any, number: int) -> Iterator[Call]:
        values: Values = {
            "gfn_start": op.gpa // PAGE,
            "uaddr": 0 if op.page_type.label == "zero" else self._source(op.source, number),
            "len": op.size,
            "type": layouts.SNP_PAGE_TYPES[op.page_type.label],
        }
        more = {"repeat": "while len is not 0"}
        if op.page_type.label == "cpuid":
            more["retry"] = "once, with the page that the firmware corrected, on INVALID_PARAM"
        yield self._sev("KVM_SEV_SNP_LAUNCH_UPDATE", values, **more)

    def _snp_launch_finish(self, op: Any, number: int) -> Iterator[Call]:
        del number
        values: dict[str, int | bytes | str] = _given(host_data=op.host_data)
        if op.id_block is not None:
            values |= {"id_block_uaddr": "&id_block", "id_block_en": 1}
        if op.id_auth is not None:
            values |= {"id_auth_uaddr": "&id_auth"}
        values |= {name: 1 for name, on in _flags(op).items() if on}
        yield self._sev("KVM_SEV_SNP_LAUNCH_FINISH", values)

    def _sev_launch_start(self, op: Any, number: int) -> Iterator[Call]:
        del number
        yield self._sev("KVM_SEV_LAUNCH_START", {"policy": op.policy})

    def _sev_launch_update_data(self, op: Any, number: int) -> Iterator[Call]:
        held = self._memory(op.gpa)
        yield {
            "call": "memcpy", "to": held, "from": self._source(op.source, number),
            "size": hex(op.size),
        }  # fmt: skip
        yield self._sev("KVM_SEV_LAUNCH_UPDATE_DATA", {"uaddr": held, "len": op.size})

    def _sev_launch_update_vmsa(self, op: Any, number: int) -> Iterator[Call]:
        del op, number
        yield self._sev("KVM_SEV_LAUNCH_UPDATE_VMSA")

    def _sev_launch_measure(self, op: Any, number: int) -> Iterator[Call]:
        del op, number
        yield self._sev("KVM_SEV_LAUNCH_MEASURE", {"uaddr": "&measurement", "len": "&length"})

    def _sev_launch_finish(self, op: Any, number: int) -> Iterator[Call]:
        del op, number
        yield self._sev("KVM_SEV_LAUNCH_FINISH")

    # --- Intel -----------------------------------------------------------------------------------

    def _tdx_init_vm(self, op: Any, number: int) -> Iterator[Call]:
        del number
        identities = _given(
            mrconfigid=op.mrconfigid, mrowner=op.mrowner, mrownerconfig=op.mrownerconfig
        )
        values: dict[str, int | bytes | str] = {"attributes": op.attributes, **identities}
        if not self.v19:
            values["xfam"] = op.xfam
        layout = layouts.TDX_V19_INIT_VM if self.v19 else STRUCTS["kvm_tdx_init_vm"]
        data = {**struct(layout, values), "followed_by": "&cpuid"}
        yield self._tdx("vm", "KVM_TDX_INIT_VM", data)

    def _tdx_init_vcpu(self, op: Any, number: int) -> Iterator[Call]:
        del number
        for vcpu in range(op.count):
            yield self._tdx(f"vcpu:{vcpu}", "KVM_TDX_INIT_VCPU", op.rcx)

    def _tdx_init_mem_region(self, op: Any, number: int) -> Iterator[Call]:
        source, pages = self._source(op.source, number), op.size // PAGE
        if self.v19:
            mapping: Values = {"base_gfn": op.gpa // PAGE, "nr_pages": pages, "source": source}
            made = struct(STRUCTS["kvm_memory_mapping"], mapping)
            yield ioctl("vcpu:0", "KVM_MEMORY_MAPPING", repeat="while nr_pages is not 0", **made)
            return
        region: Values = {"source_addr": source, "gpa": op.gpa, "nr_pages": pages}
        yield self._tdx(
            "vcpu:0",
            "KVM_TDX_INIT_MEM_REGION",
            struct(STRUCTS["kvm_tdx_init_mem_region"], region),
            flags=layouts.KVM_TDX_MEASURE_MEMORY_REGION if op.measured else 0,
            repeat="on EINTR, EAGAIN and EBUSY, with the struct as it was left",
        )

    def _tdx_extend(self, op: Any, number: int) -> Iterator[Call]:
        del number
        region: Values = {"base_gfn": op.gpa // PAGE, "nr_pages": op.size // PAGE}
        data = struct(STRUCTS["kvm_memory_mapping"], region)
        yield self._tdx("vm", "KVM_TDX_EXTEND_MEMORY", data, repeat="while nr_pages is not 0")

    def _tdx_finalize(self, op: Any, number: int) -> Iterator[Call]:
        del op, number
        yield self._tdx("vm", "KVM_TDX_FINALIZE_VM")


def _flags(op: Any) -> dict[str, bool]:
    return {"auth_key_en": op.author_key_enabled, "vcek_disabled": op.vcek_disabled}


def _given(**values: bytes | None) -> dict[str, int | bytes | str]:
    return {name: value for name, value in values.items() if value is not None}
