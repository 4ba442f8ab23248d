"""A plan, and the firmware commands beneath it, as text for people."""

from __future__ import annotations

from collections.abc import Mapping

from cvmplan.calls.planned import Planned, Row
from cvmplan.core.values import PAGE, write_span
from cvmplan.emit.fields import Value, fields_of, is_said, plan_value
from cvmplan.emit.json_plan import step_document
from cvmplan.emit.lines import aligned, joined, width
from cvmplan.emit.text import ALGORITHMS, Setting, doubts, header, shown
from cvmplan.operations.outcome import Trace
from cvmplan.operations.plan import Op, is_run
from cvmplan.platforms.sev.ops import Vcpus
from cvmplan.platforms.snp.ops import Vmsa

WIDE, SHOWN = 180, 16  # columns that whole digests need; digits of those that are cut
_LEVELS = {1 << 30: "1 GiB", 2 << 20: "2 MiB", PAGE: "4 KiB"}


def plan(made: Planned) -> str:
    """Return the settings, the operations in order, and the measurement that they lead to."""
    plan, result = made.plan, made.result
    index = {i.blob.name: n for n, i in enumerate(plan.inputs)}
    rows = [(str(r.number), r.op.kind, r.op.name, row_text(r, index)) for r in made.rows]
    end = (
        [f"{result.register} ({ALGORITHMS[result.algorithm]})  {result.digest.hex()}"]
        if result
        else ["not measured on this platform"]
    )
    nearest = made.nearest
    note = (
        [f"no released kernel implements {plan.abi}; the nearest is {nearest}", ""]
        if nearest
        else []
    )
    late = (f for f in plan.findings if f.rule == "pure-map-before-finalize")
    note += [line for f in late for line in (f.message, "")]
    return joined([*header(plan), "", *aligned(rows), "", *doubts(plan.findings), *note, *end])


def row_text(row: Row, index: Mapping[str, int]) -> str:
    """Return the fields of an operation; `index` maps an input's name to its number."""
    level = "" if row.largest_level is None else f"  largest page {_LEVELS[row.largest_level]}"
    return _fields(row.op, index) + level


def _fields(op: Op, index: Mapping[str, int]) -> str:
    parts = []
    deleted = op.kind == "memory" and getattr(op, "size", None) == 0
    if is_run(op):
        parts.append("deleted" if deleted else write_span(op.gpa, op.size))
    for name, value in fields_of(op):
        if name not in ("gpa", "size") and is_said(value):
            word = name.replace("_", "-")
            parts.append(word if value is True else f"{word} {shown(_told(name, value, index))}")
    return "  ".join(parts)


def _told(name: str, value: Value, index: Mapping[str, int]) -> Setting:
    """Return a field as one word, or as few as possible."""
    if name == "registers" and isinstance(value, tuple):
        return str(len(value))
    if name == "vmsas" and isinstance(value, tuple):
        count = sum(len(v.vcpus) for v in value if isinstance(v, Vmsa | Vcpus))
        return f"of {count} vCPU{'' if count == 1 else 's'}"
    written = plan_value(name, value, index)
    if isinstance(written, Mapping):
        return " ".join(k if v is True else f"{k} {v}" for k, v in written.items())
    if isinstance(written, list):
        return " ".join(map(str, written))
    return written if isinstance(written, str | int) else str(written)


def trace(made: Trace) -> str:
    """
    Return one line a step, a run of pages being one, and what is mapped without a step.

    Digests are whole where there is room.
    """
    rows = []
    for number, traced in enumerate(made.steps()):
        step = step_document(number, traced)
        digest = str(step.pop("digest", ""))
        head = (str(step.pop("step")), str(step.pop("op")), str(step.pop("command")))
        run = [write_span(traced.step.gpa, traced.step.size)] if is_run(traced.step) else []
        told = {k: v for k, v in step.items() if not run or k not in ("gpa", "size")}
        fields = "  ".join([*run, *(f"{k.replace('_', '-')} {v}" for k, v in told.items())])
        rows.append((*head, fields, digest))
    if width() < WIDE:
        rows = [(*row[:4], f"{row[4][:SHOWN]}…" if row[4] else "") for row in rows]
    title = ("step", "op", "command", "", "digest" * any(r[4] for r in rows))
    lines = aligned([title, *rows]) if rows else ["no firmware commands"]
    return joined([*lines, *_mappings(made)])


def _mappings(made: Trace) -> list[str]:
    """Return what is mapped without a firmware command, with the reasons for small pages."""
    rows = [("op", "mapped", "largest page", "")]
    for one in made.mappings:
        span = write_span(one.gpa, one.size)
        rows.append((str(one.op), span, _LEVELS[one.level], one.why))
    return ["", *aligned(rows)] if made.mappings else []
