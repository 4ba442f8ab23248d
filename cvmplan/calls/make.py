"""
The system calls of a plan, in their order.

An interface that no kernel has gives symbolic calls: an operation, and no number.
"""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.calls import registers
from cvmplan.calls.record import Repeat, SystemCall, Wants, filled, ioctl
from cvmplan.calls.vendor import VendorCalls, place
from cvmplan.core.errors import UnsupportedError
from cvmplan.core.platform import DEFAULT, FLAT
from cvmplan.core.practice import VCPUS
from cvmplan.core.spans import Spans
from cvmplan.kvm import layouts
from cvmplan.kvm.layouts import CAPABILITIES, IOCTLS, STRUCTS
from cvmplan.kvm.memory import (
    CreateGmem,
    Madvise,
    PunchHole,
    SetMemslot,
    SetPrivate,
    SetShared,
    Write,
)
from cvmplan.kvm.packing import Value, Values
from cvmplan.operations.plan import CreateVcpu, CreateVm, Init, Op, Plan, PreFaultMemory


def calls(made: Plan) -> Iterator[tuple[int, SystemCall]]:
    """Yield (number of its operation, call), in the order in which they are made."""
    maker = _Maker(made)
    for number, op in enumerate(made.ops):
        for call in maker.calls(number, op):
            yield number, call


class _Maker(VendorCalls):
    """Makes the calls of one plan."""

    def __init__(self, made: Plan) -> None:
        super().__init__(made)
        self._registered: dict[int, Spans] = {}

    def calls(self, number: int, op: Op) -> Iterator[SystemCall]:
        """Yield the calls of one operation."""
        symbolic = not self.abi.runs and op.kind in ("add", "extend", "map")
        if self.abi.imports or symbolic:
            yield SystemCall(op.name, symbolic=op)
            return
        name = f"_{op.name.replace('-', '_')}"
        if not hasattr(self, name):
            raise UnsupportedError(f"{op.name} is not a call of {self.abi.name}", at="--format")
        yield from getattr(self, name)(op, number)

    # --- the VM and its vCPUs --------------------------------------------------------------------

    def _create_vm(self, op: CreateVm, number: int) -> Iterator[SystemCall]:
        del number
        kind = DEFAULT.vm_type if self.legacy else op.vm_type.vm_type
        kind = layouts.TDX_V19_VM_TYPE if self.v19 else kind
        if kind:
            yield self._check("VM_TYPES", Wants(kind))
        for name in dict.fromkeys((*self.platform.capabilities, *self._backing(), *self.enables)):
            yield self._check(name, Wants())
        if self.v19:
            yield self._check("MEMORY_MAPPING", Wants())
        yield ioctl("kvm", "KVM_CREATE_VM")._replace(argument=kind, returns="vm")
        if self.platform.secure_ept:
            yield from self._prepare_td()

    def _backing(self) -> tuple[str, ...]:
        """Return the capabilities that memslots with a guest_memfd need."""
        has_gmem = any(slot.gmem is not None for slot in self._slots)
        return ("USER_MEMORY2", "GUEST_MEMFD") if has_gmem else ()

    def _check(self, name: str, wants: Wants) -> SystemCall:
        capability = f"KVM_CAP_{name}"
        return ioctl("kvm", "KVM_CHECK_EXTENSION")._replace(
            argument=CAPABILITIES[capability], capability=capability, wants=wants
        )

    def _enable(self, name: str, argument: int) -> SystemCall:
        capability = f"KVM_CAP_{name}"
        argued = argument.to_bytes(32, "little")
        values: Values = {"cap": CAPABILITIES[capability], "flags": 0, "args": argued}
        made = filled(STRUCTS["kvm_enable_cap"], values)
        return ioctl("vm", "KVM_ENABLE_CAP")._replace(capability=capability, struct=made)

    def _enabled(self) -> Iterator[SystemCall]:
        """Yield what enables the capabilities that the VMM wants."""
        for name, argument in self.enables.items():
            count = next(op.count for op in self.plan.ops if isinstance(op, CreateVcpu))
            yield self._enable(name, count if argument == VCPUS else int(argument))

    def _prepare_td(self) -> Iterator[SystemCall]:
        asked = self._tdx("vm", "KVM_TDX_CAPABILITIES", "&capabilities", 0)
        yield asked._replace(repeat=Repeat("nent", ("E2BIG",)))
        yield from self._enabled()
        khz = self.plan.guest.get("tsc_khz")
        if khz is not None:
            yield ioctl("vm", "KVM_SET_TSC_KHZ")._replace(argument=khz)

    def _init(self, op: Init, number: int) -> Iterator[SystemCall]:
        yield from super()._init(op, number)
        yield from self._enabled()

    def _create_vcpu(self, op: CreateVcpu, number: int) -> Iterator[SystemCall]:
        del number
        for vcpu in range(op.count):
            fd = f"vcpu:{vcpu}"
            yield ioctl("vm", "KVM_CREATE_VCPU")._replace(argument=vcpu, returns=fd)
            if self.reads_cpuid:
                asked = self._tdx(fd, "KVM_TDX_GET_CPUID", "&cpuid2", 0)
                yield asked._replace(repeat=Repeat("nent", ("E2BIG",)))
            given = ioctl(fd, "KVM_SET_CPUID2")._replace(argument="&cpuid2")
            yield given._replace(cpuid=self.cpuid)
            if self.platform.vmsa:
                yield from self._registers(fd, vcpu)

    def _registers(self, fd: str, vcpu: int) -> Iterator[SystemCall]:
        """Yield what makes KVM build the VMSA of a vCPU; symbols where none is planned for it."""
        page = self._states.get(vcpu)
        for name, made in (
            ("SREGS2", lambda page: registers.system(page, vcpu)),
            ("REGS", registers.general),
            ("XSAVE", lambda page: registers.fpu(page, measured=not self.legacy)),
            ("XCRS", registers.extended),
            ("MSRS", registers.msrs),
            ("DEBUGREGS", registers.debug),
        ):
            call = ioctl(fd, f"KVM_SET_{name}")
            if page is None:
                yield call._replace(argument=f"&{name.lower()}[{vcpu}]")
            else:
                yield call._replace(struct=made(page))

    # --- memory ----------------------------------------------------------------------------------

    def _create_gmem(self, op: CreateGmem, number: int) -> Iterator[SystemCall]:
        del number
        bits = {
            "mmap": layouts.GUEST_MEMFD_FLAG_MMAP,
            "init-shared": layouts.GUEST_MEMFD_FLAG_INIT_SHARED,
        }
        values: Values = {"size": op.size, "flags": sum(bits[f] for f in op.flags)}
        made = filled(STRUCTS["kvm_create_guest_memfd"], values)
        call = ioctl("vm", "KVM_CREATE_GUEST_MEMFD")
        yield call._replace(returns=f"gmem:{op.gmem}", struct=made)

    def _set_memslot(self, op: SetMemslot, number: int) -> Iterator[SystemCall]:
        del number
        flags = layouts.KVM_MEM_READONLY if op.readonly else 0
        values: dict[str, Value] = {
            "slot": op.slot,
            "flags": flags if op.gmem is None else layouts.KVM_MEM_GUEST_MEMFD,
            "guest_phys_addr": op.gpa,
            "memory_size": op.size,
            "userspace_addr": place("memory", *op.shows),
        }
        form = "KVM_SET_USER_MEMORY_REGION"
        if op.gmem is not None or self.platform.private:
            form = "KVM_SET_USER_MEMORY_REGION2"
            memory = 0 if op.gmem is None else f"gmem[{op.gmem}]"
            values |= {"guest_memfd": memory, "guest_memfd_offset": op.gmem_offset or 0}
        call = ioctl("vm", form)
        yield call._replace(struct=filled(STRUCTS[IOCTLS[form].argument], values))
        if self.platform in FLAT:
            yield from self._register(*op.shows, op.size)

    def _register(self, memory: int, offset: int, size: int) -> Iterator[SystemCall]:
        """Yield the calls that register what of a piece of memory is not registered yet."""
        known = self._registered.setdefault(memory, Spans())
        for low, high in [*known.missing(offset, offset + size)]:
            known.add(low, high)
            region: Values = {"addr": place("memory", memory, low), "size": high - low}
            made = filled(STRUCTS["kvm_enc_region"], region)
            yield ioctl("vm", "KVM_MEMORY_ENCRYPT_REG_REGION")._replace(struct=made)

    def _set_private(self, op: SetPrivate, number: int) -> Iterator[SystemCall]:
        yield from self._attribute(op, layouts.KVM_MEMORY_ATTRIBUTE_PRIVATE)
        del number

    def _set_shared(self, op: SetShared, number: int) -> Iterator[SystemCall]:
        yield from self._attribute(op, 0)
        del number

    def _attribute(self, op: SetPrivate | SetShared, attributes: int) -> Iterator[SystemCall]:
        values: dict[str, Value] = {"size": op.size, "attributes": attributes, "flags": 0}
        if op.gmem is None:
            made = filled(STRUCTS["kvm_memory_attributes"], {"address": op.gpa, **values})
            yield ioctl("vm", "KVM_SET_MEMORY_ATTRIBUTES")._replace(struct=made)
            return
        held = (s for s in self._slots if s.gmem == op.gmem and s.gpa <= op.gpa < s.gpa + s.size)
        base = next(s.gpa - (s.gmem_offset or 0) for s in held)
        if isinstance(op, SetPrivate) and op.preserve:
            values["flags"] = "KVM_SET_MEMORY_ATTRIBUTES2_PRESERVE"
        values |= {"offset": op.gpa - base, "error_offset": 0}
        made = filled(STRUCTS["kvm_memory_attributes2"], values)
        yield ioctl(f"gmem:{op.gmem}", "KVM_SET_MEMORY_ATTRIBUTES2")._replace(struct=made)

    def _madvise(self, op: Madvise, number: int) -> Iterator[SystemCall]:
        del number
        advice = f"MADV_{op.advice.upper()}"
        told = (("address", self._memory(op.gpa)), ("size", hex(op.size)), ("advice", advice))
        yield SystemCall("madvise", arguments=told)

    def _write(self, op: Write, number: int) -> Iterator[SystemCall]:
        yield self._copy(self._memory(op.gpa), op.source, op.size, number)

    def _punch_hole(self, op: PunchHole, number: int) -> Iterator[SystemCall]:
        del number
        mode = "FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE"
        told = (("mode", mode), ("offset", hex(op.offset)), ("size", hex(op.size)))
        yield SystemCall("fallocate", f"gmem:{op.gmem}", arguments=told)

    def _pre_fault_memory(self, op: PreFaultMemory, number: int) -> Iterator[SystemCall]:
        del number
        made = filled(STRUCTS["kvm_pre_fault_memory"], {"gpa": op.gpa, "size": op.size, "flags": 0})
        yield ioctl("vcpu:0", "KVM_PRE_FAULT_MEMORY")._replace(struct=made, repeat=Repeat("size"))
