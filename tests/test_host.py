"""
`check --on-host`: with a kernel that this file writes from ../shared/spec/kvm.md, and with /dev/kvm.

The written kernel decodes the bytes that it is given by offsets of its own, page by page; it
imports nothing of the simulator and nothing of the layouts.
"""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import cvmplan
from cvmplan.findings import Finding
from cvmplan.host import check as session
from cvmplan.host.check import check
from cvmplan.host.kernel import Linux
from cvmplan.plan import Plan
from tests import manifests
from tests.build.ovmf import SEV_SECTIONS, example, good_snp, tdx_sections
from tests.run import run

PAGE: Final = 4096
GIB_4: Final = 1 << 32

# kvm.md 2.1
CREATE_VM, CHECK_EXTENSION, CREATE_VCPU = 0xAE01, 0xAE03, 0xAE41
SET_MEMORY, SET_ATTRIBUTES, CREATE_GMEM = 0x40A0AE49, 0x4020AED2, 0xC040AED4
PRE_FAULT = 0xC040AED5
USER_MEMORY2, ATTRIBUTES, GMEM, VM_TYPES, PRE_FAULT_MEMORY, GMEM_FLAGS = 231, 233, 234, 235, 236, 244
MAX_VCPUS = 66
DEFAULT, SW_PROTECTED = 0, 1
ALL: Final = {USER_MEMORY2: 1, ATTRIBUTES: 8, GMEM: 1, VM_TYPES: 0b11, PRE_FAULT_MEMORY: 1}
NAMES: Final = {
    USER_MEMORY2: "KVM_CAP_USER_MEMORY2",
    ATTRIBUTES: "KVM_CAP_MEMORY_ATTRIBUTES",
    GMEM: "KVM_CAP_GUEST_MEMFD",
    VM_TYPES: "KVM_CAP_VM_TYPES",
    PRE_FAULT_MEMORY: "KVM_CAP_PRE_FAULT_MEMORY",
}


def refuse(name: int) -> OSError:
    return OSError(name, os.strerror(name))


def need(condition: bool, name: int) -> None:
    if not condition:
        raise refuse(name)


class Memslot(NamedTuple):
    """A memslot, in pages."""

    pages: range
    gmem: int | None
    first: int


@dataclass
class FakeKernel:
    """KVM with one VM, as kvm.md 1.2, 2.2 and 6.3 have it; a subclass does one thing wrong."""

    capabilities: dict[int, int] = field(default_factory=lambda: dict(ALL))
    missing: int = 0  # an errno: /dev/kvm cannot be opened
    pages_per_call: int = 3  # a kernel may stop after any page
    interrupts: int = 0  # before the first page
    fds: dict[int, str] = field(default_factory=dict)
    maps: dict[int, int] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    kind: int | None = None
    slots: dict[int, Memslot] = field(default_factory=dict)
    gmems: dict[int, int] = field(default_factory=dict)
    private: set[int] = field(default_factory=set)
    mapped: set[int] = field(default_factory=set)
    vcpus: set[int] = field(default_factory=set)

    def open(self, path: str) -> int:
        assert path == "/dev/kvm"
        need(not self.missing, self.missing)
        return self._fd("kvm")

    def close(self, fd: int) -> None:
        del self.fds[fd]

    def map(self, size: int) -> int:
        address = 0x7F0000000000 + 0x1000000000 * len(self.made)
        self.made.append("mmap")
        self.maps[address] = size
        return address

    def unmap(self, address: int) -> None:
        del self.maps[address]

    def ioctl(self, fd: int, number: int, argument: int | bytearray) -> int:
        on, act = {
            CREATE_VM: ("kvm", self.create_vm),
            CHECK_EXTENSION: ("kvm", self.check_extension),
            CREATE_GMEM: ("vm", self.create_gmem),
            SET_MEMORY: ("vm", self.set_memory),
            SET_ATTRIBUTES: ("vm", self.set_attributes),
            CREATE_VCPU: ("vm", self.create_vcpu),
            PRE_FAULT: ("vcpu", self.pre_fault),
        }[number]
        assert self.fds[fd] == on
        if number != CHECK_EXTENSION:
            self.made.append(act.__name__)
        return act(argument)

    def _fd(self, kind: str) -> int:
        fd = 100 + len(self.made) + len(self.fds)
        assert fd not in self.fds
        self.fds[fd] = kind
        return fd

    # --- kvm.md 2.1, 2.6

    def check_extension(self, argument: int | bytearray) -> int:
        assert isinstance(argument, int)
        return self.capabilities.get(argument, 0)

    def create_vm(self, argument: int | bytearray) -> int:
        assert isinstance(argument, int)
        types = self.capabilities.get(VM_TYPES, 0) | 1
        need(bool(types >> argument & 1), errno.EINVAL)
        assert self.kind is None, "one VM is enough"
        self.kind = argument
        return self._fd("vm")

    def create_vcpu(self, argument: int | bytearray) -> int:
        assert isinstance(argument, int)
        need(argument not in self.vcpus, errno.EEXIST)
        self.vcpus.add(argument)
        return self._fd("vcpu")

    # --- kvm.md 2.2: memory

    def create_gmem(self, argument: int | bytearray) -> int:
        size, flags, rest = struct.unpack("<QQ48s", self.bytes_of(argument, 64))
        assert rest == bytes(48)
        known = self.capabilities.get(GMEM_FLAGS, 0)
        need(flags & ~known == 0, errno.EINVAL)
        need(not (flags & 2 and self.kind == SW_PROTECTED), errno.EINVAL)
        need(size > 0 and size % PAGE == 0, errno.EINVAL)
        fd = self._fd("gmem")
        self.gmems[fd] = size // PAGE
        return fd

    def set_memory(self, argument: int | bytearray) -> int:
        made = struct.unpack("<IIQQQQII112s", self.bytes_of(argument, 160))
        number, flags, gpa, size, address, offset, gmem, pad1, pad2 = made
        assert (pad1, pad2) == (0, bytes(112))
        assert flags in (0, 4)  # KVM_MEM_GUEST_MEMFD
        need(gpa % PAGE == 0 and size % PAGE == 0 and size > 0, errno.EINVAL)
        need(address % PAGE == 0 and number < 32764, errno.EINVAL)
        assert size <= self.maps[address], "memory that user space does not have"
        assert number not in self.slots, "slots are made once here"
        pages = range(gpa // PAGE, (gpa + size) // PAGE)
        for other in self.slots.values():
            shared = max(pages.start, other.pages.start) < min(pages.stop, other.pages.stop)
            need(not shared, errno.EEXIST)
        if flags:
            need(self.kind == SW_PROTECTED or self.capabilities.get(GMEM_FLAGS, 0) > 0, errno.EINVAL)
            self.bind(gmem, offset, len(pages))
        else:
            assert gmem == offset == 0
        slot = Memslot(pages, gmem if flags else None, offset // PAGE)
        self.slots[number] = slot
        return 0

    def bind(self, gmem: int, offset: int, count: int) -> None:
        need(gmem in self.gmems, errno.EBADF)
        first = offset // PAGE
        need(offset % PAGE == 0 and first + count <= self.gmems[gmem], errno.EINVAL)
        for other in self.slots.values():
            last = other.first + len(other.pages)
            taken = other.gmem == gmem and other.first < first + count and first < last
            need(not taken, errno.EINVAL)

    def set_attributes(self, argument: int | bytearray) -> int:
        address, size, attributes, flags = struct.unpack("<QQQQ", self.bytes_of(argument, 32))
        need(self.kind == SW_PROTECTED, errno.EINVAL)
        need(flags == 0 and attributes in (0, 8) and size > 0, errno.EINVAL)
        need(address % PAGE == 0 and size % PAGE == 0, errno.EINVAL)
        pages = range(address // PAGE, (address + size) // PAGE)
        (self.private.update if attributes else self.private.difference_update)(pages)
        return 0

    # --- kvm.md 1.2, 6.3: mapping

    def pre_fault(self, argument: int | bytearray) -> int:
        gpa, size, flags, padding = struct.unpack("<QQQ40s", self.bytes_of(argument, 64))
        assert isinstance(argument, bytearray)
        assert padding == bytes(40)
        need(bool(self.capabilities.get(PRE_FAULT_MEMORY)), errno.EOPNOTSUPP)
        need(flags == 0 and gpa % PAGE == 0 and size % PAGE == 0 and size > 0, errno.EINVAL)
        if self.interrupts:
            self.interrupts -= 1
            raise refuse(errno.EINTR)
        for done in range(min(size // PAGE, self.pages_per_call)):
            try:
                self.fault(gpa // PAGE)
            except OSError:
                if done:
                    break
                raise
            gpa, size = gpa + PAGE, size - PAGE
        argument[:16] = struct.pack("<QQ", gpa, size)
        return 0

    def fault(self, page: int) -> None:
        slot = next((s for s in self.slots.values() if page in s.pages), None)
        if slot is None:
            raise refuse(errno.ENOENT)
        need(page not in self.private or slot.gmem is not None, errno.EFAULT)
        self.mapped.add(page)

    def bytes_of(self, argument: int | bytearray, size: int) -> bytes:
        assert isinstance(argument, bytearray)
        assert len(argument) == size
        return bytes(argument)


def pages(*ranges: tuple[int, int]) -> set[int]:
    """The numbers of the pages of (gpa, size) ranges."""
    return {p for gpa, size in ranges for p in range(gpa // PAGE, (gpa + size) // PAGE)}


SNP_PAGES = pages((GIB_4 - 0x8000, 0x8000), *((s.gpa, s.size) for s in SEV_SECTIONS))
TDX_PAGES = pages(*((s.gpa, s.size) for s in tdx_sections(0x8000, 0x2000)))
CASES = {"snp": SNP_PAGES, "tdx": TDX_PAGES, "sw-protected": pages((0x100000, 0x5000))}


def plan_of(name: str, folder: Path, **settings: object) -> Plan:
    if name != "sw-protected":
        return cvmplan.plan_image(example(name), **settings)
    region = manifests.region("0x100000", "mapped", size="20KiB")
    manifest = manifests.document(region, platform="sw-protected")
    return cvmplan.plan_image(manifests.write(folder, manifest), **settings)


def rules(found: tuple[Finding, ...]) -> list[str]:
    return [f.rule for f in found]


def closed(kernel: FakeKernel) -> bool:
    """Whether everything was given back."""
    return not kernel.fds and not kernel.maps


# --- (a) the written kernel ----------------------------------------------------------------------


@pytest.mark.parametrize("abi", ["map-memory", "kvm-6.16", "kvm-6.18", "kvm-7.0", "kvm-in-place"])
@pytest.mark.parametrize("name", CASES)
def test_a_kernel_as_specified_agrees_and_has_the_pages_of_the_image_mapped(
    name: str, abi: str, tmp_path: Path
) -> None:
    kernel = FakeKernel()
    found = check(plan_of(name, tmp_path, abi=abi), kernel)
    assert rules(found) == ["host-agrees"], [f.message for f in found]
    assert kernel.kind == SW_PROTECTED
    assert CASES[name] <= kernel.mapped
    extra = kernel.mapped - CASES[name]  # the last page of a memslot, mapped before a refusal
    assert len(extra) == 1
    assert f"{len(kernel.mapped) * PAGE:#x} bytes mapped" in found[0].message
    assert "VM type sw-protected" in found[0].message
    assert closed(kernel)


@pytest.mark.parametrize("name", CASES)
def test_the_pages_of_the_plan_are_private(name: str, tmp_path: Path) -> None:
    kernel = FakeKernel()
    check(plan_of(name, tmp_path), kernel)
    assert CASES[name] <= kernel.private


def test_what_is_counted_are_the_calls_that_change_something(tmp_path: Path) -> None:
    kernel = FakeKernel(pages_per_call=1 << 20)
    (note,) = check(plan_of("snp", tmp_path), kernel)
    made = [name for name in kernel.made if name not in ("mmap",)]
    # each range of the last probe is asked for once more, after its first page
    assert note.message.startswith(f"{len(made) - 1} calls on Linux {os.uname().release}, ")


def test_interrupted_mappings_are_asked_for_again(tmp_path: Path) -> None:
    kernel = FakeKernel(interrupts=40)
    assert rules(check(plan_of("tdx", tmp_path), kernel)) == ["host-agrees"]
    assert kernel.interrupts == 0


def test_a_mapping_that_is_interrupted_for_ever_ends(tmp_path: Path) -> None:
    kernel = FakeKernel(interrupts=1 << 60)
    found = check(plan_of("sw-protected", tmp_path), kernel)
    assert set(rules(found)) == {"host-differs"}
    assert "EINTR" in found[0].message
    assert closed(kernel)


class ForgetsOverlaps(FakeKernel):
    def set_memory(self, argument: int | bytearray) -> int:
        try:
            return super().set_memory(argument)
        except OSError as error:
            raise refuse(errno.EINVAL if error.errno == errno.EEXIST else error.errno) from error


class MapsLess(FakeKernel):
    def pre_fault(self, argument: int | bytearray) -> int:
        assert isinstance(argument, bytearray)
        gpa, size = struct.unpack("<QQ", argument[:16])
        if size > PAGE and size % PAGE == 0:
            argument[:16] = struct.pack("<QQ", gpa, PAGE)
            super().pre_fault(argument)
            argument[:16] = struct.pack("<QQ", gpa + PAGE, 0)
            return 0
        return super().pre_fault(argument)


class StandsStill(FakeKernel):
    def pre_fault(self, argument: int | bytearray) -> int:
        assert isinstance(argument, bytearray)
        gpa, size = struct.unpack("<QQ", argument[:16])
        need(gpa % PAGE == 0 and size % PAGE == 0 and size > 0, errno.EINVAL)
        return 0


class RefusesTheSecond(FakeKernel):
    def fault(self, page: int) -> None:
        need(page not in self.mapped, errno.EEXIST)
        super().fault(page)


class MapsAnything(FakeKernel):
    def fault(self, page: int) -> None:
        self.mapped.add(page)


class BindsTwice(FakeKernel):
    def bind(self, gmem: int, offset: int, count: int) -> None:
        need(offset % PAGE == 0 and offset // PAGE + count <= self.gmems[gmem], errno.EINVAL)


class TakesOddSizes(FakeKernel):
    def create_gmem(self, argument: int | bytearray) -> int:
        self.bytes_of(argument, 64)
        return self._fd("gmem")


class MakesNoVm(FakeKernel):
    def create_vm(self, argument: int | bytearray) -> int:
        raise refuse(errno.EINVAL)


class TakesVcpusTwice(FakeKernel):
    def create_vcpu(self, argument: int | bytearray) -> int:
        self.vcpus.clear()
        return super().create_vcpu(argument)


class RefusesTheNotSupported(FakeKernel):
    def fault(self, page: int) -> None:
        raise refuse(errno.EOPNOTSUPP)


WRONG: dict[str, tuple[type[FakeKernel], str]] = {
    # what a kernel does: what is said of it
    "another errno for overlapping memslots": (ForgetsOverlaps, "EINVAL on .*, EEXIST simulated"),
    "maps less than it says": (MapsLess, "success with 0x0 bytes left at .*, success simulated"),
    "maps nothing": (StandsStill, "success with 0x9000 bytes left at 0x800000"),
    "refuses what is mapped": (RefusesTheSecond, "EEXIST with .*, success simulated"),
    "maps where no memslot is": (MapsAnything, "success .*, ENOENT with 0x1000 bytes left .* sim"),
    "binds a page of a guest_memfd twice": (BindsTwice, "success on .*, EINVAL simulated"),
    "takes a guest_memfd of odd size": (TakesOddSizes, "create-gmem: success on .*, EINVAL sim"),
    "makes no VM": (MakesNoVm, "create-vm: EINVAL on .*, success simulated"),
    "makes a vCPU twice": (TakesVcpusTwice, "create-vcpu: success on .*, EEXIST simulated"),
    "maps nothing at all": (RefusesTheNotSupported, "EOPNOTSUPP with .*, success simulated"),
}


@pytest.mark.parametrize(("kind", "told"), WRONG.values(), ids=WRONG)
def test_a_kernel_that_does_otherwise_differs(
    kind: type[FakeKernel], told: str, tmp_path: Path
) -> None:
    kernel = kind()
    found = check(plan_of("snp", tmp_path), kernel)
    assert set(rules(found)) == {"host-differs"}
    assert all(f.severity == "error" for f in found)
    assert any(matches(told, f.message) for f in found), [f.message for f in found]
    assert closed(kernel)
