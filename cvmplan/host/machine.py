"""
One case on a kernel: a VM, and the calls of its lines.

Source: Linux Documentation/virt/kvm/api.rst, for the statistics that say what is mapped
KVM_GET_STATS_FD.  The words are those of `cases.words`; those of a running guest are not here.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from struct import Struct, unpack_from
from typing import Final

from cvmplan.core.values import PAGE
from cvmplan.host.cases.words import Case
from cvmplan.host.compared import Answer
from cvmplan.host.kernel import Kernel
from cvmplan.kvm.layouts import IOCTLS, KVM_MEM_GUEST_MEMFD, STRUCTS
from cvmplan.kvm.packing import pack

HUGE: Final = 1 << 30
MOST_LOOPS: Final = 100
GET_STATS_FD: Final = 0xAECE  # _IO(KVMIO, 0xce); no VMM's launch depends on it
NO_FD: Final = (1 << 32) - 1  # what stands for one that was never made; a kernel answers EBADF
ADVICE: Final = {
    "hugepage": mmap.MADV_HUGEPAGE, "nohugepage": mmap.MADV_NOHUGEPAGE,
    "dontneed": mmap.MADV_DONTNEED, "populate-read": 22, "populate-write": 23, "collapse": 25,
}  # fmt: skip
_HEADER: Final = Struct("<6I")  # kvm_stats_header: name_size, num_desc, …, offsets
_COUNTERS: Final = (b"pages_4k", b"pages_2m", b"pages_1g")


class Machine:
    """A VM of one type on `kernel`; `held` gives back what it takes."""

    def __init__(self, kernel: Kernel, kvm: int, held: ExitStack) -> None:
        self.kernel = kernel
        self.held = held
        self.fds = {"kvm": kvm}
        self.memory: dict[int, tuple[int, int, int]] = {}  # slot to gpa, size, address

    def create(self, vm_type: int) -> Answer:
        """KVM_CREATE_VM."""
        return self._answer(lambda: self._opened("vm", "KVM_CREATE_VM", "kvm", vm_type))

    def answer(self, line: str) -> Answer:
        """Make the call of a line; KeyError for a word of a running guest."""
        word, *told = line.split()
        if word == "prefault":
            return self._prefault(*(int(value, 0) for value in told))
        made = self._WORDS[word]
        return self._answer(lambda: made(self, *told))

    def _answer(self, call: Callable[[], int]) -> Answer:
        found = self._called(call)
        return found._replace(pages=self._pages()) if "vm" in self.fds else found

    def _called(self, call: Callable[[], int]) -> Answer:
        try:
            return Answer(call(), 0)
        except OSError as error:
            return Answer(-1, error.errno or errno.EIO)

    def _ioctl(self, fd: str, name: str, argument: int | bytearray) -> int:
        number = self.fds.get(fd)
        if number is None:
            raise OSError(errno.EBADF, fd)
        return self.kernel.ioctl(number, IOCTLS[name].number, argument)

    def _opened(self, key: str, name: str, on: str, argument: int | bytearray) -> int:
        """Make a call that returns a file descriptor, and keep that."""
        fd = self._ioctl(on, name, argument)
        self.held.callback(self.kernel.close, fd)
        self.fds[key] = fd
        return 0

    def _packed(self, struct: str, **fields: int) -> bytearray:
        return bytearray(pack(STRUCTS[struct], fields)[0])

    # --- the words -----------------------------------------------------------------------------

    def _slot(
        self, slot: str, gpa: str, size: str, gmem: str, offset: str, flags: str, how: str
    ) -> int:
        number, at, length = int(slot, 0), int(gpa, 0), int(size, 0)
        address = self._memory(number % 64, at, length, gmem, int(offset, 0), how)
        fields = {
            "slot": number, "flags": int(flags), "guest_phys_addr": at, "memory_size": length,
            "userspace_addr": address + (PAGE if how == "skew" else 0),
        }  # fmt: skip
        if gmem == "-":
            name, struct = "KVM_SET_USER_MEMORY_REGION", "kvm_userspace_memory_region"
        else:
            name, struct = "KVM_SET_USER_MEMORY_REGION2", "kvm_userspace_memory_region2"
            fields["flags"] |= KVM_MEM_GUEST_MEMFD
            fields["guest_memfd"] = self.fds.get(f"gmem {gmem}", NO_FD)
            fields["guest_memfd_offset"] = int(offset, 0)
        made = self._ioctl("vm", name, self._packed(struct, **fields))
        self.memory[number % 64] = (at, length, address)
        return made

    def _memory(self, number: int, gpa: int, size: int, gmem: str, offset: int, how: str) -> int:
        """Return the address of the memory of a slot; it lies as the guest's does in 1 GiB."""
        if not size:
            return 0
        if how in ("same", "skew") and number in self.memory:
            return self.memory[number][2]
        if how == "gmem":
            file = self.fds.get(f"gmem {gmem}")
            return 0 if file is None else self._mapped(size, file, offset)
        length = min(size, HUGE)
        start = self._mapped(length + 2 * HUGE)
        address = -(-start // HUGE) * HUGE + gpa % HUGE + (PAGE if how == "askew" else 0)
        with suppress(OSError):  # the kernel may have no huge pages, or give them without advice
            self.kernel.advise(address, length, ADVICE["nohugepage"])
        return address

    def _mapped(self, size: int, file: int = -1, offset: int = 0) -> int:
        address = self.kernel.map(size, file, offset)
        self.held.callback(self.kernel.unmap, address)
        return address

    def _gmem(self, number: str, size: str, flags: str) -> int:
        made = self._packed("kvm_create_guest_memfd", size=int(size, 0), flags=int(flags))
        return self._opened(f"gmem {number}", "KVM_CREATE_GUEST_MEMFD", "vm", made)

    def _vcpu(self, number: str) -> int:
        return self._opened(f"vcpu {number}", "KVM_CREATE_VCPU", "vm", int(number))

    def _attributes(self, gpa: str, size: str, attributes: str) -> int:
        made = self._packed(
            "kvm_memory_attributes",
            address=int(gpa, 0), size=int(size, 0), attributes=int(attributes),
        )  # fmt: skip
        return self._ioctl("vm", "KVM_SET_MEMORY_ATTRIBUTES", made)

    def _attributes2(self, gmem: str, offset: str, size: str, attributes: str) -> int:
        made = self._packed(
            "kvm_memory_attributes2",
            offset=int(offset, 0), size=int(size, 0), attributes=int(attributes),
        )  # fmt: skip
        return self._ioctl(f"gmem {gmem}", "KVM_SET_MEMORY_ATTRIBUTES2", made)

    def _punch(self, gmem: str, offset: str, size: str) -> int:
        self.kernel.punch(self.fds.get(f"gmem {gmem}", -1), int(offset, 0), int(size, 0))
        return 0

    def _address(self, gpa: str) -> int:
        """Return where user space has a guest-physical address; OSError (EFAULT)."""
        at = int(gpa, 0)
        for start, size, address in self.memory.values():
            if start <= at < start + size:
                return address + at - start
        raise OSError(errno.EFAULT, gpa)

    def _advise(self, gpa: str, size: str, advice: str) -> int:
        self.kernel.advise(self._address(gpa), int(size, 0), ADVICE[advice])
        return 0

    def _write(self, gpa: str, size: str, byte: str) -> int:
        self.kernel.write(self._address(gpa), bytes([int(byte)]) * int(size, 0))
        return 0

    def _code(self, gpa: str, program: str) -> int:
        self.kernel.write(self._address(gpa), bytes.fromhex(program))
        return 0

    def _mapgmem(self, gmem: str, size: str) -> int:
        self._mapped(int(size, 0), self.fds.get(f"gmem {gmem}", -1))
        return 0

    def _capability(self, number: str) -> int:
        return self._ioctl("vm", "KVM_CHECK_EXTENSION", int(number))

    _WORDS: Final[dict[str, Callable[..., int]]] = {
        "slot": _slot, "gmem": _gmem, "vcpu": _vcpu, "attributes": _attributes,
        "attributes2": _attributes2, "punch": _punch, "advise": _advise, "write": _write,
        "code": _code, "mapgmem": _mapgmem, "capability": _capability,
    }  # fmt: skip

    def _prefault(self, gpa: int, size: int, vcpu: int, flags: int) -> Answer:
        """KVM_PRE_FAULT_MEMORY once, then for the rest in a loop, as VMMs do."""
        made = self._packed("kvm_pre_fault_memory", gpa=gpa, size=size, flags=flags)

        def again() -> int:
            return self._ioctl(f"vcpu {vcpu}", "KVM_PRE_FAULT_MEMORY", made)

        first = last = self._called(again)
        left = unpack_from("<QQ", made)
        for _ in range(MOST_LOOPS):
            if last.errno or not unpack_from("<QQ", made)[1]:
                break
            last = self._called(again)
        at, rest = unpack_from("<QQ", made)
        ended = last.errno, at, rest
        return first._replace(left=(left[0], left[1]), last=ended, pages=self._pages())

    def _pages(self) -> tuple[int, int, int]:
        """Return how many pages of 4 KiB, 2 MiB and 1 GiB are mapped, by the VM's statistics."""
        counts = dict.fromkeys(_COUNTERS, 0)
        try:
            fd = self.kernel.ioctl(self.fds["vm"], GET_STATS_FD, 0)
        except OSError:
            return 0, 0, 0
        try:
            _, name_size, count, _, described, data = _HEADER.unpack(
                self.kernel.read(fd, 0, _HEADER.size)
            )
            size = 16 + name_size
            table = self.kernel.read(fd, described, size * count)
            for at in range(0, len(table), size):
                name = table[at + 16 : at + size].partition(b"\0")[0]
                if name in counts:
                    (where,) = unpack_from("<I", table, at + 8)
                    (counts[name],) = unpack_from("<Q", self.kernel.read(fd, data + where, 8))
        finally:
            self.kernel.close(fd)
        small, large, largest = counts.values()
        return small, large, largest


def answers_of(case: Case, machine: Machine) -> dict[int, Answer]:
    """Return what a kernel answers to each line of a case, by number; OSError without a VM."""
    created = machine.create(case.vm)
    if created.errno:
        raise OSError(created.errno, f"{os.strerror(created.errno)} for KVM_CREATE_VM")
    return {number: machine.answer(line) for number, line in enumerate(case.lines, start=1)}
