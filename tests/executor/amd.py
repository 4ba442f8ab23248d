"""
KVM's half of SEV, SEV-ES and SEV-SNP: the commands of KVM_MEMORY_ENCRYPT_OP, page by page.

Source: linux arch/x86/kvm/svm/sev.c, sev_mem_enc_ioctl, snp_launch_update,
sev_gmem_post_populate, sev_launch_update_data; offsets of arch/x86/include/uapi/asm/kvm.h.
"""

from __future__ import annotations

from typing import Final

from tests.executor.kernel import DEFAULT, SEV_ES, Errno, Kernel, Vcpu, need
from tests.executor.memory import PAGE
from tests.executor.vmsa import vmsa_of
from tests.oracles.firmware import CPUID, NORMAL, VMSA, VMSA_GPA, ZERO, FakePsp, FakeSev

INIT, ES_INIT, INIT2 = 0, 1, 22
INVALID_PARAM: Final = 0x16
SNP_ACTIVE: Final = 1
CORRECTED: Final = b"corrected by the firmware"


class _Amd:
    """What both have: the kvm_sev_cmd, and INIT2."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.memory = kernel, kernel.memory
        self.features: int | None = None
        self.fw_error = 0

    def command(self, argument: int, vcpu: Vcpu | None) -> None:
        """Obey kvm_sev_cmd: id at 0, data at 8, error at 16, sev_fd at 20."""
        need(vcpu is None and self.memory.number(argument + 20, 4) == 99)
        number, data = self.memory.number(argument, 4), self.memory.number(argument + 8, 8)
        self.fw_error = 0
        try:
            self.obey(number, data)
        finally:
            self.memory.write(argument + 16, self.fw_error.to_bytes(4, "little"))

    def obey(self, number: int, data: int) -> None:
        """Obey a command by its id."""
        raise NotImplementedError

    def init2(self, data: int) -> None:
        """KVM_SEV_INIT2: vmsa_features at 0, flags at 8."""
        need(self.features is None and not self.kernel.vcpus)
        self.features = self.memory.number(data, 8)
        need(self.memory.number(data + 8, 4) == 0)


class Snp(_Amd):
    """SEV-SNP."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.psp = FakePsp()

    @property
    def digest(self) -> bytes:
        """The launch digest, b"" until the launch is finished."""
        return self.psp.digest

    def obey(self, number: int, data: int) -> None:
        """INIT2, SNP_LAUNCH_START, _UPDATE, _FINISH."""
        if number == INIT2:
            self.init2(data)
            return
        need(self.features is not None, "ENOTTY")
        if number == 100:
            self.psp.launch_start(self.memory.number(data, 8))
        elif number == 101:
            self._update(data)
        else:
            need(number == 102)
            self._finish(data)

    def _update(self, data: int) -> None:
        """gfn_start at 0, uaddr at 8, len at 16, type at 24, flags at 26."""
        gfn, uaddr, size = (self.memory.number(data + at, 8) for at in (0, 8, 16))
        page_type = self.memory.number(data + 24, 1)
        need(self.memory.number(data + 26, 2) == 0 and size > 0 and size % PAGE == 0)
        need(page_type in (NORMAL, ZERO, 4, 5, CPUID))
        need(page_type == ZERO or (uaddr > 0 and uaddr % PAGE == 0))

        def add(number: int, gpa: int) -> None:
            need(self.kernel.is_private(gpa), "EIO")
            at = uaddr + number * PAGE
            page = bytes(PAGE) if page_type == ZERO else self.memory.read(at, PAGE)
            if page_type == CPUID:
                self._judge(at, page)
            self.psp.launch_update(page_type, gpa, page)

        done = self.kernel.populate(gfn * PAGE, size // PAGE, add)
        moved = 0 if page_type == ZERO else done * PAGE
        for at, value in ((0, gfn + done), (8, uaddr + moved), (16, size - done * PAGE)):
            self.memory.write(data + at, value.to_bytes(8, "little"))

    def _judge(self, at: int, page: bytes) -> None:
        """Refuse a CPUID page once, and give back the one that would be taken."""
        fault = self.kernel.fault
        if fault is None or fault.kind != "cpuid" or page.startswith(CORRECTED):
            return
        fault.met = True
        self.fw_error = INVALID_PARAM
        self.memory.write(at, CORRECTED)
        raise Errno("EIO")

    def _finish(self, data: int) -> None:
        """id_block_uaddr at 0, id_auth_uaddr at 8, id_block_en at 16, host_data at 19."""
        assert self.features is not None
        for vcpu in self.kernel.vcpus:
            page = vmsa_of(vcpu.held, self.features | SNP_ACTIVE, fpu=True)
            self.psp.launch_update(VMSA, VMSA_GPA, page)
        if self.memory.number(data + 16, 1):
            block = self.memory.read(self.memory.number(data, 8), 96)
            self.memory.read(self.memory.number(data + 8, 8), PAGE)
            need(block[:48] == self.psp.running, "EIO")  # BAD_MEASUREMENT
        self.psp.launch_finish()


class Sev(_Amd):
    """SEV and SEV-ES, of a VM of their own type or of a default one."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.es = kernel.vm_type == SEV_ES
        self.sev = FakeSev()

    @property
    def digest(self) -> bytes:
        """The digest, b"" until it is asked for."""
        return self.sev.digest

    def obey(self, number: int, data: int) -> None:
        """INIT, ES_INIT, INIT2, and the LAUNCH commands 2, 3, 4, 6 and 7."""
        if number in (INIT, ES_INIT):
            need(self.kernel.vm_type == DEFAULT and self.features is None)
            self.features, self.es = 0, number == ES_INIT
        elif number == INIT2:
            need(self.kernel.vm_type != DEFAULT)
            self.init2(data)
        elif number == 2:
            need(self.memory.number(data + 4, 4) >> 2 & 1 == self.es)  # the policy's bit ES
            self.sev.launch_start()
        elif number == 3:
            self._update(self.memory.number(data, 8), self.memory.number(data + 8, 4))
        elif number == 4:
            self._update_vmsas()
        elif number == 6:
            need(self.memory.number(data + 8, 4) >= 48)
            measured = self.sev.measure() + bytes(16)
            self.memory.write(self.memory.number(data, 8), measured)
        else:
            need(number == 7)
            self.sev.finish()

    def _update(self, uaddr: int, size: int) -> None:
        need(uaddr % 16 == 0 == size % 16)
        pinned = self.kernel.pinned
        need(any(low <= uaddr and uaddr + size <= high for low, high in pinned))
        self.kernel.meet(first=True)
        self.kernel.added += 1
        self.sev.update_data(self.memory.read(uaddr, size))

    def _update_vmsas(self) -> None:
        need(self.es and self.features is not None, "ENOTTY")
        for vcpu in self.kernel.vcpus:
            legacy = self.kernel.vm_type == DEFAULT
            self.sev.update_vmsa(vmsa_of(vcpu.held, self.features or 0, fpu=not legacy))
