"""What is built in (rules, kernel interfaces, profiles), as JSON documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from cvmplan.core.findings import Rule
from cvmplan.core.values import Json
from cvmplan.emit.fields import practice_of
from cvmplan.emit.json import dumps
from cvmplan.kvm.asked import Known
from cvmplan.kvm.calls import KernelCall
from cvmplan.kvm.interface import Bits
from cvmplan.profiles import IGVM_FIELDS, Profile
from cvmplan.profiles import Fact as ProfileFact
from cvmplan.profiles.cpus import Cpu, parts
from cvmplan.profiles.interfaces import Interface

Shown: TypeAlias = "Json | Bits"
"""What a field of an interface can hold."""


def rules(known: Mapping[str, Rule]) -> str:
    """Return the catalogue of rules."""
    return dumps(
        [
            {"rule": name, "severity": rule.severity, "explanation": rule.explanation}
            for name, rule in known.items()
        ]
    )


def cpus(known: Sequence[Cpu]) -> str:
    """Return the CPU models and the processors, each with its signature and its parts."""
    return dumps(
        [
            {
                "name": one.name,
                "kind": "model" if one.is_model else "processor",
                "signature": hex(one.signature),
                **dict(zip(("family", "model", "stepping"), parts(one.signature), strict=True)),
            }
            for one in known
        ]
    )


def abis(known: Sequence[Interface]) -> str:
    """Return the kernel interfaces."""
    return dumps([_abi(one) for one in known])


def abi(shown: Interface) -> str:
    """Return one kernel interface."""
    return dumps(_abi(shown))


def profiles(known: Sequence[Profile]) -> str:
    """Return all built-in profiles, each as cvmplan.profile/1."""
    return dumps([_profile(one) for one in known])


def profile(chosen: Profile) -> str:
    """Return cvmplan.profile/1, which --vmm takes back."""
    return dumps(_profile(chosen))


def _abi(shown: Interface) -> dict[str, Json]:
    chosen = shown.abi
    return {
        **{name: _bits(value) for name, value in chosen._asdict().items()},
        "double_add": dict(chosen.double_add),
        "no_source": dict(chosen.no_source),
        "not_modelled": dict(chosen.not_modelled),
        "calls": [_kernel_call(call) for call in shown.calls],
        "facts": [_fact(one) for one in shown.facts],
        "refusals": [refusal._asdict() for refusal in shown.refusals],
    }


def _fact(one: Known) -> dict[str, Json]:
    kernels: list[Json] = [dict(kernel._asdict()) for kernel in one.kernels]
    return {
        "id": one.fact.id, "fact": one.fact.fact, "source": one.fact.source, "known": one.how,
        "kernels": kernels,
    }  # fmt: skip


def _bits(value: Shown) -> Json:
    """Return the bits of a mask as hex strings, anything else as it is."""
    if isinstance(value, Bits):
        return {name: hex(mask) for name, mask in value._asdict().items()}
    return value


def _kernel_call(call: KernelCall) -> dict[str, Json]:
    from cvmplan.kvm.layouts import CAPABILITIES, STRUCTS

    row = {**call._asdict(), "number": hex(call.number)}
    if call.argument in STRUCTS:
        row["argument_size"] = STRUCTS[call.argument].size
    if call.capability:
        row["capability_number"] = CAPABILITIES[call.capability]
    return {name: value for name, value in row.items() if value not in ("", None)}


def _profile(chosen: Profile) -> dict[str, Json]:
    """Return one profile as a document."""
    vmsa = chosen.vmsa
    document: dict[str, Json] = {
        "schema": "cvmplan.profile/1",
        "name": chosen.name,
        "title": chosen.title,
        "platforms": list(chosen.platforms),
        "page_types": dict(chosen.page_types),
        "order": {
            "cpuid_last": chosen.cpuid_last,
            "hashes_first": chosen.hashes_first,
            "sorted_by_gpa": chosen.sorted_by_gpa,
            "inserts_first": chosen.inserts_first,
            "vcpus_first": chosen.vcpus_first,
            "start_first": chosen.start_first,
            "page_order": chosen.page_order,
        },
        "machine": chosen.machine,
        "vmsa": None
        if vmsa is None
        else {
            "gpa": hex(vmsa.gpa),
            "entry": vmsa.entry,
            "boot_entry": vmsa.boot_entry,
            "others_entry": vmsa.others_entry,
            "boot": _state(vmsa.boot),
            "others": _state(vmsa.others),
        },
        "extends_all": chosen.extends_all,
        "augmented": chosen.augmented,
        "section_types": None if chosen.section_types is None else list(chosen.section_types),
        "legacy_pointer": chosen.legacy_pointer,
        "aligned_data": chosen.aligned_data,
        "covers_file": chosen.covers_file,
        "padding": chosen.padding,
        "policies": {platform: hex(policy) for platform, policy in chosen.policies.items()},
        "sev_features": hex(chosen.sev_features),
        "td_attributes": hex(chosen.td_attributes),
        "td_xfam": hex(chosen.td_xfam),
        "unhashed_kernels": list(chosen.unhashed_kernels),
        "practices": {p: practice_of(one) for p, one in chosen.practices.items()},
        "svsm": chosen.svsm,
        **_igvm_part(chosen),
        "abis": list(chosen.abis),
        "sources": [_source(fact) for fact in chosen.sources],
    }
    return {key: value for key, value in document.items() if value is not None}


def _source(fact: ProfileFact) -> dict[str, Json]:
    names = ("fact", "source", "confidence", "commit", "since", "until")
    return {name: getattr(fact, name) for name in names if getattr(fact, name)}


def _igvm_part(chosen: Profile) -> dict[str, Json]:
    """Return what a profile says about IGVM files."""
    return {
        **{name: getattr(chosen, name) for name in IGVM_FIELDS},
        "carries": None if chosen.carries is None else list(chosen.carries),
        "takes": None if chosen.takes is None else list(chosen.takes),
        "sets": {name: hex(bits) for name, bits in chosen.sets.items()},
        "doubts": {name: hex(bits) for name, bits in chosen.doubts.items()},
        "once": list(chosen.once),
        "fixed_policy": None if chosen.fixed_policy is None else hex(chosen.fixed_policy),
        "refuses": list(chosen.refuses),
    }


def _state(state: Mapping[str, int | str]) -> dict[str, str]:
    return {k: v if isinstance(v, str) else hex(v) for k, v in state.items()}
