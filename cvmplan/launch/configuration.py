"""
A planned launch as whatever starts the VMM is told of it.

What cannot be told of is refused: a configuration that leaves out a setting is a different launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Final, NamedTuple

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
        heading=tuple(_heading(plan, result)),
        guest=protection(plan),
        firmware=path(_firmware(plan, kind, manager)),
        igvm=kind == "igvm",
        kernel=path(_path(names.get("kernel"), "kernel")) if "kernel" in guest else None,
        initrd=path(_path(names.get("initrd"), "initrd")) if "initrd" in guest else None,
        append=guest.get("append"),
        vcpus=integer(guest.get("vcpus", 1)),
        cpu=_cpu(plan, manager),
        memory=integer(guest.get("memory", MEMORY)),
    )


def _check(plan: Plan, kind: str, manager: Manager) -> None:
    """Raise UnsupportedError for a launch that `manager` has no means to start."""
    name = manager.name
    if plan.vmm != manager.vmm:
        problem = f"{name} starts launches of {manager.vmm}, not of {plan.vmm}"
        raise UnsupportedError(problem, at="--to", hint=f"--vmm {manager.vmm}")
    if plan.platform not in manager.platforms:
        known = ", ".join(manager.platforms)
        problem = f"no configurations of {plan.platform} for {name}, only of {known}"
        raise UnsupportedError(problem, at="--to")
    if kind == "igvm" and not manager.igvm:
        raise UnsupportedError(f"{name} takes no IGVM files", at="--to")
    if kind == "igvm" and "policy" in plan.given:
        problem = f"{manager.vmm} takes the policy of the IGVM file"
        raise UnsupportedError(problem, at="--policy")
    if kind not in ("igvm", "ovmf", "tdvf"):
        hint = "give the firmware or IGVM file that the VMM loads"
        raise UnsupportedError(f"a VMM does not load a document ({kind})", at="IMAGE", hint=hint)
    if manager.boots and plan.platform.page_info and "kernel_hash" not in plan.given:
        problem = f"{name} always boots a kernel with its hashes"
        raise UnsupportedError(problem, at="--to", hint="--kernel")
    _check_settings(plan, manager)


def _check_settings(plan: Plan, manager: Manager) -> None:
    """Raise UnsupportedError for a setting that `manager` cannot pass on."""
    for name, value in plan.given.items():
        if name in manager.takes or manager.fixed.get(name) == value:
            continue
        at = f"--{name.replace('_', '-')}"
        if name in manager.fixed:
            problem = f"{value}: {manager.name} has no value but {manager.fixed[name]}"
            raise UnsupportedError(problem, at=at)
        raise UnsupportedError(f"{manager.name} has no setting for it", at=at)
    for name in ("kernel", "initrd", "append"):
        told = plan.given.get(f"{name}_hash", NO_TEXT)
        if told != NO_TEXT and name not in plan.given:
            problem = f"a hash starts nothing: give --{name}"
            raise UnsupportedError(problem, at=f"--{name}-hash")


NO_TEXT: Final = sha256(b"\0").hexdigest()
"""The hash of no command line: its NUL."""


def _firmware(plan: Plan, kind: str, manager: Manager) -> str:
    """Return the path of the firmware; UnsupportedError for a file that the VMM does not load."""
    image = next(one for one in plan.inputs if one.role == "image")
    path = _path(image.path, "image")
    if kind != "igvm" and image.size % manager.rom:
        problem = f"{image.size} bytes, {manager.vmm} takes firmware of multiples of {manager.rom}"
        raise UnsupportedError(problem, at=path)
    return path


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
        problem = f"{name or hex(value)}: {manager.name} starts guests as {manager.cpu}"
        raise UnsupportedError(problem, at="--cpu")
    if name is None:
        raise UnsupportedError(f"no CPU model has the signature {value:#x}", at="--cpu")
    return name


def _heading(plan: Plan, result: Measurement) -> Iterator[str]:
    """Yield what this is, and what the measurement does not cover."""
    yield f"{plan.platform} launch of {plan.vmm} on {plan.abi}"
    yield f"{result.register} ({result.algorithm}):"
    yield result.digest.hex()
    free = ["memory", "devices"]
    if plan.platform.page_info:
        free += ["host data"] if plan.guest.get("host_data") else []
        free += [] if "kernel" in plan.guest else ["what the firmware boots"]
    else:
        free += ["vCPUs", "CPU model", "what the firmware boots"]
    yield f"Not covered by it: {', '.join(free)}."
