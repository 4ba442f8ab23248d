"""
A model of what KVM answers to each operation of a plan, page by page.

It knows no intervals: each guest page and each guest_memfd page is an object, and whatever is
done to a run is done to its pages one after the other.  Nothing of cvmplan is imported.
Rules are those of ../shared/spec/kvm.md, whose sections the docstrings name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from tests.oracles.firmware import CHUNK, NORMAL, PAGE, VMSA

Document: TypeAlias = dict[str, Any]
Contents: TypeAlias = Callable[[Document, int], bytes | None]
"""The 4 KiB at an offset of a source; None where only the host knows them."""

KERNELS: Final = {
    "kvm-6.11": (6, 11),
    "kvm-6.16": (6, 16),
    "kvm-6.18": (6, 18),
    "kvm-6.19": (6, 19),
    "kvm-7.0": (7, 0),
    "kvm-7.1": (7, 1),
    "kvm-7.2": (7, 2),
    "kvm-7.3": (7, 3),
    "map-memory": (7, 0),  # where its own rules, in PureMapping, do not say otherwise
}
SNP_TYPES: Final = {"normal": 1, "vmsa": 2, "zero": 3, "unmeasured": 4, "secrets": 5, "cpuid": 6}
END: Final = 1 << 64
HUGE: Final = 512  # pages of a 2 MiB mapping
INVALID_GUEST_STATE: Final = 2  # of the SNP firmware; kvm.md 4.1


class Refusal(Exception):  # noqa: N818 - it is an answer of the kernel, not a fault
    """The kernel does not do it, or not all of it."""

    def __init__(self, errno: str | None, fw_error: int | None = None) -> None:
        super().__init__(errno)
        self.errno = errno
        self.fw_error = fw_error
        self.residual: tuple[int, int] | None = None


def need(condition: bool, errno: str | None) -> None:
    """Refuse with this errno unless the condition holds."""
    if not condition:
        raise Refusal(errno)


@dataclass(frozen=True)
class Result:
    """What one operation came to; `residual` is the (gpa, size) that was not done."""

    result: str
    errno: str | None = None
    fw_error: int | None = None
    residual: tuple[int, int] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a plan came to."""

    results: tuple[Result, ...]
    digest: str | None
    finalized: bool


@dataclass
class GuestPage:
    """What belongs to a guest-physical page: attribute, mapping, secure-EPT leaf (TDX)."""

    private: bool = False
    mapped: bool = False
    leaf: str = "free"  # awaiting (map-memory ABI), added, present
    huge: bool = False  # madvise: the host may back it with a large page
    small: bool = False  # the host backs its 2 MiB block by single pages


@dataclass
class GmemPage:
    """What belongs to a page of a guest_memfd, at whatever guest address it is bound."""

    uptodate: bool = False
    assigned: bool = False  # RMP
    user: int | None = None  # PAMT: the guest page that it was added at
    data: bytes | None = None


@dataclass(frozen=True)
class Slot:
    """Guest pages and the guest_memfd pages behind them, if any."""

    pages: range
    gmem: int | None
    first: int  # page in the guest_memfd

    def gmem_page(self, page: int) -> tuple[int, int]:
        """The key of the page behind a guest page."""
        assert self.gmem is not None
        return self.gmem, page - self.pages.start + self.first


@dataclass
class LaunchDigest:
    """
    SEV-SNP: LD' = SHA-384(PAGE_INFO); None once a page with unknown contents was measured.

    Source: kvm.md 4.1.
    """

    value: bytes | None = bytes(48)

    def page(self, page_type: int, gpa: int, data: bytes | None) -> None:
        """One SNP_LAUNCH_UPDATE of the firmware."""
        contents = bytes(48)
        if page_type in (NORMAL, VMSA):
            if data is None:
                self.value = None
                return
            contents = hashlib.sha384(data).digest()
        if self.value is not None:
            info = self.value + contents + b"\x70\0" + bytes([page_type]) + bytes(5)
            self.value = hashlib.sha384(info + gpa.to_bytes(8, "little")).digest()


@dataclass
class Mrtd:
    """
    TDX: one SHA-384 stream over blocks of 128 bytes; unknown once unknown contents went in.

    Source: kvm.md 4.2.
    """

    blocks: bytes | None = b""

    @property
    def value(self) -> bytes | None:
        """The register, were it closed now."""
        return None if self.blocks is None else hashlib.sha384(self.blocks).digest()

    def add(self, gpa: int) -> None:
        """TDH.MEM.PAGE.ADD."""
        self._block(b"MEM.PAGE.ADD", gpa, b"")

    def extend(self, gpa: int, data: bytes | None) -> None:
        """TDH.MR.EXTEND of the sixteen chunks of a page."""
        if data is None:
            self.blocks = None
            return
        for at in range(0, PAGE, CHUNK):
            self._block(b"MR.EXTEND", gpa + at, data[at : at + CHUNK])

    def _block(self, name: bytes, gpa: int, data: bytes) -> None:
        if self.blocks is not None:
            header = name.ljust(16, b"\0") + gpa.to_bytes(8, "little")
            self.blocks += header.ljust(128, b"\0") + data


def inline(source: Document, offset: int) -> bytes | None:
    """The contents that a plan holds itself."""
    if "vmm" in source:
        return None
    data = b""
    if "hex" in source:
        data = bytes(source.get("at") or 0) + bytes.fromhex(source["hex"])
    elif "zeros" not in source:
        raise ValueError(f"source {source}")
    return data[offset : offset + PAGE].ljust(PAGE, b"\0")


def number(value: int | str) -> int:
    """An integer of a plan."""
    return int(value, 0) if isinstance(value, str) else value


def span(op: Document) -> tuple[int, int]:
    """Address and size of an operation."""
    return number(op["gpa"]), number(op["size"])


def whole(address: int, size: int) -> bool:
    """Whether it is one page or more, and not past the last address."""
    return address % PAGE == 0 and size % PAGE == 0 and size > 0 and address + size < END


def pages_of(op: Document) -> Iterator[int]:
    """The numbers of its pages, upwards."""
    gpa, size = span(op)
    yield from range(gpa // PAGE, (gpa + size) // PAGE)


def each_page(op: Document, act: Callable[[int], None]) -> None:
    """Act on one page after the other; what was not done is the residual of the refusal."""
    gpa, size = span(op)
    for page in pages_of(op):
        try:
            act(page)
        except Refusal as refusal:
            refusal.residual = (page * PAGE, gpa + size - page * PAGE)
            raise


@dataclass
class Vm:
    """One VM on a mainline kernel; a method for each operation, named as it is."""

    abi: str
    gpaw: int = 48
    contents: Contents = inline
    platform: str = ""
    dead: bool = False
    initialised: bool = False  # KVM_SEV_INIT2, KVM_TDX_INIT_VM
    started: bool = False
    finalized: bool = False
    finished: bool = False  # SNP_LAUNCH_FINISH was tried
    vcpus: int = 0
    vcpus_ready: bool = False  # KVM_TDX_INIT_VCPU
    gmems: dict[int, int] = field(default_factory=dict)
    mapped_files: set[int] = field(default_factory=set)
    slots: dict[int, Slot] = field(default_factory=dict)
    guest: dict[int, GuestPage] = field(default_factory=dict)
    backing: dict[tuple[int, int], GmemPage] = field(default_factory=dict)
    launch_digest: LaunchDigest = field(default_factory=LaunchDigest)
    mrtd: Mrtd = field(default_factory=Mrtd)

    needs_vcpu = ("pre-fault-memory", "map-memory", "tdx-init-vcpu", "tdx-init-mem-region")

    def run(self, op: Document) -> Result:
        """The answer to one operation."""
        try:
            if op["op"] != "create-vm":
                need(self.platform != "", "EBADF")
                need(not self.dead, "EIO")
                need(op["op"] not in self.needs_vcpu or self.vcpus > 0, "EBADF")
            act = getattr(self, op["op"].replace("-", "_"))
            return Result("nop" if act(op) else "ok")
        except Refusal as refusal:
            return Result("error", self.errno(refusal), refusal.fw_error, refusal.residual)

    def errno(self, refusal: Refusal) -> str | None:
        """What the caller sees of a refusal."""
        return refusal.errno

    @property
    def digest(self) -> bytes | None:
        """The digest reached, once the launch has begun."""
        if self.platform == "snp" and self.started:
            return self.launch_digest.value
        return self.mrtd.value if self.platform == "tdx" and self.initialised else None

    # --- what a page has

    def before(self, *version: int) -> bool:
        """Whether the kernel is older than this."""
        return KERNELS[self.abi] < version

    def page(self, page: int) -> GuestPage:
        """The state of a guest page."""
        return self.guest.setdefault(page, GuestPage())

    def slot(self, page: int) -> Slot | None:
        """The slot that holds a guest page."""
        return next((s for s in self.slots.values() if page in s.pages), None)

    def behind(self, page: int) -> GmemPage | None:
        """The guest_memfd page behind a guest page."""
        slot = self.slot(page)
        if slot is None or slot.gmem is None:
            return None
        return self.backing.setdefault(slot.gmem_page(page), GmemPage())

    def shared_bit(self, page: int) -> bool:
        """TDX: whether an address has the shared bit (kvm.md 4.3)."""
        return page * PAGE >> (self.gpaw - 1) & 1 == 1

    # --- VM, vCPUs, memory: kvm.md 2.1 to 2.4

    def create_vm(self, op: Document) -> None:
        """TDX is there from 6.16.  A plan is about one VM."""
        need(self.platform == "", None)
        need(op["vm_type"] != "tdx" or not self.before(6, 16), "EINVAL")
        self.platform = op["vm_type"]

    def init(self, op: Document) -> None:
        """KVM_SEV_INIT2: once, before any vCPU."""
        del op
        need(self.platform in ("snp", "sev", "sev-es"), "ENOTTY")
        need(not self.initialised, "EINVAL")
        need(self.vcpus == 0, "EINVAL")
        self.initialised = True

    def create_vcpu(self, op: Document) -> None:
        """Once; a TD must be initialised."""
        need(self.platform != "tdx" or self.initialised, "EIO")
        need(self.vcpus == 0, "EEXIST")
        need(op["count"] <= 4096, "EINVAL")
        self.vcpus = op["count"]

    def create_gmem(self, op: Document) -> None:
        """Flags are known from 6.18; a VM with private memory begins with none shared."""
        size, flags = number(op["size"]), op.get("flags") or []
        need(0 < size < 1 << 63 and size % PAGE == 0, "EINVAL")
        need(not flags or not self.before(6, 18), "EINVAL")
        has_private = self.platform in ("snp", "tdx", "sw-protected")
        need("init-shared" not in flags or not has_private, "EINVAL")
        need(op["gmem"] not in self.gmems, None)  # a number names one file of the plan
        self.gmems[op["gmem"]] = size
        if {"mmap", "init-shared"} <= set(flags):
            self.mapped_files.add(op["gmem"])

    def has_gmem(self) -> bool:
        """Whether a slot may have a guest_memfd behind it."""
        if self.platform == "default":
            return not self.before(6, 18)
        return self.platform not in ("sev", "sev-es")

    def set_memslot(self, op: Document) -> bool:
        """
        KVM_SET_USER_MEMORY_REGION2; whether it changed nothing.

        A slot in use: real-kernels.md, "same slot".  52 bits: the widest host.
        """
        gpa, size = span(op)
        gmem, offset = op.get("gmem"), number(op.get("gmem_offset") or 0)
        need(gmem is None or self.has_gmem(), "EINVAL")
        need(op["slot"] < 32764, "EINVAL")
        need(gpa % PAGE == 0 and size % PAGE == 0 and gpa + size <= 1 << 52, "EINVAL")
        slot = Slot(range(gpa // PAGE, (gpa + size) // PAGE), gmem, offset // PAGE)
        old = self.slots.get(op["slot"])
        need(size > 0 or old is not None, "EINVAL")
        if old is not None and size > 0:
            need(old.gmem is None and gmem is None, "EINVAL")
            need(len(old.pages) == len(slot.pages), "EINVAL")
        others = [s for n, s in self.slots.items() if n != op["slot"]]
        free = all(page not in other.pages for other in others for page in slot.pages)
        need(free, "EEXIST")
        if old is None and gmem is not None:
            need(gmem in self.gmems, "EBADF")
            need(offset % PAGE == 0 and offset + size <= self.gmems[gmem], "EINVAL")
            bound = {s.gmem_page(p) for s in self.slots.values() if s.gmem == gmem for p in s.pages}
            twice = "EINVAL" if self.before(7, 2) else "EEXIST"
            need(all(slot.gmem_page(page) not in bound for page in slot.pages), twice)
        if old is not None and old.pages == slot.pages:
            return True
        for page in old.pages if old is not None else ():
            self.unmap(page)
        if size:
            self.slots[op["slot"]] = slot
        else:
            del self.slots[op["slot"]]
        return False

    def set_private(self, op: Document) -> bool:
        """KVM_SET_MEMORY_ATTRIBUTES(PRIVATE); whether nothing changed."""
        return self.convert(op, private=True)

    def set_shared(self, op: Document) -> bool:
        """KVM_SET_MEMORY_ATTRIBUTES(0); whether nothing changed."""
        return self.convert(op, private=False)

    def convert(self, op: Document, *, private: bool) -> bool:
        """Unmap what changes; folio, RMP and measurement stay (1.6, 6.4)."""
        need(not private or self.platform in ("snp", "tdx", "sw-protected"), "EINVAL")
        need(whole(*span(op)), "EINVAL")
        changed = [page for page in pages_of(op) if self.page(page).private != private]
        for page in changed:
            self.unmap(page)
            self.page(page).private = private
        return not changed

    def unmap(self, page: int) -> None:
        """Zap the mapping; TDX: TDH.MEM.PAGE.REMOVE, the leaf is free."""
        self.page(page).mapped = False
        self.page(page).leaf = "free"

    def punch_hole(self, op: Document) -> None:
        """fallocate(FALLOC_FL_PUNCH_HOLE): the pages are gone, with all their state (1.6, 6.4)."""
        offset, size = number(op["offset"]), number(op["size"])
        need(op["gmem"] in self.gmems, "EBADF")
        need(whole(offset, size), "EINVAL")
        holes = range(offset // PAGE, (offset + size) // PAGE)
        for slot in self.slots.values():
            if slot.gmem != op["gmem"]:
                continue
            for page in slot.pages:
                if slot.gmem_page(page)[1] in holes:
                    self.unmap(page)
                    self.backing.pop(slot.gmem_page(page), None)

    def held(self, op: Document) -> None:
        """Refuse unless slots hold the bytes."""
        gpa, size = span(op)
        need(size > 0, "EFAULT")
        touched = range(gpa // PAGE, (gpa + size - 1) // PAGE + 1)
        need(all(self.slot(page) is not None for page in touched), "EFAULT")

    def madvise(self, op: Document) -> None:
        """The host's memory may have large pages."""
        self.held(op)
        for page in pages_of(op):
            self.page(page).huge = op["advice"] == "hugepage"

    def write(self, op: Document) -> None:
        """A write to the host's memory, which is then there (real-kernels.md)."""
        self.held(op)
        gpa, size = span(op)
        for page in range(gpa // PAGE, (gpa + size - 1) // PAGE + 1):
            self.touch(page)

    def touch(self, page: int) -> None:
        """The host's page is there: of a block that was not advised as a whole, singly."""
        block = range(page - page % HUGE, page - page % HUGE + HUGE)
        if not all(self.page(n).huge for n in block):
            for n in block:
                self.page(n).small = True

    # --- SNP: kvm.md 1.5, 2.3, 6.3

    def snp_launch_start(self, op: Document) -> None:
        """SNP_LAUNCH_START."""
        policy = number(op["policy"])
        need(self.platform == "snp" and self.initialised, "ENOTTY")
        need(not self.started, "EINVAL")
        need(self.takes_policy({bit for bit in range(64) if policy >> bit & 1}), "EINVAL")
        self.started = True

    def takes_policy(self, bits: set[int]) -> bool:
        """Whether the kernel takes a policy: the table in corrections.md 2."""
        if self.before(6, 18):
            return bits <= {*range(18), 19, 20} and {16, 17} <= bits and 20 not in bits
        known = {*range(18), 19, 20} if self.before(6, 19) else {*range(18), *range(19, 26)}
        return bits <= known and 17 in bits

    def snp_launch_update(self, op: Document) -> bool:
        """
        SNP_LAUNCH_UPDATE, called until nothing is left of the range; whether it adds nothing.

        Length 0: corrections.md 3.
        """
        gpa, size = span(op)
        need(self.started, "EINVAL")
        need(gpa % PAGE == 0 and size % PAGE == 0, "EINVAL")
        need(op["page_type"] != "vmsa", "EINVAL")
        need(size > 0 or self.before(6, 18), "EINVAL")
        each_page(op, lambda page: self.update_page(op, page))
        return size == 0

    def update_page(self, op: Document, page: int) -> None:
        """sev_gmem_post_populate: whatever refuses a page, the caller sees EIO."""
        behind, state = self.behind(page), self.page(page)
        if behind is None:
            raise Refusal("EINVAL")
        need(not (self.before(7, 0) and behind.uptodate), "EIO")
        need(state.private, "EIO")
        need(not behind.assigned, "EIO")
        if self.finalized:
            raise Refusal("EIO", INVALID_GUEST_STATE)
        data = self.contents(op["source"], page * PAGE - number(op["gpa"]))
        self.launch_digest.page(SNP_TYPES[op["page_type"]], page * PAGE, data)
        behind.uptodate = behind.assigned = state.mapped = True  # 6.3: a map of FA is a nop

    def snp_launch_finish(self, op: Document) -> None:
        """SNP_LAUNCH_FINISH: KVM measures the VMSA of each vCPU, in order, then the firmware."""
        need(self.platform == "snp" and self.initialised, "ENOTTY")
        need(self.started, "EINVAL")
        need(not self.finished, "EINVAL")  # corrections.md 3
        self.finished = True
        states = []
        for state in op["vmsas"]:
            low, _, high = state["vcpus"].partition("-")
            page = bytes.fromhex(state["hex"]).ljust(PAGE, b"\0")
            states += [(number(state["gpa"]), page)] * (int(high or low) + 1 - int(low))
        for gpa, page in states:
            self.launch_digest.page(VMSA, gpa, page)
        if len(states) != self.vcpus:
            self.launch_digest.value = None
        self.finalized = True

    # --- TDX: kvm.md 1.5, 2.4, 6.3

    def tdx_init_vm(self, op: Document) -> None:
        """KVM_TDX_INIT_VM."""
        del op
        need(self.platform == "tdx", "ENOTTY")
        need(not self.initialised, "EINVAL")
        self.initialised = True

    def tdx_init_vcpu(self, op: Document) -> None:
        """KVM_TDX_INIT_VCPU of vCPUs 0 to `count` - 1."""
        need(self.platform == "tdx", "ENOTTY")
        need(op["count"] <= self.vcpus, "EBADF")
        need(not self.finalized, "EINVAL")
        need(not self.vcpus_ready, "EINVAL")
        self.vcpus_ready = True

    def tdx_init_mem_region(self, op: Document) -> None:
        """KVM_TDX_INIT_MEM_REGION."""
        self.check_region(op)
        each_page(op, lambda page: self.region_page(op, page))

    def check_region(self, op: Document) -> None:
        """What is asked before any page (2.4)."""
        need(self.platform == "tdx", "ENOTTY")
        need(self.initialised and not self.finalized, "EINVAL")
        need(self.vcpus_ready, "EINVAL")
        need(whole(*span(op)), "EINVAL")
        need(not any(self.shared_bit(page) for page in pages_of(op)), "EINVAL")

    def region_page(self, op: Document, page: int) -> None:
        """tdx_gmem_post_populate: SEPT.ADD, PAGE.ADD, and sixteen EXTENDs where measured."""
        behind, state = self.behind(page), self.page(page)
        if behind is None:
            raise Refusal("EINVAL")
        need(not (self.before(7, 0) and behind.uptodate), "EEXIST")
        need(state.private, "EINVAL")
        if state.leaf != "free":
            spurious = state.leaf == "added" and not self.before(7, 0)
            self.fail_of_module(dies=not spurious)
        if behind.user is not None and self.page(behind.user).leaf == "added":
            self.fail_of_module(dies=True)
        self.add_page(op, page, behind)

    def fail_of_module(self, *, dies: bool) -> None:
        """The mapping is not fresh, or the module refuses: EIO; from 6.19 the VM may be dead."""
        self.dead = dies and not self.before(6, 19)
        raise Refusal("EIO")

    def add_page(self, op: Document, page: int, behind: GmemPage) -> None:
        """TDH.MEM.PAGE.ADD, and where measured TDH.MR.EXTEND."""
        gpa = page * PAGE
        behind.data = self.contents(op["source"], gpa - number(op["gpa"]))
        behind.uptodate, behind.user = True, page
        self.page(page).leaf, self.page(page).mapped = "added", True
        self.mrtd.add(gpa)
        if op["measured"]:
            self.mrtd.extend(gpa, behind.data)

    def tdx_finalize(self, op: Document) -> None:
        """KVM_TDX_FINALIZE_VM."""
        del op
        need(self.platform == "tdx", "ENOTTY")
        need(self.initialised and not self.finalized, "EINVAL")
        if not self.vcpus:  # TDX_NO_VCPUS: corrections.md 3
            self.dead = True
            raise Refusal("EIO")
        self.finalized = True

    def tdx_page_aug(self, op: Document) -> None:
        """TDH.MEM.PAGE.AUG, which the module allows before the end of the build (kvm.md 8)."""
        need(self.initialised, None)
        need(whole(*span(op)), None)
        for page in pages_of(op):
            need(self.page(page).leaf == "free", None)
            need(self.slot(page) is not None and self.page(page).private, None)
        for page in pages_of(op):
            self.page(page).leaf, self.page(page).mapped = "present", True

    # --- mapping: kvm.md 1.2, 1.3

    def map_memory(self, op: Document) -> bool:
        """The ioctl of the pure mapping is KVM_PRE_FAULT_MEMORY today."""
        return self.pre_fault_memory(op)

    def pre_fault_memory(self, op: Document) -> bool:
        """KVM_PRE_FAULT_MEMORY, called until nothing is left; whether all of it was mapped."""
        need(whole(*span(op)), "EINVAL")
        need(self.platform not in ("snp", "tdx") or self.finalized, "EOPNOTSUPP")
        return self.map_pages(op)

    def map_pages(self, op: Document) -> bool:
        """Map upwards; whether all of it was mapped before."""
        shared = self.platform == "tdx" and any(self.shared_bit(page) for page in pages_of(op))
        need(not shared, "EINVAL")
        before: set[bool] = set()
        each_page(op, lambda page: before.add(self.map_page(page)))
        return before == {True}

    def map_page(self, page: int) -> bool:
        """One read fault; whether the page was mapped before."""
        slot, state, behind = self.slot(page), self.page(page), self.behind(page)
        need(not state.private or behind is not None, "EFAULT")
        if slot is None:
            raise Refusal("ENOENT")
        if state.mapped:
            return True
        if not self.in_file(slot, state):
            self.touch(page)
        for neighbour in self.block(slot, page):
            self.page(neighbour).mapped = True
        if state.private and behind is not None:
            self.mapped_private(state, behind)
        return False

    def mapped_private(self, state: GuestPage, behind: GmemPage) -> None:
        """SNP: the page becomes the guest's in the RMP.  TDX: TDH.MEM.PAGE.AUG.  (6.3, FM)"""
        behind.assigned = behind.assigned or self.platform == "snp"
        state.leaf = "present"

    def in_file(self, slot: Slot, state: GuestPage) -> bool:
        """Whether a page comes from the guest_memfd, which has single pages (1.4)."""
        return slot.gmem is not None and (state.private or slot.gmem in self.mapped_files)

    def block(self, slot: Slot, page: int) -> range:
        """The pages of one mapping: large where nothing but the host's memory decides (1.4)."""
        block = range(page - page % HUGE, page - page % HUGE + HUGE)
        inside = block[0] in slot.pages and block[-1] in slot.pages
        states = [self.page(n) for n in block]
        fits = inside and not self.in_file(slot, self.page(page))
        if fits and all(s.huge and not s.small and not s.private for s in states):
            return block
        return range(page, page + 1)

    # --- of other interfaces

    def other_interface(self, op: Document) -> None:
        """No kernel knows it."""
        del op
        raise Refusal(None)

    tdx_add = tdx_extend = import_page = import_complete = other_interface


class PureMapping(Vm):
    """
    The interface that was agreed on in 2024 and never released: mapping apart from adding.

    It has no errnos.  Source: kvm.md 6.2.
    """

    def errno(self, refusal: Refusal) -> str | None:
        """None was ever specified (kvm.md 7)."""
        del refusal
        return None

    def takes_policy(self, bits: set[int]) -> bool:
        """What the firmware takes (corrections.md 2)."""
        return bits <= {*range(26)} and 17 in bits

    def map_memory(self, op: Document) -> bool:
        """KVM_MAP_MEMORY, at any time."""
        need(whole(*span(op)), None)
        return self.map_pages(op)

    def mapped_private(self, state: GuestPage, behind: GmemPage) -> None:
        """SNP: the RMP is not touched.  TDX: the leaf waits for its add."""
        if self.finalized:
            super().mapped_private(state, behind)
        else:
            state.leaf = "awaiting"

    def tdx_add(self, op: Document) -> None:
        """TDH.MEM.PAGE.ADD, and where measured its EXTENDs, on leaves that wait for it."""
        self.check_region(op)
        each_page(op, lambda page: self.add_awaiting(op, page))

    def add_awaiting(self, op: Document, page: int) -> None:
        """One page."""
        behind = self.behind(page)
        need(self.page(page).leaf == "awaiting", None)
        assert behind is not None
        self.add_page(op, page, behind)

    def tdx_extend(self, op: Document) -> None:
        """TDH.MR.EXTEND of pages added before; the module does not mind a second time (7)."""
        self.check_region(op)
        each_page(op, self.extend_added)

    def extend_added(self, page: int) -> None:
        """One page, as it was when it was added."""
        behind = self.behind(page)
        need(self.page(page).leaf == "added", None)
        assert behind is not None
        self.mrtd.extend(page * PAGE, behind.data)

    def tdx_finalize(self, op: Document) -> None:
        """No leaf may still wait for its add (kvm.md 5, D6)."""
        need(not any(page.leaf == "awaiting" for page in self.guest.values()), None)
        super().tdx_finalize(op)

    pre_fault_memory = tdx_init_mem_region = Vm.other_interface  # type: ignore[assignment]


def run_plan(document: Document, abi: str, contents: Contents = inline) -> Outcome:
    """What the operations of a cvmplan.plan/1 document come to on a kernel."""
    guest = {**document["assumed"], **document["given"]}
    kind = PureMapping if abi == "map-memory" else Vm
    vm = kind(abi, guest.get("gpaw", 48), contents)
    results = tuple(vm.run(op) for op in document["ops"])
    return Outcome(results, vm.digest.hex() if vm.digest is not None else None, vm.finalized)
