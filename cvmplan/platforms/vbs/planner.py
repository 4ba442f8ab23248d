"""From a launch to VBS regions and operations; the image names the page types itself."""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.core.findings import Finding
from cvmplan.launch import igvm_loader
from cvmplan.launch.model import Launch, Layout
from cvmplan.memory.contents import Zeros
from cvmplan.memory.gpamap import GpaMap, Limits
from cvmplan.memory.notes import unmeasured_contents
from cvmplan.operations.plan import CreateVcpu, CreateVm, Op
from cvmplan.platforms.vbs.ops import ImportComplete, ImportPage, ImportRegisters
from cvmplan.platforms.vbs.steps import PHYSICAL_END

HOST_FILLED = ("unmeasured", "error-range")


def layout(launch: Launch) -> Layout:
    """Return the regions of `launch` as the image types them, and the findings."""
    limits = Limits(PHYSICAL_END, "the 52 bits of a physical address")
    regions = igvm_loader.typed(launch) if launch.image else launch.regions
    findings = [*unmeasured_contents(regions, HOST_FILLED)]
    if launch.image and not any(registers for _, registers in launch.image.registers):
        problem = "the file has no vCPU registers, so no vCPU can start"
        findings.append(Finding("no-vcpu-state", problem, at=launch.name, severity="warning"))
    return Layout(regions, limits, tuple(findings))


def operations(launch: Launch, gpa_map: GpaMap) -> Iterator[Op]:
    """Yield the calls that import `gpa_map` in order, and the registers after all pages."""
    yield CreateVm(launch.platform)
    yield CreateVcpu(launch.guest.vcpus)
    for region in igvm_loader.added(gpa_map.regions):
        contents = region.contents or Zeros()
        yield ImportPage(region.gpa, region.size, region.page_type or "", contents)
    for vtl, registers in launch.image.registers if launch.image else ():
        if registers:
            yield ImportRegisters(vtl, registers)
    yield ImportComplete()
