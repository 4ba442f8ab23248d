"""
One launch with several numbers of vCPUs, measured in one pass.

A vCPU's state is measured after all pages, so that launches which differ in the number of
vCPUs only share everything before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, repeat

from cvmplan.operations.measure import Measurement, measure
from cvmplan.operations.plan import Plan
from cvmplan.platforms.sev import digest as sev
from cvmplan.platforms.snp import digest as snp


def by_vcpus(plan: Plan, chains: snp.Chains) -> Iterator[Measurement]:
    """
    Yield the measurement of `plan` with 1, 2, … vCPUs, without end.

    Beyond the states that are measured it is that of all of them: so where the kernel measures
    one only, where the image has them, and where states are not measured.  `chains` remembers
    pages that were folded before.  Errors as `operations.measure`.
    """
    result = None
    if plan.platform.page_info:
        for result in snp.by_vcpus(plan.platform, plan.trace(), chains):
            yield result
    elif plan.platform.vmsa:
        for result in sev.by_vcpus(plan.platform, plan.trace()):
            yield result
    yield from repeat(result or measure(plan))


def measure_shared(plan: Plan, vcpus: int, chains: snp.Chains) -> Measurement:
    """Return the measurement of `plan`, which has `vcpus`, as `by_vcpus` has it."""
    return next(islice(by_vcpus(plan, chains), vcpus - 1, None))
