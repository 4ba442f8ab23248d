"""cvmplan.recorded/1: one line of a recorded launch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from cvmplan.documents.fields import (
    Count,
    Document,
    Integer,
    Octets96,
    VcpuCount,
)

RecordedOp = Literal[
    "create-vm", "init", "create-gmem", "set-memslot", "create-vcpu",
    "set-private", "set-shared", "map-memory", "pre-fault-memory",
    "snp-launch-start", "snp-launch-update", "snp-launch-finish",
    "tdx-init-vm", "tdx-init-vcpu", "tdx-add", "tdx-init-mem-region", "tdx-extend",
    "tdx-page-aug", "tdx-finalize",
    "sev-launch-start", "sev-launch-update-data", "sev-launch-update-vmsa", "sev-launch-measure",
    "sev-launch-finish",
]  # fmt: skip
RANGED = frozenset(
    {
        "set-memslot", "set-private", "set-shared", "map-memory", "pre-fault-memory",
        "snp-launch-update", "tdx-add", "tdx-init-mem-region", "tdx-extend", "tdx-page-aug",
        "sev-launch-update-data",
    }
)  # fmt: skip

NEEDS = {"create-vm": ["vm_type"], "create-gmem": ["size", "gmem"], "set-memslot": ["slot"]}
MOST_TYPE = 0xFF  # of a VM; KVM has numbers up to 5


class Left(Document):
    """What the kernel left undone, as it wrote it back."""

    gpa: Integer
    size: Integer


class RecordedLine(Document):
    """
    cvmplan.recorded/1: one call of a launch, in JSON Lines.

    `ret` is what the call returned: 0, or an errno as a negative number; absent where it
    was not recorded.  `page_type` goes with SNP's add, `measured` with TDX's; SEV's add may
    lack the `gpa`, which the call itself does not have.  `n` is the number of the call, where
    lines may be in a different order; then each line has it.

    A recording that begins with the `create-vm` has all calls that set up the VM.  One without it
    has a launch alone: its VM is assumed.
    """

    model_config = ConfigDict(title="cvmplan.recorded/1")
    n: Count | None = None
    op: RecordedOp
    vm_type: Annotated[
        int | None, Field(ge=0, le=MOST_TYPE, description="create-vm: the argument of the call")
    ] = None
    legacy: Annotated[
        bool | None, Field(description="init: by KVM_SEV_INIT or KVM_SEV_ES_INIT")
    ] = None
    vmsa_features: Annotated[Integer | None, Field(description="init: of struct kvm_sev_init")] = (
        None
    )
    slot: Annotated[int | None, Field(ge=0, lt=1 << 32, description="set-memslot")] = None
    flags: Annotated[Count | None, Field(description="create-gmem: of the struct")] = None
    gmem: Annotated[
        Count | None, Field(description="number of the guest_memfd, in their order")
    ] = None
    gmem_offset: Annotated[Integer | None, Field(description="set-memslot: where in it")] = None
    attributes: Annotated[Integer | None, Field(description="tdx-init-vm")] = None
    xfam: Annotated[Integer | None, Field(description="tdx-init-vm")] = None
    gpa: Integer | None = None
    size: Integer | None = None
    measured: bool | None = None
    page_type: Literal["normal", "zero", "unmeasured", "secrets", "cpuid", "vmsa"] | None = None
    count: VcpuCount | None = None
    policy: Integer | None = None
    rcx: Integer | None = None
    id_block: Octets96 | None = None
    src: Integer | None = None
    ret: Annotated[int, Field(ge=-4095, le=0)] | None = None
    fw_error: Count | None = None
    residual: Left | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> RecordedLine:
        needs = ["gpa", "size"] if self.op in RANGED else []
        if self.op == "sev-launch-update-data":  # the call has a host address, and no guest's
            needs = ["size"]
        needs += NEEDS.get(self.op, [])
        needs += ["page_type"] if self.op == "snp-launch-update" else []
        needs += ["measured"] if self.op in ("tdx-add", "tdx-init-mem-region") else []
        missing = [name for name in needs if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{self.op} needs {', '.join(missing)}")
        if (self.gpa or 0) + (self.size or 0) > 1 << 64:
            raise ValueError("the range ends past 2^64")
        if self.residual is not None and self.residual.gpa % 4096:
            raise ValueError("the residual does not begin on a page")
        return self
