"""Which file descriptor an operation is a call on."""

from __future__ import annotations

from typing import Any

from cvmplan.kvm.interface import Abi

_ON = {
    "create-vm": "kvm",
    "map-memory": "vcpu:0",
    "pre-fault-memory": "vcpu:0",
    "tdx-init-mem-region": "vcpu:0",
    "write": "",
    "madvise": "",
}


def fd_of(op: Any, abi: Abi) -> str:
    """Return "kvm", "vm", "vcpu:0", "gmem:0"; "" where it is no call on one, or none that runs."""
    if not abi.runs or abi.imports:
        return ""
    if op.name == "tdx-init-vcpu":
        return "vcpu:0" if op.count == 1 else f"vcpu:0-{op.count - 1}"
    if getattr(op, "gmem", None) is not None and op.name in ("set-private", "set-shared"):
        return f"gmem:{op.gmem}"
    if op.name == "punch-hole":
        return f"gmem:{op.gmem}"
    return _ON.get(op.name, "vm")
