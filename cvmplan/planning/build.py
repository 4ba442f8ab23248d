"""
From an image and the settings that were given to a launch, its map and its plan.

What was not given is assumed from profile and platform, and said so: `given` and
`assumed` of a plan are together every setting that its operations depend on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, UnsupportedError
from cvmplan.core.findings import Finding
from cvmplan.core.inputs import Input
from cvmplan.core.platform import Platform
from cvmplan.core.values import PAGE
from cvmplan.images import edk2_tables
from cvmplan.kvm import abi as abis
from cvmplan.kvm import memory as kvm_memory
from cvmplan.kvm.interface import Abi
from cvmplan.launch import igvm_loader
from cvmplan.launch.model import Guest, Image, Launch, Layout, Opener
from cvmplan.launch.settings import check_platform, documented
from cvmplan.memory.gpamap import GpaMap, check_regions
from cvmplan.memory.regions import Region, Role
from cvmplan.operations.lowering import MOST_ADDED
from cvmplan.operations.plan import Plan, stage
from cvmplan.planning import defaults
from cvmplan.planning.source import Source, open_source
from cvmplan.platforms.snp.vmsa import value_of
from cvmplan.profiles import Profile

SEV_FEATURES = 0x3B0  # AMD 24593, APM volume 2, appendix B: where a VMSA has them
FULL_FIRMWARE = 4 << 20  # bytes assumed where only the firmware's digest is known


def launch(image: Blob, options: Mapping[str, Any], open_file: Opener) -> Launch:
    """
    Return the launch of `image` under `options`, which beat what a manifest says.

    `options` are values by the names of `settings.SETTINGS`, and "platform", "vmm" (a
    name or a Profile), "abi".  Where regions lie is not checked yet.
    """
    source = open_source(image, open_file, options.get("platform"))
    return launch_source(source, options, open_file)


def launch_source(source: Source, options: Mapping[str, Any], open_file: Opener) -> Launch:
    """Return the launch of an image that was opened before; as `launch`."""
    place = defaults.places(source.name, options)
    check_platform({**source.declared.settings, **options}, source.platform(options), place)
    given = defaults.beaten(
        defaults.normal(source.declared.settings, open_file, place),
        defaults.normal(options, open_file, place),
    )
    platform = source.platform(options)
    if given.get("xfam") == 0:  # no TD has none: what reaches the module is assumed, and printed
        given.pop("xfam")
    profile = defaults.profile(given, platform, place, source.format)
    usual = profile.abis[0] if profile.abis else abis.DEFAULT
    abi = abis.find(str(given.get("abi", usual)), place("abi"))
    abis.for_plan(abi, platform, place("abi"))
    firmware, assumed = _decided(source, platform, profile, abi, given, place)
    settings = {**assumed, **given}
    if source.name:
        _check_types(source.name, source.declared.regions, platform)
    regions = firmware.regions if firmware else ()
    if firmware is None and "firmware_digest" in settings:
        regions = (source.unseen_firmware(settings["firmware_size"], place),)
    return Launch(
        platform=platform,
        name=source.image.name,
        profile=profile,
        abi=abi,
        guest=Guest(**{k: v for k, v in settings.items() if k in Guest._fields}),
        regions=(*regions, *source.declared.regions),
        image=firmware,
        hash_table=defaults.hash_table(settings, place),
        memory=source.declared.memory._replace(
            prefault=tuple((*r, place("prefault")) for r in settings.get("prefault", ())),
            present=firmware.required if firmware else (),
        ),
        findings=(
            *source.declared.findings,
            *defaults.kernel_findings(source.declared.settings, options, profile, open_file),
        ),
        given=given,
        assumed=assumed,
    )


def _decided(
    source: Source,
    platform: Platform,
    profile: Profile,
    abi: Abi,
    given: Mapping[str, Any],
    place: defaults.Place,
) -> tuple[Image | None, dict[str, Any]]:
    """Return the image for `platform`, and the settings that profile, kernel and file decide."""
    assumed = defaults.assumed(platform, profile, given, abi)
    file = source.declared.firmware
    tables_only = file is not None and file.name.startswith(edk2_tables.PREFIX)
    if tables_only and "firmware_digest" not in given:
        problem = "is the section table of a firmware of which only a digest is known"
        raise ConfigError(problem, at=source.image.name, hint="--firmware-digest HEX")
    if "firmware_digest" in given and "firmware_size" not in given:
        assumed["firmware_size"] = len(file) if file and not tables_only else FULL_FIRMWARE
    if source.format == "igvm":
        _refuse_firmware_settings(given, place)
    firmware = source.firmware(platform, {**assumed, **given}, profile, place)
    if firmware and firmware.format == "igvm":
        assumed = _with_file(assumed, firmware, platform, profile, given, place)
        if abi.es_fpu_state is None and "es_init" in assumed and _has_fpu_state(firmware):
            assumed["es_init"] = "init2"
    return firmware, assumed


def _refuse_firmware_settings(given: Mapping[str, Any], place: defaults.Place) -> None:
    """Raise ConfigError for settings for which an IGVM file, the whole image, has no use."""
    for name in ("kernel_hash", "firmware_digest", "firmware_size", "reset_eip", "pad", "hob_gpa"):
        if name in given:
            shown = "kernel" if name == "kernel_hash" and "kernel" in given else name
            raise ConfigError("means nothing for an IGVM file", at=place(shown))


def _has_fpu_state(image: Image) -> bool:
    """Whether a vCPU state of the file has FPU state, which only KVM_SEV_INIT2 measures."""
    return any(value_of(s.page, name) for s in image.states for name in ("mxcsr", "x87_fcw"))


def _with_file(
    assumed: Mapping[str, Any],
    image: Image,
    platform: Platform,
    profile: Profile,
    given: Mapping[str, Any],
    place: defaults.Place,
) -> dict[str, Any]:
    """Return what is assumed, with the settings that an IGVM file says itself; ConfigError."""
    told: dict[str, Any] = {**assumed, "vcpus": max(len(image.states), 1)}
    told.pop("kernel_hashes", None)
    if image.policies and platform.policy is not None:
        told["policy"] = igvm_loader.guest_policy(profile, image.policies)
    if image.states:
        features = int.from_bytes(image.states[0].page[SEV_FEATURES : SEV_FEATURES + 8], "little")
        told["sev_features"] = features
        if given.get("sev_features", features) != features:
            problem = f"the vCPU states of the file say {features:#x}"
            raise ConfigError(problem, at=place("sev_features"))
    if len(image.states) >= given.get("vcpus", told["vcpus"]):
        if "cpu_signature" in given:
            raise ConfigError("means nothing: the file has all vCPU states", at=place("cpu"))
        told = {n: v for n, v in told.items() if n not in ("cpu", "cpu_signature")}
    return {name: value for name, value in told.items() if name not in given}


def findings(launch: Launch) -> tuple[Layout, tuple[Finding, ...]]:
    """Return the layout of `launch` and every finding about it, errors included."""
    layout, earlier = _layout(launch)
    found = check_regions(layout.regions, layout.limits, launch.memory)
    return layout, (*earlier, *found)


def gpa_map(launch: Launch) -> GpaMap:
    """Return the checked map of `launch`; MapError carries every finding."""
    layout, earlier = _layout(launch)
    return GpaMap.of(layout.regions, layout.limits, launch.memory, earlier)


def _layout(launch: Launch) -> tuple[Layout, tuple[Finding, ...]]:
    """Return the layout of `launch`, and what is found before its regions are compared."""
    layout: Layout = stage(launch.platform, "planner").layout(launch)
    declared = launch.image.findings if launch.image else ()
    found = (*launch.findings, *declared, *layout.findings)
    found += (*igvm_loader.findings(launch), *_no_early_map(launch), *_not_checked(launch))
    states = (Role.VMSA, Role.VP_CONTEXT, Role.OTHER_CONTEXT)
    if not any(r.is_mapped for r in layout.regions if r.role not in states):
        grave = "warning" if not launch.platform.measured else "error"
        problem = "the launch adds no page, so nothing could start"
        found += (Finding("empty-region", problem, at=launch.name, severity=grave),)
    return layout, found


def _no_early_map(launch: Launch) -> Iterator[Finding]:
    """Say once where the interface maps a page inside the call that adds it."""
    abi = launch.abi
    if abi.map_call and launch.platform not in abi.map_early:
        problem = f"{abi.name} maps a page inside the call that adds it; a mapping of its own is "
        problem += "refused until the guest is finalized, so the plan has none"
        yield Finding("pure-map-before-finalize", problem, severity="note")


def _not_checked(launch: Launch) -> Iterator[Finding]:
    """Yield a note for what the interface may refuse and is not modelled."""
    for platform, what in launch.abi.not_modelled:
        if platform == launch.platform:
            yield Finding("not-checked", f"not checked: {what} ({launch.abi.name})")


def plan(launch: Launch, inputs: tuple[Input, ...] = ()) -> Plan:
    """
    Return the ordered operations of `launch`; MapError, PlanError, UnsupportedError.

    `inputs` are the files that were opened for it.
    """
    checked = gpa_map(launch)
    total = sum(r.added_size for r in checked.regions if r.is_mapped) // PAGE
    if total > MOST_ADDED and launch.platform.measured:
        problem = f"the launch adds {total} pages, of which {MOST_ADDED} (64 GiB) are taken"
        raise UnsupportedError(problem, at=launch.name)
    operations = [*stage(launch.platform, "planner").operations(launch, checked)]
    operations += kvm_memory.prefault(launch.abi, launch.memory, operations)
    return Plan(
        launch.platform,
        launch.profile.name,
        launch.abi.name,
        tuple(operations),
        documented(launch.given),
        documented(launch.assumed),
        inputs,
        checked.findings,
        promised=_promised(launch),
    )


def _promised(launch: Launch) -> tuple[tuple[bytes, str], ...]:
    """Return the digests that ID blocks of the image name, where the loader takes those."""
    if launch.image is None or launch.profile.ignores_id_block:
        return ()
    return tuple((b.ld, b.at) for b in launch.image.id_blocks)


def _check_types(name: str, regions: Iterable[Region], platform: Platform) -> None:
    """Raise ConfigError for a region of a type that `platform` does not have."""
    for number, region in enumerate(regions):
        if region.page_type not in platform.page_types:
            raise ConfigError(
                f"{platform} has no page type {region.page_type!r}",
                at=f"{name}: regions[{number}].type",
                hint=f"it has {', '.join(sorted(platform.page_types))}",
            )
