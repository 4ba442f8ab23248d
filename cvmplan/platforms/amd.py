"""What SNP and SEV-ES share: the VMSA of each vCPU, SEV_FEATURES and where vCPUs start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from cvmplan.core.errors import ConfigError
from cvmplan.core.findings import Finding
from cvmplan.kvm.interface import Bits, bit_numbers
from cvmplan.launch import igvm_loader
from cvmplan.launch.model import Launch
from cvmplan.platforms.snp.vmsa import (
    BOOT_EIP,
    RESET,
    kvm_page,
    real_mode_entry,
    vmsa_page,
)
from cvmplan.profiles import State
from cvmplan.profiles import Vmsa as VmsaProfile

SNP_ACTIVE: Final = 1 << 0  # AMD 24593, APM volume 2, "SEV_FEATURES"


def vcpu_pages(
    launch: Launch, override: Mapping[str, int] | None = None
) -> Iterator[tuple[range, bytes]]:
    """
    Yield (vCPUs, their 4096-byte VMSA): the boot vCPU, then all others.

    `override` are VMSA fields that beat the profile's (SEV-ES without FPU state).
    """
    if igvm_loader.is_igvm(launch):
        yield from _file_pages(launch, override or {})
        return
    template = _template(launch)
    eip = launch.guest.reset_eip or (launch.image.reset_eip if launch.image else None) or 0
    boot_eip = BOOT_EIP if template.boot_entry == "reset-vector" else eip
    yield range(1), _state_page(launch, template.boot, boot_eip, override or {})
    if launch.guest.vcpus > 1 and launch.abi.vmsa_scope == "all":
        others = range(1, launch.guest.vcpus)
        at = BOOT_EIP if template.others_entry == "reset-vector" else eip
        yield others, _state_page(launch, template.others, at, override or {})


def _file_pages(launch: Launch, override: Mapping[str, int]) -> Iterator[tuple[range, bytes]]:
    """Yield the states that an IGVM file has, then the reset state for further vCPUs."""
    held = sorted(launch.image.states if launch.image else ())
    held = held[:1] if launch.abi.vmsa_scope != "all" else held
    profile = launch.profile
    for number, state in enumerate(held):
        page = state.page
        if not launch.abi.imports:
            page = kvm_page(page, profile.carries, override, sets=profile.sets)
        yield range(number, number + 1), page
    if len(held) < launch.guest.vcpus and launch.abi.vmsa_scope == "all":
        others = range(len(held), launch.guest.vcpus)
        yield others, _state_page(launch, _template(launch).others, BOOT_EIP, override)


def _template(launch: Launch) -> VmsaProfile:
    if launch.profile.vmsa is None and igvm_loader.is_igvm(launch):
        return VmsaProfile({}, {})
    if launch.profile.vmsa is None:
        raise ConfigError(f"profile {launch.profile.name} has no vCPU state", at="--vmm")
    return launch.profile.vmsa


def _state_page(launch: Launch, state: State, eip: int, override: Mapping[str, int]) -> bytes:
    entry = real_mode_entry(eip) if _template(launch).entry == "real-mode" else {"rip": eip}
    values = _resolved(state, {"cpu_signature": launch.guest.cpu_signature})
    features = {"sev_features": launch.guest.sev_features}
    return vmsa_page((RESET, entry, values, features, override))


def _resolved(state: State, settings: Mapping[str, int]) -> dict[str, int]:
    """Return `state` with the settings that it names replaced by their values; ConfigError."""
    values = {}
    for field, value in state.items():
        if isinstance(value, str) and value not in settings:
            raise ConfigError(f"VMSA field {field}: unknown setting {value!r}", at="--vmm")
        values[field] = settings[value] if isinstance(value, str) else value
    return values


def entry_findings(launch: Launch) -> Iterator[Finding]:
    """Yield an error where nothing says at which address application processors start."""
    image, states = launch.image, launch.profile.vmsa
    if states is not None and states.others_entry == "reset-vector":
        return
    if (
        launch.guest.reset_eip
        or (image and image.reset_eip)
        or (image is None and launch.guest.vcpus == 1)
    ):
        return
    what = "the firmware's SEV-ES reset block is absent or 0" if image else "no reset_eip is given"
    at = image.blob.name if image else launch.name
    hint = "give the address with --reset-eip, if the VMM has another source for it"
    yield Finding("ap-without-entry", what, at=at, hint=hint)


def features_findings(launch: Launch) -> Iterator[Finding]:
    """
    Yield what is wrong with SEV_FEATURES: bits that the interface refuses, or doubts.

    Without a rule of the interface a warning where SNP active is set on SEV-ES, or not on SNP.
    """
    features, abi = launch.guest.sev_features, launch.abi
    bits = abi.snp_features if launch.platform.page_info else abi.es_features
    if bits is None:
        if features & ~SNP_ACTIVE:
            problem = f"not checked: whether a kernel with {abi.name} takes SEV_FEATURES "
            yield Finding("not-checked", f"{problem}{features:#x}")
        if bool(features & SNP_ACTIVE) != launch.platform.page_info:
            problem = f"no kernel gives {launch.platform} guests SEV_FEATURES {features:#x}: bit 0"
            yield Finding("sev-features", f"{problem} is SNP active")
        return
    why = bits.refuses(features)
    if why is not None and not passes_features(launch):
        problem = f"not checked: whether the host takes SEV_FEATURES {features:#x} of the file; "
        problem += f"{launch.abi.name} as released refuses them: {why}"
        yield Finding("not-checked", problem, severity="warning", at=launch.name)
        return
    yield from mask_findings("sev-features", f"SEV_FEATURES {features:#x}", features, bits, launch)


def passes_features(launch: Launch) -> bool:
    """Whether the kernel is told the SEV_FEATURES: of a file some loaders are not known to."""
    return launch.profile.passes_features or not igvm_loader.is_igvm(launch)


def mask_findings(rule: str, what: str, mask: int, bits: Bits, launch: Launch) -> Iterator[Finding]:
    """Yield an error where the interface refuses `mask`, a note where only some hosts take it."""
    why = bits.refuses(mask)
    if why is not None:
        yield Finding(rule, f"{launch.abi.name} refuses {what}: {why}", severity="error")
    elif mask & bits.host:
        problem = f"{what}: {bit_numbers(mask & bits.host)} taken only if the host has them"
        yield Finding(rule, problem, severity="note")
