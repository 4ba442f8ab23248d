"""
A planned launch as whatever starts the VMM is told of it.

What cannot be told of is refused: a configuration that leaves out a setting is a different launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from cvmplan.core.errors import UnsupportedError
from cvmplan.core.platform import Platform
from cvmplan.core.values import integer
from cvmplan.operations.measure import Measurement
from cvmplan.operations.plan import Plan
from cvmplan.profiles import cpus
from cvmplan.profiles.managers import Manager

MEMORY = 2 << 30
"""Bytes of RAM where nothing else is said; not measured."""


class Protection(NamedTuple):
    """
    What the object of a confidential guest says: no more than the platform has.

    Digests and blocks are bytes as the firmware ABI has them, None where none was given.
    """

    platform: Platform
    policy: int = 0
    c_bit: int | None = None
    kernel_hashes: bool = False
    author_key: bool = False
    vcek_disabled: bool = False
    gosvw: bytes | None = None
    id_block: bytes | None = None
    id_auth: bytes | None = None
    host_data: bytes | None = None
    attributes: int = 0
    mrconfigid: bytes | None = None
    mrowner: bytes | None = None
    mrownerconfig: bytes | None = None


class Configuration(NamedTuple):
    """
    A launch: files by their paths, `cpu` a model or "host", `memory` in bytes.

    `firmware` is the IGVM file where `igvm`.  `heading` are lines for people: what this is, and
    what the measurement does not cover.
    """

    heading: tuple[str, ...]
    guest: Protection
    firmware: str
    igvm: bool
    kernel: str | None
    initrd: str | None
    append: str | None
    vcpus: int
    cpu: str
    memory: int


def protection(plan: Plan) -> Protection:
    """Return what the object of the guest says."""
    guest = plan.guest

    def data(name: str) -> bytes | None:
        return bytes.fromhex(guest[name]) if guest.get(name) else None

    return Protection(
        plan.platform,
        policy=integer(guest.get("policy", 0)),
        c_bit=guest.get("c_bit"),
        kernel_hashes="kernel_hash" in guest and guest.get("kernel_hashes") != "off",
        author_key=bool(guest.get("author_key_enabled")),
        vcek_disabled=bool(guest.get("vcek_disabled")),
        attributes=integer(guest.get("attributes", 0)),
        **{
            name: data(name)
            for name in (
                "gosvw", "id_block", "id_auth", "host_data", "mrconfigid", "mrowner",
                "mrownerconfig",
            )
        },
    )  # fmt: skip


def configure(
    plan: Plan, result: Measurement, kind: str, manager: Manager, path: Callable[[str], str]
) -> Configuration:
    """
    Return the configuration of a launch.

    plan, result  the launch and its measurement
    kind          what the image is, by the name of its reader
    manager       what is configured
    path          makes of a path what `manager` takes

    UnsupportedError where `manager` has no means to start this launch.
    """
    _check(plan, kind, manager)
    guest = plan.guest
    names = {one.role: one.path for one in plan.inputs}
    return Configuration(
        heading=(*_heading(plan, result),),
        guest=protection(plan),
        firmware=path(_path(names.get("image"), "image")),
        igvm=kind == "igvm",
        kernel=path(_path(names.get("kernel"), "kernel")) if "kernel" in guest else None,
        initrd=path(_path(names.get("initrd"), "initrd")) if "initrd" in guest else None,
        append=guest.get("append"),
        vcpus=integer(guest.get("vcpus", 1)),
        cpu=_cpu(plan, manager),
        memory=integer(guest.get("memory", MEMORY)),
    )


def _check(plan: Plan, kind: str, manager: Manager) -> None:
    """Raise UnsupportedError for what cannot be told of."""
    if plan.vmm != manager.vmm:
        problem = f"starts launches of {manager.vmm}, and this is one of {plan.vmm}"
        raise UnsupportedError(problem, at="--to", hint=f"--vmm {manager.vmm}")
    if plan.platform not in manager.platforms:
        known = ", ".join(manager.platforms)
        raise UnsupportedError(f"has no configurations of {plan.platform}, only {known}", at="--to")
    if kind == "igvm" and not manager.igvm:
        raise UnsupportedError("takes no IGVM files", at="--to")
    if kind not in ("igvm", "ovmf", "tdvf"):
        hint = "give the firmware or IGVM file that the VMM loads"
        raise UnsupportedError(f"a VMM does not load a {kind}", at="IMAGE", hint=hint)
    for name, value in plan.given.items():
        if name in manager.takes or manager.fixed.get(name) == value:
            continue
        only = f", only {manager.fixed[name]}" if name in manager.fixed else ""
        at = f"--{name.replace('_', '-')}"
        raise UnsupportedError(f"{value}: --to has no setting for it{only}", at=at)
    for name in ("kernel", "initrd", "append"):
        if f"{name}_hash" in plan.given and name not in plan.given and name != "append":
            problem = f"a hash starts nothing: give --{name}"
            raise UnsupportedError(problem, at=f"--{name}-hash")
    if manager.boots and plan.platform.page_info and "kernel" not in plan.given:
        raise UnsupportedError("always boots a kernel with its hashes", at="--to", hint="--kernel")


def _path(path: str | None, role: str) -> str:
    """Return the path of an input as text; UnsupportedError where nobody else could open it."""
    if path is None or path.startswith("example:"):
        raise UnsupportedError("not a file that a VMM can open", at=path or role)
    return path


def _cpu(plan: Plan, manager: Manager) -> str:
    """Return the CPU model; UnsupportedError where none has the signature that is measured."""
    if "cpu_signature" not in plan.guest:
        return "host"
    value = integer(plan.guest["cpu_signature"])
    name = cpus.name_of(plan.guest.get("cpu"), value)
    if manager.cpu and value != cpus.find(manager.cpu):
        problem = f"{name or hex(value)}: --to starts guests as {manager.cpu}"
        raise UnsupportedError(problem, at="--cpu")
    if name is None:
        raise UnsupportedError(f"no CPU model has the signature {value:#x}", at="--cpu")
    return name


def _heading(plan: Plan, result: Measurement) -> Iterator[str]:
    """Yield what this is, and what the measurement does not cover."""
    yield f"{plan.platform} launch of {plan.vmm}, {result.register} ({result.algorithm}):"
    yield result.digest.hex()
    free = ["memory", "devices"]
    if plan.platform.page_info:
        free += ["host data"] if plan.guest.get("host_data") else []
        free += [] if "kernel" in plan.guest else ["what the firmware boots"]
    else:
        free += ["vCPUs", "CPU model", "what the firmware boots"]
    yield f"Not covered by it: {', '.join(free)}."
