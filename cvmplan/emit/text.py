"""Text for people: aligned columns, one fact a line, easy to grep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeAlias

from cvmplan import __version__
from cvmplan.core.findings import Finding
from cvmplan.core.inputs import Input
from cvmplan.core.values import PAGE, write_span
from cvmplan.emit.lines import aligned, joined, without_name
from cvmplan.images.inspection import Inspection
from cvmplan.memory.owners import Owners
from cvmplan.operations.checked import SEVERITIES
from cvmplan.operations.measure import Coverage, Measurement
from cvmplan.operations.plan import Plan
from cvmplan.simulator.answers import Simulation

ALGORITHMS = {"sha384": "SHA-384", "sha256": "SHA-256"}
COVERAGE = {
    "contents": "contents measured",
    "by_digest": "contents measured through the given digest",
    "vmsas": "vCPU states (VMSA) measured",
    "address_only": "zero pages (address and type measured)",
    "host_filled": "contents chosen by the host (address and type measured)",
    "not_added": "mapped, not added",
}
Setting: TypeAlias = str | int | Sequence[str]
"""A setting as documents have it."""


def measurement(plan: Plan, result: Measurement) -> str:
    """Return what the measurement depends on, what it covers, and the digest on the last line."""
    return joined(
        [
            *header(plan, without=("layout",)),
            "",
            *_coverage(result.coverage),
            "",
            *doubts(plan.findings),
            f"{result.register} ({ALGORITHMS[result.algorithm]})  {result.digest.hex()}",
        ]
    )


def header(plan: Plan, without: Collection[str] = ()) -> list[str]:
    """Return the program, the inputs and the settings of a plan but those, one a line."""
    settings = []
    for word, chosen in (("given", plan.given), ("assumed", plan.assumed)):
        settings += [
            (k, shown(v), f"{word} ({plan.places[k]})" if k in plan.places else word)
            for k, v in chosen.items()
            if k not in without
        ]
    return [f"cvmplan {__version__}", *input_lines(plan.inputs), *aligned(settings)]


def input_lines(inputs: Iterable[Input]) -> list[str]:
    """Return each input with its size, and its hash below it."""
    rows = []
    for one in inputs:
        rows.append((one.role, f"{one.path or 'standard input'}, {one.size} bytes"))
        rows.append(("sha256", one.sha256))
    return aligned(rows)


def shown(value: Setting, most: int = 100) -> str:
    """Return a setting in one line of `most` letters, quoted where it would not be seen."""
    text = str(value) if isinstance(value, str | int) else ", ".join(value)
    if isinstance(value, str) and (not text or text != text.strip() or not text.isprintable()):
        text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}…"


def _coverage(coverage: Coverage) -> list[str]:
    rows = [("pages", "bytes", "")]
    for name, pages in coverage._asdict().items():
        if pages:
            rows.append((str(pages), str(pages * PAGE), COVERAGE[name]))
    rows.append((str(coverage.pages), str(coverage.pages * PAGE), "total"))
    return aligned(rows)


def doubts(found: Sequence[Finding]) -> list[str]:
    """Return the warnings, and an empty line behind them."""
    warnings = [f for f in found if f.severity == "warning"]
    return [*(_finding(f) for f in warnings), ""] if warnings else []


def _finding(found: Finding) -> str:
    place = f"{found.at}: " if found.at else ""
    return f"{found.severity}: {place}{found.text}"


def findings(found: Sequence[Finding]) -> str:
    """Return each finding, the gravest first, and how many there are."""
    return joined([*finding_lines(found), count_severities(found)])


def finding_lines(found: Iterable[Finding]) -> Iterator[str]:
    """Yield each finding, the gravest first, with its hint below it."""
    for finding in sorted(found, key=lambda f: SEVERITIES.index(f.severity)):
        yield _finding(finding)
        if finding.hint:
            yield f"  hint: {finding.hint}"


def count_severities(found: Iterable[Finding]) -> str:
    """Return how many findings of each severity there are."""
    counts = Counter(one.severity for one in found)
    return ", ".join(
        f"{counts[word]} {word}{'' if counts[word] == 1 else 's'}" for word in SEVERITIES
    )


def guest_map(owners: Owners) -> str:
    """Return the map in address order, its gaps, and its conflicts marked with '!'."""
    errors = [f for f in owners.findings if f.severity == "error"]
    blamed = {o for f in errors for o in f.origins}
    ends = {end: start for start, end in owners.gaps}
    rows: list[tuple[str, ...]] = [("", "first", "last", "bytes", "type", "measured", "owner")]
    name, origins = without_name([row.region.origin for row in owners.rows])
    for (region, measured), origin in zip(owners.rows, origins, strict=True):
        start = ends.pop(region.gpa, None)
        if start is not None:
            rows.append(("", hex(start), hex(region.gpa - 1), "", "", "", "-"))
        mark = "!" if region.origin in blamed else ""
        place = hex(region.gpa), hex(region.end - 1) if region.size > 0 else "", hex(region.size)
        rows.append((mark, *place, region.page_type or "", measured, origin))
    if not blamed:
        rows = [row[1:] for row in rows]
    title = [name, ""] if name else []
    return joined([*title, *aligned(rows), *(_finding(f) for f in errors)])


def inspect(document: Inspection) -> str:
    """Return the tables of a file, with file offsets."""
    places = [
        str(row["at"]) for table in document["tables"] for row in table["rows"] if "at" in row
    ]
    name = without_name(places)[0]
    allows = ", ".join(document["allows"]) or "none"
    lines = [*([name] if name else []), f"format {document['format']}, platforms: {allows}"]
    for table in document["tables"]:
        lines += ["", table["name"]]
        rows = table["rows"]
        if "problem" in table:
            lines.append(f"  cannot be read: {table['problem']}")
        if rows:
            head = [*rows[0]]
            cells = [[str(row.get(c, "")).removeprefix(name) for c in head] for row in rows]
            lines += aligned([[c.replace("_", " ") for c in head], *cells], "  ")
    return joined([*lines, *([""] if document["findings"] else []), *map_findings(document)])


def simulation(outcome: Simulation) -> str:
    """Return what each call answers, one a line, and where they lead."""
    rows = [("seq", "call", "answer", "")]
    for result in outcome.results:
        answer = result.answer
        told = answer.errno or answer.result
        parts = [answer.why] if answer.why else []
        if answer.residual is not None:
            parts.append(f"left {write_span(*answer.residual)}")
        if answer.first_call is not None:
            parts.append("the first call answers 0 with this rest, the next one refuses it")
        if answer.fw_error is not None:
            parts.append(f"fw_error {answer.fw_error:#x}")
        if answer.seamcall_status is not None:
            parts.append(answer.seamcall_status)
        rows.append((str(result.seq), result.op, told, "; ".join(parts)))
    refused = sum(r.answer.result == "error" for r in outcome.results)
    end = "finalized" if outcome.finalized else "not finalized"
    digest = "not known" if outcome.digest is None else outcome.digest.hex()
    if not outcome.platform.measured:
        digest = "not measured on this platform"
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
