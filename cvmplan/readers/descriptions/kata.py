"""
Kata Containers' configuration.toml as the launch that it makes, with what a pod adds.

Of the runtimes in Go and in Rust, with QEMU.  The kernel's command line depends on the runtime, its
version and, before 4.0, on the number of vCPUs.

Sources: as `profiles.kata`; kata-containers 7c6ba40 (4.1.0) src/runtime-rs/crates/resource/src/
cpu_mem/initial_size.rs, src/libs/kata-types/src/config/{agent,mod}.rs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, UnsupportedError
from cvmplan.core.files import beside
from cvmplan.core.platform import DEFAULT, SNP, TDX, Platform
from cvmplan.documents import text
from cvmplan.documents.plain import is_text
from cvmplan.launch.command_line import VCPUS
from cvmplan.launch.given import Given
from cvmplan.launch.model import Opener
from cvmplan.launch.settings import READ_WITH
from cvmplan.profiles.kata import FLAGS, Own, Verity, key_of, of_rust, replaced, split
from cvmplan.profiles.managers import MANAGERS
from cvmplan.readers.descriptions.described import Description, Said, whole_text, wrong
from cvmplan.readers.descriptions.kata_agent import of_agent
from cvmplan.readers.descriptions.kata_pod import (
    Table,
    below,
    check_enabled,
    converted,
    limit_of,
    merged,
    pod_of,
    table,
)

FORMAT: Final = "Kata configuration"
HEAD: Final = 1 << 18
TABLE: Final = "hypervisor.qemu"
NEWEST: Final = "4.1.0"  # where no version is given
WITHOUT_NR_CPUS: Final = 4  # major version from which confidential guests have no nr_cpus
PREFIX: Final = "io.katacontainers.config.hypervisor."
PLAIN: Final = (
    "default_vcpus", "default_memory", "kernel_verity_params", "firmware", "kernel", "initrd",
    "image", "machine_type", "enable_iommu", "use_legacy_serial",
)  # fmt: skip
"""Annotations of a pod that replace what the configuration has."""
AGENT: Final = "io.katacontainers.config.agent."
AGENT_PARAMETERS: Final = ("enable_tracing", "container_pipe_size")
VERITY_KEYS: Final = ("root_hash", "salt", "data_blocks", "data_block_size", "hash_block_size")
_TABLE: Final = re.compile(
    rb"^[ \t]{0,80}\[[ \t]{0,8}hypervisor[ \t]{0,8}\.[ \t]{0,8}\"?(?:qemu|clh|dragonball)",
    re.MULTILINE,
)
_VERSION: Final = re.compile(r"([0-9]{1,3})(?:\.[0-9]{1,4}){0,2}")


def recognises(blob: Blob) -> bool:
    """Whether the text has the table of a hypervisor, as Kata's TOML does."""
    return is_text(blob) and _TABLE.search(bytes(blob.data[:HEAD])) is not None


def describe(blob: Blob, open_file: Opener | None, options: Given) -> Description:
    """
    Return what the configuration makes; MalformedError with the place, UnsupportedError.

    `options` may have `pod`, a file with the pod, and `kata_version`.
    """
    others = (
        []
        if open_file is None
        else [open_file(path, "configuration") for path in beside(blob.name, "config.d")]
    )
    made = _Configuration(blob, others, options, pod_of(options, open_file))
    rest = tuple(made.rest())
    said = made.settings()
    boot = made.boot() if "kernel" not in said else {}
    return Description(FORMAT, said, uncovered=rest, reads=READ_WITH, boot=boot)


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
            held = merged(held, text.parse_toml(one))
        hypervisor = below(held, "hypervisor", "qemu")
        if not isinstance(hypervisor, dict):
            problem = "missing: only QEMU is supported"
            raise UnsupportedError(problem, at=f"{blob.name}: {TABLE}")
        self._qemu = dict(hypervisor)
        self._agent = table(held, "agent", "kata")
        self._runtime = table(held, "runtime")
        self._major = self._version(options)
        self._pod = pod
        self._rust = self._runtime.get("name") == RUST
        self._annotated: list[str] = []
        if self._rust and self._major < WITHOUT_NR_CPUS:
            problem = f"how the runtime in Rust did this before {NEWEST} is not modelled"
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
        for name, value in table(pod, "metadata", "annotations").items():
            key = name.removeprefix(PREFIX)
            agent = name.removeprefix(AGENT)
            if self._rust and agent != name and agent in AGENT_PARAMETERS:
                problem = "an annotation for the agent is not modelled"
                raise UnsupportedError(problem, at=f"{blob.name}: {name}")
            if key != name and "enable_annotations" in self._qemu:
                check_enabled(blob, key, self._qemu["enable_annotations"])
            if key == name or key not in (*PLAIN, "kernel_params"):
                continue
            if not isinstance(value, str):
                raise wrong(blob, name, "is not text")
            self._places[key] = f"annotation {name} in {blob.name}"
            if key == "kernel_params":
                self._annotated = split(" ".join(value.split()))
            elif key in ("image", "initrd") and not self._qemu.get(key):
                problem = "what is booted instead of the configuration's is not modelled"
                raise UnsupportedError(problem, at=f"{blob.name}: {name}")
            else:
                self._qemu[key] = converted(blob, key, name, value)

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

    def boot(self) -> dict[str, Said]:
        """Return the kernel that is booted, its initrd and its command line."""
        said = {
            "kernel": self._file("kernel"),
            "append": Said(self._command_line(), self._place("kernel_params")),
        }
        return said | ({"initrd": self._file("initrd")} if self._string("initrd") else {})

    def _of_snp(self) -> dict[str, Said]:
        said = {
            "cpu": Said(MANAGERS["kata"].cpu, TABLE),
            "policy": Said(self._qemu.get("snp_guest_policy", SNP.policy), self._place(POLICY)),
        } | self.boot()
        if _SIGNATURE.search(self._string("cpu_features")):
            problem = "changes the signature of the processors"
            raise UnsupportedError(problem, at=f"{self._blob.name}: {self._place('cpu_features')}")
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
        count = Decimal(str(told))
        if not count and "default_vcpus" not in self._places:
            count = Decimal(1)
        if self._runtime.get("static_sandbox_resource_mgmt") and self._pod is not None:
            more = limit_of(*self._pod)
            if not self._rust:
                count += more
            elif more:
                count = max(more + self._decimal("overhead_vcpus"), Decimal(1))
        if count <= 0:
            raise wrong(self._blob, place, "no vCPUs, and the pod has no CPU limit")
        return int(count.to_integral_value(ROUND_CEILING))

    def _decimal(self, name: str) -> Decimal:
        value = self._qemu.get(name, 0)
        if type(value) not in (int, float) or not 0 <= value <= MOST:
            raise wrong(self._blob, self._place(name), f"{value!r} is not a number of vCPUs")
        return Decimal(str(value))

    def _command_line(self) -> str:
        """Return the kernel's command line; {vcpus} stands where the number of vCPUs does."""
        image = bool(self._string("image"))
        if image == bool(self._string("initrd")):
            problem = "both image and initrd" if image else "missing: neither image nor initrd"
            raise wrong(self._blob, self._place("image"), problem)
        rootfs = self._string("rootfs_type") or "ext4"
        if rootfs not in FLAGS:
            raise wrong(self._blob, self._place("rootfs_type"), f"{rootfs!r} is not known")
        debug, verity = self._flag("enable_debug"), self._verity() if image else None
        user = split(self._string("kernel_params"))
        if any(VCPUS in word for word in (*user, *self._annotated)):
            raise wrong(self._blob, self._place("kernel_params"), f"{VCPUS} is not a parameter")
        selinux = not self._flag("disable_guest_selinux", usual=self._rust)
        if self._rust:
            first = of_rust(debug=debug, rootfs=rootfs if image else "", verity=verity)
            words = [*first, *sorted(self._of_agent()), *replaced(user, self._annotated)]
            return " ".join((*words, f"selinux={selinux:d}", *self._extensions(), "console=hvc0"))
        own = Own(
            scsi=self._string("block_device_driver") == "virtio-scsi",
            debug=debug,
            selinux=selinux,
            rootfs=rootfs if image else "",
            verity=verity,
            vcpus=VCPUS if self._major < WITHOUT_NR_CPUS else "",
            agent=tuple(self._of_agent()),
            iommu=self._flag("enable_iommu"),
            serial=self._flag("use_legacy_serial"),
        )
        held = (*own.then(), *user)
        last: dict[str, str] = {}
        for one in self._annotated:
            last.pop(key_of(one), None)
            last[key_of(one)] = one
        if self._major < WITHOUT_NR_CPUS and last.keys() & {*map(key_of, held)}:
            problem = f"how a version before {NEWEST} took it is not modelled"
            place = self._place("kernel_params")
            raise UnsupportedError(problem, at=f"{self._blob.name}: {place}")
        words = replaced(held, last.values())
        return " ".join((*own.first(), *words, *self._extensions()))

    def _of_agent(self) -> Iterator[str]:
        return of_agent(self._blob, self._agent, rust=self._rust)

    def _extensions(self) -> Iterator[str]:
        """Yield the parameter of each image that extends the guest's."""
        images = self._qemu.get("guest_extension_images", [])
        for number, image in enumerate(images if isinstance(images, list) else ()):
            name = image.get("name") if isinstance(image, dict) else None
            if not isinstance(name, str) or not _EXTENSION.fullmatch(name):
                place = self._place(f"guest_extension_images[{number}].name")
                raise wrong(self._blob, place, f"{name!r} is not a name")
            told = str(image.get("verity_params", "")).strip()
            yield f"kata.extension.{name}.verity_params" + (f"={told}" if told else "")

    def _verity(self) -> Verity | None:
        written = self._string("kernel_verity_params").strip()
        if not written:
            return None
        parts = [part.strip() for part in written.split(",")]
        held = dict(part.partition("=")[::2] for part in parts if part)
        place = self._place("kernel_verity_params")
        for name in VERITY_KEYS:
            if not held.get(name):
                raise wrong(self._blob, place, f"{name} is missing")
        try:
            blocks, data, hashes = (int(held[name]) for name in VERITY_KEYS[2:])
        except ValueError as error:
            raise wrong(self._blob, place, str(error)) from None
        return Verity(data, hashes, blocks, held["root_hash"], held["salt"])

    def rest(self) -> Iterator[str]:
        """Yield what the measurement does not cover."""
        for name in ("image", "cpu_features", "default_memory", "path"):
            if name in self._qemu:
                yield f"{TABLE}.{name}"
        if self._pod is not None:
            yield f"initdata of {self._pod[0].name}, which is HOST_DATA or MRCONFIGID"


POLICY: Final = "snp_guest_policy"
RUST: Final = "virt_container"  # runtime.name of the one in Rust
_SIGNATURE: Final = re.compile(r"(?:^|,)[ ]?(?:family|model|stepping)=")
_EXTENSION: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")
MEMORY: Final = 2048  # MiB where default_memory is not set
MOST: Final = 1 << 12
NAMES: Final = {str: "text", bool: "true or false"}
