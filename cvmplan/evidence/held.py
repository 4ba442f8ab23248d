"""Every field of evidence compared with what is expected, and what no guest may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from cvmplan.core.field import Field, names
from cvmplan.evidence.evidence import Evidence
from cvmplan.evidence.lines import Line, Status, compared, line
from cvmplan.evidence.pins import PINS, RULES, Pins, rules
from cvmplan.evidence.planned import Expected
from cvmplan.platforms.snp import described as snp
from cvmplan.platforms.tdx import bits
from cvmplan.platforms.tdx import described as tdx

# AMD 56860, "Guest Policy Structure": bits that let somebody else read the guest, and one that
# is reserved and must be 1.
_WEAKER: Final = {
    1 << 19: "DEBUG: the host can read the guest's memory",
    1 << 18: "MIGRATE_MA: a migration agent can read the guest's memory",
}
_RESERVED_1: Final = 1 << 17
# google/go-tdx-guest 13f12b2, validate/validate.go: tdAttributesFixed0, xfamFixed0, xfamFixed1.
_ALLOWED: Final = {"attributes": bits.mask_of(0, 28, 30, 63), "xfam": 0x6DBE7}
_FORCED: Final = {"attributes": 0, "xfam": 0x3}
_TABLES: Final = {"attributes": bits.ATTRIBUTES, "xfam": bits.XFAM}
MOST_SHOWN: Final = 4  # values that are expected of a field
DEBUG: Final = 1  # of the ATTRIBUTES of a TD; Intel 348551, "ATTRIBUTES"
# DCAP: both are 0 for the modules that Intel signs for production.
_OF_INTEL: Final = {"mrsignerseam": bytes(48).hex(), "seam_attributes": hex(0)}
_NOT_INTEL: Final = "not a TDX module that Intel signed for production"


def fields(evidence: Evidence) -> tuple[Field, ...]:
    """Return every field of evidence with its meaning, in the order in which it has them."""
    if evidence.report is not None:
        return tuple(snp.fields(evidence.report))
    if evidence.quote is not None:
        return tuple(tdx.of_quote(evidence.quote))
    if evidence.td is not None and evidence.mac is not None:
        return tuple(tdx.of_report(evidence.td, evidence.mac))
    return ()


def lines(evidence: Evidence, planned: Mapping[str, Expected], pins: Pins) -> Iterator[Line]:
    """
    Yield each field beside what a plan and pins say of it.

    A pin takes the place of what the plan assumed; beside what was given to the plan it counts too.
    """
    bound = evidence.source.bound
    if bound:
        data = evidence.report.report_data if evidence.report else b""
        data = evidence.td.report_data if evidence.td else data
        why = "the report is part of a different HCL report"
        yield compared("runtime_data", bound.hex(), data[: len(bound)].hex(), why)
    pinned = _pinned(pins)
    found = {field.id: field for field in fields(evidence)}
    for field in found.values():
        if field.id in RULES and pins.get(field.id):
            continue
        told = [one for one in (planned.get(field.id), pinned.get(field.id)) if one is not None]
        asked = [one for one in told if not one.assumed]
        if not told:
            yield _line(field, None, pins)
        for wanted in asked or told:
            yield _line(field, wanted, pins)
    if evidence.td is not None:
        yield _debug(evidence.td.attributes, pinned.get("attributes", planned.get("attributes")))
    for name, wanted in pinned.items():
        if name not in found:
            missing = f"not in this {'quote' if evidence.quote else 'report'}"
            yield line(name, _several(wanted.values), missing, Status.DIFFERS)
    yield from rules(evidence, pins)


def _pinned(pins: Pins) -> dict[str, Expected]:
    """Return the pins that are values of fields."""
    made = {}
    for name, value in pins.items():
        if name not in RULES and name != "policy_mask":
            several = value if PINS[name].many else (value,)
            made[name] = Expected(tuple(PINS[name].shown(one) for one in several))
    return made


def _line(field: Field, wanted: Expected | None, pins: Pins) -> Line:
    if field.id == "policy":
        return _policy(field, wanted, pins.get("policy_mask"))
    if field.id == "vmpl" and wanted is None and field.value != "0":
        why = field.meaning or "software of the guest that is less privileged than VMPL 0"
        return line("vmpl", "0", field.value, Status.DIFFERS, f"{why}; --vmpl N accepts one")
    if field.id in _ALLOWED and (wanted is None or wanted.assumed):
        wrong = _impossible(field)
        if wrong is not None:
            return wrong
    if field.id in _OF_INTEL:
        return compared(field.id, _OF_INTEL[field.id], field.value, _NOT_INTEL)
    return _held(field, wanted)


def _held(field: Field, wanted: Expected | None, why: str = "") -> Line:
    """Return the line of a field beside what is expected of it."""
    said = "; ".join(one for one in (why, field.meaning) if one)
    if wanted is None:
        return line(field.id, None, field.value, Status.NOT_IN_PLAN, said)
    if field.value in wanted.values:
        return line(field.id, field.value, field.value, Status.OK, said)
    status = Status.ASSUMED if wanted.assumed else Status.DIFFERS
    return line(field.id, _several(wanted.values), field.value, status, said)


def _several(values: Sequence[str]) -> str:
    """Return values as text, the first of many and how many more."""
    more = f" or {len(values) - MOST_SHOWN} more" if values[MOST_SHOWN:] else ""
    return " or ".join(values[:MOST_SHOWN]) + more


def _policy(field: Field, wanted: Expected | None, mask: int | None) -> Line:
    """Return the line of the policy of an SNP guest, of which a mask may be compared alone."""
    found, said = int(field.value, 0), field.meaning
    planned = None if wanted is None else int(wanted.values[0], 0)
    if not found & _RESERVED_1:
        return line("policy", "bit 17 set", field.value, Status.DIFFERS, "bit 17 is reserved, 1")
    asked = 0 if planned is None or (wanted and wanted.assumed) else planned
    if mask is not None:
        asked &= mask
    weaker = [why for bit, why in _WEAKER.items() if found & bit and not asked & bit]
    if mask is not None and planned is not None:
        expected = f"{planned & mask:#x} in the bits of {mask:#x}"
        holds = found & mask == planned & mask and not weaker
        status = Status.OK if holds else Status.DIFFERS
        return line("policy", expected, field.value, status, "; ".join([*weaker, said]))
    if weaker:
        expected = f"{planned:#x}" if planned is not None else "without these bits"
        return line("policy", expected, field.value, Status.DIFFERS, "; ".join(weaker))
    return _held(field, wanted)


def _debug(attributes: int, wanted: Expected | None) -> Line:
    """Return the line of a TD's DEBUG bit, which has to be asked for."""
    asked = wanted is not None and not wanted.assumed
    allowed = asked and wanted is not None and bool(int(wanted.values[0], 0) & DEBUG)
    why = "the host can read the TD's memory"
    return compared("debug", _on(allowed), _on(bool(attributes & DEBUG)), why)


def _impossible(field: Field) -> Line | None:
    """Return the line of a mask that no TD of a production module has; None where it may be."""
    name, value = field.id, int(field.value, 0)
    more, less = value & ~_ALLOWED[name], _FORCED[name] & ~value
    if not (more or less):
        return None
    wrong = [f"must be clear: {_named(more, name)}"] if more else []
    wrong += [f"must be set: {_named(less, name)}"] if less else []
    expected = f"bits of {_ALLOWED[name]:#x}"
    if _FORCED[name]:
        expected += f", with {_FORCED[name]:#x}"
    return line(name, expected, field.value, Status.DIFFERS, ", ".join(wrong))


def _named(mask: int, name: str) -> str:
    table: dict[int, str] = _TABLES[name]
    known = {bit: named for bit, named in table.items() if mask >> bit & 1}
    return f"{mask:#x} ({names(sum(1 << bit for bit in known), table)})" if known else hex(mask)


def _on(flag: Any) -> str:
    return "on" if flag else "off"
