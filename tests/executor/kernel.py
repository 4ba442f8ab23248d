"""
A model of KVM's side of a launch: ioctls by their number, structs by their offsets.

Sources: Linux 6.18 include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h, from which the
numbers and offsets are typed in; virt/kvm/guest_memfd.c, kvm_gmem_populate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from tests.executor.memory import PAGE, Memory, Segfault
from tests.oracles.firmware import Refused

CREATE_VM, CHECK_EXTENSION, CREATE_VCPU = 0xAE01, 0xAE03, 0xAE41
SET_REGION, SET_REGION2, SET_ATTRIBUTES = 0x4020AE46, 0x40A0AE49, 0x4020AED2
CREATE_GMEM, ENABLE_CAP, SET_TSC_KHZ = 0xC040AED4, 0x4068AEA3, 0xAEA2
ENCRYPT_OP, REG_REGION, SET_CPUID2 = 0xC008AEBA, 0x8010AEBB, 0x4008AE90
REGS, SREGS2, DEBUGREGS, XSAVE = 0x4090AE82, 0x4140AECD, 0x4080AEA2, 0x5000AEA5
XCRS, MSRS = 0x4188AEA7, 0x4008AE89
REGISTERS: Final = {REGS: 144, SREGS2: 320, DEBUGREGS: 128, XSAVE: 4096, XCRS: 392}
CAP_VM_TYPES, CAP_MEMORY_ATTRIBUTES = 235, 233
DEFAULT, SEV, SEV_ES, SNP, TDX = 0, 2, 3, 4, 5
PRIVATE, GUEST_MEMFD = 1 << 3, 1 << 2
SVME: Final = 1 << 12  # of EFER: KVM sets it, where the guest has no SVM a VMM may not


class Errno(Exception):  # noqa: N818 - it is an answer, not a fault
    """What an ioctl fails with."""


def need(condition: bool, errno: str = "EINVAL") -> None:
    """Fail with this errno unless the condition holds."""
    if not condition:
        raise Errno(errno)


@dataclass
class Fault:
    """
    What goes wrong once, when the page number `page` of a launch is about to be added.

    `kind`: an errno, "rest" (the call ends there without an error) or "cpuid" (the firmware
    refuses a CPUID page and gives back the one that it would take).  `met`: it had an effect;
    `over`: it has no more.
    """

    kind: str
    page: int
    met: bool = False
    over: bool = False


class Slot(NamedTuple):
    """A memslot: guest addresses, the host's memory, and whether there is a guest_memfd."""

    gpa: int
    size: int
    address: int
    private: bool


@dataclass
class Vcpu:
    """The structs that were set on a vCPU, by the number of their ioctl."""

    number: int
    held: dict[int, bytes] = field(default_factory=dict)


class Vendor(Protocol):
    """The half of KVM that KVM_MEMORY_ENCRYPT_OP reaches."""

    @property
    def digest(self) -> bytes:
        """What is measured at the end, b"" before."""

    def command(self, argument: int, vcpu: Vcpu | None) -> None:
        """Obey the kvm_sev_cmd or kvm_tdx_cmd at `argument`."""


@dataclass
class Kernel:
    """One machine with one VM."""

    memory: Memory
    fault: Fault | None = None
    vm_type: int | None = None
    added: int = 0
    slots: dict[int, Slot] = field(default_factory=dict)
    vcpus: list[Vcpu] = field(default_factory=list)
    enabled: dict[int, int] = field(default_factory=dict)
    pinned: list[tuple[int, int]] = field(default_factory=list)
    gmems: int = 0
    vendor: Vendor | None = None
    attributes: list[tuple[int, int, bool]] = field(default_factory=list)

    def ioctl(self, fd: int, number: int, argument: int) -> tuple[int, str | None]:
        """Return what the call returns, and its errno."""
        try:
            if fd == 3:
                return self._on_kvm(number, argument), None
            if fd == 4:
                return self._on_vm(number, argument), None
            return self._on_vcpu(self.vcpus[fd - 100], number, argument), None
        except Refused:
            return -1, "EIO"
        except Segfault:
            return -1, "EFAULT"
        except Errno as errno:
            return -1, str(errno)

    def _on_kvm(self, number: int, argument: int) -> int:
        if number == CHECK_EXTENSION:
            types = sum(1 << one for one in (DEFAULT, SEV, SEV_ES, SNP, TDX))
            return {CAP_VM_TYPES: types, CAP_MEMORY_ATTRIBUTES: PRIVATE}.get(argument, 1)
        need(number == CREATE_VM and self.vm_type is None)
        from tests.executor.amd import Sev, Snp
        from tests.executor.intel import Tdx

        kinds: dict[int, Callable[[Kernel], Vendor]] = {
            DEFAULT: Sev, SEV: Sev, SEV_ES: Sev, SNP: Snp, TDX: Tdx,
        }  # fmt: skip
        self.vm_type = argument
        self.vendor = kinds[argument](self)
        return 4

    def _on_vm(self, number: int, argument: int) -> int:
        if number == CREATE_VCPU:
            need(argument == len(self.vcpus), "EEXIST")
            self.vcpus.append(Vcpu(argument))
            return 100 + argument
        if number == CREATE_GMEM:
            need(self.memory.number(argument, 8) % PAGE == 0 < self.memory.number(argument, 8))
            self.gmems += 1
            return 199 + self.gmems
        if number == ENCRYPT_OP:
            assert self.vendor is not None
            self.vendor.command(argument, None)
        elif number in (SET_REGION, SET_REGION2):
            self._set_region(argument, two=number == SET_REGION2)
        elif number == SET_ATTRIBUTES:
            gpa, size, bits, flags = (self.memory.number(argument + at, 8) for at in (0, 8, 16, 24))
            need(gpa % PAGE == 0 == size % PAGE and size > 0 and bits in (0, PRIVATE) and not flags)
            self.attributes.append((gpa, gpa + size, bits == PRIVATE))
        elif number == REG_REGION:
            at, size = self.memory.number(argument, 8), self.memory.number(argument + 8, 8)
            self.pinned.append((at, at + size))
        elif number == ENABLE_CAP:
            cap, flags = self.memory.number(argument, 4), self.memory.number(argument + 4, 4)
            need(flags == 0)
            self.enabled[cap] = self.memory.number(argument + 8, 8)
        else:
            need(number == SET_TSC_KHZ)
        return 0

    def _set_region(self, at: int, *, two: bool) -> None:
        number, flags = self.memory.number(at, 4), self.memory.number(at + 4, 4)
        gpa, size, address = (self.memory.number(at + place, 8) for place in (8, 16, 24))
        need(gpa % PAGE == 0 == size % PAGE == address % PAGE)
        need(all(gpa + size <= s.gpa or s.gpa + s.size <= gpa for s in self.slots.values()))
        private = bool(flags & GUEST_MEMFD)
        if private:
            need(two and 200 <= self.memory.number(at + 40, 4) < 200 + self.gmems, "EBADF")
        self.slots[number] = Slot(gpa, size, address, private)

    def _on_vcpu(self, vcpu: Vcpu, number: int, argument: int) -> int:
        if number == ENCRYPT_OP:
            assert self.vendor is not None
            self.vendor.command(argument, vcpu)
            return 0
        size = REGISTERS.get(number, 0)
        if number in (MSRS, SET_CPUID2):
            entry = 16 if number == MSRS else 40
            size = 8 + entry * self.memory.number(argument, 4)
        need(size > 0, "ENOTTY")
        if number == SREGS2:
            need(self.memory.number(argument + 264, 8) & SVME == 0)  # x86.c, __kvm_valid_efer
        vcpu.held[number] = self.memory.read(argument, size)
        return self.memory.number(argument, 4) if number == MSRS else 0

    # --- for the vendors -------------------------------------------------------------------------

    def is_private(self, gpa: int) -> bool:
        """Whether a page has a slot with a guest_memfd, and the attribute PRIVATE."""
        slots = [s for s in self.slots.values() if s.gpa <= gpa < s.gpa + s.size]
        said = [private for low, high, private in self.attributes if low <= gpa < high]
        return bool(slots and slots[0].private and said and said[-1])

    def populate(self, gpa: int, pages: int, add: Callable[[int, int], None]) -> int:
        """
        Call `add(number of page, gpa)`; return how many were added.

        The errno of the first page is the call's, that of a later one ends it with a rest.
        """
        for done in range(pages):
            try:
                self.meet(first=done == 0)
                add(done, gpa + done * PAGE)
            except (Errno, Refused):
                if done:
                    return done
                raise
            self.added += 1
        return pages

    def meet(self, *, first: bool) -> None:
        """Fail as the fault says; an errno stays pending where it is not its call's first page."""
        fault = self.fault
        if fault is None or fault.over or fault.page != self.added or fault.kind == "cpuid":
            return
        rests = fault.kind == "rest"
        if rests and first:
            return
        fault.met, fault.over = True, first or rests
        raise Errno(fault.kind)
