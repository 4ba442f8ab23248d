"""cvmplan.recorded/2: one line of what a real VMM did, as a recorder of ioctls writes it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from cvmplan.core.values import MOST_VCPUS
from cvmplan.documents.fields import Address, Count, Document, HexBytes

SCHEMA: Final = "cvmplan.recorded/2"
_MSR = re.compile(r"msr_[0-9a-f]{1,8}")
_MSR_VALUE: Final = re.compile(r"0x[0-9a-f]{1,16}")
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Int64 = Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)]


class TakenDocument(Document):
    """Bytes that a call took from user space."""

    size: Annotated[Count, Field(description="how many the call took; fewer than asked: partial")]
    sha256: Annotated[Hash, Field(description="SHA-256 of these bytes")]
    zeros: Annotated[bool, Field(description="all of them are zero")] = False
    hex: Annotated[
        HexBytes | None,
        Field(description="the bytes themselves, up to 8 KiB; zeros at the end may be left out"),
    ] = None


class RecordedCallLine(Document):
    """
    cvmplan.recorded/2: one ioctl of a VMM, in JSON Lines, in the order in which they were made.

    Structs are the bytes that the kernel got (before the call), in hex; pointers in them are the
    process's own, and what they point to is in `data`, `source`, `cpuid` or `msrs`.
    """

    model_config = ConfigDict(
        title=SCHEMA,
        extra="allow",
        json_schema_extra={
            "additionalProperties": False,
            "patternProperties": {
                "^msr_[0-9a-f]{1,8}$": {
                    "type": "string",
                    "pattern": "^0x[0-9a-f]{1,16}$",
                    "description": 'value of an MSR, with "call": "state"',
                }
            },
        },
    )
    schema_: Annotated[
        Literal["cvmplan.recorded/2"] | None, Field(alias="schema", description="what this is")
    ] = None
    n: Annotated[Count, Field(description="number of the call, from 0")]
    on: Annotated[
        Literal["kvm", "vm", "vcpu", "gmem", "sev"],
        Field(description="what kind of descriptor it is made on: /dev/kvm, …, /dev/sev"),
    ]
    i: Annotated[
        int | None, Field(ge=0, lt=MOST_VCPUS, description="number of the vCPU or guest_memfd")
    ] = None
    req: Annotated[Address, Field(description="number of the ioctl; 0x0 where it is none")]
    call: Annotated[
        Literal["open", "close", "mmap", "state"] | None,
        Field(
            description="what it is beside an ioctl; state: the registers of vCPU `i` when the "
            "launch was finished"
        ),
    ] = None
    arg: Annotated[Int64 | None, Field(description="the argument, where it is an integer")] = None
    in_: Annotated[
        HexBytes | None, Field(alias="in", description="the struct that the argument points to")
    ] = None
    cmd: Annotated[
        Count | None, Field(description="id of the command of KVM_MEMORY_ENCRYPT_OP or /dev/sev")
    ] = None
    flags: Annotated[Count | None, Field(description="flags of a TDX command")] = None
    data: Annotated[
        HexBytes | TakenDocument | int | None,
        Field(description="the struct of the command, or its value where it is not a pointer"),
    ] = None
    rcx: Annotated[Address | None, Field(description="RCX of KVM_TDX_INIT_VCPU")] = None
    nent: Annotated[Count | None, Field(description="entries of the kvm_cpuid2 of a command")] = (
        None
    )
    source: Annotated[
        TakenDocument | None, Field(description="contents that an add took from user space")
    ] = None
    cpuid: Annotated[TakenDocument | None, Field(description="entries of KVM_SET_CPUID2")] = None
    msrs: Annotated[HexBytes | None, Field(description="entries of KVM_SET_MSRS")] = None
    id_block: Annotated[
        TakenDocument | None, Field(description="the ID block of SNP_LAUNCH_FINISH")
    ] = None
    id_auth: Annotated[
        TakenDocument | None, Field(description="the ID authentication that belongs to it")
    ] = None
    gmem: Annotated[
        Count | None, Field(description="number of the guest_memfd of a memslot, in their order")
    ] = None
    regs: Annotated[HexBytes | None, Field(description="state: struct kvm_regs")] = None
    sregs: Annotated[
        HexBytes | None, Field(description="state: struct kvm_sregs or kvm_sregs2; zeros: unknown")
    ] = None
    xsave: Annotated[HexBytes | None, Field(description="state: start of the XSAVE area")] = None
    xcrs: Annotated[HexBytes | None, Field(description="state: struct kvm_xcrs")] = None
    debugregs: Annotated[HexBytes | None, Field(description="state: struct kvm_debugregs")] = None
    ret: Annotated[
        Int64 | None,
        Field(description="what it returned: 0 or more, or an errno as a negative number"),
    ] = None
    fw_error: Annotated[Count | None, Field(description="what the firmware answered")] = None
    fake: Annotated[bool, Field(description="the recorder answered, not a kernel")] = False
    real: Annotated[Int64 | None, Field(description="what the kernel answered instead")] = None

    @model_validator(mode="after")
    def _has_nothing_else(self) -> RecordedCallLine:
        for name, value in (self.model_extra or {}).items():
            if not _MSR.fullmatch(name):
                raise ValueError(f"unknown key {name[:40]!r}")
            if not isinstance(value, str) or not _MSR_VALUE.fullmatch(value):
                raise ValueError(f"{name} is not a number as a hex string")
        return self

    @property
    def state_msrs(self) -> dict[int, int]:
        """The MSRs of a state, by index."""
        extra: dict[str, Any] = self.model_extra or {}
        return {int(name[4:], 16): int(value, 16) for name, value in extra.items()}
