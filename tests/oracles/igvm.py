"""
What each loader of IGVM files measures for SNP, page by page, from spec/igvm.md and sources.

It knows nothing of regions, profiles or plans.  On KVM a vCPU has the registers that the loader
sets, in a state that KVM has otherwise: linux arch/x86/kvm/svm/sev.c sev_es_sync_vmsa;
cloud-hypervisor ae44c29 hypervisor/src/kvm/mod.rs setup_sev_snp_regs; openvmm 1488a37
virt_kvm/src/snp.rs; qemu target/i386/sev.c sev_apply_cpu_context.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from tests.build.igvm import CPUID_DATA, KVM_VMSA, PAGE, SECRETS, SHARED, UNMEASURED
from tests.oracles.firmware import vmsas

KVM: Final = ("qemu", "openvmm", "cloud-hypervisor")
TOOLS: Final = ("igvmmeasure", "igvmmeasure-native-zero")
EARLIER: Final = "openvmm-mshv-before-4361"
CURRENT: Final = ("hyper-v", *KVM, "cloud-hypervisor-mshv", "openvmm-mshv")
LOADERS: Final = (*CURRENT, EARLIER, *TOOLS)
SORTING: Final = ("cloud-hypervisor-mshv", EARLIER)
MEASURED_TYPES: Final = (1, 2)
SIGNATURE, KVM_RDX = 0x800F12, 0x600
# What Cloud Hypervisor sets: (offset, length) of segments, tables without selector and
# attributes, EFER, CR4 to CR0, RFLAGS and RIP, RSP, RAX, RCX to RBX, RBP to R15.
PLAIN: Final = (
    (0x00, 0x60), (0x64, 12), (0x70, 0x10), (0x84, 12), (0x90, 0x10), (0xD0, 8), (0x148, 24),
    (0x170, 16), (0x1D8, 8), (0x1F8, 8), (0x308, 24), (0x328, 0x58), (0x3B0, 8),
)  # fmt: skip
# And what the others set beside: DR7 and DR6, PAT, XCR0, MXCSR, FCW.
MORE: Final = ((0x160, 16), (0x268, 8), (0x3E8, 8), (0x408, 4), (0x410, 2))
XSS: Final = (0x140, 8)


@dataclass(frozen=True)
class Item:
    """A header of a file: "page", "insert" of several pages, "state", or "other" platform's."""

    kind: str
    gpa: int
    data: bytes | None = None
    flags: int = 0
    data_type: int = 0
    pages: int = 1


@dataclass
class Chain:
    """The launch digest (AMD 56860, PAGE_INFO), and how many pages are in it."""

    digest: bytes = bytes(48)
    pages: int = 0

    def add(self, page_type: int, gpa: int, page: bytes) -> None:
        """Extend by one page."""
        measured = page_type in MEASURED_TYPES
        contents = hashlib.sha384(page).digest() if measured else bytes(48)
        info = contents + struct.pack("<HBBIQ", 0x70, page_type, 0, 0, gpa)
        self.digest = hashlib.sha384(self.digest + info).digest()
        self.pages += page_type != MEASURED_TYPES[1]


def type_of(loader: str, page: Item) -> int | None:
    """Return the SNP page type, None for a page that is left out (spec/igvm.md 2.1)."""
    shared = page.flags & SHARED
    if shared and loader in ("hyper-v", EARLIER):
        return None
    if page.data_type in (SECRETS, CPUID_DATA):
        return 5 if page.data_type == SECRETS else 6
    if page.flags & UNMEASURED:
        return 4
    if shared and loader in ("openvmm", "openvmm-mshv"):
        return None
    zero = loader in ("cloud-hypervisor", "igvmmeasure-native-zero")
    return 3 if page.data is None and zero else 1


def pages_of(loader: str, item: Item) -> list[tuple[int, int, bytes]]:
    """Return (type, address, contents) of what a header adds."""
    if item.kind == "insert":
        first = loader in ("cloud-hypervisor-mshv", *TOOLS)
        return [(4, item.gpa + n * PAGE, b"") for n in range(1 if first else item.pages)]
    if item.kind in ("state", "other"):
        mine = item.kind == "state" or loader in TOOLS
        return [(2, item.gpa, item.data or b"")] if mine and loader not in KVM else []
    page_type = type_of(loader, item)
    return [] if page_type is None else [(page_type, item.gpa, item.data or bytes(PAGE))]


def in_order(loader: str, items: list[Item]) -> list[Item]:
    """Return the headers in the order in which the loader acts on them."""
    if loader in SORTING:
        return sorted(items, key=lambda item: item.gpa)
    if loader != "qemu":
        return items
    done: list[Item] = []
    run: list[Item] = []
    before: Item | None = None
    for item in items:
        if item.kind != "page":
            done.append(item)
        else:
            if run and not (before is run[-1] and alike(run[-1], item)):
                done += run
                run = []
            run.append(item)
        before = item
    return done + run


def alike(one: Item, two: Item) -> bool:
    """Whether QEMU makes one region of two pages."""
    kinds = [(i.flags, i.data_type, i.data is None) for i in (one, two)]
    return kinds[0] == kinds[1] and one.gpa + PAGE == two.gpa


def on_kvm(loader: str, page: bytes) -> bytes:
    """Return the VMSA that KVM measures for a state of the file."""
    made = bytearray(vmsas(1, 0, 1, KVM_RDX)[0])
    parts = PLAIN if loader == "cloud-hypervisor" else (*PLAIN, *MORE)
    for at, length in (*parts, *((XSS,) if loader == "openvmm" else ())):
        made[at : at + length] = page[at : at + length]
    bits = {0xD0: 0x1000, 0x148: 0x40, 0x170: 0x2, 0x158: 0x10 if loader == "qemu" else 0}
    for at, value in bits.items():
        before = struct.unpack_from("<Q", made, at)[0]
        struct.pack_into("<Q", made, at, before | value)
    return bytes(made)


def refuses(loader: str, items: list[Item]) -> bool:
    """Whether the loader, or KVM under it, refuses the file."""
    states = [i for i in items if i.kind == "state"]
    cpuid = [i for i in items if i.data_type == CPUID_DATA]
    refused = not states
    if loader == EARLIER:
        refused |= len(cpuid) != 1
    if loader in (EARLIER, "openvmm"):
        refused |= len(states) > 1
    if loader == "qemu":
        refused |= any(s.gpa != KVM_VMSA for s in states)
    if loader in ("qemu", "openvmm"):
        refused |= any(cannot_be_set(loader, s.data or b"") for s in states)
    return refused


def cannot_be_set(loader: str, page: bytes) -> bool:
    """Whether a state breaks at an address, or has a value that the loader does not take."""
    rest = bytearray(page)
    breaks = struct.unpack_from("<Q", rest, 0x160)[0] & ~0x400
    for at, length in (*PLAIN, *MORE, *((XSS,) if loader == "openvmm" else ())):
        rest[at : at + length] = bytes(length)
    return bool(breaks) or any(rest)


def digest(loader: str, items: list[Item], vcpus: int) -> str | None:
    """Return the launch digest in hex for so many vCPUs, None where nothing is launched."""
    chain = Chain()
    for item in in_order(loader, items):
        for page in pages_of(loader, item):
            chain.add(*page)
    if not chain.pages or refuses(loader, items):
        return None
    states = [i for i in items if i.kind == "state"]
    if loader in KVM:
        made = [on_kvm(loader, s.data or b"") for s in states]
        rdx = SIGNATURE if loader == "qemu" else KVM_RDX
        made += vmsas(1, 0, 1, rdx) * (vcpus - len(made))
        for state in made:
            chain.add(2, KVM_VMSA, state)
    return chain.digest.hex()
