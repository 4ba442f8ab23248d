"""
Operations that a VMM performs, and what each of them makes the trusted firmware do.

An operation's `lower` is the only description of its effect, including what the kernel
adds on its own.  The measurement folds over the lowered steps and every emitter walks the
same objects, so a plan and its measurement cannot disagree: neither is computed from the
image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import field
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, Protocol, TypeGuard

from cvmplan.core.documented import as_document, as_picture, summary
from cvmplan.core.errors import PlanError
from cvmplan.core.findings import Finding
from cvmplan.core.inputs import Input
from cvmplan.core.platform import Platform
from cvmplan.core.practice import Practice
from cvmplan.core.records import Frozen, record
from cvmplan.operations.lowering import Lowering
from cvmplan.operations.steps import Step, in_order


def stage(platform: Platform, name: str) -> ModuleType:
    """Import `name` (planner, ops, digest) of a platform."""
    return import_module(f"cvmplan.platforms.{platform.package}.{name}")


class Op(Frozen, ABC):
    """One call that the VMM makes."""

    __slots__ = ()
    name: ClassVar[str]
    kind: ClassVar[str]  # control, memory, map, add, extend
    finalizes: ClassVar[bool] = False  # nothing can be added after it

    @abstractmethod
    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield what the call makes the trusted firmware do, in order; PlanError if refused."""


class Run(Protocol):
    """An operation on the guest-physical bytes [gpa, gpa + size)."""

    gpa: int
    size: int


def is_run(op: object) -> TypeGuard[Run]:
    """Whether an operation is on a run of addresses."""
    return hasattr(op, "gpa") and hasattr(op, "size")


class Setup(Op):
    """A call that trusted firmware sees nothing of."""

    __slots__ = ()
    kind = "control"

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield nothing."""
        del state
        yield from ()


@record
class CreateVm(Setup):
    """KVM_CREATE_VM of a VM type, named as the platform is."""

    name = "create-vm"
    vm_type: Platform

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield nothing."""
        state.create_vm(self.vm_type)
        yield from ()


@record
class Init(Setup):
    """
    KVM_SEV_INIT2, or where `legacy` the older KVM_SEV_INIT or KVM_SEV_ES_INIT, which leaves the
    FPU state zero.

    Bit 0 of `vmsa_features` (SNP active) is set by the kernel.
    """

    name = "init"
    vmsa_features: int
    legacy: bool = False


@record
class CreateVcpu(Setup):
    """KVM_CREATE_VCPU for vCPUs 0 to `count` - 1."""

    name = "create-vcpu"
    count: int

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield nothing."""
        state.create_vcpus(self.count)
        yield from ()


@record
class MapMemory(Op):
    """
    The seed's pure mapping (KVM_MAP_MEMORY): a read fault in advance, no measurement.

    Source: kvm mailing list, 2024-04-03, "KVM: x86: Implement kvm_arch_{, pre_}vcpu_map_memory()".
    """

    name = "map-memory"
    kind = "map"
    gpa: int
    size: int

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield what mapping means on this platform: secure-EPT pages on TDX, else nothing."""
        return state.map(self.gpa, self.size)


@record
class PreFaultMemory(Op):
    """KVM_PRE_FAULT_MEMORY: the mapping of released kernels, which measures nothing."""

    name = "pre-fault-memory"
    kind = "map"
    gpa: int
    size: int

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield what a TD asks for; PlanError for a confidential VM that is not finalized."""
        return state.map_later(self.gpa, self.size)


@record
class Plan(Frozen):
    """
    The ordered operations of one launch, and every input that they depend on.

    `given` and `assumed` are the settings that the user chose and those that were filled
    in; together they are `guest`.  `recorded` is what a plan that was read says that it
    measures: register, algorithm, digest in hex, pages.  `promised` are the digests that ID
    blocks of the image name, each with its place.  `places` says where a launch description has a
    setting that is given.  `practice` is how the VMM makes its calls, None
    where it is the usual one of the platform.
    """

    platform: Platform
    vmm: str
    abi: str
    ops: tuple[Op, ...]
    given: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()
    findings: tuple[Finding, ...] = ()
    recorded: tuple[str, str, str, int] | None = None
    promised: tuple[tuple[bytes, str], ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    practice: Practice | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document that the verb prints."""
        return as_document(self)

    def _repr_html_(self) -> str:
        return as_picture(self)

    def __repr__(self) -> str:
        launch = {"platform": self.platform, "vmm": self.vmm, "abi": self.abi}
        vcpus = self.guest.get("vcpus", 1)
        return summary("Plan", **launch, vcpus=vcpus, operations=len(self.ops))

    @property
    def guest(self) -> Mapping[str, Any]:
        """All settings of the launch."""
        return {**self.assumed, **self.given}

    def lowered(self) -> Iterator[tuple[int, Step]]:
        """Yield (index of the operation, step); PlanError for what is refused or out of order."""
        platform = stage(self.platform, "ops")
        index = 0

        def steps() -> Iterator[Step]:
            nonlocal index
            state: Lowering = platform.Lowering(self.platform, self.guest)
            for number, op in enumerate(self.ops):
                index = number
                try:
                    yield from op.lower(state)
                except PlanError as error:
                    raise PlanError(str(error), at=f"op {index} ({op.name})") from error

        for step in in_order(steps(), platform.ORDER):
            yield index, step

    def trace(self) -> Iterator[Step]:
        """Yield the steps of all operations in order."""
        return (step for _, step in self.lowered())
