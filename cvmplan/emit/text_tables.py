"""What is built in (rules, kernel interfaces, profiles), as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TypeAlias

from cvmplan.core.findings import Rule
from cvmplan.emit.lines import aligned, joined
from cvmplan.kvm.asked import Known
from cvmplan.kvm.calls import KernelCall
from cvmplan.kvm.interface import Bits
from cvmplan.profiles import Profile
from cvmplan.profiles.cpus import Cpu
from cvmplan.profiles.interfaces import Interface

Plain: TypeAlias = "Bits | Mapping[str, Plain] | tuple[Plain, ...] | str | int | None"
"""What a field of a profile or an interface can hold."""


def rules(known: Mapping[str, Rule]) -> str:
    """Return the catalogue of rules."""
    return joined(aligned([(name, r.severity, r.explanation) for name, r in known.items()]))


def cpus(known: Sequence[Cpu]) -> str:
    """Return the CPU models and the processors, those of one signature on one line."""
    parts: list[list[str]] = []
    for title, models in (("CPU models", True), ("processors (CPU model host)", False)):
        names: dict[int, list[str]] = {}
        for one in known:
            if one.is_model is models:
                names.setdefault(one.signature, []).append(one.name)
        rows = [(f"{value:#x}", ", ".join(several)) for value, several in names.items()]
        parts.append([title, *aligned(rows, "  ")])
    return joined([*parts[0], "", *parts[1]])


def abis(known: Sequence[Interface]) -> str:
    """Return the kernel interfaces, one a line."""
    return joined(
        aligned([(one.abi.name, _titled(one.abi.title, one.abi.vm_types)) for one in known])
    )


def _titled(title: str, platforms: Sequence[str]) -> str:
    return f"{title}  [{', '.join(platforms)}]"


def abi(shown: Interface) -> str:
    """Return one kernel interface: its fields, its calls, and each fact with its source."""
    chosen = shown.abi
    told = [
        (name.replace("_", "-"), _plain(value))
        for name, value in chosen._asdict().items()
        if name not in ("name", "title", "facts") and value not in (None, "", ())
    ]
    lines = [f"{chosen.name}: {chosen.title}", "", *aligned(told), "", *_calls(shown.calls)]
    for one in shown.facts:
        lines += [f"[{_how(one)}] {one.fact.fact}", f"  {one.fact.source}"]
    rows = [(r.call, r.situation, r.answer, r.where, r.source) for r in shown.refusals]
    titles = ("call", "refused", "answer", "modelled in", "source")
    return joined([*lines, "", *aligned([titles, *rows])] if rows else lines)


def _calls(calls: Sequence[KernelCall]) -> list[str]:
    """Return the calls, the command in place of KVM_MEMORY_ENCRYPT_OP, and what they need."""
    if not calls:
        return []
    rows = [(call.op, call.command or call.ioctl, hex(call.number)) for call in calls]
    needed = dict.fromkeys(call.capability for call in calls if call.capability)
    return [*aligned(rows), "", f"capabilities: {', '.join(needed)}", ""]


def _how(one: Known) -> str:
    """Return how a fact is known: "run: 6.16.12, 6.17.13 (2026-11-27)", "read", "inferred"."""
    dates = dict.fromkeys(kernel.date for kernel in one.kernels)
    runs = [
        f"{', '.join(dict.fromkeys(k.short for k in one.kernels if k.date == date))} ({date})"
        for date in dates
    ]
    return f"{one.how}: {', '.join(runs)}" if runs else one.how


def profiles(known: Sequence[Profile]) -> str:
    """Return the built-in profiles, one a line."""
    return joined(aligned([(p.name, _titled(p.title, p.platforms)) for p in known]))


def profile(chosen: Profile) -> str:
    """Return one profile: its settings, and each fact with its source."""
    settings = []
    for field in fields(chosen):
        value = getattr(chosen, field.name)
        if field.name in ("name", "title", "sources", "vmsa") or value in (None, {}):
            continue
        settings.append((field.name.replace("_", "-"), _plain(value)))
    if chosen.vmsa:
        settings += [
            (f"vmsa {name.replace('_', '-')}", _plain(value))
            for name, value in chosen.vmsa._asdict().items()
        ]
    lines = [f"{chosen.name}: {chosen.title}", "", *aligned(settings), ""]
    for fact in chosen.sources:
        versions = " ".join(
            f"{word} {value}"
            for word, value in (("since", fact.since), ("until", fact.until))
            if value
        )
        lines.append(f"[{fact.confidence}{', ' + versions if versions else ''}] {fact.fact}")
        commit = f" ({fact.commit})" if fact.commit else ""
        lines.append(f"  {fact.source}{commit}")
    return joined(lines)


def _plain(value: Plain) -> str:
    if isinstance(value, Bits):
        return ", ".join(f"{name} {mask:#x}" for name, mask in value._asdict().items() if mask)
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, tuple):
        return ", ".join(
            " ".join(map(_plain, v)) if isinstance(v, tuple) else _plain(v) for v in value
        )
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return hex(value) if isinstance(value, int) else value
