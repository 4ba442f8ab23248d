"""A kernel interface with its calls, and with what kernel and VMMs refuse of launches on it."""

from __future__ import annotations

from typing import NamedTuple

from cvmplan.kvm.asked import Known, known
from cvmplan.kvm.calls import KernelCall, calls_of
from cvmplan.kvm.interface import Abi
from cvmplan.kvm.refusals import REFUSALS, Refusal, of_interface
from cvmplan.profiles.refusals import REFUSALS as REFUSALS_OF_VMMS


class Interface(NamedTuple):
    """An interface as it is printed."""

    abi: Abi
    facts: tuple[Known, ...]
    calls: tuple[KernelCall, ...]
    refusals: tuple[Refusal, ...]


def interface(abi: Abi) -> Interface:
    """Return an interface as it is printed."""
    refused = of_interface(abi, (*REFUSALS, *REFUSALS_OF_VMMS))
    return Interface(abi, tuple(known(abi)), tuple(calls_of(abi)), tuple(refused))
