"""
KVM's half of TDX: the commands of KVM_MEMORY_ENCRYPT_OP, page by page.

Source: linux arch/x86/kvm/vmx/tdx.c, tdx_td_init, setup_tdparams_cpuids,
tdx_vcpu_init_mem_region, tdx_gmem_post_populate; offsets of arch/x86/include/uapi/asm/kvm.h.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.executor.kernel import Kernel, Vcpu, need
from tests.executor.memory import PAGE
from tests.oracles.firmware import CHUNK, FakeTdxModule, Refused

CAPABILITIES, INIT_VM, INIT_VCPU, INIT_MEM_REGION, FINALIZE, GET_CPUID = range(6)
ENTRIES: Final = 20  # of CPUID that this host has to tell
NENT_AT: Final = {CAPABILITIES: 2048, GET_CPUID: 0}  # where the kvm_cpuid2 is
WIDTH_LEAF: Final = 0x80000008


class Tdx:
    """One TD."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.memory = kernel, kernel.memory
        self.module: FakeTdxModule | None = None
        self.ready: set[int] = set()

    @property
    def digest(self) -> bytes:
        """MRTD, b"" until the TD is finalized."""
        return self.module.digest if self.module is not None else b""

    def command(self, argument: int, vcpu: Vcpu | None) -> None:
        """Obey kvm_tdx_cmd: id at 0, flags at 4, data at 8."""
        number, flags = self.memory.number(argument, 4), self.memory.number(argument + 4, 4)
        data = self.memory.number(argument + 8, 8)
        need((vcpu is None) == (number in (CAPABILITIES, INIT_VM, FINALIZE)))
        need(flags == 0 or (number == INIT_MEM_REGION and flags == 1))
        if number in NENT_AT:
            at = data + NENT_AT[number]
            need(self.memory.number(at, 4) >= ENTRIES, "E2BIG")
            return
        if number == INIT_VM:
            self._init(data)
            return
        need(self.module is not None)
        assert self.module is not None
        if number == FINALIZE:
            need(len(self.ready) == len(self.kernel.vcpus))
            self.module.mr_finalize()
            return
        assert vcpu is not None
        if number == INIT_VCPU:
            need(vcpu.number not in self.ready)
            self.module.vp_init()
            self.ready.add(vcpu.number)
        else:
            need(number == INIT_MEM_REGION and vcpu.number in self.ready)
            self._region(data, measured=flags == 1)

    def _init(self, data: int) -> None:
        """kvm_tdx_init_vm: attributes at 0, xfam at 8, a kvm_cpuid2 at 256."""
        need(self.module is None and self.memory.number(data + 8, 8) & 3 == 3)
        widths = {
            self.memory.number(at + 12, 4) >> 16 & 0xFF
            for at in range(data + 264, data + 264 + 40 * self.memory.number(data + 256, 4), 40)
            if self.memory.number(at, 4) == WIDTH_LEAF
        }
        need(widths in ({48}, {52}))
        self.module = FakeTdxModule(widths.pop())
        self.module.mng_init()

    def _region(self, data: int, *, measured: bool) -> None:
        """source_addr at 0, gpa at 8, nr_pages at 16: written back whatever happens."""
        source, gpa, pages = (self.memory.number(data + at, 8) for at in (0, 8, 16))
        need(source % PAGE == 0 == gpa % PAGE and source > 0 and pages > 0)
        try:
            while pages:
                page = self.memory.read(source, PAGE)
                self.kernel.populate(gpa, 1, partial(self._add, page, measured))
                source, gpa, pages = source + PAGE, gpa + PAGE, pages - 1
        finally:
            for at, value in ((0, source), (8, gpa), (16, pages)):
                self.memory.write(data + at, value.to_bytes(8, "little"))

    def _add(self, page: bytes, measured: bool, _: int, gpa: int) -> None:
        need(self.kernel.is_private(gpa))
        assert self.module is not None
        for level in (4, 3, 2, 1):
            table = gpa & -(1 << (12 + 9 * level))
            try:
                self.module.mem_sept_add(level, table)
            except Refused:
                continue  # it is there, or the root
        self.module.mem_page_add(gpa, page)
        for at in range(gpa, gpa + PAGE, CHUNK) if measured else ():
            self.module.mr_extend(at)
