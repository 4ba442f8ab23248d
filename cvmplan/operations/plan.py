"""
Operations that a VMM performs, and what each of them makes the trusted firmware do.

An operation's `lower` is the only description of its effect, including what the kernel
adds on its own.  The measurement folds over the lowered steps and every emitter walks the
same objects, so a plan and its measurement cannot disagree: neither is computed from the
image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field
from importlib import import_module
from itertools import takewhile
from types import ModuleType
from typing import Any, ClassVar, Final, NamedTuple, Protocol, TypeGuard

from cvmplan.core.errors import MismatchError, PlanError, UnsupportedError
from cvmplan.core.findings import Finding
from cvmplan.core.inputs import Input
from cvmplan.core.mapped import confirm
from cvmplan.core.records import Frozen, record
from cvmplan.core.spans import Spans
from cvmplan.core.values import PAGE
from cvmplan.operations.lowering import Lowering
from cvmplan.operations.steps import Step, in_order

PLATFORMS: Final = {
    "snp": "cvmplan.platforms.snp",
    "tdx": "cvmplan.platforms.tdx",
    "sev": "cvmplan.platforms.sev",
    "sev-es": "cvmplan.platforms.sev",
    "vbs": "cvmplan.platforms.vbs",
    "sw-protected": "cvmplan.platforms.vm",
    "default": "cvmplan.platforms.vm",
}


def stage(platform: str, name: str) -> ModuleType:
    """Import `name` (planner, ops, digest) of a platform; UnsupportedError for unknown ones."""
    if platform not in PLATFORMS:
        raise UnsupportedError(
            f"platform {platform!r} is not known", hint=f"known are {', '.join(PLATFORMS)}"
        )
    return import_module(f"{PLATFORMS[platform]}.{name}")


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
    vm_type: str

    def lower(self, state: Lowering) -> Iterator[Step]:
        """Yield nothing."""
        state.create_vm(self.vm_type)
        yield from ()


@record
class Init(Setup):
    """
    KVM_SEV_INIT2, or where `legacy` KVM_SEV_ES_INIT, which leaves the FPU state zero.

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
        """Yield nothing; PlanError for a confidential VM that is not finalized."""
        state.map_later(self.gpa, self.size)
        yield from ()


@record
class Plan(Frozen):
    """
    The ordered operations of one launch, and every input that they depend on.

    `given` and `assumed` are the settings that the user chose and those that were filled
    in; together they are `guest`.  `recorded` is what a plan that was read says that it
    measures: register, algorithm, digest in hex, pages.  `promised` are the digests that ID
    blocks of the image name, each with its place.
    """

    platform: str
    vmm: str
    abi: str
    ops: tuple[Op, ...]
    given: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()
    findings: tuple[Finding, ...] = ()
    recorded: tuple[str, str, str, int] | None = None
    promised: tuple[tuple[bytes, str], ...] = ()

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


class Coverage(NamedTuple):
    """What a measurement covers, in 4 KiB pages; `vmsas` counts vCPU states, not addresses."""

    contents: int = 0
    address_only: int = 0
    host_filled: int = 0
    by_digest: int = 0
    vmsas: int = 0
    not_added: int = 0

    @property
    def pages(self) -> int:
        """Pages added, each vCPU's VMSA counted as one."""
        return self.contents + self.address_only + self.host_filled + self.by_digest + self.vmsas


class Measurement(NamedTuple):
    """A launch measurement: `digest` in bytes, as the named register will hold it."""

    platform: str
    register: str
    algorithm: str
    digest: bytes
    coverage: Coverage

    @property
    def pages(self) -> int:
        """Pages added, each vCPU's VMSA counted as one."""
        return self.coverage.pages


def measure(
    plan: Plan, watch: Callable[[Iterable[Step]], Iterable[Step]] | None = None
) -> Measurement:
    """
    Fold the steps of `plan` into its measurement.

    `watch` sees the steps on their way and passes them on (progress).  PlanError when the
    operations are no legal launch; UnsupportedError on platforms that measure nothing;
    MismatchError when the plan was read with another digest; InputError when an input that is
    mapped changed meanwhile.
    """
    trace: Iterable[Step] = plan.trace()
    result = measure_steps(plan.platform, watch(trace) if watch else trace)
    confirm(*(entry.blob.data for entry in plan.inputs))
    return checked(plan, result)


def checked(plan: Plan, result: Measurement) -> Measurement:
    """Return `result`, with the pages of `plan` that are mapped and not added; MismatchError."""
    found = (result.register, result.algorithm, result.digest.hex(), result.pages)
    if plan.recorded not in (None, found):
        told = " ".join(map(str, plan.recorded or ()))
        raise MismatchError(
            f"the operations measure {' '.join(map(str, found))}, the plan says {told}"
        )
    early = [*takewhile(lambda op: not op.finalizes, plan.ops)]
    added = Spans((op.gpa, op.gpa + op.size) for op in early if op.kind == "add" and is_run(op))
    mapped = Spans((op.gpa, op.gpa + op.size) for op in early if isinstance(op, MapMemory))
    waiting = sum(e - s for low, high in mapped for s, e in added.missing(low, high)) // PAGE
    return result._replace(coverage=result.coverage._replace(not_added=waiting))


def broken_promises(plan: Plan, result: Measurement, severity: str = "") -> list[Finding]:
    """
    Return a finding for each ID block that is for another digest than `result`, or policy.

    Source: AMD 56860, SNP_LAUNCH_FINISH (BAD_MEASUREMENT, POLICY_FAILURE).
    """
    if plan.platform != "snp":
        return []
    problems = [
        (f"{ld.hex()}, the launch digest is {result.digest.hex()}", at)
        for ld, at in promises(plan)
        if ld != result.digest
    ]
    policy = next((op.policy for op in plan.ops if hasattr(op, "policy")), None)
    for block, at in _id_blocks(plan):
        other = int.from_bytes(block[88:96], "little")
        if policy is not None and other != policy:
            problems.append((f"policy {other:#x}, the launch has {policy:#x}", at))
    return [
        Finding("id-block-mismatch", f"the ID block is for {problem}", at=at, severity=severity)
        for problem, at in problems
    ]


def promises(plan: Plan) -> list[tuple[bytes, str]]:
    """Return the launch digests that ID blocks are for: those of the image and of the plan."""
    return [*plan.promised, *((block[:48], at) for block, at in _id_blocks(plan))]


def _id_blocks(plan: Plan) -> Iterator[tuple[bytes, str]]:
    """Yield the ID blocks that operations hand over, each with its place."""
    for number, op in enumerate(plan.ops):
        if block := getattr(op, "id_block", None):
            yield block, f"op {number}"


def measure_steps(platform: str, trace: Iterable[Step]) -> Measurement:
    """Fold a trace of one platform's steps; errors as `measure`."""
    digest = stage(platform, "digest")
    result: Measurement = digest.measure(platform, trace)
    return result
