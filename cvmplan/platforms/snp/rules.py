"""
What firmware and kernel refuse of an SNP or SEV-ES launch's settings.

The values are data of the kernel interface; here is what is said about them.
"""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.core.findings import Finding
from cvmplan.launch.model import Launch
from cvmplan.platforms.amd import mask_findings

POLICY_DEBUG = 1 << 19  # AMD 56860, table "Guest Policy Structure"


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
