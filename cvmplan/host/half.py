"""
The mapping half of a plan: what of it a VM without trusted firmware takes.

Memory is the plan's own; each page that it maps or adds is mapped twice with
KVM_PRE_FAULT_MEMORY.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from cvmplan.core.platform import Platform
from cvmplan.core.values import PAGE
from cvmplan.kvm.interface import Abi
from cvmplan.kvm.memory import CreateGmem, SetMemslot, SetPrivate
from cvmplan.operations.plan import CreateVcpu, CreateVm, Op, Plan, PreFaultMemory, is_run


class Offer(NamedTuple):
    """What a host can do: a VM type, whether it maps in advance, what it lacks for more."""

    vm_type: Platform
    prefault: bool
    lacks: tuple[str, ...] = ()


def mapping_half(plan: Plan, offer: Offer, abi: Abi) -> Plan:
    """
    Return what of `plan` the offered VM of a kernel with `abi` can take.

    That is its memory, then each run of pages mapped twice: a kernel takes what is mapped as
    done.
    """
    ops: list[Op] = [CreateVm(offer.vm_type), *_memory(plan.ops, private=offer.vm_type.private)]
    ops.append(CreateVcpu(1))
    if offer.prefault:
        once = dict.fromkeys(runs(plan.ops))
        mapped = [PreFaultMemory(low, high - low) for low, high in once]
        ops += [*mapped, *mapped]
    return Plan(offer.vm_type, plan.vmm, abi.name, tuple(ops))


def _memory(ops: Iterable[Op], *, private: bool) -> Iterator[Op]:
    """Yield the calls for memory; without `private` it comes from user space alone."""
    for op in ops:
        match op:
            case SetMemslot() if not private:
                memory, offset = op.shows
                yield replace(op, gmem=None, gmem_offset=None, memory=memory, memory_offset=offset)
            case SetMemslot():
                yield op
            case CreateGmem() if private:
                yield replace(op, flags=())
            case SetPrivate() if private:
                yield SetPrivate(op.gpa, op.size)


def runs(ops: Iterable[Op]) -> Iterator[tuple[int, int]]:
    """Yield [low, high) of the whole pages of each run that is mapped or added."""
    for op in ops:
        if op.kind in ("map", "add") and is_run(op):
            low, high = -(-op.gpa // PAGE) * PAGE, (op.gpa + op.size) // PAGE * PAGE
            if low < high:
                yield low, high
