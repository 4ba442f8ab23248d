"""
From an image and the settings that were given to a launch, its map and its plan.

What was not given is assumed from profile and platform, and said so: `given` and
`assumed` of a plan are together every setting that its operations depend on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, CvmplanError, UnsupportedError
from cvmplan.core.findings import Finding
from cvmplan.core.inputs import Input
from cvmplan.core.places import in_document
from cvmplan.core.platform import Platform
from cvmplan.core.values import PAGE
from cvmplan.kvm import memory as kvm_memory
from cvmplan.launch import igvm_loader
from cvmplan.launch.command_line import for_vcpus
from cvmplan.launch.documented import document_settings
from cvmplan.launch.given import Given
from cvmplan.launch.guest import Guest
from cvmplan.launch.model import Declared, Launch, Layout, Opener
from cvmplan.launch.settings import READ_WITH
from cvmplan.memory.gpamap import GpaMap, check_regions
from cvmplan.memory.machine import slots_crossed
from cvmplan.memory.regions import Region, Role
from cvmplan.operations.lowering import MOST_ADDED
from cvmplan.operations.plan import Plan, stage
from cvmplan.planning.decide import Decided, decide_settings, make_hash_table
from cvmplan.planning.kernels import kernel_findings, line_findings
from cvmplan.planning.memory import lay_out, layout_findings
from cvmplan.planning.read import (
    Place,
    check_platform,
    merge_settings,
    name_places,
    open_files,
)
from cvmplan.planning.source import Source, open_source
from cvmplan.planning.usual import name_usual, usual_place, usual_settings


def launch(image: Blob, options: Given, open_file: Opener) -> Launch:
    """
    Return the launch of `image` under `options`, which beat what a manifest says.

    `options` are values by the names of `settings.SETTINGS`, and "platform", "vmm" (a
    name or a Profile), "abi".  Where regions lie is not checked yet.
    """
    source = open_source(image, open_file, options)
    return launch_source(source, options, open_file)


def launch_source(source: Source, options: Given, open_file: Opener) -> Launch:
    """Return the launch of an image that was opened before; as `launch`."""
    allowed = source.allowed(options)
    if len(allowed) > 1:
        return _only_possible(source, options, open_file, allowed)
    place = name_places(source.name, options.names(), source.declared.places)
    for name in READ_WITH:
        if name in options and name not in source.declared.reads:
            raise ConfigError("is not read with this image", at=place(name))
    declared, usual, platform = source.declared, options.usual, source.platform(options)
    settings = declared.settings
    beneath = usual_settings(usual, settings | options, declared, platform, source.format)
    beneath, settings, options = for_vcpus(beneath, settings, options)
    place = name_usual(place, beneath, usual)
    check_platform(settings | options, platform, place)
    opened = [open_files(one, open_file, place) for one in (beneath, settings, options)]
    given = merge_settings(*opened[1:])
    decided = decide_settings(source, platform, merge_settings(opened[0], given), place)
    decided = decided.assuming(*(name for name in opened[0] if name not in given))
    found = [
        *kernel_findings(beneath | settings, options, decided.profile, open_file),
        *line_findings(decided.settings, place),
        *_of_description(declared, beneath | options),
    ]
    made = _launch(source, decided, tuple(found), place)
    return replace(made, places=_places(decided, declared.places, options))


def _only_possible(
    source: Source, options: Given, open_file: Opener, allowed: tuple[Platform, ...]
) -> Launch:
    """Return the launch of the one platform on which it has no errors; ConfigError."""
    made: list[Launch] = []
    wrong: dict[str, str] = {}
    for platform in allowed:
        try:
            launch = launch_source(source, options | {"platform": platform}, open_file)
            gpa_map(launch)
        except CvmplanError as error:
            wrong[platform] = str(error)
        else:
            made.append(launch)
    if len(made) != 1:
        source.platform(options)
    chosen = made[0]
    others = ", ".join(wrong)
    problem = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
    told = Finding("platform-chosen", f"{chosen.platform}, since {others} has errors ({problem})")
    return replace(
        chosen,
        given=chosen.given.without("platform"),
        assumed=Given({"platform": chosen.platform}) | chosen.assumed,
        places={**chosen.places, "platform": f"{others} has errors"},
        findings=(*chosen.findings, told),
    )


def _places(decided: Decided, of_document: Mapping[str, str], options: Given) -> dict[str, str]:
    """Return where settings were found: those of a document, and those that are usual."""
    found = {n: of_document[n] for n in decided.given if n in of_document and n not in options}
    for name, value in decided.assumed.items():
        place = usual_place(name, options.usual)
        known = options.usual.values.get(name)
        if place and (name in decided.usual or (name == "platform" and value == known)):
            found[name] = place
    return found


def _of_description(declared: Declared, options: Given) -> Iterator[Finding]:
    """Yield what is found in a document, but for what options have settled."""
    settled = {"cpu", "family", "cpu_signature"} & {*options}
    yield from (f for f in declared.findings if not (settled and f.rule == "host-cpu"))


def _launch(source: Source, decided: Decided, found: tuple[Finding, ...], place: Place) -> Launch:
    """Return the launch that was decided on; ConfigError for a region that it cannot have."""
    settings, firmware, declared = decided.settings, decided.firmware, source.declared
    if source.name:
        _check_types(source.name, declared.regions, decided.platform)
    regions = firmware.regions if firmware else ()
    size = settings.number("firmware_size")
    if firmware is None and "firmware_digest" in settings and size is not None:
        regions = (source.unseen_firmware(size, place),)
    memory = declared.memory._replace(
        prefault=tuple((*r, place("prefault")) for r in settings.ranges("prefault")),
        present=firmware.required if firmware else (),
    )
    file = len(firmware.blob) if firmware else 0
    layout = layout_findings(settings, decided.profile, decided.platform)
    return Launch(
        platform=decided.platform,
        name=source.image.name,
        profile=decided.profile,
        abi=decided.abi,
        guest=Guest.of(settings),
        regions=(*regions, *declared.regions),
        image=firmware,
        hash_table=make_hash_table(settings, place),
        memory=lay_out(memory, decided.platform, settings, regions, file),
        findings=(*found, *layout),
        given=decided.given,
        assumed=decided.assumed,
    )


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
    if launch.memory.machine is not None:
        found += (*slots_crossed(launch.memory.machine, layout.regions),)
    states = (Role.VMSA, Role.VP_CONTEXT, Role.OTHER_CONTEXT)
    if not any(r.is_mapped for r in layout.regions if r.role not in states):
        grave = "warning" if not launch.platform.measured else "error"
        problem = "the launch adds no pages, so nothing can start"
        found += (Finding("empty-region", problem, at=launch.name, severity=grave),)
    return layout, found


def _no_early_map(launch: Launch) -> Iterator[Finding]:
    """Say once where the interface maps a page inside the call that adds it."""
    abi = launch.abi
    if abi.map_call and launch.platform not in abi.map_early:
        problem = f"{abi.name} maps a page inside the call that adds it; a separate mapping is "
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
        problem = f"the launch adds {total} pages; at most {MOST_ADDED} (64 GiB) are supported"
        raise UnsupportedError(problem, at=launch.name)
    operations = [*stage(launch.platform, "planner").operations(launch, checked)]
    operations += kvm_memory.prefault(launch.abi, launch.memory, operations)
    return Plan(
        launch.platform,
        launch.profile.name,
        launch.abi.name,
        tuple(operations),
        document_settings(launch.given),
        document_settings(launch.assumed),
        inputs,
        checked.findings,
        promised=_promised(launch),
        places=launch.places,
        practice=launch.profile.practice(launch.platform),
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
                at=in_document(name, "regions", number, "type"),
                hint=f"choose from {', '.join(sorted(platform.page_types))}",
            )
