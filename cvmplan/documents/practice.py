"""How a VMM makes its calls, in profiles and plans."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cvmplan.documents.fields import Document, Integer, Many

Enabled = Literal[
    "EXIT_HYPERCALL", "MAX_VCPUS", "SPLIT_IRQCHIP", "X86_APIC_BUS_CYCLES_NS"
]  # fmt: skip


class PracticeDocument(Document):
    """
    How a VMM makes its calls on one platform; nothing of it is measured.

    `enables`: KVM_CAP_ names to their arguments, "vcpus" for the number of vCPUs.
    """

    repeats: Many[Literal["EAGAIN", "EBUSY", "EINTR"]] = []
    enables: dict[Enabled, Integer | Literal["vcpus"]] = {}
    reads_cpuid: bool = False
    tsc_khz: Annotated[int, Field(ge=0, lt=1 << 32)] | None = None
