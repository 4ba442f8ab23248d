"""
What each target takes: platforms, how many values, and options beside them.

Sources of the forms are in the modules that write them (`emit.references`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from cvmplan.core.errors import ConfigError
from cvmplan.core.platform import POLICED, SNP, TDX, VBS, Platform
from cvmplan.reference.values import Reference, Wanted

MEASURED: Final = tuple(one for one in Platform if one.measured)


class Target(NamedTuple):
    """
    A form of reference values.

    platforms  those whose values it has room for
    takes      what of `Wanted` it has room for
    single     it has room for one value
    needs      what of `Wanted` has to be given
    """

    platforms: tuple[Platform, ...] = MEASURED
    takes: tuple[str, ...] = ()
    single: bool = False
    needs: tuple[str, ...] = ()


TARGETS: Final = {
    "rvps": Target(takes=("name", "rtmr1", "rtmr2", "xfam")),
    "coco": Target(takes=("script",), single=True),
    "rego": Target((SNP, TDX), takes=("self_contained", "name")),
    "go-sev-guest": Target((SNP,), takes=("policy", "min_tcb")),
    "go-tdx-guest": Target(
        (TDX,), takes=("rtmr0", "rtmr1", "rtmr2", "rtmr3", "xfam", "td_attributes")
    ),
    "corim": Target((SNP, TDX, VBS), takes=("svn",), single=True, needs=("svn",)),
    "in-toto": Target(),
    "predicate": Target(),
    "snpguest": Target((SNP,)),
    "sev-snp-measure": Target(POLICED),
}


NAMES: Final = {SNP: "snp_launch_measurement", TDX: "mr_td"}
"""
Platform to the name of its launch measurement in Trustee's default policy.

Source: trustee 78962cd, attestation-service/src/ear_token/ear_default_policy_cpu.rego.
"""
CLAIMS: Final = {SNP: "input.snp.measurement", TDX: "input.tdx.quote.body.mr_td"}
"""Platform to the claim that is compared.  Source: the same."""
SAFE: Final = {
    SNP: ("input.snp.policy_debug_allowed == false", "input.snp.policy_migrate_ma == false"),
    TDX: ("input.tdx.td_attributes.debug == false",),
}
"""Platform to what a host may not be able to do.  Source: the same."""


def check(target: str, reference: Reference) -> None:
    """Raise ConfigError where a target has no room for what is asked."""
    chosen = TARGETS[target]
    for name in asked(reference.wanted):
        if name not in chosen.takes:
            at = f"--{name.replace('_', '-')}"
            raise ConfigError(f"is not supported by --to {target}", at=at)
    for name in chosen.needs:
        if getattr(reference.wanted, name) is None:
            raise ConfigError(f"missing, and --to {target} needs it", at=f"--{name}")
    for platform in reference.platforms:
        if platform not in chosen.platforms:
            hint = f"it takes values of {', '.join(chosen.platforms)}"
            raise ConfigError(f"{target} takes no values of {platform}", at="--to", hint=hint)
    if reference.wanted.name is not None and reference.platforms[1:]:
        raise ConfigError("names the values of one platform", at="--name")
    count = len({(one.platform, one.digest) for one in reference.values})
    if chosen.single and count > 1:
        problem = f"{target} takes one value, and these are {count}"
        raise ConfigError(problem, at="--to")


def asked(wanted: Wanted) -> Iterator[str]:
    """Yield the names of the options that were given."""
    for name, value in wanted._asdict().items():
        if name == "rtmrs":
            yield from (f"rtmr{n}" for n, one in enumerate(wanted.rtmrs) if one is not None)
        elif value not in (None, False):
            yield name
