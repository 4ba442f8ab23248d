"""Text for people: aligned columns, one fact a line, easy to grep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from cvmplan import __version__
from cvmplan.core.findings import RULES, Finding
from cvmplan.core.values import PAGE
from cvmplan.emit.documents import refusals
from cvmplan.emit.json import (
    MEASURED_TYPES,
    checkpoints,
    commands,
    final_digest,
    gaps,
    is_said,
    largest_level,
    plan_value,
    source,
)
from cvmplan.emit.lines import aligned, joined
from cvmplan.kvm.abi import ABIS, find
from cvmplan.kvm.calls import calls_of
from cvmplan.kvm.interface import Abi, Bits
from cvmplan.memory.regions import Region
from cvmplan.operations.measure import Coverage, Measurement
from cvmplan.operations.plan import Op, Plan, is_run
from cvmplan.profiles import PROFILES, Profile
from cvmplan.simulator.answers import Simulation

ALGORITHMS = {"sha384": "SHA-384", "sha256": "SHA-256"}
COVERAGE = {
    "contents": "contents measured",
    "by_digest": "contents measured through the digest that was given",
    "vmsas": "vCPU states (VMSA) measured",
    "address_only": "contents zero and not hashed, only that they are added",
    "host_filled": "contents chosen by the host, only that they are added",
    "not_added": "mapped, not added",
}
_LEVELS = {1 << 30: "1 GiB", 2 << 20: "2 MiB", PAGE: "4 KiB"}


def measurement(plan: Plan, result: Measurement) -> str:
    """Return what the measurement depends on, what it covers, and the digest on the last line."""
    return joined(
        [
            *_header(plan),
            "",
            *_coverage(result.coverage),
            "",
            *_doubts(plan.findings),
            f"{result.register} ({ALGORITHMS[result.algorithm]})  {result.digest.hex()}",
        ]
    )


def _header(plan: Plan) -> list[str]:
    rows = [
        (i.role, i.path or "standard input", f"{i.size} bytes  sha256 {i.sha256}")
        for i in plan.inputs
    ]
    settings = []
    for word, chosen in (("given", plan.given), ("assumed", plan.assumed)):
        settings += [(k, _shown(v), word) for k, v in chosen.items()]
    return [f"cvmplan {__version__}", *aligned(rows), *aligned(settings)]


def _shown(value: Any) -> str:
    text = str(value)
    if isinstance(value, str) and (not text or text != text.strip() or not text.isprintable()):
        text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}…"


def _coverage(coverage: Coverage) -> list[str]:
    rows = [("pages", "bytes", "")]
    for name, pages in coverage._asdict().items():
        if pages:
            rows.append((str(pages), str(pages * PAGE), COVERAGE[name]))
    rows.append((str(coverage.pages), str(coverage.pages * PAGE), "together"))
    return aligned(rows)


def _doubts(found: Sequence[Finding]) -> list[str]:
    warnings = [f for f in found if f.severity == "warning"]
    return [*(_finding(f) for f in warnings), ""] if warnings else []


def _finding(found: Finding) -> str:
    place = f"{found.at}: " if found.at else ""
    return f"{found.severity}: {place}{found.text}"


def findings(found: Sequence[Finding]) -> str:
    """Return each finding, the gravest first, and how many there are."""
    order = ("error", "warning", "note")
    lines = []
    for finding in sorted(found, key=lambda f: order.index(f.severity)):
        lines.append(_finding(finding))
        if finding.hint:
            lines.append(f"  hint: {finding.hint}")
    counts = [sum(f.severity == severity for f in found) for severity in order]
    named = (f"{n} {word}{'' if n == 1 else 's'}" for n, word in zip(counts, order, strict=True))
    return joined([*lines, ", ".join(named)])


def plan(made: Plan) -> str:
    """Return the settings, the operations in order, and the measurement that they lead to."""
    result, _ = checkpoints(made)
    index = {i.blob.name: n for n, i in enumerate(made.inputs)}
    rows = [(str(n), op.kind, op.name, _fields(op, index)) for n, op in enumerate(made.ops)]
    if not made.platform.measured:
        rows = [
            (*row[:3], row[3] + _level(made, op)) for row, op in zip(rows, made.ops, strict=True)
        ]
    end = (
        [f"{result.register} ({ALGORITHMS[result.algorithm]})  {result.digest.hex()}"]
        if result
        else ["nothing is measured on this platform"]
    )
    nearest = find(made.abi).nearest
    note = [f"no released kernel has {made.abi}; nearest is {nearest}", ""] if nearest else []
    late = (f for f in made.findings if f.rule == "pure-map-before-finalize")
    note += [line for f in late for line in (f.message, "")]
    return joined([*_header(made), "", *aligned(rows), "", *_doubts(made.findings), *note, *end])


def _level(made: Plan, op: Op) -> str:
    if op.kind != "map" or not is_run(op):
        return ""
    return f"  largest page {_LEVELS[largest_level(made, op.gpa, op.size)]}"


def _fields(op: Op, index: Mapping[str, int]) -> str:
    parts = []
    if hasattr(op, "gpa") and hasattr(op, "size"):
        parts.append(f"{op.gpa:#x}-{op.gpa + op.size:#x}")
    for field in fields(op):  # type: ignore[arg-type]  # every concrete Op is a dataclass
        value = getattr(op, field.name)
        if field.name in ("gpa", "size") or not is_said(value):
            continue
        if field.name == "source":
            value = " ".join(f"{k} {v}" for k, v in source(value, index).items())
        elif field.name == "registers":
            value = str(len(value))
        elif field.name == "vmsas":
            value = f"of {sum(len(v.vcpus) for v in value)} vCPUs"
        else:
            value = plan_value(field.name, value, index)
            value = " ".join(value) if isinstance(value, list) else value
        parts.append(f"{field.name.replace('_', '-')} {_shown(value)}")
    return "  ".join(parts)


def trace(plan: Plan) -> str:
    """Return one line a step; a run of pages is one step."""
    lines = []
    for step in commands(plan.platform, plan.lowered(), final_digest(plan)):
        digest = step.pop("digest", "")
        head = f"{step.pop('step'):5} {step.pop('op'):5}  {step.pop('command'):27}"
        rest = "  ".join(f"{k.replace('_', '-')} {v}" for k, v in step.items())
        lines.append(f"{head}{rest:52} {digest}")
    return joined([f"{'step':>5} {'op':>5}  command", *lines])


def guest_map(regions: Sequence[Region], found: Sequence[Finding]) -> str:
    """Return the map in address order, its gaps, and its conflicts marked with '!'."""
    ordered = sorted(regions, key=lambda r: r.gpa)
    blamed = {o for f in found if f.severity == "error" for o in f.origins}
    holes = dict(gaps(ordered))
    ends = {end: start for start, end in holes.items()}
    rows = [("", "first", "end", "bytes", "type", "measured", "owner")]
    for region in ordered:
        start = ends.pop(region.gpa, None)
        if start is not None:
            rows.append(("", hex(start), hex(region.gpa), hex(region.gpa - start), "", "", "-"))
        measured = "contents" if region.page_type in MEASURED_TYPES else "address"
        if region.page_type == "mapped" or not region.is_mapped:
            measured = "no"
        rows.append(
            (
                "!" if region.origin in blamed else "",
                hex(region.gpa),
                hex(region.end),
                hex(region.size),
                region.page_type or "",
                measured,
                region.origin,
            )
        )
    errors = [f for f in found if f.severity == "error"]
    return joined([*aligned(rows), *(_finding(f) for f in errors)])


def inspect(document: Mapping[str, Any]) -> str:
    """Return the tables of a file, with file offsets."""
    lines = [f"{document['format']}; allows {', '.join(document['allows']) or 'no platform'}"]
    for table in document["tables"]:
        lines += ["", table["name"]]
        rows = table["rows"]
        if "problem" in table:
            lines.append(f"  cannot be read: {table['problem']}")
        if rows:
            head = [*rows[0]]
            lines += aligned([head, *([str(row.get(c, "")) for c in head] for row in rows)], "  ")
    return joined([*lines, *([""] if document["findings"] else []), *map_findings(document)])


def simulation(outcome: Simulation) -> str:
    """Return what each call answers, one a line, and where they lead."""
    rows = [("seq", "call", "answer", "")]
    for result in outcome.results:
        answer = result.answer
        told = answer.errno or answer.result
        parts = [answer.why] if answer.why else []
        if answer.residual is not None:
            parts.append(f"left {answer.residual[0]:#x}-{sum(answer.residual):#x}")
        if answer.fw_error is not None:
            parts.append(f"fw_error {answer.fw_error:#x}")
        if answer.seamcall_status is not None:
            parts.append(answer.seamcall_status)
        rows.append((str(result.seq), result.op, told, "; ".join(parts)))
    refused = sum(r.answer.result == "error" for r in outcome.results)
    end = "finalized" if outcome.finalized else "not finalized"
    digest = "not known" if outcome.digest is None else outcome.digest.hex()
    if not outcome.platform.measured:
        digest = "nothing is measured on this platform"
    return joined(
        [
            *aligned(rows),
            "",
            *(_finding(f) for f in outcome.findings),
            f"{outcome.abi}: {len(outcome.results)} calls, {refused} refused, {end}",
            f"digest  {digest}",
        ]
    )


def map_findings(document: Mapping[str, Any]) -> list[str]:
    """Return the findings of an inspected file, one a line."""
    return [_finding(f) for f in document["findings"]]


def rules() -> str:
    """Return the catalogue of rules."""
    return joined(aligned([(name, r.severity, r.explanation) for name, r in RULES.items()]))


def abis() -> str:
    """Return the kernel interfaces, one a line."""
    return joined(aligned([(a.name, ", ".join(a.vm_types), a.title) for a in ABIS.values()]))


def abi(chosen: Abi) -> str:
    """Return one kernel interface: its fields, its calls, and each fact with its source."""
    told = [(k.replace("_", "-"), _plain(v)) for k, v in chosen._asdict().items() if k != "facts"]
    calls = [
        (c.op, c.ioctl, hex(c.number), c.command or c.argument, c.capability)
        for c in calls_of(chosen)
    ]
    lines = [f"{chosen.name}: {chosen.title}", "", *aligned(told[2:]), ""]
    lines += [*aligned(calls), ""] if calls else []
    for fact in chosen.facts:
        lines += [f"[{fact.confidence}] {fact.fact}", f"  {fact.source}"]
    rows = [(r.call, r.situation, r.answer, r.where, r.source) for r in refusals(chosen)]
    titles = ("call", "refused", "answer", "modelled in", "source")
    return joined([*lines, "", *aligned([titles, *rows])] if rows else lines)


def profiles() -> str:
    """Return the built-in profiles, one a line."""
    return joined(aligned([(p.name, ", ".join(p.platforms), p.title) for p in PROFILES.values()]))


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


def _plain(value: Any) -> str:
    if isinstance(value, Bits):
        return ", ".join(f"{name} {mask:#x}" for name, mask in value._asdict().items() if mask)
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, tuple):
        return ", ".join(_plain(v) for v in value)
    return hex(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)
