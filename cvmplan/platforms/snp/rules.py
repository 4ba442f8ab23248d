"""
What firmware and kernel refuse of an SNP or SEV-ES launch's settings.

The values are data of the kernel interface; here is what is said about them.
"""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.core.findings import Finding
from cvmplan.kvm.interface import Bits, bit_numbers
from cvmplan.launch import igvm_loader
from cvmplan.launch.model import Launch
from cvmplan.platforms.snp.states import SNP_ACTIVE

POLICY_DEBUG = 1 << 19  # AMD 56860, table "Guest Policy Structure"


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
    bits = abi.snp_features if launch.platform == "snp" else abi.es_features
    if bits is None:
        if features & ~SNP_ACTIVE:
            problem = f"not checked: whether a kernel with {abi.name} takes SEV_FEATURES "
            yield Finding("not-checked", f"{problem}{features:#x}")
        if bool(features & SNP_ACTIVE) != (launch.platform == "snp"):
            problem = f"no kernel gives {launch.platform} guests SEV_FEATURES {features:#x}: bit 0"
            yield Finding("sev-features", f"{problem} is SNP active")
        return
    why = bits.refuses(features)
    if why and not passes_features(launch):
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
    if why:
        yield Finding(rule, f"{launch.abi.name} refuses {what}: {why}", severity="error")
    elif mask & bits.host:
        problem = f"{what}: {bit_numbers(mask & bits.host)} taken only if the host has them"
        yield Finding(rule, problem, severity="note")


def policy_findings(launch: Launch) -> Iterator[Finding]:
    """Yield what is wrong or doubtful about an SNP guest policy."""
    policy = launch.guest.policy
    yield from mask_findings(
        "policy-mask", f"policy {policy:#x}", policy, launch.abi.snp_policy, launch
    )
    if policy & POLICY_DEBUG:
        yield Finding("policy-debug", f"policy {policy:#x} allows debugging")


def id_block_findings(launch: Launch) -> Iterator[Finding]:
    """Yield an error where only one of ID block and ID authentication is given."""
    guest = launch.guest
    if (guest.id_block is None) != (guest.id_auth is None):
        lacks = "no ID authentication" if guest.id_auth is None else "no ID block"
        has = "an ID block" if guest.id_auth is None else "an ID authentication"
        yield Finding("id-block-incomplete", f"the launch has {has} and {lacks}", at=launch.name)
    if guest.author_key_enabled and guest.id_block is None and guest.id_auth is None:
        problem = "the author key is enabled, and KVM ignores that without an ID block"
        hint = "--id-block and --id-auth, or leave out --author-key-enabled"
        yield Finding("id-block-incomplete", problem, at=launch.name, hint=hint, severity="warning")
