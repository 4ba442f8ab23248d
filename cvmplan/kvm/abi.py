"""
Kernel interfaces as data: what the host kernel offers to launch a confidential VM.

The measurement depends on the interface in the four fields of `Abi` after its name and in
nothing else.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cvmplan.errors import ConfigError


class Abi(NamedTuple):
    """
    One kernel interface.

    vmsa_scope            vCPUs whose VMSA is measured: "all" or "boot-vcpu"
    es_fpu_state          SEV-ES x87 and SSE state: "legacy" (zero) or "init2"; None: a setting
    default_sev_features  SEV_FEATURES that the kernel sets by itself, None: the profile's
    tdx_extend            "fused" with the add, or "separate"

    `nearest` is what runs today where no released kernel has this interface, "" where one has.
    """

    name: str
    title: str
    source: str
    vmsa_scope: str = "all"
    es_fpu_state: str | None = None
    default_sev_features: int | None = None
    tdx_extend: str = "fused"
    nearest: str = ""


MAP_MEMORY = Abi(
    name="map-memory",
    title="the agreement of 2024-04-03: mapping is pure, a vendor call adds and measures",
    source="kvm mailing list, 'Re: [RFC PATCH 6/8] KVM: x86: Implement "
    "kvm_arch_{, pre_}vcpu_map_memory()'; no released kernel has it",
    tdx_extend="separate",
    nearest="Linux 6.11 and later for SNP, 6.16 and later for TDX: pages are mapped inside the "
    "call that adds them, and a mapping of its own is refused before the launch is final",
)

ABIS: Final = {abi.name: abi for abi in (MAP_MEMORY,)}
DEFAULT: Final = MAP_MEMORY.name


def find(name: str, at: str = "--abi") -> Abi:
    """Return the interface `name`; ConfigError at `at` lists those that exist."""
    if name not in ABIS:
        raise ConfigError(
            f"there is no kernel interface {name!r}",
            at=at,
            hint=f"known are {', '.join(ABIS)}",
        )
    return ABIS[name]
