"""What an operation is on a kernel: a call with its number, on which file descriptor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from cvmplan.core.platform import FLAT, FLAT_WITH_VMSA, POLICED, WITH_PAGE_INFO
from cvmplan.kvm.interface import Abi

_ON: Final = {
    "create-vm": "kvm",
    "map-memory": "vcpu:0",
    "pre-fault-memory": "vcpu:0",
    "tdx-init-mem-region": "vcpu:0",
    "write": "",
    "madvise": "",
}
_IOCTL: Final = (
    # operation, ioctl, the capability that announces it
    ("create-vm", "KVM_CREATE_VM", "KVM_CAP_VM_TYPES"),
    ("create-gmem", "KVM_CREATE_GUEST_MEMFD", "KVM_CAP_GUEST_MEMFD"),
    ("set-memslot", "KVM_SET_USER_MEMORY_REGION2", "KVM_CAP_USER_MEMORY2"),
    ("set-memslot", "KVM_SET_USER_MEMORY_REGION", ""),  # without a guest_memfd
    ("set-private", "KVM_SET_MEMORY_ATTRIBUTES", "KVM_CAP_MEMORY_ATTRIBUTES"),
    ("create-vcpu", "KVM_CREATE_VCPU", "KVM_CAP_MAX_VCPUS"),
    ("pre-fault-memory", "KVM_PRE_FAULT_MEMORY", "KVM_CAP_PRE_FAULT_MEMORY"),
)
_AMD: Final = {
    "init": ("KVM_SEV_INIT2", POLICED),
    "snp-launch-start": ("KVM_SEV_SNP_LAUNCH_START", WITH_PAGE_INFO),
    "snp-launch-update": ("KVM_SEV_SNP_LAUNCH_UPDATE", WITH_PAGE_INFO),
    "snp-launch-finish": ("KVM_SEV_SNP_LAUNCH_FINISH", WITH_PAGE_INFO),
    "sev-launch-start": ("KVM_SEV_LAUNCH_START", FLAT),
    "sev-launch-update-data": ("KVM_SEV_LAUNCH_UPDATE_DATA", FLAT),
    "sev-launch-update-vmsa": ("KVM_SEV_LAUNCH_UPDATE_VMSA", FLAT_WITH_VMSA),
    "sev-launch-measure": ("KVM_SEV_LAUNCH_MEASURE", FLAT),
    "sev-launch-finish": ("KVM_SEV_LAUNCH_FINISH", FLAT),
}
_INTEL: Final = {
    "tdx-init-vm": "KVM_TDX_INIT_VM",
    "tdx-init-vcpu": "KVM_TDX_INIT_VCPU",
    "tdx-init-mem-region": "KVM_TDX_INIT_MEM_REGION",
    "tdx-extend": "KVM_TDX_EXTEND_MEMORY",
    "tdx-finalize": "KVM_TDX_FINALIZE_VM",
}


class KernelCall(NamedTuple):
    """
    What a kernel has for an operation.

    `number` is the ioctl's, `command` that of KVM_MEMORY_ENCRYPT_OP with its `id`, None
    where the ioctl has none; `capability` announces it, "" where nothing does.
    """

    op: str
    ioctl: str
    number: int
    argument: str
    command: str = ""
    id: int | None = None
    capability: str = ""


def fd_of(op: Any, abi: Abi) -> str:
    """Return "kvm", "vm", "vcpu:0", "gmem:0"; "" if it is not a call on a file descriptor."""
    if not abi.runs or abi.imports:
        return ""
    if op.name == "tdx-init-vcpu":
        return "vcpu:0" if op.count == 1 else f"vcpu:0-{op.count - 1}"
    if getattr(op, "gmem", None) is not None and op.name in ("set-private", "set-shared"):
        return f"gmem:{op.gmem}"
    if op.name == "punch-hole":
        return f"gmem:{op.gmem}"
    return _ON.get(op.name, "vm")


def calls_of(abi: Abi) -> Iterator[KernelCall]:
    """Yield the calls that a kernel with this interface has; none for one that nothing runs."""
    if not abi.runs or abi.imports:
        return
    from cvmplan.kvm.layouts import SEV_COMMANDS

    for op, ioctl, capability in _IOCTL:
        if op == "set-private" and abi.attributes == "gmem":
            ioctl, capability = "KVM_SET_MEMORY_ATTRIBUTES2", ""  # noqa: PLW2901 another form
        if op != "pre-fault-memory" or abi.map_call == op:
            yield _call(op, ioctl, capability=capability)
    for op, (command, platforms) in _AMD.items():
        if set(platforms) & set(abi.vm_types):
            yield _call(op, "KVM_MEMORY_ENCRYPT_OP", command=command, id=SEV_COMMANDS[command])
    if any(p.secure_ept for p in abi.vm_types):
        yield from _intel(abi)


def _intel(abi: Abi) -> Iterator[KernelCall]:
    from cvmplan.kvm.layouts import TDX_COMMANDS, TDX_V19_COMMANDS

    separate = abi.tdx_extend == "separate"
    commands = TDX_V19_COMMANDS if separate else TDX_COMMANDS
    for op, command in _INTEL.items():
        if separate and op == "tdx-init-mem-region":
            yield _call(op, "KVM_MEMORY_MAPPING", capability="KVM_CAP_MEMORY_MAPPING")
        elif command in commands:
            yield _call(op, "KVM_MEMORY_ENCRYPT_OP", command=command, id=commands[command])


def _call(op: str, ioctl: str, **more: Any) -> KernelCall:
    from cvmplan.kvm.layouts import IOCTLS

    return KernelCall(op, ioctl, IOCTLS[ioctl].number, IOCTLS[ioctl].argument, **more)
