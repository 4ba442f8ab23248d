"""
A QEMU command line as the launch that it starts.

Sources: qemu 11.1.3 qapi/qom.json (sev-guest, sev-snp-guest, tdx-guest, igvm-cfg), qemu-options.hx,
hw/core/machine-smp.c (machine_parse_smp_config), util/keyval.c; target/i386/sev.c
(SEV_POLICY_NODBG, sev_snp_guest_instance_init); hw/i386/pc_sysfw.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, UnsupportedError
from cvmplan.core.findings import Finding
from cvmplan.core.platform import DEFAULT, SNP, TDX, Platform
from cvmplan.core.values import integer
from cvmplan.launch.given import Given
from cvmplan.launch.model import Opener
from cvmplan.profiles import cpus
from cvmplan.readers.descriptions import qemu_words
from cvmplan.readers.descriptions.described import (
    Description,
    Said,
    host_cpu,
    no_hashes,
    sev_platform,
)
from cvmplan.readers.descriptions.qemu_options import Options, Properties, keys
from cvmplan.readers.descriptions.qemu_words import Line

FORMAT: Final = "QEMU command line"
SEV_POLICY: Final = 1
DEBUG, SEPT_VE_DISABLE = 1 << 0, 1 << 28  # of ATTRIBUTES
TOPOLOGY: Final = ("drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads")
SETTINGS_OF: Final = {
    "sev-guest": {"policy": "policy", "cbitpos": "c_bit"},
    "sev-snp-guest": {
        "policy": "policy", "cbitpos": "c_bit", "host-data": "host_data", "id-block": "id_block",
        "id-auth": "id_auth", "author-key-enabled": "author_key_enabled",
        "vcek-disabled": "vcek_disabled", "guest-visible-workarounds": "gosvw",
    },
    "tdx-guest": {name: name for name in ("mrconfigid", "mrowner", "mrownerconfig")},
}  # fmt: skip
"""Kind of object to its properties, and the settings that they are."""
FLAGS: Final = ("author-key-enabled", "vcek-disabled")
FEATURES: Final = {"debug-swap": 1 << 5, "secure-tsc": 1 << 9}
"""Properties that are bits of SEV_FEATURES (AMD 24593, table "SEV_FEATURES"); SNP's own is 1."""
HARMLESS: Final = {
    "sev-guest": (
        "reduced-phys-bits", "kernel-hashes", "sev-device", "handle", "dh-cert-file",
        "session-file", "legacy-vm-type", "debug-swap",
    ),
    "sev-snp-guest": (
        "reduced-phys-bits", "kernel-hashes", "sev-device", "debug-swap", "secure-tsc",
        "tsc-frequency",
    ),
    "tdx-guest": ("attributes", "sept-ve-disable", "debug", "quote-generation-socket"),
}  # fmt: skip
"""Kind of object to properties that are looked at elsewhere, or that no measurement depends on."""
LEGACY: Final = {"on": "legacy", "off": "init2"}
PARTS: Final = ("family", "model", "stepping")
USED: Final = frozenset({"machine", "M", "object", "bios", "kernel", "initrd", "append"})
PFLASH: Final = "if=pflash"


recognises = qemu_words.recognises


def describe(blob: Blob, open_file: Opener | None, options: Given) -> Description:
    """Return what the command line says; MalformedError, UnsupportedError."""
    del open_file, options
    return describe_options(blob, qemu_words.read(blob))


def describe_options(blob: Blob, line: Line) -> Description:
    """Return what the options of a command line say; MalformedError, UnsupportedError."""
    told = Options(blob, line)
    guest = told.guest()
    platform = _platform(told, guest)
    name = f"-object {guest['qom-type']}" if guest else "-machine"
    said = {"platform": Said(platform, name), "vmm": Said("qemu", "the program")}
    said |= _of_guest(told, platform, guest)
    said["vcpus"] = Said(_vcpus(told), "-smp")
    if platform.vmsa:
        said |= _cpu(told)
    said |= _files(told, platform)
    hashed = platform.policy is not None and _flag(told, guest, "kernel-hashes")
    said |= _boot(told) if hashed else {}
    if told.size is not None:
        said["memory"] = told.size
    findings = tuple(_findings(told, platform, guest))
    boot = _boot(told) if platform.secure_ept else {}
    return Description(FORMAT, said, findings, tuple(_rest(told, platform)), boot=boot)


def _platform(told: Options, guest: Properties) -> Platform:
    match guest.get("qom-type"):
        case "sev-snp-guest":
            return SNP
        case "tdx-guest":
            return TDX
        case "sev-guest":
            return sev_platform(_number(told, guest, "policy", SEV_POLICY))
    return DEFAULT


def _place(guest: Properties, name: str) -> str:
    return f"-object {guest.get('qom-type')},{name}"


def _number(told: Options, guest: Properties, name: str, usual: int) -> int:
    try:
        return integer(guest.get(name, usual))
    except ValueError as error:
        raise told.wrong(_place(guest, name), str(error)) from None


def _flag(told: Options, guest: Properties, name: str) -> bool:
    value = guest.get(name, False)
    if value in (True, "on", "yes", "true", "y"):
        return True
    if value in (False, "off", "no", "false", "n"):
        return False
    raise told.wrong(_place(guest, name), f"{value!r} is not on or off")


def _of_guest(told: Options, platform: Platform, guest: Properties) -> dict[str, Said]:
    """Return the settings that the object says."""
    kind = str(guest.get("qom-type"))
    known = SETTINGS_OF.get(kind, {})
    for name in guest:
        if name.partition(".")[0] not in (*known, *HARMLESS.get(kind, ()), "id", "qom-type"):
            problem = "unknown property, which may change the launch"
            raise UnsupportedError(problem, at=f"{told.blob.name}: {_place(guest, name)}")
    said = {
        setting: Said(guest[name], _place(guest, name))
        for name, setting in known.items()
        if name in guest and name not in FLAGS
    }
    for name in FLAGS:
        if name in guest and _flag(told, guest, name):
            said[known[name]] = Said(True, _place(guest, name))
    features = [bit for name, bit in FEATURES.items() if _flag(told, guest, name)]
    if features:
        bits = sum(features) | int(platform.page_info)
        said["sev_features"] = Said(bits, _place(guest, "debug-swap, secure-tsc"))
    if platform.init_choice and features:  # qemu sev.c, sev_init2_required
        said["es_init"] = Said("init2", _place(guest, "debug-swap"))
    if platform.init_choice and guest.get("legacy-vm-type") in LEGACY:
        word = LEGACY[str(guest["legacy-vm-type"])]
        said["es_init"] = Said(word, _place(guest, "legacy-vm-type"))
    if platform.secure_ept and {"attributes", "sept-ve-disable", "debug"} & guest.keys():
        said["attributes"] = Said(_attributes(told, guest), _place(guest, "attributes"))
    return said


def _attributes(told: Options, guest: Properties) -> int:
    value = _number(told, guest, "attributes", SEPT_VE_DISABLE)
    for name, bit in (("sept-ve-disable", SEPT_VE_DISABLE), ("debug", DEBUG)):
        if name in guest:
            value = value | bit if _flag(told, guest, name) else value & ~bit
    return value


def _cpu(told: Options) -> dict[str, Said]:
    """Return the CPU model, or family, model and stepping where properties change them."""
    properties = keys(told.cpu, "model-name")
    name = properties.get("model-name", "")
    if not name:
        return {"cpu": Said(cpus.OF_QEMU, "no -cpu: QEMU's default")}
    if name.lower() in cpus.HOST:
        return {}
    changed = {part: properties[part] for part in PARTS if part in properties}
    if not changed:
        return {"cpu": Said(name, "-cpu")}
    try:
        numbers = dict(zip(PARTS, cpus.parts(cpus.find(name)), strict=True))
        numbers |= {part: integer(value) for part, value in changed.items()}
    except (ValueError, ConfigError) as error:
        raise told.wrong("-cpu", str(error)) from None
    return {part: Said(number, f"-cpu {part}") for part, number in numbers.items()}


def _vcpus(told: Options) -> int:
    """Return how many vCPUs are started; MalformedError for a topology that QEMU refuses."""
    numbers = {}
    for name, value in told.machine.items():
        if not name.startswith("smp."):
            continue
        place, name = f"-{name.replace('.', ' ')}", name.removeprefix("smp.")  # noqa: PLW2901
        try:
            numbers[name] = integer(value)
        except ValueError as error:
            raise told.wrong(place, str(error)) from None
        if numbers[name] == 0:
            raise told.wrong(place, "0 is not possible")
    count, most = numbers.get("cpus"), numbers.get("maxcpus")
    known = {name for name in TOPOLOGY if name in numbers}
    product = prod(numbers[name] for name in known)
    if count is None and most is None:
        return product
    most = most or count or 1
    if (count is not None and count > most) or most % product:
        raise told.wrong("-smp", f"{count or most} of {most} vCPUs in a topology of {product}")
    if {"sockets", "cores", "threads"} <= known and product != most:
        raise told.wrong("-smp", f"a topology of {product} for {most} vCPUs")
    return count or most


def _files(told: Options, platform: Platform) -> dict[str, Said]:
    """Return the firmware: an IGVM file, -bios, or for SEV the first flash."""
    name = told.machine.get("igvm-cfg")
    if name is not None:
        held = told.objects.get(name, {})
        if held.get("qom-type") != "igvm-cfg" or "file" not in held:
            raise told.wrong("-machine igvm-cfg", f"no object {name!r} with a file")
        return {"firmware": Said(held["file"], "-object igvm-cfg,file")}
    flash = [
        keys(option.value, "file")
        for option in told.line.options
        if option.name == "drive" and PFLASH in option.value.split(",")
    ]
    bios = told.machine.get("firmware")
    if flash and (platform.page_info or platform.secure_ept):
        problem = f"QEMU refuses flash for {platform}: the firmware has to be that of -bios"
        raise UnsupportedError(problem, at=f"{told.blob.name}: -drive {PFLASH}")
    first = [one["file"] for one in flash if one.get("unit", "0") == "0" and "file" in one]
    if bios is None and first:
        return {"firmware": Said(first[0], f"-drive {PFLASH}")}
    if bios is None and "pflash0" in told.machine:
        problem = "flash of a block device: give its file as -bios"
        raise UnsupportedError(problem, at=f"{told.blob.name}: -machine pflash0")
    if bios is None:
        problem = "names no firmware, so QEMU would take one of its own"
        raise UnsupportedError(problem, at=told.blob.name, hint="it needs -bios FILE")
    return {"firmware": Said(bios, "-bios")}


def _boot(told: Options) -> dict[str, Said]:
    """Return the kernel, its initrd and its command line, as far as they are given."""
    found = {
        name: Said(value, f"-{name}")
        for name in ("kernel", "initrd", "append")
        if (value := told.machine.get(name)) is not None
    }
    return found if "kernel" in found else {}


def _findings(told: Options, platform: Platform, guest: Properties) -> Iterator[Finding]:
    at = told.blob.name
    has_kernel = "kernel" in told.machine
    if platform.policy is not None and has_kernel and not _flag(told, guest, "kernel-hashes"):
        yield no_hashes(told.blob, f"kernel-hashes=on of {guest.get('qom-type')}")
    if platform.vmsa:
        named = Said(told.cpu, "-cpu") if told.cpu else None
        yield from host_cpu(told.blob, named, f"QEMU takes {cpus.OF_QEMU}")
    if told.line.unquoted and "append" in told.machine:
        problem = "the line has no quotes: -append is taken up to the next option"
        hint = "/proc/PID/cmdline has the words as they are"
        yield Finding("unquoted-line", problem, at=at, hint=hint)


def _rest(told: Options, platform: Platform) -> Iterator[str]:
    """Yield the options that the measurement does not cover."""
    used = USED | ({"smp", "cpu"} if platform.vmsa else set())
    used -= set() if platform.policy is not None else {"kernel", "initrd", "append"}
    for name in dict.fromkeys(option.name for option in told.line.options):
        if name not in used:
            yield f"-{name}" if name else "words that belong to no option"
