"""
`check --on-host`, with a kernel that is written here from ../shared/spec/kvm.md, and with /dev/kvm.

The written kernel decodes the bytes that it is given by offsets of its own, page by page; it
imports nothing of the simulator and nothing of the layouts.
"""

from __future__ import annotations

import errno
import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import pytest

import cvmplan
from cvmplan.core.findings import Finding
from cvmplan.core.platform import Platform
from cvmplan.host import ask as cases
from cvmplan.host import check as session
from cvmplan.host.check import check
from cvmplan.host.kernel import Linux
from cvmplan.operations.plan import CreateVm, Plan
from tests import manifests
from tests.build.ovmf import SEV_SECTIONS, example, tdx_sections
from tests.run import run

PAGE: Final = 4096
GIB_4: Final = 1 << 32

# kvm.md 2.1
CREATE_VM, CHECK_EXTENSION, CREATE_VCPU = 0xAE01, 0xAE03, 0xAE41
SET_MEMORY, SET_ATTRIBUTES, CREATE_GMEM = 0x40A0AE49, 0x4020AED2, 0xC040AED4
SET_MEMORY_1 = 0x4020AE46  # without guest_memfd
PRE_FAULT, STATS = 0xC040AED5, 0xAECE
USER_MEMORY2, ATTRIBUTES, GMEM = 231, 233, 234
VM_TYPES, PRE_FAULT_MEMORY, GMEM_FLAGS = 235, 236, 244
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

    def map(self, size: int, file: int = -1, offset: int = 0) -> int:
        del file, offset
        address = 0x7F0000000000 + 0x1000000000 * len(self.made)
        self.made.append("mmap")
        self.maps[address] = size
        return address

    def unmap(self, address: int) -> None:
        del self.maps[address]

    def advise(self, address: int, size: int, advice: int) -> None:
        del address, size, advice

    def write(self, address: int, data: bytes) -> None:
        assert any(
            low <= address and address + len(data) <= low + n for low, n in self.maps.items()
        )

    def punch(self, fd: int, offset: int, size: int) -> None:
        need(fd in self.gmems, errno.EBADF)
        need(size > 0 and offset % PAGE == 0 and size % PAGE == 0, errno.EINVAL)

    def read(self, fd: int, offset: int, size: int) -> bytes:
        """One counter of KVM's statistics: kvm_stats_header, kvm_stats_desc, values."""
        assert self.fds[fd] == "stats"
        header = struct.pack("<6I", 0, 48, 1, 24, 24, 24 + 64)
        one = struct.pack("<IhHII48s", 0, 0, 1, 0, 0, b"pages_4k")
        value = struct.pack("<Q", len(self.mapped))
        return (header + one + value)[offset : offset + size]

    def release(self) -> str:
        return "6.16.1"

    def ioctl(self, fd: int, number: int, argument: int | bytearray) -> int:
        on, act = {
            CREATE_VM: ("kvm", self.create_vm),
            CHECK_EXTENSION: ("kvm", self.check_extension),
            CREATE_GMEM: ("vm", self.create_gmem),
            SET_MEMORY: ("vm", self.set_memory),
            SET_MEMORY_1: ("vm", self.set_memory_1),
            SET_ATTRIBUTES: ("vm", self.set_attributes),
            CREATE_VCPU: ("vm", self.create_vcpu),
            PRE_FAULT: ("vcpu", self.pre_fault),
            STATS: ("vm", self.stats),
        }[number]
        assert self.fds[fd] == on or (number, self.fds[fd]) == (CHECK_EXTENSION, "vm")
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

    def stats(self, argument: int | bytearray) -> int:
        assert argument == 0
        return self._fd("stats")

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

    def set_memory_1(self, argument: int | bytearray) -> int:
        return self.set_memory(bytearray(self.bytes_of(argument, 32)) + bytes(128))

    def set_memory(self, argument: int | bytearray) -> int:
        made = struct.unpack("<IIQQQQII112s", self.bytes_of(argument, 160))
        number, flags, gpa, size, address, offset, gmem, pad1, pad2 = made
        assert (pad1, pad2) == (0, bytes(112))
        assert flags in (0, 4)  # KVM_MEM_GUEST_MEMFD
        need(gpa % PAGE == 0 and size % PAGE == 0, errno.EINVAL)
        need(address % PAGE == 0 and number < 32764, errno.EINVAL)
        if not size:  # the slot is deleted
            need(self.slots.pop(number, None) is not None, errno.EINVAL)
            return 0
        within = (low <= address and address + size <= low + n for low, n in self.maps.items())
        assert any(within), "memory that user space does not have"
        assert number not in self.slots, "slots are made once here"
        pages = range(gpa // PAGE, (gpa + size) // PAGE)
        for other in self.slots.values():
            shared = max(pages.start, other.pages.start) < min(pages.stop, other.pages.stop)
            need(not shared, errno.EEXIST)
        if flags:
            need(
                self.kind == SW_PROTECTED or self.capabilities.get(GMEM_FLAGS, 0) > 0, errno.EINVAL
            )
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


SNP_PAGES = pages((GIB_4 - 0x8000, 0x8000), *((s.gpa, s.length) for s in SEV_SECTIONS))
TDX_PAGES = pages(*((s.gpa, s.mem) for s in tdx_sections(0x8000, 0x2000)))
CASES = {"snp": SNP_PAGES, "tdx": TDX_PAGES, "sw-protected": pages((0x100000, 0x5000))}


def plan_of(name: str, folder: Path, **settings: Any) -> Plan:
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
    assert kernel.mapped == CASES[name]
    assert f"{len(CASES[name]) * PAGE:#x} bytes mapped" in found[0].message
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
    made = [name for name in kernel.made if name != "mmap"]
    assert note.message.startswith(f"{len(made)} calls on Linux 6.16.1, ")


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


class RefusesMemory(FakeKernel):
    def set_memory(self, argument: int | bytearray) -> int:
        del argument
        raise refuse(errno.EEXIST)


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


class MakesNoVm(FakeKernel):
    def create_vm(self, argument: int | bytearray) -> int:
        del argument
        raise refuse(errno.EINVAL)


class MapsNothing(FakeKernel):
    def fault(self, page: int) -> None:
        del page
        raise refuse(errno.EOPNOTSUPP)


WRONG: dict[str, tuple[type[FakeKernel], str]] = {
    # what a kernel does: what is said of it
    "refuses memory": (RefusesMemory, "EEXIST on .*, success simulated"),
    "maps less than it says": (MapsLess, "success with 0x0 bytes left at .*, success simulated"),
    "says that it maps and does not": (StandsStill, "success with 0x9000 bytes left at 0x800000"),
    "refuses what is mapped": (RefusesTheSecond, "EEXIST with .*, success simulated"),
    "makes no VM": (MakesNoVm, "create-vm: EINVAL on .*, success simulated"),
    "maps nothing": (MapsNothing, "EOPNOTSUPP with .*, success simulated"),
}


@pytest.mark.parametrize(("kind", "told"), WRONG.values(), ids=WRONG)
def test_a_kernel_that_does_otherwise_differs(
    kind: type[FakeKernel], told: str, tmp_path: Path
) -> None:
    kernel = kind()
    found = check(plan_of("snp", tmp_path), kernel)
    assert set(rules(found)) == {"host-differs"}
    assert all(f.severity == "error" for f in found)
    assert any(re.search(told, f.message) for f in found), [f.message for f in found]
    assert closed(kernel)


def test_a_wrong_set_up_ends_the_comparison(tmp_path: Path) -> None:
    kernel = RefusesMemory()
    assert len(check(plan_of("snp", tmp_path), kernel)) == 1
    assert "create_vcpu" not in kernel.made


def test_differences_are_listed_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MOST_NAMED", 3)
    assert len(check(plan_of("snp", tmp_path), MapsNothing())) == 3


@pytest.mark.parametrize("capability", [ATTRIBUTES, GMEM, VM_TYPES, PRE_FAULT_MEMORY])
def test_without_a_capability_a_default_vm_takes_what_it_can(
    capability: int, tmp_path: Path
) -> None:
    kernel = FakeKernel(capabilities={**ALL, capability: 0})
    skipped, agrees = check(plan_of("snp", tmp_path), kernel)
    assert (skipped.rule, agrees.rule) == ("host-not-checked", "host-agrees")
    assert (skipped.severity, agrees.severity) == ("note", "note")
    assert NAMES[capability] in skipped.message
    assert not any(name in skipped.message for n, name in NAMES.items() if n != capability)
    assert kernel.kind == DEFAULT
    assert "VM type default" in agrees.message
    assert kernel.private == set()
    assert (kernel.mapped >= SNP_PAGES) == (capability != PRE_FAULT_MEMORY)
    assert ("mappings" in skipped.message) == (capability == PRE_FAULT_MEMORY)
    assert closed(kernel)


def test_a_host_without_the_memslots_of_today_has_those_of_before_tried(tmp_path: Path) -> None:
    kernel = FakeKernel(capabilities={**ALL, USER_MEMORY2: 0, GMEM_FLAGS: 3})
    note, agrees = check(plan_of("snp", tmp_path), kernel)
    assert (note.rule, agrees.rule) == ("host-not-checked", "host-agrees")
    assert "KVM_CAP_USER_MEMORY2" in note.message
    assert "set_memory_1" in kernel.made
    assert "create_gmem" not in kernel.made
    assert closed(kernel)


@pytest.mark.parametrize("name", ["ENOENT", "EACCES", "ENXIO"])
def test_a_host_without_kvm_is_not_tried(name: str, tmp_path: Path) -> None:
    kernel = FakeKernel(missing=getattr(errno, name))
    (note,) = check(plan_of("snp", tmp_path), kernel)
    assert (note.rule, note.message) == ("host-not-checked", f"/dev/kvm cannot be opened: {name}")


def test_a_device_that_is_not_kvm_is_not_tried(tmp_path: Path) -> None:
    class NotKvm(FakeKernel):
        def check_extension(self, argument: int | bytearray) -> int:
            del argument
            raise refuse(errno.ENOTTY)

    kernel = NotKvm()
    (note,) = check(plan_of("snp", tmp_path), kernel)
    assert (note.rule, kernel.made) == ("host-not-checked", [])
    assert closed(kernel)


class NoRoom(FakeKernel):
    def create_gmem(self, argument: int | bytearray) -> int:
        del argument
        raise refuse(errno.EMFILE)


class NoAddresses(FakeKernel):
    def map(self, size: int, file: int = -1, offset: int = 0) -> int:
        del size, file, offset
        raise refuse(errno.ENOMEM)


@pytest.mark.parametrize("kind", [NoRoom, NoAddresses])
def test_a_host_without_room_says_nothing_of_its_rules(
    kind: type[FakeKernel], tmp_path: Path
) -> None:
    kernel = kind()
    (note,) = check(plan_of("snp", tmp_path), kernel)
    assert note.rule == "host-not-checked"
    assert "the host has no room" in note.message
    assert closed(kernel)


def sized(folder: Path, region: str, memory: str) -> Plan:
    """A plan of one region at 0 in memory of a size."""
    regions = [manifests.region("0x0", "mapped", size=region)]
    ram = [{"gpa": "0x0", "size": memory}]
    manifest = manifests.document(*regions, platform="sw-protected", memory=ram)
    return cvmplan.plan_image(manifests.write(folder, manifest), abi="kvm-6.11")


@pytest.mark.parametrize(
    ("region", "memory", "tried"),
    [
        ("4KiB", "64MiB", True),
        ("4KiB", "65GiB", False),
        ("64MiB", "64MiB", True),
        ("1025MiB", "2GiB", False),
    ],
)
def test_what_is_too_large_is_not_tried(
    region: str, memory: str, tried: bool, tmp_path: Path
) -> None:
    kernel = FakeKernel(pages_per_call=1 << 20)
    found = check(sized(tmp_path, region, memory), kernel)
    assert rules(found) == ["host-agrees" if tried else "host-not-checked"]
    assert bool(kernel.made) == tried
    assert closed(kernel)


def test_what_a_default_vm_would_not_allocate_does_not_count(tmp_path: Path) -> None:
    kernel = FakeKernel(capabilities={USER_MEMORY2: 1})
    found = check(sized(tmp_path, "2GiB", "3GiB"), kernel)
    assert rules(found) == ["host-not-checked", "host-agrees"]


def test_a_plan_without_memslots_is_not_tried() -> None:
    kernel = FakeKernel()
    (note,) = check(Plan(Platform.SNP, "qemu", "kvm-6.11", (CreateVm(Platform.SNP),)), kernel)
    assert (note.message, kernel.made) == ("the plan has no memslots", [])


def test_another_machine_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "machine", lambda: "aarch64")
    (note,) = check(plan_of("snp", tmp_path))
    assert note.rule == "host-not-checked"
    assert "aarch64" in note.message


# --- the command ---------------------------------------------------------------------------------


Put: TypeAlias = Callable[[FakeKernel], None]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Put:
    """Have the command run on a written kernel."""

    def put(kernel: FakeKernel) -> None:
        monkeypatch.setattr(session, "machine", lambda: "x86_64")
        monkeypatch.setattr(session, "Linux", lambda: kernel)
        monkeypatch.setattr(cases, "ask", tuple)

    return put


def test_check_on_host_exits_with_1_where_the_host_differs(written: Put) -> None:
    written(RefusesMemory())
    result = run("check", "--example", "snp", "--on-host")
    assert (result.code, result.err) == (1, "")
    assert "error: host-differs: set-memslot" in result.out


def test_check_on_host_says_in_json_what_it_found(written: Put) -> None:
    written(FakeKernel())
    result = run("check", "--example", "tdx", "--on-host", "--format", "json")
    assert result.code == 0
    found = json.loads(result.out)["findings"]
    assert [f["severity"] for f in found if f["rule"] == "host-agrees"] == ["note"]


def test_check_takes_a_plan_as_well(written: Put, tmp_path: Path) -> None:
    kernel = FakeKernel()
    written(kernel)
    image, plan = tmp_path / "x.fd", tmp_path / "plan.json"
    image.write_bytes(example("snp"))
    assert run("plan", str(image), "--format", "json", "-o", str(plan)).code == 0
    assert "host-agrees" in run("check", str(plan), "--on-host").out
    assert kernel.mapped >= SNP_PAGES


def test_without_the_option_nothing_is_opened(written: Put) -> None:
    written(FakeKernel(missing=errno.EIO))
    assert "host-" not in run("check", "--example", "snp").out
    assert "host-not-checked" in run("check", "--example", "snp", "--on-host").out


def test_a_launch_that_is_wrong_is_not_tried(written: Put, tmp_path: Path) -> None:
    kernel = FakeKernel()
    written(kernel)
    twice = manifests.document(manifests.region("0x1000"), manifests.region("0x1000"))
    result = manifests.run_on(tmp_path, "check", twice, "--on-host")
    assert result.code == 1
    assert "host-" not in result.out
    assert kernel.made == []


# --- (b) /dev/kvm --------------------------------------------------------------------------------


@dataclass
class Recorder(Linux):
    """The kernel of this machine; what it is asked and answers is kept."""

    calls: list[tuple[int, int | bytes, str]] = field(default_factory=list)
    fails_at: int = -1  # the call from which on there is no room

    def __post_init__(self) -> None:
        super().__init__()

    def ioctl(self, fd: int, number: int, argument: int | bytearray) -> int:
        asked = bytes(argument) if isinstance(argument, bytearray) else argument
        need(len(self.calls) != self.fails_at, errno.ENOMEM)
        try:
            result = super().ioctl(fd, number, argument)
        except OSError as error:
            self.calls.append((number, asked, errno.errorcode[error.errno or 0]))
            raise
        self.calls.append((number, asked, ""))
        return result

    def of(self, number: int) -> list[tuple[bytes, str]]:
        """The structs that one ioctl was given, and the errno or "" that it answered."""
        return [(a, said) for n, a, said in self.calls if n == number and isinstance(a, bytes)]


@pytest.fixture
def host() -> Recorder:
    """The kernel of this machine, where it lets us in."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"/dev/kvm cannot be opened: {error.strerror}")
    if os.uname().machine != "x86_64":
        pytest.skip("/dev/kvm is not that of an x86-64 machine")
    return Recorder()


@pytest.mark.parametrize("name", ["snp", "tdx"])
def test_this_machine_executes_the_examples_and_agrees(host: Recorder, name: str) -> None:
    del host
    result = run("check", "--example", name, "--on-host")
    assert (result.code, result.err) == (0, "")
    note = next(line for line in result.out.splitlines() if "host-agrees" in line)
    assert "host-differs" not in result.out
    assert re.search(rf"[1-9][0-9]* calls on Linux {re.escape(os.uname().release)}, VM type", note)


def test_this_machine_accepts_the_structs_of_the_plan(host: Recorder, tmp_path: Path) -> None:
    """The set-up calls of a plan, byte for byte what `plan --format calls` prints."""
    regions = [manifests.region("0x100000", "mapped", size="64KiB")]
    regions += [manifests.region("0xfffc0000", "mapped", size="256KiB")]
    path = manifests.write(tmp_path, manifests.document(*regions, platform="default"))
    options = ("--abi", "kvm-6.18", "--format", "calls")
    printed = [json.loads(line) for line in run("plan", path, *options).out.splitlines()]
    check(cvmplan.plan_image(path, abi="kvm-6.18"), host)
    wanted = [c for c in printed if c["call"] == "KVM_SET_USER_MEMORY_REGION"]
    assert len(wanted) == 2
    accepted = [data for data, said in host.of(SET_MEMORY_1) if not said]
    for call in wanted:  # userspace_addr, bytes 24 to 32, is what only a process knows
        assert [r["offset"] for r in call["relocations"]] == [24]
        assert bytes.fromhex(call["bytes"]) in [a[:24] + bytes(8) + a[32:] for a in accepted]
    assert [int(c["ioctl"], 16) for c in printed if "returns" in c] == [CREATE_VM, CREATE_VCPU]
    assert {said for number, _, said in host.calls if number == CREATE_VM} == {""}
    assert [said for number, _, said in host.calls if number == CREATE_VCPU] == [""]


# --- (c) nothing is left open --------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_this_machine_gets_everything_back(host: Recorder) -> None:
    plan = cvmplan.plan_image(example("snp"))
    before = open_files()
    check(plan, host)
    assert (open_files(), host._maps) == (before, {})
    assert "host-differs" not in rules(cases.ask(host))
    assert (open_files(), host._maps) == (before, {})


@pytest.mark.parametrize("call", range(0, 24, 3))
def test_this_machine_gets_everything_back_after_a_failure(host: Recorder, call: int) -> None:
    plan = cvmplan.plan_image(example("snp"))
    before = open_files()
    host.fails_at = call
    check(plan, host)
    cases.ask(host)
    assert (open_files(), host._maps) == (before, {})
