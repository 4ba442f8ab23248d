"""
The mapping half of a plan: what of it a VM without trusted firmware takes.

Memory and vCPUs are the plan's own; each page that it maps or adds is mapped twice with
KVM_PRE_FAULT_MEMORY.  Calls that a kernel refuses stand among them: an oracle that only says
yes says little.  Sources of the refusals: Linux Documentation/virt/kvm/api.rst;
tools/testing/selftests/kvm, pre_fault_memory_test.c and guest_memfd_test.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final, NamedTuple

from cvmplan.core.platform import Platform
from cvmplan.core.spans import Spans
from cvmplan.core.values import PAGE
from cvmplan.kvm.abi import ABIS, earliest, find
from cvmplan.kvm.interface import Abi
from cvmplan.kvm.memory import MOST_SLOTS, SHARED_FILE, CreateGmem, SetMemslot, SetPrivate
from cvmplan.operations.plan import CreateVcpu, CreateVm, Op, Plan, PreFaultMemory, is_run

END: Final = 1 << 46  # addresses below it are physical ones on each host
ODD: Final = 512  # bytes that are no page
GAP: Final = 16 * PAGE  # what the refused calls want to be free
BARE: Final = 12 * PAGE  # where in it a memslot without guest_memfd is


class Offer(NamedTuple):
    """What a host can do: a VM type, and what it lacks for more than that."""

    vm_type: Platform
    prefault: bool
    gmem_default: bool
    lacks: tuple[str, ...] = ()


def mapping_half(plan: Plan, offer: Offer) -> Plan:
    """
    Return what of `plan` the offered VM can take: its memory, then each run of pages mapped.

    Each run is mapped a second time, which a kernel takes as done.  Between and after them
    stand calls that a kernel refuses (memory that overlaps or is unaligned, a page of a
    guest_memfd bound twice, a page without memslot), with others that prepare them.
    """
    abi = _interface(plan, offer)
    private = offer.vm_type.private
    memory = [*_memory(plan.ops, private=private)]
    slots = [op for op in memory if isinstance(op, SetMemslot)]
    flags = () if private else SHARED_FILE if offer.gmem_default and abi.gmem_default else None
    gap = _gap(slots)
    ops: list[Op] = [CreateVm(offer.vm_type), *memory]
    ops += _memory_probes(memory, gap, flags, private=private)
    ops += [CreateVcpu(1), CreateVcpu(1)]  # the same number twice is EEXIST
    if offer.prefault:
        once = dict.fromkeys(runs(plan.ops))
        mapped = [PreFaultMemory(low, high - low) for low, high in once]
        ops += [*mapped, *mapped, *_mapping_probes(slots, gap)]
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


def _interface(plan: Plan, offer: Offer) -> Abi:
    """Return the plan's own interface where a kernel has it, else the first that is like it."""
    own = find(plan.abi)
    kind = offer.vm_type
    if own.runs and own.plans and kind in own.vm_types and not own.in_place:
        return own
    kernels = (a for a in ABIS.values() if a.runs and a.plans and kind in a.vm_types)
    alike = (a for a in kernels if not a.in_place and a.gmem_default)
    return next(alike) if offer.gmem_default else earliest(kind)


def runs(ops: Iterable[Op]) -> Iterator[tuple[int, int]]:
    """Yield [low, high) of the whole pages of each run that is mapped or added."""
    for op in ops:
        if op.kind in ("map", "add") and is_run(op):
            low, high = -(-op.gpa // PAGE) * PAGE, (op.gpa + op.size) // PAGE * PAGE
            if low < high:
                yield low, high


def _gap(slots: Sequence[SetMemslot]) -> int | None:
    """Return the end of a memslot that 16 free pages follow, None if there is none."""
    held = [*Spans((s.gpa, s.gpa + s.size) for s in slots), (END, END)]
    return next((end for (_, end), (low, _) in pairwise(held) if low - end >= GAP), None)


def _memory_probes(
    memory: Sequence[Op], gap: int | None, flags: tuple[str, ...] | None, *, private: bool
) -> Iterator[Op]:
    """
    Yield calls on memory that are refused (EEXIST, EINVAL), each with what it presupposes.

    `flags` are those of a guest_memfd, None where the VM has none.
    """
    slots = [op for op in memory if isinstance(op, SetMemslot)]
    free = 1 + max((n for op in memory for n in _numbers(op)), default=0)
    if gap is None or free + 2 >= MOST_SLOTS:
        return
    away = gap + GAP // 2
    yield SetMemslot(free, slots[0].gpa, PAGE)
    yield SetMemslot(free, away, PAGE + ODD)
    yield SetMemslot(free, away + ODD, PAGE)
    if flags is not None:
        yield CreateGmem(free, PAGE + ODD, flags)
        yield CreateGmem(free, 2 * PAGE, flags)
        yield SetMemslot(free, away, PAGE, free)
        yield SetMemslot(free + 1, away + PAGE, 2 * PAGE, free)  # its first page is bound
        yield SetMemslot(free + 1, away + PAGE, 2 * PAGE, free, PAGE)  # past its end
        yield SetMemslot(free + 1, away + PAGE, PAGE, free, PAGE)
    if private:
        yield SetPrivate(away + ODD, PAGE)
        yield SetMemslot(free + 2, gap + BARE, 2 * PAGE)
        yield SetPrivate(gap + BARE + PAGE, PAGE)


def _numbers(op: Op) -> Iterator[int]:
    """Yield the numbers that an operation gives to a memslot or a guest_memfd."""
    match op:
        case SetMemslot(slot=number) | CreateGmem(gmem=number):
            yield number


def _mapping_probes(slots: Sequence[SetMemslot], gap: int | None) -> Iterator[Op]:
    """
    Yield mappings that are refused: EINVAL, ENOENT, EFAULT.

    The last two are refused after their first page; where a VM has private memory, the very
    last one begins on a shared page and reaches a private one that no guest_memfd backs.
    """
    if gap is None:
        return
    yield PreFaultMemory(slots[0].gpa, PAGE + ODD)
    yield PreFaultMemory(slots[0].gpa + ODD, PAGE)
    yield PreFaultMemory(slots[0].gpa, 0)
    yield PreFaultMemory(gap, PAGE)
    yield PreFaultMemory(gap - PAGE, 2 * PAGE)
    yield PreFaultMemory(gap + BARE, 2 * PAGE)
