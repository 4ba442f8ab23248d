"""What `explain` and `diff` answer, as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cvmplan.comparison.found import Comparison, Difference
from cvmplan.emit.lines import Command, aligned, joined
from cvmplan.explanation.answer import Explanation
from cvmplan.readers.firmware import Firmware


def explanation(answer: Explanation) -> str:
    """Return the command line that should have been typed, or what was searched in vain."""
    return joined([*_head(answer), *(_found(answer) if answer.explained else _missed(answer))])


def _head(answer: Explanation) -> Iterator[str]:
    if answer.evidence:
        yield f"evidence: {answer.evidence}"
        yield ""


def _found(answer: Explanation) -> Iterator[str]:
    if answer.firmware:
        yield from _launched(answer, answer.firmware)
    elif not answer.changes:
        yield "explained: the given settings produce this measurement"
    else:
        yield "explained: these settings produce the measurement"
        rows = [
            (change.typed, f"instead of {change.was}" if change.was else "", change.why)
            for change in answer.changes
        ]
        yield from aligned(rows, "  ")
    yield ""
    yield Command(f"  {answer.shell}")
    yield ""
    yield from (f"also: {doubt}" for doubt in answer.doubts)
    yield f"compared {answer.candidates} candidates"


_MEASURED: Final = (
    "vcpus", "cpu", "cpu_signature", "sev_features", "page_order", "kernel_hashes", "kernel_hash",
    "initrd_hash", "append", "append_hash",
)  # fmt: skip
"""Settings that people know, of those that a digest depends on."""


def _launched(answer: Explanation, firmware: Firmware) -> Iterator[str]:
    """Yield the firmware that was launched, and how."""
    yield "explained: firmware of the catalogue produces the measurement"
    rows = [
        ("firmware", firmware.name),
        ("version", firmware.version),
        ("source", firmware.source),
        ("sha256", firmware.sha256.hex()),
        ("platform", answer.platform),
    ]
    known = answer.settings
    rows = [row for row in rows if row[1]]
    rows += [(name, str(known[name])) for name in ("vmm", *_MEASURED) if name in known]
    yield from aligned(rows)


def _missed(answer: Explanation) -> Iterator[str]:
    reach = "completely" if answer.complete else "until the time limit"
    yield f"not explained: none of {answer.candidates} candidates produces {answer.expected}"
    yield ""
    yield f"searched {reach}:"
    yield from (f"  {one.name}: {one.values}" for one in answer.searched)
    yield "not searched:"
    yield from (f"  {one.words}" for one in answer.not_searched)


SHOWN = 60  # characters of a value


def comparison(found: Comparison) -> str:
    """Return both launches, where they part, what differs, and what that means."""
    sides = []
    for letter, side in (("A", found.a), ("B", found.b)):
        sides.append(f"{letter}  {side.name} ({side.kind})")
        if side.digest:
            sides.append(f"   {side.register}  {side.digest.hex()}")
    return joined([*sides, "", *_parting(found), *_listed(found), *_held(found), *_verdict(found)])


def _parting(found: Comparison) -> Iterator[str]:
    if found.parting:
        a, b, reason = found.parting
        yield f"first difference at {a or 'the end'} of A, {b or 'the end'} of B: {reason.words}"
        yield ""


def _listed(found: Comparison) -> Iterator[str]:
    rows = [("", "", "", "A", "B"), *map(_row, found.differences)]
    if found.differences:
        yield from aligned(rows)
        yield ""
    if found.more:
        yield f"and {found.more} more"
    yield from (f"not compared: {what}" for what in found.unknown)


def _held(found: Comparison) -> Iterator[str]:
    """Yield how the calls of a plan compare with recorded ones, known deviations counted."""
    if found.held is None:
        return
    held = found.held
    count = sum(one.times for one in held.deviations)
    yield (
        f"calls: {held.pairs} compared, {held.equal} fields equal, {held.apart} pointers and "
        f"descriptors apart, {len(held.differences)} differences"
    )
    if held.deviations:
        yield f"known deviations: {count}, none of them measured"
        rows = [(one.id, str(one.times), one.reason) for one in held.deviations]
        yield from aligned(rows, "  ")
    yield ""


def _row(one: Difference) -> tuple[str, ...]:
    return one.what, one.where, "" if one.measured else "not measured", _short(one.a), _short(one.b)


def _short(value: str) -> str:
    return value if len(value) <= SHOWN else f"{value[: SHOWN - 1]}…"


def _verdict(found: Comparison) -> Iterator[str]:
    same, count = found.same_measurement, len(found.differences) + found.more
    if found.calls_differ and not count:
        yield found.calls_differ.words
    if not found.differ and same is None:
        yield "no known difference; whether they measure identically is not known"
    elif not found.differ:
        yield "no difference: both measure identically"
    elif same and not count:
        yield "the plans differ, but pass the same pages to the firmware in the same order:"
        yield "both measure identically"
    elif same:
        yield f"{_counted(count)}, none of it measured: both measure identically"
    elif same is False and not count and not found.parting:
        yield "no difference found, but the measurements differ"
    elif not count:
        yield "they differ there" + ("" if same is None else ", and the measurements differ")
    else:
        known = "" if same is None else ", and the measurements differ"
        yield f"{_counted(count)}{known}"


def _counted(count: int) -> str:
    return f"{count} difference{'' if count == 1 else 's'}"
