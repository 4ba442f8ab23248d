"""Text for people: aligned columns, one fact a line, easy to grep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TypeAlias

from cvmplan import __version__
from cvmplan.calls.planned import Planned, Row
from cvmplan.core.findings import RULES, Finding
from cvmplan.core.values import PAGE
from cvmplan.emit.documents import refusals
from cvmplan.emit.fields import Value, fields_of, is_said, plan_value
from cvmplan.emit.json import step_document
from cvmplan.emit.lines import aligned, joined
from cvmplan.images.inspection import Inspection
from cvmplan.kvm.abi import ABIS
from cvmplan.kvm.calls import calls_of
from cvmplan.kvm.interface import Abi, Bits
from cvmplan.memory.owners import Owners
from cvmplan.operations.measure import Coverage, Measurement
from cvmplan.operations.outcome import Trace
from cvmplan.operations.plan import Op, Plan, is_run
from cvmplan.platforms.sev.ops import Vcpus
from cvmplan.platforms.snp.ops import Vmsa
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
Plain: TypeAlias = "Bits | Mapping[str, Plain] | tuple[Plain, ...] | str | int | None"
"""What a field of a profile or an interface can hold."""
Setting: TypeAlias = str | int | Sequence[str]
"""A setting as documents have it."""
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


def _shown(value: Setting) -> str:
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


def plan(made: Planned) -> str:
    """Return the settings, the operations in order, and the measurement that they lead to."""
    plan, result = made.plan, made.result
    index = {i.blob.name: n for n, i in enumerate(plan.inputs)}
    rows = [(str(r.number), r.op.kind, r.op.name, _row(r, index)) for r in made.rows]
    end = (
        [f"{result.register} ({ALGORITHMS[result.algorithm]})  {result.digest.hex()}"]
        if result
        else ["nothing is measured on this platform"]
    )
    nearest = made.nearest
    note = [f"no released kernel has {plan.abi}; nearest is {nearest}", ""] if nearest else []
    late = (f for f in plan.findings if f.rule == "pure-map-before-finalize")
    note += [line for f in late for line in (f.message, "")]
    return joined([*_header(plan), "", *aligned(rows), "", *_doubts(plan.findings), *note, *end])


def _row(row: Row, index: Mapping[str, int]) -> str:
    level = "" if row.largest_level is None else f"  largest page {_LEVELS[row.largest_level]}"
    return _fields(row.op, index) + level


def _fields(op: Op, index: Mapping[str, int]) -> str:
    parts = []
    if is_run(op):
        parts.append(f"{op.gpa:#x}-{op.gpa + op.size:#x}")
    for name, value in fields_of(op):
        if name not in ("gpa", "size") and is_said(value):
            parts.append(f"{name.replace('_', '-')} {_shown(_told(name, value, index))}")
    return "  ".join(parts)


def _told(name: str, value: Value, index: Mapping[str, int]) -> Setting:
    """Return a field as one word, or as few as possible."""
    if name == "registers" and isinstance(value, tuple):
        return str(len(value))
    if name == "vmsas" and isinstance(value, tuple):
        return f"of {sum(len(v.vcpus) for v in value if isinstance(v, Vmsa | Vcpus))} vCPUs"
    written = plan_value(name, value, index)
    if isinstance(written, Mapping):
        return " ".join(f"{k} {v}" for k, v in written.items())
    if isinstance(written, list):
        return " ".join(map(str, written))
    return written if isinstance(written, str | int) else str(written)


def trace(made: Trace) -> str:
    """Return one line a step; a run of pages is one step."""
    lines = []
    for number, traced in enumerate(made.steps()):
        step = step_document(number, traced)
        digest = step.pop("digest", "")
        head = f"{step.pop('step'):5} {step.pop('op'):5}  {step.pop('command'):27}"
        rest = "  ".join(f"{k.replace('_', '-')} {v}" for k, v in step.items())
        lines.append(f"{head}{rest:52} {digest}")
    return joined([f"{'step':>5} {'op':>5}  command", *lines])


def guest_map(owners: Owners) -> str:
    """Return the map in address order, its gaps, and its conflicts marked with '!'."""
    errors = [f for f in owners.findings if f.severity == "error"]
    blamed = {o for f in errors for o in f.origins}
    ends = {end: start for start, end in owners.gaps}
    rows = [("", "first", "end", "bytes", "type", "measured", "owner")]
    for region, measured in owners.rows:
        start = ends.pop(region.gpa, None)
        if start is not None:
            rows.append(("", hex(start), hex(region.gpa), hex(region.gpa - start), "", "", "-"))
        mark = "!" if region.origin in blamed else ""
        place = hex(region.gpa), hex(region.end), hex(region.size)
        rows.append((mark, *place, region.page_type or "", measured, region.origin))
    return joined([*aligned(rows), *(_finding(f) for f in errors)])


def inspect(document: Inspection) -> str:
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


def map_findings(document: Inspection) -> list[str]:
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


def _plain(value: Plain) -> str:
    if isinstance(value, Bits):
        return ", ".join(f"{name} {mask:#x}" for name, mask in value._asdict().items() if mask)
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, tuple):
        return ", ".join(_plain(v) for v in value)
    return hex(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)
