"""
Kata Containers' configuration.toml as the launch that it makes, with what a pod adds.

Of the runtime in Go, with QEMU.  The kernel's command line depends on the version and, before 4.0,
on the number of vCPUs; how the runtime in Rust makes it is not modelled.

Sources: kata-containers 7c6ba40 (4.1.0) src/runtime/pkg/katautils/config.go,
virtcontainers/{kernel_params,qemu,qemu_amd64,sandbox}.go, pkg/oci/utils.go (annotations).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, UnsupportedError
from cvmplan.core.files import drop_ins
from cvmplan.core.platform import DEFAULT, SNP, TDX, Platform
from cvmplan.documents import text
from cvmplan.launch.given import Given
from cvmplan.launch.model import Opener
from cvmplan.launch.settings import READ_WITH
from cvmplan.profiles.kata import FLAGS, Own, Verity
from cvmplan.profiles.managers import MANAGERS
from cvmplan.readers.descriptions.described import Description, Said, whole_text, wrong

FORMAT: Final = "Kata configuration"
HEAD: Final = 1 << 18
TABLE: Final = "hypervisor.qemu"
NEWEST: Final = "4.1.0"  # where no version is given
WITHOUT_NR_CPUS: Final = 4  # major version from which confidential guests have no nr_cpus
PREFIX: Final = "io.katacontainers.config.hypervisor."
ANNOTATED: Final = (
    "default_vcpus", "default_memory", "kernel_params", "firmware", "kernel", "initrd", "image",
    "machine_type",
)  # fmt: skip
"""Annotations of a pod that beat the configuration; kernel_params are added to it."""
VERITY_KEYS: Final = ("root_hash", "salt", "data_blocks", "data_block_size", "hash_block_size")
_TABLE: Final = re.compile(rb"^\s*\[\s*hypervisor\s*\.\s*\"?(?:qemu|clh|dragonball)", re.MULTILINE)
_VERSION: Final = re.compile(r"([0-9]{1,3})(?:\.[0-9]{1,4}){0,2}")
_CPU: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?m?")

Table = Mapping[str, Any]


def recognises(blob: Blob) -> bool:
    """Whether the text has the table of a hypervisor, as Kata's TOML does."""
    return text.is_text(blob) and _TABLE.search(bytes(blob.data[:HEAD])) is not None


def describe(blob: Blob, open_file: Opener | None, options: Given) -> Description:
    """
    Return what the configuration makes; MalformedError with the place, UnsupportedError.

    `options` may have `pod`, a file with the pod, and `kata_version`.
    """
    others = (
        []
        if open_file is None
        else [open_file(path, "configuration") for path in drop_ins(blob.name, "config.d")]
    )
    made = _Configuration(blob, others, options, _pod(options, open_file))
    rest = tuple(made.rest())
    return Description(FORMAT, made.settings(), uncovered=rest, reads=READ_WITH)


def _pod(options: Given, open_file: Opener | None) -> tuple[Blob, Table] | None:
    """Return the file of a pod and the pod; MalformedError."""
    path = options.text("pod")
    if path is None or open_file is None:
        return None
    blob = open_file(path, "pod")
    whole_text(blob)
    held = text.parse(blob)
    if not isinstance(held, dict) or not isinstance(_below(held, "spec"), dict):
        raise wrong(blob, "spec", "missing: not a pod")
    template = _below(held, "spec", "template")
    return blob, template if isinstance(template, dict) else held


def _below(held: Any, *names: str) -> Any:
    """Return what lies below keys, None where there is none."""
    for name in names:
        held = held.get(name) if isinstance(held, dict) else None
    return held


def _table(held: Any, *names: str) -> Table:
    """Return the table below keys, empty where there is none."""
    found = _below(held, *names)
    return found if isinstance(found, dict) else {}


def _merged(held: Table, other: Table) -> dict[str, Any]:
    """Return tables with those of a drop-in file over them, key by key."""
    made = dict(held)
    for name, value in other.items():
        inside = isinstance(value, dict) and isinstance(made.get(name), dict)
        made[name] = _merged(made[name], value) if inside else value
    return made


class _Configuration:
    """The tables of a configuration, with what the annotations of a pod change."""

    def __init__(
        self, blob: Blob, others: list[Blob], options: Given, pod: tuple[Blob, Table] | None
    ) -> None:
        self._blob = blob
        self._places: dict[str, str] = {}
        whole_text(blob)
        held = text.parse_toml(blob)
        for one in others:
            whole_text(one)
            held = _merged(held, text.parse_toml(one))
        hypervisor = _below(held, "hypervisor", "qemu")
        if not isinstance(hypervisor, dict):
            problem = "missing: only QEMU is supported"
            raise UnsupportedError(problem, at=f"{blob.name}: {TABLE}")
        self._qemu = dict(hypervisor)
        self._agent = _table(held, "agent", "kata")
        self._runtime = _table(held, "runtime")
        self._major = self._version(options)
        self._pod = pod
        if self._runtime.get("name") == "virt_container":
            problem = "a configuration of the runtime in Rust, whose command line is not modelled"
            hint = "take the command line of the running process: /proc/PID/cmdline"
            raise UnsupportedError(problem, at=f"{blob.name}: runtime.name", hint=hint)
        if pod is not None:
            self._annotate(*pod)

    def _version(self, options: Given) -> int:
        written = options.text("kata_version") or NEWEST
        found = _VERSION.fullmatch(written)
        if found is None:
            raise ConfigError(f"{written[:40]!r} is not a version", at="--kata-version")
        return int(found[1])

    def _annotate(self, blob: Blob, pod: Table) -> None:
        """Take what a pod's annotations say over the configuration."""
        for name, value in _table(pod, "metadata", "annotations").items():
            key = name.removeprefix(PREFIX)
            if key == name or key not in ANNOTATED:
                continue
            if not isinstance(value, str):
                raise wrong(blob, name, "is not text")
            self._places[key] = f"annotation {name} in {blob.name}"
            before = self._string(key) if key == "kernel_params" else ""
            self._qemu[key] = f"{before} {value}".strip() if before else value
            if key.startswith("default_"):
                self._qemu[key] = _number(blob, name, value)

    def _place(self, name: str) -> str:
        return self._places.get(name, f"{TABLE}.{name}")

    def _typed(self, table: Table, name: str, kind: type, place: str) -> Any:
        value = table.get(name)
        if value is not None and (not isinstance(value, kind) or type(value) is bool is not kind):
            raise wrong(self._blob, place, f"{value!r} is not {NAMES[kind]}")
        return value

    def _string(self, name: str) -> str:
        return self._typed(self._qemu, name, str, self._place(name)) or ""

    def _flag(self, name: str, usual: bool = False) -> bool:
        value = self._typed(self._qemu, name, bool, self._place(name))
        return usual if value is None else bool(value)

    # --- the launch ---

    def settings(self) -> dict[str, Said]:
        """Return the settings with their places."""
        platform = self._platform()
        place = f"{TABLE}.confidential_guest"
        said = {"platform": Said(platform, place), "vmm": Said("qemu", TABLE)}
        said["vcpus"] = Said(self._vcpus(), self._place("default_vcpus"))
        said["firmware"] = self._file("firmware")
        if self._string("machine_type") in ("", "q35"):
            memory = self._qemu.get("default_memory", MEMORY)
            said["memory"] = Said(self._mib(memory), self._place("default_memory"))
        if platform.page_info:
            said |= self._of_snp()
        return said

    def _platform(self) -> Platform:
        if not self._flag("confidential_guest"):
            return DEFAULT
        return SNP if self._flag("sev_snp_guest") else TDX

    def _mib(self, written: Any) -> int:
        if type(written) is not int and not isinstance(written, Decimal):
            raise wrong(self._blob, self._place("default_memory"), f"{written!r} is not a number")
        return int(written) << 20

    def _file(self, name: str) -> Said:
        value = self._string(name)
        if not value:
            raise wrong(self._blob, self._place(name), "missing")
        return Said(value, self._place(name))

    def _of_snp(self) -> dict[str, Said]:
        said = {
            "cpu": Said(MANAGERS["kata"].cpu, TABLE),
            "kernel": self._file("kernel"),
            "append": Said(self._command_line(), self._place("kernel_params")),
            "policy": Said(self._qemu.get("snp_guest_policy", SNP.policy), self._place(POLICY)),
        }
        if self._string("initrd"):
            said["initrd"] = self._file("initrd")
        for name, setting in (("snp_id_block", "id_block"), ("snp_id_auth", "id_auth")):
            if self._string(name):
                said[setting] = Said(self._string(name), self._place(name))
        return said

    def _vcpus(self) -> int:
        """Return ceil(default_vcpus + CPU limits), the limits where the sandbox does not grow."""
        place = self._place("default_vcpus")
        told = self._qemu.get("default_vcpus", 1)
        if type(told) not in (int, float, Decimal) or not -1 <= told <= MOST:
            raise wrong(self._blob, place, f"{told!r} is not a number of vCPUs")
        if told < 0:
            problem = "as many vCPUs as the host has processors"
            raise UnsupportedError(problem, at=f"{self._blob.name}: {place}")
        count = Decimal(str(told)) or Decimal(1)
        if self._runtime.get("static_sandbox_resource_mgmt") and self._pod is not None:
            count += sum(_limits(*self._pod), Decimal(0))
        return int(count.to_integral_value(ROUND_CEILING))

    def _command_line(self) -> str:
        """Return the kernel's command line; {vcpus} stands where the number of vCPUs does."""
        image = bool(self._string("image"))
        if not image and not self._string("initrd"):
            raise wrong(
                self._blob, self._place("image"), "missing: it names neither image nor initrd"
            )
        rootfs = self._string("rootfs_type") or "ext4"
        if rootfs not in FLAGS:
            raise wrong(self._blob, self._place("rootfs_type"), f"{rootfs!r} is not known")
        counted = self._major < WITHOUT_NR_CPUS or not self._flag("confidential_guest")
        own = Own(
            scsi=self._string("block_device_driver") == "virtio-scsi",
            debug=self._flag("enable_debug"),
            selinux=not self._flag("disable_guest_selinux", usual=True),
            rootfs=rootfs if image else "",
            verity=self._verity() if image else None,
            vcpus="{vcpus}" if counted else "",
            agent=tuple(self._of_agent()),
        )
        return " ".join(filter(None, (own.parameters(), self._string("kernel_params"))))

    def _verity(self) -> Verity | None:
        written = self._string("kernel_verity_params").strip()
        if not written:
            return None
        held = dict(part.partition("=")[::2] for part in written.split(",") if part.strip())
        place = self._place("kernel_verity_params")
        for name in VERITY_KEYS:
            if not held.get(name):
                raise wrong(self._blob, place, f"{name} is missing")
        try:
            blocks, data, hashes = (int(held[name]) for name in VERITY_KEYS[2:])
        except ValueError as error:
            raise wrong(self._blob, place, str(error)) from None
        return Verity(data, hashes, blocks, held["root_hash"], held["salt"])

    def _of_agent(self) -> Iterator[str]:
        """Yield the parameters that the agent's settings add."""
        held = self._agent
        if held.get("enable_debug"):
            yield "agent.log=debug"
        if held.get("enable_tracing"):
            yield "agent.trace=true"
        if held.get("container_pipe_size"):
            yield f"agent.container_pipe_size={held['container_pipe_size']}"
        if held.get("debug_console_enabled"):
            yield "agent.debug_console"
            yield "agent.debug_console_vport=1026"
        for name in ("cdh_api_timeout", "launch_process_timeout"):
            if held.get(name):
                yield f"agent.{name}={held[name]}"

    def rest(self) -> Iterator[str]:
        """Yield what the measurement does not cover."""
        for name in ("image", "cpu_features", "default_memory", "path"):
            if name in self._qemu:
                yield f"{TABLE}.{name}"
        if self._pod is not None:
            yield f"initdata of {self._pod[0].name}, which is HOST_DATA or MRCONFIGID"


POLICY: Final = "snp_guest_policy"
MEMORY: Final = 2048  # MiB where default_memory is not set
MOST: Final = 1 << 12
NAMES: Final = {str: "text", bool: "true or false"}


def _number(blob: Blob, name: str, value: str) -> Decimal:
    if not _CPU.fullmatch(value) or value.endswith("m"):
        raise wrong(blob, name, f"{value!r} is not a number")
    return Decimal(value)


def _limits(blob: Blob, pod: Table) -> Iterator[Decimal]:
    """Yield the CPU limit of each container that has one."""
    containers = _below(pod, "spec", "containers")
    for number, one in enumerate(containers if isinstance(containers, list) else ()):
        limit = _below(one, "resources", "limits", "cpu")
        if limit is None:
            continue
        written = str(limit)
        if not _CPU.fullmatch(written):
            place = f"spec.containers[{number}].resources.limits.cpu"
            raise wrong(blob, place, f"{written[:40]!r} is not a number of processors")
        milli = written.endswith("m")
        yield Decimal(written.removesuffix("m")) / (1000 if milli else 1)
