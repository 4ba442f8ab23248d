"""
The vCPU states of an IGVM file under a loader on KVM: what loader or kernel refuse of them.

What a loader sets is data of its profile; what KVM makes of it is in `vmsa`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from cvmplan.core.findings import Finding
from cvmplan.core.platform import VMSA_GPA
from cvmplan.launch import igvm_loader
from cvmplan.launch.model import Image, Launch, VpState
from cvmplan.memory.regions import Region, Role
from cvmplan.platforms.amd import SNP_ACTIVE
from cvmplan.platforms.snp.vmsa import first_beyond, value_of

DR7_FIXED: Final = 0x400  # linux arch/x86/include/uapi/asm/debugreg.h, DR7_FIXED_1


def findings(launch: Launch, image: Image) -> Iterator[Finding]:
    """Yield what is wrong with the vCPU states of the file under this loader."""
    states, vcpus = image.states, launch.guest.vcpus
    if launch.abi.imports:
        return
    if launch.profile.abis and not igvm_loader.as_kvm(launch.regions):
        problem = f"KVM measures the VMSAs last, at {VMSA_GPA:#x}, and the file does not"
        yield Finding("loader-refuses", problem, at=launch.name)
    numbers = [s.vp_index for s in states]
    if sorted(numbers) != list(range(len(numbers))):
        problem = f"{len(numbers)} VMSAs, and not one of each vCPU from 0 on"
        yield Finding("loader-refuses", problem, at=launch.name)
    covered = _covered(launch.regions, states) if launch.profile.vmsa_apart else frozenset()
    for state in states:
        for problem in _unfit(launch, state, covered):
            yield Finding("loader-refuses", f"{launch.profile.name}: {problem}", at=state.at)
        yield from _doubtful(launch, state)
    if not states:
        problem = "the file has no VMSA: no vCPU could start"
        yield Finding("no-vcpu-state", problem, at=launch.name)
    elif len(states) > vcpus:
        problem = f"{len(states)} VMSAs for {vcpus} vCPUs"
        yield Finding("vmsa-count", problem, at=launch.name, severity="error")
    elif len(states) < vcpus:
        problem = f"{len(states)} VMSAs for {vcpus} vCPUs: the others have the reset state"
        yield Finding("vmsa-count", problem, at=launch.name, severity="warning")


def _unfit(launch: Launch, state: VpState, covered: Collection[int]) -> Iterator[str]:
    """Yield why KVM, or the loader, does not take the state of one vCPU."""
    profile = launch.profile
    if profile.fixed_vmsa and state.gpa != VMSA_GPA:
        yield f"a VMSA at {state.gpa:#x} is refused, KVM has it at {VMSA_GPA:#x}"
    beyond = None if profile.takes is None else first_beyond(state.page, profile.takes)
    if beyond is not None:
        yield f"the VMSA has a value at {beyond:#x} that KVM cannot set, or the loader does not"
    if launch.platform.page_info and not value_of(state.page, "sev_features") & SNP_ACTIVE:
        yield "KVM cannot set SEV_FEATURES without SNP active"
    limits = (value_of(state.page, f"{table}.limit") for table in ("gdtr", "idtr"))
    if not profile.cuts_tables and any(limit > 0xFFFF for limit in limits):
        yield "the VMSA has a limit of GDT or IDT above 0xffff, which KVM cannot set"
    breaks = value_of(state.page, "dr7") & ~DR7_FIXED
    if breaks and (profile.carries is None or "dr7" in profile.carries):
        yield f"KVM refuses DR7 with a breakpoint ({breaks:#x}): EINVAL at the end of the launch"
    if state.gpa in covered:
        yield f"the VMSA at {state.gpa:#x} overlaps a page with data"


def _doubtful(launch: Launch, state: VpState) -> Iterator[Finding]:
    """Yield a warning for a state that some versions of the loader refuse."""
    profile = launch.profile
    missing = [
        f"{name} without {bits & ~value_of(state.page, name):#x}"
        for name, bits in profile.doubts.items()
        if bits & ~value_of(state.page, name)
    ]
    if profile.doubts and state.gpa != VMSA_GPA:
        missing.append(f"a VMSA at {state.gpa:#x}")
    if missing:
        problem = f"not checked: whether this version of {profile.name} takes {', '.join(missing)}"
        yield Finding("not-checked", problem, at=state.at, severity="warning")


def _covered(regions: Iterable[Region], states: Iterable[VpState]) -> frozenset[int]:
    """Return the addresses of VMSAs that lie in pages with data."""
    gpas = sorted({s.gpa for s in states})
    with_data = (r for r in regions if r.contents and r.role is not Role.VP_CONTEXT)
    spans = ((bisect_left(gpas, r.gpa), bisect_left(gpas, r.end)) for r in with_data)
    return frozenset(gpa for low, high in spans for gpa in gpas[low:high])
