"""
How each fact of an interface is known: a kernel was run, its source was read, or it is inferred.

Kernels were booted under emulation and asked the cases of `host.cases`; the answers are kept
with the tests, which hold these tables against them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from cvmplan.kvm.interface import Abi, Fact


class Asked(NamedTuple):
    """A kernel that was booted: its release, the day, and whether it has protected VMs."""

    release: str
    date: str
    protected: bool = False

    @property
    def short(self) -> str:
        """The release without what a distribution adds."""
        return self.release.partition("+")[0]


ASKED: Final[Mapping[str, tuple[Asked, ...]]] = {
    "kvm-6.11": (
        Asked("6.12.117+deb13-amd64", "2026-11-27"),
        Asked("6.12.117", "2026-11-27", protected=True),
    ),
    "kvm-6.16": (
        Asked("6.16.12+deb13-amd64", "2026-11-27"), Asked("6.17.13+deb13-amd64", "2026-11-27"),
    ),
    "kvm-6.18": (Asked("6.18.15+deb13-amd64", "2026-11-27"),),
    "kvm-7.2": (
        Asked("7.2.13+deb14-amd64", "2026-11-27"),
        Asked("7.2.13", "2026-11-27", protected=True),
    ),
    "kvm-7.3": (
        Asked("7.3.4+deb13-amd64", "2026-11-27"),
        Asked("7.3.4", "2026-11-27", protected=True),
    ),
}  # fmt: skip
"""Interface to the kernels that were asked."""


HANGS: Final[Mapping[str, tuple[str, ...]]] = {"kvm-6.11": ("slot-deleted", "slot-moved")}
"""Cases in which KVM_PRE_FAULT_MEMORY does not return; found on a booted 6.12.117."""


class Shown(NamedTuple):
    """Cases that show a fact, and on which VMs: any, one with a guest_memfd, or a private one."""

    cases: tuple[str, ...]
    on: str = "any"


SHOWN: Final[Mapping[str, Shown]] = {
    "pre-fault": Shown(("a-page", "more-than-is-mapped", "one-page-of-a-huge-one")),
    "aligned": Shown(("not-whole-pages", "slot-not-whole-pages", "to-the-end-of-all")),
    "binding": Shown(("gmem-bound",), "gmem"),
    "page-size": Shown(("private-punched", "attributes-with-holes"), "private"),
    "gmem-flags": Shown(("gmem-flags", "gmem-touched", "gmem-is-the-memory")),
    "attributes": Shown(("attributes", "attributes-anywhere"), "private"),
}
"""Fact to the cases that show it; what is not here needs trusted firmware, or a policy of it."""


class Known(NamedTuple):
    """A fact, and how it is known: "run" by `kernels`, "read" in a source, or "inferred"."""

    fact: Fact
    how: str
    kernels: tuple[Asked, ...] = ()


def known(abi: Abi) -> Iterator[Known]:
    """Yield each fact of an interface with how it is known."""
    for fact in abi.facts:
        kernels = tuple(_that_show(fact, abi))
        yield Known(fact, "run" if kernels else fact.confidence, kernels)


def _that_show(fact: Fact, abi: Abi) -> Iterator[Asked]:
    shown = SHOWN.get(fact.id)
    if shown is None:
        return
    for one in ASKED.get(abi.name, ()):
        wanted = {"any": True, "gmem": one.protected or abi.gmem_default, "private": one.protected}
        if wanted[shown.on]:
            yield one
