"""The calls of a recording as the simulator knows them: operations, results, contents, states."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import replace
from operator import attrgetter
from typing import Any, Final, NamedTuple

from cvmplan.core.errors import MalformedError
from cvmplan.core.platform import VMSA_GPA, Platform
from cvmplan.core.values import PAGE
from cvmplan.kvm.layouts import (
    GUEST_MEMFD_FLAG_INIT_SHARED,
    GUEST_MEMFD_FLAG_MMAP,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEMORY_ATTRIBUTE_PRIVATE,
    KVM_TDX_MEASURE_MEMORY_REGION,
    SNP_PAGE_TYPES,
)
from cvmplan.kvm.recorded import Fields, RecordedCall, gpaw_of
from cvmplan.readers.recorded_calls import Line
from cvmplan.simulator.attempts import Attempt, errno_name
from cvmplan.simulator.call import State
from cvmplan.simulator.recording import Recording, StateDoubt
from cvmplan.simulator.vcpu_state import Registers, differing, vmsa_of

PAGE_TYPE: Final = {number: name for name, number in SNP_PAGE_TYPES.items()}
LEGACY: Final = {"KVM_SEV_INIT": Platform.SEV, "KVM_SEV_ES_INIT": Platform.SEV_ES}
GMEM_FLAGS: Final = {GUEST_MEMFD_FLAG_MMAP: "mmap", GUEST_MEMFD_FLAG_INIT_SHARED: "init-shared"}
SNP_ACTIVE: Final = 1 << 0
ID_BLOCK: Final = 96  # bytes; AMD 56860, "Structure of the ID Block"
MOST_NESTED: Final = 16  # memslots that are looked at for one host address
MEASURES_VCPUS: Final = ("snp-launch-finish", "sev-launch-update-vmsa")


class Slot(NamedTuple):
    """A memslot as a call set it: where user space has it, and where the guest."""

    uaddr: int
    size: int
    gpa: int


class HostMemory:
    """Where a VMM has the memory of its guest, by the memslots that it set."""

    def __init__(self) -> None:
        self._slots: list[Slot] = []
        self._sorted: list[Slot] = []

    def add(self, slot: Slot) -> None:
        """Note a memslot."""
        self._slots.append(slot)

    def gpa_of(self, uaddr: int) -> int | None:
        """Return the guest address of a host address, None where no slot has it."""
        if len(self._sorted) < len(self._slots):
            self._sorted = sorted(self._slots)
        at = bisect_right(self._sorted, uaddr, key=attrgetter("uaddr"))
        near = reversed(self._sorted[max(at - MOST_NESTED, 0) : at])
        return next((s.gpa + uaddr - s.uaddr for s in near if uaddr < s.uaddr + s.size), None)


def recording(lines: Iterable[Line], name: str) -> Recording:
    """Return the operations of a recording; MalformedError where its calls cannot be."""
    made = _Maker(name)
    for line in lines:
        made.take(line)
    return made.done()


class _Maker:
    """Goes through the calls once, and collects operations."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._attempts: list[Attempt] = []
        self._calls: list[RecordedCall] = []
        self._gmems: dict[int, int] = {}  # descriptor to number
        self._memory = HostMemory()
        self._set: dict[int, Registers] = {}
        self._final: dict[int, Registers] = {}
        self._vcpus = 0
        self._vm_type: int | None = None
        self._legacy = ""
        self._features: int | None = None
        self._doubts: list[StateDoubt] = []
        self._gpaw = 48
        self._measured = False
        self._makers: dict[str, Callable[[RecordedCall, Line], dict[str, Any] | None]] = {
            "KVM_CREATE_VM": self._create_vm,
            "KVM_CREATE_VCPU": self._create_vcpu,
            "KVM_CREATE_GUEST_MEMFD": self._create_gmem,
            "KVM_SET_USER_MEMORY_REGION": self._memslot,
            "KVM_SET_USER_MEMORY_REGION2": self._memslot,
            "KVM_SET_MEMORY_ATTRIBUTES": self._attributes,
            "KVM_PRE_FAULT_MEMORY": self._pre_fault,
            "KVM_SEV_INIT": self._init,
            "KVM_SEV_ES_INIT": self._init,
            "KVM_SEV_INIT2": self._init,
            "KVM_SEV_LAUNCH_START": self._sev_start,
            "KVM_SEV_LAUNCH_UPDATE_DATA": self._update_data,
            "KVM_SEV_LAUNCH_UPDATE_VMSA": lambda *_: {"op": "sev-launch-update-vmsa"},
            "KVM_SEV_LAUNCH_MEASURE": self._sev_measure,
            "KVM_SEV_LAUNCH_FINISH": lambda *_: {"op": "sev-launch-finish"},
            "KVM_SEV_SNP_LAUNCH_START": self._snp_start,
            "KVM_SEV_SNP_LAUNCH_UPDATE": self._snp_update,
            "KVM_SEV_SNP_LAUNCH_FINISH": self._snp_finish,
            "KVM_TDX_INIT_VM": self._init_vm,
            "KVM_TDX_INIT_VCPU": lambda c, _: {
                "op": "tdx-init-vcpu",
                "rcx": _int(c.fields, "data"),
            },
            "KVM_TDX_INIT_MEM_REGION": self._region,
            "KVM_TDX_FINALIZE_VM": lambda *_: {"op": "tdx-finalize"},
        }

    def take(self, line: Line) -> None:
        """Take one call."""
        call = line.call
        self._calls.append(call)
        if line.registers is not None:
            self._keep(call, line)
        maker = self._makers.get(call.command or call.name)
        told = maker(call, line) if maker else None
        if told is None:
            return
        op = told.pop("op")
        told = {
            "returned": None if call.returned is None else errno_name(call.returned),
            "gmem_offset": None,
            **told,
        }
        made = Attempt(call.line, op, fw_error=call.fw_error, **told)
        if op in MEASURES_VCPUS and not call.failed:
            self._measured = True
        self._attempts.append(_with_rest(made, call))

    def _keep(self, call: RecordedCall, line: Line) -> None:
        """Keep registers; what is set after they were measured no longer counts."""
        vcpu = int(call.fd.partition(":")[2] or 0)
        found = line.registers or Registers()
        if line.final:
            self._final[vcpu] = found
        elif not self._measured:
            self._set[vcpu] = found.over(self._set.get(vcpu, Registers()))

    def done(self) -> Recording:
        """Return the recording."""
        platform = self._platform()
        attempts = tuple(self._completed(a, platform) for a in self._attempts)
        doubts = tuple(dict.fromkeys(self._doubts))
        return Recording(platform, attempts, tuple(self._calls), self._gpaw, doubts)

    def _platform(self) -> Platform:
        if self._legacy and not self._vm_type:
            return LEGACY[self._legacy]
        found = [p for p in Platform if p.vm_type is not None and p.vm_type == self._vm_type]
        if not found:
            why = "no KVM_CREATE_VM" if self._vm_type is None else f"VM type {self._vm_type}"
            raise MalformedError(f"{why}: the platform is not known", at=self._name)
        return found[0]

    def _completed(self, attempt: Attempt, platform: Platform) -> Attempt:
        """Return an operation with what only the whole recording tells."""
        if attempt.op == "create-vm":
            return replace(attempt, vm_type=platform)
        if attempt.op in MEASURES_VCPUS:
            return replace(attempt, vmsas=self._states(platform))
        if attempt.op == "sev-launch-update-data":
            gpa = self._memory.gpa_of(attempt.src or 0)
            return replace(attempt, gpa=gpa or 0, placed=gpa is not None)
        return attempt

    def _states(self, platform: Platform) -> tuple[State, ...]:
        """Return the VMSAs of the vCPUs whose registers are known, in their order."""
        features = (self._features or 0) | (SNP_ACTIVE if platform.page_info else 0)
        gpa = VMSA_GPA if platform.page_info else None
        found = []
        for vcpu in range(self._vcpus):
            was_set = self._set.get(vcpu, Registers())
            held = self._final.get(vcpu, Registers()).over(was_set)
            if held.known:
                page = vmsa_of(held, features, fpu=not self._legacy)
                found.append(State(vcpu, vcpu, gpa, page))
                self._compare(vcpu, was_set, held, page, features)
        return tuple(found)

    def _compare(
        self, vcpu: int, was_set: Registers, held: Registers, page: bytes, features: int
    ) -> None:
        """Note where the registers in the end are not those that were set."""
        if not was_set.known:
            return
        told = was_set if was_set.xsave else replace(was_set, xsave=held.xsave)
        mine = vmsa_of(told, features, fpu=not self._legacy)
        self._doubts += [StateDoubt(vcpu, *field) for field in differing(mine, page)]

    # --- what each call is -----------------------------------------------------------------------

    def _create_vm(self, call: RecordedCall, _: Line) -> dict[str, Any]:
        if not call.failed:
            self._vm_type = call.argument
        return {"op": "create-vm"}

    def _create_vcpu(self, call: RecordedCall, _: Line) -> dict[str, Any]:
        self._vcpus += not call.failed
        return {"op": "create-vcpu", "count": 1}

    def _create_gmem(self, call: RecordedCall, _: Line) -> dict[str, Any]:
        number = len(self._gmems)
        if call.returned is not None and not call.failed:
            self._gmems[call.returned] = number
        flags = _int(call.fields, "flags")
        return {"op": "create-gmem", "size": _int(call.fields, "size"), "gmem": number,
                "flags": gmem_flags(flags)}  # fmt: skip

    def _memslot(self, call: RecordedCall, line: Line) -> dict[str, Any]:
        told = call.fields
        gpa, size = _int(told, "guest_phys_addr"), _int(told, "memory_size")
        if size and not call.failed:
            self._memory.add(Slot(_int(told, "userspace_addr"), size, gpa))
        made: dict[str, Any] = {"op": "set-memslot", "slot": _int(told, "slot"), "gpa": gpa,
                                "size": size}  # fmt: skip
        if size and _int(told, "flags") & KVM_MEM_GUEST_MEMFD:
            made["gmem"] = self._gmems.get(_int(told, "guest_memfd"), line.gmem)
            made["gmem_offset"] = _int(told, "guest_memfd_offset")
        return made

    def _attributes(self, call: RecordedCall, _: Line) -> dict[str, Any]:
        private = _int(call.fields, "attributes") & KVM_MEMORY_ATTRIBUTE_PRIVATE
        return {"op": "set-private" if private else "set-shared",
                "gpa": _int(call.fields, "address"), "size": _int(call.fields, "size")}  # fmt: skip

    def _pre_fault(self, call: RecordedCall, _: Line) -> dict[str, Any]:
        fields = call.fields
        return {"op": "pre-fault-memory", "gpa": _int(fields, "gpa"), "size": _int(fields, "size")}

    def _init(self, call: RecordedCall, _: Line) -> dict[str, Any]:
        legacy = call.command in LEGACY
        if not call.failed:
            self._legacy = call.command if legacy else ""
            self._features = _int(call.data, "vmsa_features")
        features = _int(call.data, "vmsa_features")
        return {"op": "init", "legacy": legacy, "vmsa_features": features}

    def _sev_start(self, call: RecordedCall, _: Line) -> dict[str, Any]:
        return {"op": "sev-launch-start", "policy": _int(call.data, "policy")}

    def _sev_measure(self, call: RecordedCall, _: Line) -> dict[str, Any]:
        return {"op": "sev-launch-measure", "asks": call.failed and not _int(call.data, "len")}

    def _update_data(self, call: RecordedCall, _: Line) -> dict[str, Any]:
        return {"op": "sev-launch-update-data", "size": _int(call.data, "len"),
                "src": _int(call.data, "uaddr")}  # fmt: skip

    def _snp_start(self, call: RecordedCall, _: Line) -> dict[str, Any]:
        return {"op": "snp-launch-start", "policy": _int(call.data, "policy")}

    def _snp_update(self, call: RecordedCall, _: Line) -> dict[str, Any]:
        number = _int(call.data, "type")
        if call.data and number not in PAGE_TYPE:
            at = f"{self._name}:{call.line}: data"
            raise MalformedError(f"unknown page type {number}", at=at)
        gpa = _int(call.data, "gfn_start") * PAGE
        self._check(call, gpa, _int(call.data, "len"))
        return {"op": "snp-launch-update", "gpa": gpa, "size": _int(call.data, "len"),
                "page_type": PAGE_TYPE.get(number, "normal"), "src": _int(call.data, "uaddr"),
                }  # fmt: skip

    def _check(self, call: RecordedCall, gpa: int, size: int) -> None:
        """Raise MalformedError where a range ends past the address space."""
        if gpa + size > 1 << 64:
            at = f"{self._name}:{call.line}: data"
            raise MalformedError(f"{size:#x} bytes at {gpa:#x} end past 2^64", at=at)

    def _snp_finish(self, call: RecordedCall, line: Line) -> dict[str, Any]:
        if not _int(call.data, "id_block_en") or line.id_block is None:
            return {"op": "snp-launch-finish"}
        data = line.id_block.data
        block = data if data is not None and len(data) == ID_BLOCK else None
        auth = line.id_auth.data if line.id_auth else b""
        return {"op": "snp-launch-finish", "id_block": block, "id_auth": auth or b""}

    def _init_vm(self, call: RecordedCall, _: Line) -> dict[str, Any]:
        self._gpaw = gpaw_of(call.follows)
        return {"op": "tdx-init-vm", "attributes": _int(call.data, "attributes"),
                "xfam": _int(call.data, "xfam")}  # fmt: skip

    def _region(self, call: RecordedCall, _: Line) -> dict[str, Any]:
        size = _int(call.data, "nr_pages") * PAGE
        self._check(call, _int(call.data, "gpa"), size)
        measured = bool(_int(call.fields, "flags") & KVM_TDX_MEASURE_MEMORY_REGION)
        return {"op": "tdx-init-mem-region", "gpa": _int(call.data, "gpa"), "size": size,
                "measured": measured, "src": _int(call.data, "source_addr")}  # fmt: skip


def _with_rest(attempt: Attempt, call: RecordedCall) -> Attempt:
    """Return an add with its contents, and what it left over: the source says how far it came."""
    taken = call.source
    if taken is None:
        return attempt
    left = attempt.size - taken.size
    if left <= 0 or call.returned is None or taken.size % PAGE:
        return replace(attempt, taken=taken)
    residual = (attempt.gpa + taken.size, left)
    return replace(attempt, taken=taken, residual=residual)


def gmem_flags(flags: int) -> tuple[str, ...]:
    """Return the names of flags of KVM_CREATE_GUEST_MEMFD, as plans have them."""
    return tuple(name for bit, name in GMEM_FLAGS.items() if flags & bit)


def _int(fields: Fields, name: str) -> int:
    value = fields.get(name, 0)
    return value if isinstance(value, int) else 0
