"""One page about a launch, for reviewers: everything that its measurement depends on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from cvmplan import __version__
from cvmplan.calls.planned import Planned, Row
from cvmplan.core.findings import has_errors
from cvmplan.core.values import PAGE
from cvmplan.emit import html_evidence, html_rtmr
from cvmplan.emit.html import MOST_CELL, figure, findings_table, map_table, number, page, table
from cvmplan.emit.markup import Markup, lines, tag
from cvmplan.emit.svg import Picture, amount, many, picture_of
from cvmplan.emit.svg_bar import Class, bar, swatch
from cvmplan.emit.text import ALGORITHMS, COVERAGE, shown
from cvmplan.emit.text_plan import row_text
from cvmplan.launch.commands import launch_command
from cvmplan.memory.bands import shapes_of
from cvmplan.operations.measure import Measurement
from cvmplan.planning.report import Report

MOST_OPERATIONS: Final = 1000
LOOKS: Final = {
    "contents": "normal", "by_digest": "measured", "vmsas": "vmsa", "address_only": "zero",
    "host_filled": "unmeasured", "not_added": "mapped",
}  # fmt: skip
"""Class of pages to what it looks like."""
OPEN_RULES: Final = frozenset(
    {"kernel-hashes-off", "kernel-not-hashed", "kernel-hashes-not-measured"}
)
"""Rules about what a measurement does not cover."""
FIELDS: Final = {
    "report": "POLICY, HOST_DATA, the ID block and the TCB version are fields of the attestation "
    "report and not part of the launch digest.",
    "quote": "ATTRIBUTES, XFAM, MRCONFIGID, MROWNER and MROWNERCONFIG are fields of the quote and "
    "not part of MRTD. Kernel, initrd and command line are measured into RTMR1 and RTMR2, "
    "configuration and ACPI tables into RTMR0 (cvmplan rtmr).",
}
"""What evidence has beside the measurement."""


def report(found: Report) -> str:
    """Return the report as one page."""
    picture = picture_of([*shapes_of(found.owners)])
    sections = [*_sections(found, picture)]
    links = [
        tag("li", tag("a", title, href=f"#{name}")) for name, title, content in sections if content
    ]
    content = [
        tag("h1", f"Launch report: {found.name}"),
        tag("p", _verdict(found)),
        tag("nav", tag("ul", *links), aria_label="Sections"),
    ]
    for name, title, inner in sections:
        if inner:
            content.append(tag("section", tag("h2", title, id=name), lines(*inner)))
    content.append(tag("p", f"Made by cvmplan {__version__}.", class_="cvm-t-soft"))
    return page(f"Launch report: {found.name}", (*picture.kinds, *LOOKS.values()), content)


def _sections(found: Report, picture: Picture) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield (id, title, content) of each section; no content for what does not apply."""
    made = found.made if found.is_valid else None
    result = made.result if made else None
    yield "measurement", "Measurement", _measurement(found, result)
    yield "inputs", "Inputs", [_inputs(found)]
    yield "settings", "Settings", [_settings(found)]
    yield "findings", "Findings", [_findings(found)]
    yield "memory", "Guest memory", [figure(picture), map_table(picture)]
    yield "operations", "Operations", [*_operations(found.made, digests=made is not None)]
    yield "coverage", "Pages by class", _coverage(result)
    yield "limits", "What the measurement does not cover", [*_limits(found, result)]
    if found.predicted is not None:
        yield "predicted", "RTMRs, predicted", [*html_rtmr.section(found.predicted)]
    if found.verification is not None:
        yield from html_evidence.sections(found.verification)
    yield "reproduce", "Reproduce", [*_reproduce(found, result)]


def _verdict(found: Report) -> Markup:
    errors = sum(f.severity == "error" for f in found.findings)
    if found.is_valid:
        return tag("strong", f"The launch is valid on {found.platform}.")
    why = found.problem or many(errors, "error")
    told = f"The launch is not valid: {why}. No measurement is printed."
    return tag("strong", told, class_="cvm-t-wrong")


def _measurement(found: Report, result: Measurement | None) -> Sequence[str]:
    if result is None:
        why = (
            f"Nothing is measured on {found.platform}."
            if found.is_valid
            else "None: the launch is not valid."
        )
        return [tag("p", why)]
    row = (result.register, ALGORITHMS[result.algorithm], number(result.digest.hex()))
    return [table(("Register", "Hash", "Value"), [row])]


def _inputs(found: Report) -> Markup:
    rows = [
        (i.role, i.path or "standard input", str(i.size), number(i.sha256)) for i in found.inputs
    ]
    return table(("Input", "File", "Bytes", "SHA-256"), rows)


def _settings(found: Report) -> Markup:
    rows = []
    for word, chosen in (("given", found.given), ("assumed", found.assumed)):
        for name, value in chosen.items():
            place = f"{word} ({found.places[name]})" if name in found.places else word
            rows.append((name, shown(value, MOST_CELL), place))
    return table(("Setting", "Value", "Given or assumed"), rows)


def _findings(found: Report) -> Markup:
    if not found.findings:
        return tag("p", "None.")
    return findings_table(found.findings)


def _operations(made: Planned | None, *, digests: bool) -> Iterator[str]:
    """Yield the operations in order, those in the middle left out where they are many."""
    if made is None:
        return
    plan = made.plan
    index = {one.blob.name: n for n, one in enumerate(plan.inputs)}
    running = digests and plan.platform.page_info
    head = ("Number", "Kind", "Operation", "Fields" + ", launch digest after it" * running)

    def cells(row: Row) -> Sequence[str]:
        told = row_text(row, index)
        if running and row.digest is not None:
            told = lines(told, tag("div", row.digest.hex(), class_="cvm-num cvm-t-soft"))
        return str(row.number), row.op.kind, tag("span", row.op.name, class_="cvm-op"), told

    rows = [cells(row) for row in islice(made.rows, MOST_OPERATIONS)]
    left = len(plan.ops) - len(rows)
    caption = f"The first {len(rows)} of {len(plan.ops)}; cvmplan plan prints all" if left else ""
    if made.nearest:
        yield tag("p", f"No released kernel implements {plan.abi}; the nearest is {made.nearest}.")
    yield table(head, rows, caption)


def _coverage(result: Measurement | None) -> Sequence[str]:
    if result is None:
        return []
    counts = result.coverage._asdict()
    classes = [Class(COVERAGE[name], counts[name], LOOKS[name]) for name in LOOKS]
    rows = [
        (swatch(one.kind), one.name, str(one.pages), amount(one.pages * PAGE))
        for one in classes
        if one.pages
    ]
    total = ("", "total", str(result.pages), amount(result.pages * PAGE))
    drawn = [tag("div", bar(classes), class_="cvm-scroll")] if rows else []
    return [*drawn, table(("Look", "Class", "Pages", "Size"), [*rows, total])]


def _limits(found: Report, result: Measurement | None) -> Iterator[str]:
    told = [f"{f.rule}: {f.message}." for f in found.findings if f.rule in OPEN_RULES]
    if result is not None:
        counts = result.coverage._asdict()
        told += [
            f"{many(counts[name], 'page')}: {COVERAGE[name]}."
            for name in ("host_filled", "not_added")
            if counts[name]
        ]
    if found.platform.policy is not None and "kernel_hash" not in {**found.assumed, **found.given}:
        told.append("No kernel is given: what the firmware boots is not part of the measurement.")
    told += [f"{what}: named by the launch description, not measured." for what in found.uncovered]
    if found.platform.evidence in FIELDS:
        told.append(FIELDS[found.platform.evidence])
    told.append("What the guest does after its launch.")
    yield tag("ul", lines(*(tag("li", one) for one in told)))


def _reproduce(found: Report, result: Measurement | None) -> Iterator[str]:
    verb = "check" if result is None or has_errors(found.findings) else "measure"
    words = [*launch_command(verb, found, found.base)]
    expected = ["--expect", result.digest.hex()] if result is not None else []
    told = "It exits with 0 where the measurement is the same." if expected else ""
    yield tag("pre", shlex.join([*words, *expected]))
    if told:
        yield tag("p", told)
