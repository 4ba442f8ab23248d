"""
A plan as the system calls that a VMM makes, in JSON Lines: one object a call.

Numbers, structs and bytes are exact; what only the VMM knows is symbolic (`&memory[0]+0x1000`,
`&input[0]+0x84000`, `gmem[0]`), zero in the bytes, and listed under `relocations`.  An
interface that no kernel has gives symbolic calls: a name and fields, no number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from cvmplan.core.errors import UnsupportedError
from cvmplan.core.platform import DEFAULT, FLAT
from cvmplan.emit.json import is_said, plan_value
from cvmplan.emit.vendor import Call, Values, VendorCalls, ioctl, struct
from cvmplan.kvm import layouts
from cvmplan.kvm.layouts import CAPABILITIES, STRUCTS
from cvmplan.operations.plan import Op, Plan

BUS_CYCLE_NS, IRQCHIP_ROUTES = 40, 24  # TDX: a 25 MHz bus; kvm.h: routes of a split irqchip


def plan(made: Plan) -> str:
    """Return one line a call, in the order in which they are made."""
    return "".join(f"{json.dumps(call)}\n" for call in calls(made))


def calls(made: Plan) -> Iterator[Call]:
    """Yield the calls in their order: what each line of `plan` says."""
    maker = _Maker(made)
    for number, op in enumerate(made.ops):
        for call in maker.calls(number, op):
            yield {"seq": number, "op": op.name, **call}


class _Maker(VendorCalls):
    """Makes the calls of one plan."""

    def calls(self, number: int, op: Op) -> Iterator[Call]:
        """Yield the calls of one operation."""
        symbolic = not self.abi.runs and op.kind in ("add", "extend", "map")
        if self.abi.imports or symbolic:
            yield self._symbolic(op)
            return
        name = f"_{op.name.replace('-', '_')}"
        if not hasattr(self, name):
            raise UnsupportedError(f"{op.name} is no call of {self.abi.name}", at="--format")
        yield from getattr(self, name)(op, number)

    def _symbolic(self, op: Op) -> Call:
        """Return an operation of an interface that nothing runs: its name and its fields."""
        shown = {
            f.name.replace("_", "-"): plan_value(f.name, value, self._inputs)
            for f in fields(op)  # type: ignore[arg-type]  # every concrete Op is a dataclass
            if is_said(value := getattr(op, f.name))
        }
        return {"call": op.name, "symbolic": shown}

    # --- the VM and its vCPUs --------------------------------------------------------------------

    def _create_vm(self, op: Any, number: int) -> Iterator[Call]:
        del number
        legacy = any(getattr(o, "legacy", False) for o in self.plan.ops)
        kind = DEFAULT.vm_type if legacy else op.vm_type.vm_type
        kind = layouts.TDX_V19_VM_TYPE if self.v19 else kind
        if kind:
            yield self._check("VM_TYPES", f"bit {kind}")
        for name in self.platform.capabilities:
            if not (self.v19 and name == "X86_APIC_BUS_CYCLES_NS"):
                yield self._check(name, "not 0")
        if self.v19:
            yield self._check("MEMORY_MAPPING", "not 0")
        yield ioctl("kvm", "KVM_CREATE_VM", argument=kind, returns="vm")
        if self.platform.page_info:
            yield self._enable("EXIT_HYPERCALL", 1 << layouts.KVM_HC_MAP_GPA_RANGE)
        if self.platform.secure_ept:
            yield from self._prepare_td()

    def _check(self, name: str, wants: str) -> Call:
        number = CAPABILITIES[f"KVM_CAP_{name}"]
        return ioctl(
            "kvm", "KVM_CHECK_EXTENSION", argument=number, capability=f"KVM_CAP_{name}", wants=wants
        )

    def _enable(self, name: str, argument: int) -> Call:
        values: Values = {
            "cap": CAPABILITIES[f"KVM_CAP_{name}"],
            "args": argument.to_bytes(8, "little"),
        }
        made = struct(STRUCTS["kvm_enable_cap"], values)
        return ioctl("vm", "KVM_ENABLE_CAP", capability=f"KVM_CAP_{name}", **made)

    def _prepare_td(self) -> Iterator[Call]:
        yield self._tdx("vm", "KVM_TDX_CAPABILITIES", "&capabilities")
        count = next(getattr(op, "count") for op in self.plan.ops if op.name == "create-vcpu")  # noqa: B009
        yield self._enable("MAX_VCPUS", count)
        yield self._enable("SPLIT_IRQCHIP", IRQCHIP_ROUTES)
        if not self.v19:
            yield self._enable("X86_APIC_BUS_CYCLES_NS", BUS_CYCLE_NS)
        khz = self.plan.guest.get("tsc_khz")
        if khz:
            yield ioctl("vm", "KVM_SET_TSC_KHZ", argument=khz)

    def _create_vcpu(self, op: Any, number: int) -> Iterator[Call]:
        del number
        for vcpu in range(op.count):
            fd = f"vcpu:{vcpu}"
            yield ioctl("vm", "KVM_CREATE_VCPU", argument=vcpu, returns=fd)
            yield ioctl(fd, "KVM_SET_CPUID2", argument="&cpuid")
            if self.platform.vmsa:  # what becomes the VMSA
                yield ioctl(fd, "KVM_SET_SREGS", argument=f"&sregs[{vcpu}]")
                yield ioctl(fd, "KVM_SET_REGS", argument=f"&regs[{vcpu}]")

    # --- memory ----------------------------------------------------------------------------------

    def _create_gmem(self, op: Any, number: int) -> Iterator[Call]:
        del number
        bits = {
            "mmap": layouts.GUEST_MEMFD_FLAG_MMAP,
            "init-shared": layouts.GUEST_MEMFD_FLAG_INIT_SHARED,
        }
        values: Values = {"size": op.size, "flags": sum(bits[f] for f in op.flags)}
        made = struct(STRUCTS["kvm_create_guest_memfd"], values)
        yield ioctl("vm", "KVM_CREATE_GUEST_MEMFD", returns=f"gmem:{op.gmem}", **made)

    def _set_memslot(self, op: Any, number: int) -> Iterator[Call]:
        del number
        values: dict[str, int | bytes | str] = {
            "slot": op.slot,
            "flags": 0 if op.gmem is None else layouts.KVM_MEM_GUEST_MEMFD,
            "guest_phys_addr": op.gpa,
            "memory_size": op.size,
            "userspace_addr": f"&memory[{op.slot}]",
        }
        if op.gmem is not None:
            values |= {"guest_memfd": f"gmem[{op.gmem}]", "guest_memfd_offset": op.gmem_offset or 0}
        made = struct(STRUCTS["kvm_userspace_memory_region2"], values)
        yield ioctl("vm", "KVM_SET_USER_MEMORY_REGION2", **made)
        if self.platform in FLAT:
            region: Values = {"addr": f"&memory[{op.slot}]", "size": op.size}
            made = struct(STRUCTS["kvm_enc_region"], region)
            yield ioctl("vm", "KVM_MEMORY_ENCRYPT_REG_REGION", **made)

    def _set_private(self, op: Any, number: int) -> Iterator[Call]:
        yield from self._attribute(op, layouts.KVM_MEMORY_ATTRIBUTE_PRIVATE)
        del number

    def _set_shared(self, op: Any, number: int) -> Iterator[Call]:
        yield from self._attribute(op, 0)
        del number

    def _attribute(self, op: Any, attributes: int) -> Iterator[Call]:
        values: dict[str, int | bytes | str] = {"size": op.size, "attributes": attributes}
        if op.gmem is None:
            made = struct(STRUCTS["kvm_memory_attributes"], {"address": op.gpa, **values})
            yield ioctl("vm", "KVM_SET_MEMORY_ATTRIBUTES", **made)
            return
        base = next(s.gpa - (s.gmem_offset or 0) for s in self._slots if s.gmem == op.gmem)
        if getattr(op, "preserve", False):
            values["flags"] = "KVM_SET_MEMORY_ATTRIBUTES2_PRESERVE"
        made = struct(STRUCTS["kvm_memory_attributes2"], {"offset": op.gpa - base, **values})
        yield ioctl(f"gmem:{op.gmem}", "KVM_SET_MEMORY_ATTRIBUTES2", **made)

    def _madvise(self, op: Any, number: int) -> Iterator[Call]:
        del number
        advice = f"MADV_{op.advice.upper()}"
        yield {
            "call": "madvise", "address": self._memory(op.gpa), "size": hex(op.size),
            "advice": advice,
        }  # fmt: skip

    def _write(self, op: Any, number: int) -> Iterator[Call]:
        yield {
            "call": "memcpy", "to": self._memory(op.gpa), "from": self._source(op.source, number),
            "size": hex(op.size),
        }  # fmt: skip

    def _punch_hole(self, op: Any, number: int) -> Iterator[Call]:
        del number
        yield {
            "fd": f"gmem:{op.gmem}", "call": "fallocate",
            "mode": "FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE",
            "offset": hex(op.offset), "size": hex(op.size),
        }  # fmt: skip

    def _pre_fault_memory(self, op: Any, number: int) -> Iterator[Call]:
        del number
        made = struct(STRUCTS["kvm_pre_fault_memory"], {"gpa": op.gpa, "size": op.size})
        yield ioctl("vcpu:0", "KVM_PRE_FAULT_MEMORY", repeat="while size is not 0", **made)
