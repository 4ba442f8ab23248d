"""
The calls for guest memory: which of them are held against each other, and what the others are.

Memory is compared where the plan has that of the VMM's machine; else it has the fewest memslots
that hold its pages, and the VMM's are those of all memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

from cvmplan.core.spans import Spans
from cvmplan.kvm.layouts import KVM_MEMORY_ATTRIBUTE_PRIVATE
from cvmplan.kvm.recorded import Fields, RecordedCall

MEMSLOT: Final = ("KVM_SET_USER_MEMORY_REGION", "KVM_SET_USER_MEMORY_REGION2")
ATTRIBUTES: Final = "KVM_SET_MEMORY_ATTRIBUTES"
MEMORY: Final = frozenset({*MEMSLOT, ATTRIBUTES, "KVM_CREATE_GUEST_MEMFD"})
"""Calls that are compared."""
SMM: Final = 1 << 16  # in a slot's number: memory of system management mode
UNREAD: Final = frozenset({"guest_memfd", "guest_memfd_offset", "userspace_addr", "flags"})
"""Fields that the kernel does not look at where a memslot is deleted."""


def about(call: RecordedCall) -> Hashable:
    """Return what a call for memory is about: a memslot and its place, or a range."""
    told = call.fields
    if call.name in MEMSLOT:
        return "memslot", told.get("slot"), told.get("guest_phys_addr"), told.get("memory_size")
    if call.name == ATTRIBUTES:
        return call.name, told.get("address"), told.get("size")
    return call.name


def is_deleted(told: Fields) -> bool:
    """Whether a call with these fields deletes a memslot."""
    return told.get("memory_size") == 0


def known(calls: Sequence[RecordedCall]) -> dict[int, str]:
    """
    Return the deviation that a call is which the other side does not have, by its position.

    A memslot of system management mode, one that is deleted again with the call that does so,
    and an attribute that the whole range has already.
    """
    found: dict[int, str] = {}
    placed: dict[int, int] = {}
    private = Spans()
    for number, call in enumerate(calls):
        if call.name in MEMSLOT:
            slot = int(call.fields.get("slot", 0))
            if slot >= SMM:
                found[number] = "smm-memory"
            elif not is_deleted(call.fields):
                placed[slot] = number
            elif slot in placed:
                found[placed.pop(slot)] = found[number] = "taken-back"
        elif call.name == ATTRIBUTES:
            low = int(call.fields.get("address", 0))
            high = low + int(call.fields.get("size", 0))
            if call.fields.get("attributes") != KVM_MEMORY_ATTRIBUTE_PRIVATE:
                private.remove(low, high)
            elif not [*private.missing(low, high)]:
                found[number] = "attribute-again"
            else:
                private.add(low, high)
    return found
