"""
Three models of trusted firmware, each taking single commands and refusing what it must.

They know nothing of plans, steps or runs: a digest is computed command by command, straight from
the specification, and a command that comes twice or too early is `Refused`.
"""

from __future__ import annotations

import hashlib
import struct
from uuid import UUID

PAGE = 0x1000
CHUNK = 0x100
VMSA_GPA = 0xFFFFFFFFF000  # where KVM measures the VMSA of every vCPU

NORMAL, VMSA, ZERO, UNMEASURED, SECRETS, CPUID = range(1, 7)
POLICY_MUST_BE_ONE = 1 << 17


class Refused(Exception):  # noqa: N818 - it is an answer of the firmware, not a fault
    """The firmware does not accept this command now."""


def need(condition: bool, why: str) -> None:
    """Refuse, saying why, unless the condition holds."""
    if not condition:
        raise Refused(why)


class FakePsp:
    """
    SEV-SNP: LD' = SHA-384(PAGE_INFO), one 4 KiB page a command.

    `running` is the launch digest after the last command, `digest` that of a finished launch.
    Source: SEV-SNP firmware ABI, 56860, SNP_LAUNCH_UPDATE, structure PAGE_INFO.
    """

    def __init__(self) -> None:
        self.running = bytes(48)
        self.digest = b""
        self._state = "new"
        self._pages: dict[int, int] = {}

    def launch_start(self, policy: int) -> None:
        """Begin a launch; bit 17 of the policy is reserved and must be one."""
        need(self._state == "new", "the launch has started")
        need(0 <= policy < 1 << 64 and policy & POLICY_MUST_BE_ONE != 0, "policy")
        self._state = "launching"

    def launch_update(self, page_type: int, gpa: int, page: bytes) -> None:
        """Add one page. Its bytes are read for NORMAL and VMSA alone."""
        need(self._state == "launching", "no launch in progress")
        need(NORMAL <= page_type <= CPUID, f"page type {page_type}")
        need(gpa % PAGE == 0 and 0 <= gpa < 1 << 52, f"gpa {gpa:#x}")
        measured = page_type in (NORMAL, VMSA)
        need(not measured or len(page) == PAGE, f"a page of {len(page)} bytes")
        vmsa_again = page_type == VMSA == self._pages.get(gpa) and gpa == VMSA_GPA
        need(gpa not in self._pages or vmsa_again, f"page {gpa:#x} was added before")
        self._pages[gpa] = page_type
        contents = hashlib.sha384(page).digest() if measured else bytes(48)
        info = self.running + contents
        info += (0x70).to_bytes(2, "little") + bytes([page_type])
        info += bytes(1)  # IMI_PAGE
        info += bytes(4)  # reserved, and the permissions of VMPL 1 to 3
        info += gpa.to_bytes(8, "little")
        self.running = hashlib.sha384(info).digest()

    def launch_finish(self) -> None:
        """End the launch: the digest is final."""
        need(self._state == "launching", "no launch in progress")
        self._state = "finished"
        self.digest = self.running


class FakeTdxModule:
    """
    TDX: one SHA-384 stream over blocks of 128 bytes, closed by TDH.MR.FINALIZE.

    Extending a chunk again is legal and hashes again, as in the module itself.
    Source: intel/tdx-module 72d8cff, src/vmm_dispatcher/api_calls/tdh_mem_page_add.c,
    tdh_mr_extend.c, tdh_mem_sept_add.c, tdh_mem_page_aug.c.
    """

    def __init__(self, gpaw: int = 48) -> None:
        if gpaw not in (48, 52):
            raise ValueError(f"gpaw {gpaw}")
        self.digest = b""
        self._root = 3 if gpaw == 48 else 4  # the level whose tables hang from the root
        self._shared = 1 << (gpaw - 1)
        self._state = "new"
        self._vcpus = 0
        self._tables: set[tuple[int, int]] = set()
        self._pages: dict[int, bytes] = {}
        self._stream = hashlib.sha384()

    def mng_init(self) -> None:
        """TDH.MNG.INIT: the TD accepts commands, its measurement is empty."""
        need(self._state == "new", "the TD is initialised")
        self._state = "initialised"

    def vp_init(self) -> None:
        """TDH.VP.INIT: one more vCPU."""
        need(self._state == "initialised", "the TD is not being built")
        self._vcpus += 1

    def mem_sept_add(self, level: int, gpa: int) -> None:
        """TDH.MEM.SEPT.ADD: the table of one region. Level 1 is 2 MiB, 2 is 1 GiB, 3 is 512 GiB."""
        need(self._state != "new", "the TD is not initialised")
        need(1 <= level <= self._root, f"level {level}")
        need(gpa % _region(level) == 0, f"gpa {gpa:#x} at level {level}")
        self._private(gpa)
        need(level == self._root or self._has_table(level + 1, gpa), f"no parent for {gpa:#x}")
        need(not self._has_table(level, gpa), f"table {gpa:#x} of level {level} was added before")
        self._tables.add((level, gpa))

    def mem_page_add(self, gpa: int, page: bytes) -> None:
        """TDH.MEM.PAGE.ADD: the address is measured, the contents are not."""
        need(self._state == "initialised", "the TD is not being built")
        need(gpa % PAGE == 0, f"gpa {gpa:#x}")
        need(len(page) == PAGE, f"a page of {len(page)} bytes")
        self._private(gpa)
        need(self._has_table(1, gpa), f"no table for {gpa:#x}")
        need(gpa not in self._pages, f"page {gpa:#x} was added before")
        self._pages[gpa] = page
        self._block(b"MEM.PAGE.ADD", gpa)

    def mr_extend(self, gpa: int) -> None:
        """TDH.MR.EXTEND: measure 256 bytes of a page added before."""
        need(self._state == "initialised", "the TD is not being built")
        need(gpa % CHUNK == 0, f"gpa {gpa:#x}")
        self._private(gpa)
        offset = gpa % PAGE
        need(gpa - offset in self._pages, f"no page at {gpa:#x}")
        self._block(b"MR.EXTEND", gpa)
        self._stream.update(self._pages[gpa - offset][offset : offset + CHUNK])

    def mr_finalize(self) -> None:
        """TDH.MR.FINALIZE: the digest is final."""
        need(self._state == "initialised", "the TD is not being built")
        need(self._vcpus >= 1, "no vCPU")
        self._state = "finalised"
        self.digest = self._stream.digest()

    def mem_page_aug(self, gpa: int) -> None:
        """TDH.MEM.PAGE.AUG: a page that waits for the guest to accept it; not measured."""
        need(self._state != "new", "the TD is not initialised")
        need(gpa % PAGE == 0, f"gpa {gpa:#x}")
        self._private(gpa)
        need(self._has_table(1, gpa), f"no table for {gpa:#x}")
        need(gpa not in self._pages, f"page {gpa:#x} is in the TD")
        self._pages[gpa] = b""

    def _private(self, gpa: int) -> None:
        need(0 <= gpa < self._shared, f"gpa {gpa:#x} is not private")

    def _has_table(self, level: int, gpa: int) -> bool:
        return (level, gpa - gpa % _region(level)) in self._tables

    def _block(self, name: bytes, gpa: int) -> None:
        self._stream.update(name.ljust(16, b"\0") + gpa.to_bytes(8, "little") + bytes(104))


def _region(level: int) -> int:
    """The bytes that one table of this level maps: 512 entries of the level below."""
    return 1 << (12 + 9 * level)


class FakeSev:
    """
    SEV and SEV-ES: SHA-256 over the bytes in the order of the commands, no addresses.

    Source: AMD SEV API, 55766, LAUNCH_UPDATE_DATA, LAUNCH_UPDATE_VMSA, LAUNCH_MEASURE.
    """

    def __init__(self) -> None:
        self.digest = b""
        self._state = "new"
        self._stream = hashlib.sha256()

    def launch_start(self) -> None:
        """Begin a launch."""
        need(self._state == "new", "the launch has started")
        self._state = "updating"

    def update_data(self, data: bytes) -> None:
        """Measure and encrypt whole blocks of 16 bytes."""
        need(self._state == "updating", "no launch in progress")
        need(len(data) > 0 and len(data) % 16 == 0, f"{len(data)} bytes")
        self._stream.update(data)

    def update_vmsa(self, page: bytes) -> None:
        """Measure and encrypt the state of one vCPU."""
        need(self._state == "updating", "no launch in progress")
        need(len(page) == PAGE, f"a page of {len(page)} bytes")
        self._stream.update(page)

    def measure(self) -> bytes:
        """End the measured part and return its digest."""
        need(self._state == "updating", "no launch in progress")
        self._state = "measured"
        self.digest = self._stream.digest()
        return self.digest

    def finish(self) -> None:
        """End the launch."""
        need(self._state == "measured", "the launch is not measured")
        self._state = "finished"


def vmsas(count: int, ap_eip: int, features: int, signature: int = 0x800F12) -> list[bytes]:
    """The pages that KVM measures for `count` vCPUs of QEMU, by default those of EPYC-v4."""
    eips = [0xFFFFFFF0] + [ap_eip] * (count - 1)
    segments = {0x10: 0x9B, 0x60: 0, 0x70: 0x82, 0x80: 0, 0x90: 0x8B}
    pages = []
    for eip in eips:
        page = bytearray(PAGE)
        for offset in range(0x00, 0xA0, 0x10):
            attributes = segments.get(offset, 0x93)
            struct.pack_into("<HHIQ", page, offset, 0, attributes, 0xFFFF, 0)
        struct.pack_into("<HHIQ", page, 0x10, 0xF000, 0x9B, 0xFFFF, eip & 0xFFFF0000)
        fields = {0xD0: 0x1000, 0x148: 0x40, 0x158: 0x10, 0x160: 0x400, 0x168: 0xFFFF0FF0}
        fields |= {0x170: 2, 0x178: eip & 0xFFFF, 0x268: 0x7040600070406, 0x310: signature}
        fields |= {0x3B0: features, 0x3E8: 1, 0x408: 0x1F80, 0x410: 0x37F}
        for offset, value in fields.items():
            struct.pack_into("<Q", page, offset, value)
        pages.append(bytes(page))
    return pages


def hash_table(kernel: bytes, initrd: bytes, append: str) -> bytes:
    """The hash table of a direct boot as QEMU writes it, padded to 176 bytes."""
    rows = (
        ("97d02dd8-bd20-4c94-aa78-e7714d36ab2a", append.encode() + b"\0"),
        ("44baf731-3a2f-4bd7-9af1-41e29169781d", initrd),
        ("4de79437-abd2-427f-b835-d5b172d2045b", kernel),
    )
    table = UUID("9438d606-4f22-4cc9-b479-a793d411fd21").bytes_le + struct.pack("<H", 168)
    for guid, data in rows:
        table += UUID(guid).bytes_le + struct.pack("<H", 50) + hashlib.sha256(data).digest()
    return table + bytes(8)
