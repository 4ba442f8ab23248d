"""
vCPU states, which come last: one fold of the pages serves all of them.

For each CPU signature and each SEV_FEATURES there is a chain of VMSAs, and each link of it is
the digest of one more vCPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, NamedTuple

from cvmplan.launch import igvm_loader
from cvmplan.launch.model import Launch
from cvmplan.operations.measure import measure
from cvmplan.operations.plan import Plan
from cvmplan.platforms.sev import digest as sev_digest
from cvmplan.platforms.sev import planner as sev
from cvmplan.platforms.snp import planner as snp
from cvmplan.platforms.snp.digest import NO_CONTENTS, Chains, after_vmsas
from cvmplan.platforms.snp.steps import LaunchUpdate, VmsaUpdate
from cvmplan.profiles import cpus

FEATURES: Final = (0x1, 0x0, 0x21, 0x20, 0x3, 0x9, 0x23, 0x29, 0x2B, 0x201, 0x221)
"""SEV_FEATURES that kernels, paravisors and SVSMs set, the likelier first."""
SINGLE_BITS: Final = tuple(1 << n | active for n in range(1, 64) for active in (1, 0))


class Match(NamedTuple):
    """The vCPU states that lead to a digest."""

    vcpus: int
    cpu_signature: int
    sev_features: int


class Pages:
    """
    The pages of one launch, folded; vCPU states follow.

    `launch` has as many vCPUs as are looked at.  `measured`: the digest that the launch has
    where the states are among its pages, or not measured at all.
    """

    def __init__(self, launch: Launch, plan: Plan, chains: Chains) -> None:
        self.launch = launch
        self._snp = NO_CONTENTS
        self._sev: Any = None
        self.measured: bytes | None = None
        if plan.platform.page_info:
            self._fold_snp(plan, chains)
        elif plan.platform.vmsa:
            self._fold_sev(plan)
        else:
            self.measured = measure(plan).digest

    def _fold_snp(self, plan: Plan, chains: Chains) -> None:
        for step in plan.trace():
            if isinstance(step, VmsaUpdate):
                return
            if isinstance(step, LaunchUpdate):
                self._snp = chains.after(self._snp, step)
        self.measured = self._snp

    def _fold_sev(self, plan: Plan) -> None:
        for digest, coverage in sev_digest.running(plan.trace()):
            if coverage.vmsas:
                return
            self._sev = digest.copy()

    @property
    def signatures(self) -> tuple[int, ...]:
        """The CPU signatures that there are to try, the launch's first."""
        launch, known = self.launch, (*cpus.SIGNATURES.values(), *cpus.CHIPS)
        template = launch.profile.vmsa
        states = {**template.boot, **template.others} if template else {}
        if "cpu_signature" not in states.values() or igvm_loader.is_igvm(launch):
            known = ()
        return tuple(dict.fromkeys((launch.guest.cpu_signature, *known)))

    @property
    def features(self) -> tuple[int, ...]:
        """The SEV_FEATURES that there are to try: the launch's, the known, and single bits."""
        known = () if igvm_loader.is_igvm(self.launch) else (*FEATURES, *SINGLE_BITS)
        return tuple(dict.fromkeys((self.launch.guest.sev_features, *known)))

    def vcpus(self, want: bytes, signature: int, features: int, most: int) -> int | None:
        """Return how many vCPUs of such states, up to `most`, lead to the digest `want`."""
        guest = self.launch.guest._replace(cpu_signature=signature, sev_features=features)
        launch = replace(self.launch, guest=guest)
        if launch.platform.page_info:
            return self._among_snp(want, launch, most)
        return self._among_sev(want, launch, most)

    def _among_snp(self, want: bytes, launch: Launch, most: int) -> int | None:
        digest, count = self._snp, 0
        for vmsa in snp.vmsas(launch):
            states = vmsa.vcpus[: most - count]
            for after in after_vmsas(digest, VmsaUpdate(vmsa.gpa, states, vmsa.page)):
                digest = after
                count += 1
                if digest == want:
                    return count
            if count == most:
                break
        return None

    def _among_sev(self, want: bytes, launch: Launch, most: int) -> int | None:
        running, count = self._sev.copy(), 0
        for state in sev.vmsas(launch):
            for _ in state.vcpus[: most - count]:
                running.update(state.page)
                count += 1
                if running.copy().digest() == want:
                    return count
        return None
