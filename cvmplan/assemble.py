"""
From an image and the settings that were given to a launch, its map and its plan.

What was not given is assumed from profile and platform, and said so: `given` and
`assumed` of a plan are together every setting that its operations depend on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from typing import Any

from cvmplan import cpus, profiles
from cvmplan.blob import Blob
from cvmplan.errors import ConfigError, UnsupportedError
from cvmplan.findings import Finding
from cvmplan.gpamap import GpaMap, Region, Role, check_regions
from cvmplan.kvm import abi as abis
from cvmplan.launch import Declared, Guest, Image, Launch, Layout, Opener
from cvmplan.plan import Input, Plan, stage
from cvmplan.profiles import Profile
from cvmplan.readers import recognise
from cvmplan.settings import check_platform, cpu_signature, documented
from cvmplan.snp.hashes import NO_CMDLINE, NO_INITRD, KernelHashes

FULL_FIRMWARE = 4 << 20  # bytes assumed where only the firmware's digest is known


TYPES = {
    "snp": {"normal", "zero", "unmeasured", "secrets", "cpuid", "vmsa"},
    "tdx": {"measured", "unmeasured", "augmented"},
    "sev": {"measured"},
    "sev-es": {"measured"},
    "default": {"mapped"},
    "sw-protected": {"mapped"},
}


@dataclass(frozen=True, slots=True)
class _Source:
    """The firmware, and what a manifest adds to it."""

    declared: Declared
    reader: Any = None
    name: str = ""


def launch(image: Blob, options: Mapping[str, Any], open_file: Opener) -> Launch:
    """
    Return the launch of `image` under `options`, which beat what a manifest says.

    `options` are values by the names of `settings.SETTINGS`, and "platform", "vmm" (a
    name or a Profile), "abi".  Nothing is checked yet that concerns regions.
    """
    source = _source(image, open_file)
    given = {**_normal(source.declared.settings, open_file), **_normal(options, open_file)}
    platform = _platform(source, given)
    check_platform(given, platform)
    profile = _profile(given, platform)
    abi = abis.find(given.get("abi", abis.DEFAULT))
    assumed = _assumed(platform, profile, given, abi)
    settings = {**assumed, **given}
    firmware = _firmware(source, platform, settings, profile)
    if source.name:
        _check_types(source.name, source.declared.regions, platform)
    known = {f.name for f in fields(Guest)}
    regions = firmware.regions if firmware else ()
    if firmware is None and "firmware_digest" in settings:
        regions = (_unseen_firmware(source),)
    return Launch(
        platform=platform,
        profile=profile,
        abi=abi,
        guest=Guest(**{k: v for k, v in settings.items() if k in known}),
        regions=(*regions, *source.declared.regions),
        image=firmware,
        hash_table=_hash_table(settings),
        memory=source.declared.memory,
        findings=source.declared.findings,
        given=given,
        assumed=assumed,
    )


def findings(launch: Launch) -> tuple[Layout, tuple[Finding, ...]]:
    """Return the layout of `launch` and every finding about it, errors included."""
    layout: Layout = stage(launch.platform, "planner").layout(launch)
    earlier = (*launch.findings, *layout.findings)
    found = check_regions(layout.regions, layout.limits, launch.memory)
    return layout, (*earlier, *found)


def gpa_map(launch: Launch) -> GpaMap:
    """Return the checked map of `launch`; MapError carries every finding."""
    layout: Layout = stage(launch.platform, "planner").layout(launch)
    earlier = (*launch.findings, *layout.findings)
    return GpaMap.of(layout.regions, layout.limits, launch.memory, earlier)


def plan(launch: Launch, inputs: tuple[Input, ...] = ()) -> Plan:
    """
    Return the ordered operations of `launch`; MapError, PlanError, UnsupportedError.

    `inputs` are the files that were opened for it.
    """
    checked = gpa_map(launch)
    operations = stage(launch.platform, "planner").operations(launch, checked)
    return Plan(
        launch.platform,
        launch.profile.name,
        launch.abi.name,
        tuple(operations),
        documented(launch.given),
        documented(launch.assumed),
        inputs,
        checked.findings,
    )


def _source(image: Blob, open_file: Opener) -> _Source:
    name, reader = recognise(image)
    if name == "plan":
        raise UnsupportedError("a plan is not an image", at=image.name)
    if name != "manifest":
        return _Source(Declared({}, firmware=image), reader)
    declared: Declared = reader.read(image, open_file)
    if declared.firmware is None:
        return _Source(declared, None, image.name)
    name, reader = recognise(declared.firmware)
    if name in ("manifest", "plan"):
        raise ConfigError("is not a firmware image", at=f"{image.name}: firmware.file")
    return _Source(declared, reader, image.name)


def _check_types(name: str, regions: Iterable[Region], platform: str) -> None:
    """Raise ConfigError for a region of a type that `platform` does not have."""
    for number, region in enumerate(regions):
        if region.page_type not in TYPES[platform]:
            raise ConfigError(
                f"{platform} has no page type {region.page_type!r}",
                at=f"{name}: regions[{number}].type",
                hint=f"it has {', '.join(sorted(TYPES[platform]))}",
            )


def _normal(settings: Mapping[str, Any], open_file: Opener) -> dict[str, Any]:
    """Return `settings` with CPU models as signatures, and files as hashes or contents."""
    given = dict(settings)
    signature = cpu_signature(given)
    for name in ("family", "model", "stepping"):
        given.pop(name, None)
    if signature is not None:
        given["cpu_signature"] = signature
    for name in ("kernel", "initrd", "append"):
        _hash_of(given, name, open_file)
    if isinstance(given.get("svsm"), str):
        given["svsm"] = open_file(given["svsm"], "svsm")
    return given


def _hash_of(given: dict[str, Any], name: str, open_file: Opener) -> None:
    """Replace the file or text `name` by its hash; ConfigError where both are given."""
    value = given.get(name)
    if value is None:
        return
    if f"{name}_hash" in given:
        raise ConfigError(f"goes without {name}-hash", at=name)
    if name == "append":
        given["append_hash"] = sha256(value.encode("utf-8", "surrogateescape") + b"\0").digest()
        return
    blob = open_file(value, name) if isinstance(value, str) else value
    given[f"{name}_hash"] = sha256(blob.data).digest()
    given[name] = blob.name


def _platform(source: _Source, given: Mapping[str, Any]) -> str:
    if "platform" in given:
        return str(given["platform"])
    if source.reader is None or source.declared.firmware is None:
        raise ConfigError("the manifest names no platform", at=source.name, hint="--platform NAME")
    allowed = source.reader.platforms(source.declared.firmware)
    if len(allowed) == 1:
        return str(allowed[0])
    name = source.declared.firmware.name
    if not allowed:
        raise ConfigError(
            "the firmware has no SEV-SNP or TDX metadata, so the platform must be named",
            at=name,
            hint="--platform sev, sev-es, default or sw-protected",
        )
    raise ConfigError(
        f"the image allows {' and '.join(allowed)}", at=name, hint="choose one with --platform"
    )


def _profile(given: dict[str, Any], platform: str) -> Profile:
    chosen = given.get("vmm", profiles.DEFAULT)
    profile = chosen if isinstance(chosen, Profile) else profiles.find(chosen)
    if "vmm" in given:
        given["vmm"] = profile.name
    return profiles.for_platform(profile, platform)


def _assumed(
    platform: str, profile: Profile, given: Mapping[str, Any], abi: abis.Abi
) -> dict[str, Any]:
    """Return the settings that were not given and that the operations depend on."""
    defaults: dict[str, Any] = {"platform": platform, "vmm": profile.name, "abi": abi.name}
    defaults["vcpus"] = 1
    if platform in ("snp", "sev", "sev-es"):
        defaults["policy"] = profile.policies.get(platform, 0x30000)
        defaults["kernel_hashes"] = "off"
    if platform in ("snp", "sev-es") and profile.vmsa:
        states = (*profile.vmsa.boot.values(), *profile.vmsa.others.values())
        if "cpu_signature" in states:
            defaults["cpu"] = cpus.DEFAULT
            defaults["cpu_signature"] = cpus.find(cpus.DEFAULT)
        features = profile.sev_features if platform == "snp" else 0
        defaults["sev_features"] = (
            features if abi.default_sev_features is None else abi.default_sev_features
        )
    if platform == "sev-es":
        defaults["es_init"] = abi.es_fpu_state or "legacy"
    if platform == "tdx":
        defaults |= {"page_order": profile.page_order, "gpaw": 48, "pad": profile.padding}
    if "cpu_signature" in given:
        defaults.pop("cpu", None)
    if "kernel_hash" in given:
        defaults.pop("kernel_hashes", None)
        if "append_hash" not in given:
            defaults["append"] = ""
    return {name: value for name, value in defaults.items() if name not in given}


def _firmware(
    source: _Source, platform: str, settings: Mapping[str, Any], profile: Profile
) -> Image | None:
    """Return what the firmware declares, with the SVSM below it where the profile has one."""
    blob = source.declared.firmware
    if profile.svsm != ("svsm" in settings):
        wants = "wants" if profile.svsm else "has no use for"
        raise ConfigError(f"profile {profile.name} {wants} an SVSM binary", at="svsm")
    if blob is None:
        return None
    if profile.svsm:
        return _with_svsm(blob, settings)
    image: Image = source.reader.read(blob, platform, settings.get("pad", "refuse"))
    size = source.declared.firmware_size
    if size is not None and size != len(blob):
        image = _whole(image, size, settings, source.name)
    return image


def _with_svsm(blob: Blob, settings: Mapping[str, Any]) -> Image:
    if "vars_size" not in settings:
        raise ConfigError("is needed to place the SVSM", at="vars-size", hint="--vars-size SIZE")
    from cvmplan.readers import ovmf

    firmware = ovmf.read(blob, "default")
    end = firmware.regions[0].gpa - settings["vars_size"]
    svsm = ovmf.read_svsm(settings["svsm"], end)
    return replace(
        svsm,
        regions=(firmware.regions[0], *svsm.regions),
        findings=(*firmware.findings, *svsm.findings),
    )


def _whole(image: Image, size: int, settings: Mapping[str, Any], name: str) -> Image:
    """Return `image`, the end of a firmware file, with the region of the whole file."""
    if "firmware_digest" not in settings:
        raise ConfigError(
            "differs from the file's, which goes with a firmware digest only",
            at=f"{name}: firmware.size",
        )
    region = image.regions[0]
    whole = replace(region, gpa=region.end - size, size=size)
    return replace(image, regions=(whole, *image.regions[1:]))


def _unseen_firmware(source: _Source) -> Region:
    """Return the region of firmware of which only the digest is known."""
    size = source.declared.firmware_size or FULL_FIRMWARE
    origin = f"{source.name}: firmware"
    return Region((1 << 32) - size, size, Role.FIRMWARE, origin, at=origin)


def _hash_table(settings: Mapping[str, Any]) -> bytes | None:
    """Return the SEV hash table, None where no kernel is given; ConfigError for half a boot."""
    if "kernel_hash" not in settings:
        for name in ("initrd_hash", "append_hash"):
            if name in settings and settings.get(name.removesuffix("_hash")) != "":
                raise ConfigError("goes with a kernel only", at=name.removesuffix("_hash"))
        return None
    hashes = KernelHashes(
        settings["kernel_hash"],
        settings.get("initrd_hash", NO_INITRD),
        settings.get("append_hash", NO_CMDLINE),
    )
    return hashes.table()
