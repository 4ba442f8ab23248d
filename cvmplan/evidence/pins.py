"""
What evidence has to say beside a plan, or without one: each pin is an option, a parameter of
`verify` and a key of cvmplan.policy/1.

A pin whose name is that of a field wants this value, or one of several; the others are rules of
`RULES`.  The rules are those of google/go-sev-guest 0.15.0 and go-tdx-guest 0.3.1 (package
validate), where these have one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from cvmplan.core import values
from cvmplan.core.field import names
from cvmplan.core.values import Json
from cvmplan.evidence.evidence import Evidence
from cvmplan.evidence.lines import Line, Status, line
from cvmplan.platforms.snp import bulletins, described
from cvmplan.platforms.snp.report import AUTHOR_KEY_EN, TCB_PARTS, AttestationReport
from cvmplan.platforms.tdx.quote import Quote, Td

Pins: TypeAlias = Mapping[str, Any]
"""Pins by name: what the reader of each returned, in a tuple where it may be repeated."""
BULLETIN: Final = "bulletin"
_LEVEL = re.compile(r"([a-z]{1,16})=(0x[0-9a-fA-F]{1,2}|[0-9]{1,3})")
_VERSION = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})")


class Pin(NamedTuple):
    """
    The kinds of evidence that a pin is about, how it is read, its option's words.

    `many`: any of several is right.  `mask`: written in hex, as its field is.
    """

    kinds: tuple[str, ...]
    read: Callable[[Json], Any]
    metavar: str
    text: str
    many: bool = False
    mask: bool = False

    def shown(self, value: Any) -> str:
        """Return a value as the field of this name shows it."""
        if isinstance(value, bytes):
            return value.hex()
        return hex(value) if self.mask else str(value)


def levels(written: Json) -> Any:
    """
    Return security patch levels: by name, a TCB_VERSION as a number, or "bulletin".

    Written "snp=23,microcode=0x54", an object of these, or an integer.  ValueError.
    """
    if written == BULLETIN:
        return BULLETIN
    if isinstance(written, Mapping):
        if not written:
            raise ValueError("has no levels")
        return {_part(name): values.within(0, 255)(level) for name, level in written.items()}
    if isinstance(written, str) and "=" in written:
        found = [_LEVEL.fullmatch(one.strip()) for one in written.split(",")]
        if all(found):
            pairs = [(one[1], int(one[2], 0)) for one in found if one]
            return {_part(name): values.within(0, 255)(level) for name, level in pairs}
        raise ValueError(f"{written!r} is not NAME=LEVEL,…")
    return values.integer(written)


def _part(name: str) -> str:
    known = list(TCB_PARTS[True])
    if name not in known:
        raise ValueError(f"{name!r} is not a part of a TCB: choose from {', '.join(known)}")
    return name


def _version(written: Json) -> tuple[int, int]:
    found = _VERSION.fullmatch(written) if isinstance(written, str) else None
    if found is None or max(int(found[1]), int(found[2])) > 255:
        raise ValueError(f"{written!r} is not a version, MAJOR.MINOR")
    return int(found[1]), int(found[2])


def _flag(written: Json) -> bool:
    if not isinstance(written, bool):
        raise ValueError(f"{written!r} is not true or false")  # noqa: TRY004 as in `values`
    return written


REPORT, QUOTE, EITHER = ("report",), ("quote",), ("report", "quote")
_48 = values.octets(48)
_U16, _U32 = values.within(0, 0xFFFF), values.within(0, 0xFFFFFFFF)
_TCB = "NAME=SPL,…|0x…"
PINS: Final[Mapping[str, Pin]] = {
    "report_data": Pin(EITHER, values.octets(64), "HEX", "Expected REPORT_DATA, 64 bytes."),
    "measurement": Pin(REPORT, _48, "HEX", "Expected launch digest (repeatable).", many=True),
    "policy": Pin(REPORT, values.integer, "MASK", "Expected guest policy.", mask=True),
    "policy_mask": Pin(REPORT, values.integer, "MASK", "Bits of --policy that are compared."),
    "host_data": Pin(REPORT, values.octets(32), "HEX", "Expected HOST_DATA, 32 bytes."),
    "vmpl": Pin(REPORT, values.within(0, 3), "N", "Expected VMPL of the requester.  [assumed: 0]"),
    "family_id": Pin(REPORT, values.octets(16), "HEX", "Expected FAMILY_ID, 16 bytes."),
    "image_id": Pin(REPORT, values.octets(16), "HEX", "Expected IMAGE_ID, 16 bytes."),
    "report_id": Pin(REPORT, values.octets(32), "HEX", "Expected REPORT_ID, 32 bytes."),
    "report_id_ma": Pin(REPORT, values.octets(32), "HEX", "Expected REPORT_ID_MA, 32 bytes."),
    "chip_id": Pin(REPORT, values.octets(64), "HEX", "Expected CHIP_ID (repeatable).", many=True),
    "id_key_digest": Pin(REPORT, _48, "HEX", "Accepted ID key digest (repeatable).", many=True),
    "author_key_digest": Pin(REPORT, _48, "HEX", "Accepted author key digest (repeatable).", True),
    "require_id_block": Pin(REPORT, _flag, "", "Require an ID block."),
    "require_author_key": Pin(REPORT, _flag, "", "Require an ID block signed by an author key."),
    "min_guest_svn": Pin(REPORT, _U32, "N", "Least GUEST_SVN."),
    "min_tcb": Pin(
        REPORT, levels, f"{_TCB}|bulletin", "Least reported TCB; AMD's with 'bulletin'."
    ),
    "min_launch_tcb": Pin(REPORT, levels, _TCB, "Least TCB at launch."),
    "min_version": Pin(REPORT, _version, "X.Y", "Least version of the SNP firmware."),
    "min_build": Pin(REPORT, values.within(0, 255), "N", "Least build of the SNP firmware."),
    "platform_info": Pin(REPORT, values.integer, "MASK", "Weakest PLATFORM_INFO that is accepted."),
    "launch_mitigations": Pin(REPORT, values.integer, "MASK", "Mitigations required at launch."),
    "current_mitigations": Pin(REPORT, values.integer, "MASK", "Mitigations required now."),
    "mrtd": Pin(QUOTE, _48, "HEX", "Expected MRTD (repeatable).", many=True),
    **{
        f"rtmr{number}": Pin(QUOTE, _48, "HEX", f"Expected RTMR{number} (repeatable).", many=True)
        for number in range(4)
    },
    "attributes": Pin(QUOTE, values.integer, "MASK", "Expected ATTRIBUTES of the TD.", mask=True),
    "xfam": Pin(QUOTE, values.integer, "MASK", "Expected XFAM of the TD.", mask=True),
    "mrconfigid": Pin(QUOTE, _48, "HEX", "Expected MRCONFIGID, 48 bytes."),
    "mrowner": Pin(QUOTE, _48, "HEX", "Expected MROWNER, 48 bytes."),
    "mrownerconfig": Pin(QUOTE, _48, "HEX", "Expected MROWNERCONFIG, 48 bytes."),
    "mrseam": Pin(QUOTE, _48, "HEX", "Expected MRSEAM of the TDX module (repeatable).", many=True),
    "mrservicetd": Pin(QUOTE, _48, "HEX", "Expected MRSERVICETD, 48 bytes."),
    "qe_vendor_id": Pin(QUOTE, values.octets(16), "HEX", "Expected QE vendor ID, 16 bytes."),
    "min_tee_tcb_svn": Pin(QUOTE, values.octets(16), "HEX", "Least TEE_TCB_SVN, byte by byte."),
    "min_qe_svn": Pin(QUOTE, _U16, "N", "Least QE SVN in the header."),
    "min_pce_svn": Pin(QUOTE, _U16, "N", "Least PCE SVN in the header."),
}
"""Pin by name.  A flag has no metavar."""


class Held(NamedTuple):
    """What a rule wants, what evidence has, whether that is enough, and what is wrong."""

    expected: str
    found: str
    holds: bool
    why: str = ""


def rules(evidence: Evidence, pins: Pins) -> Iterator[Line]:
    """Yield the line of each pin that is a rule about evidence."""
    source: Any = evidence.report or evidence.quote or evidence.td
    for name, rule in RULES.items():
        if name in pins and pins[name] is not False:
            held = rule(source, pins[name])
            status = Status.OK if held.holds else Status.DIFFERS
            yield line(name, held.expected, held.found, status, held.why)


def _least(name: str) -> Callable[[Any, int], Held]:
    """Return the rule that a field of this name is at least a number."""
    return lambda source, least: Held(
        f"at least {least}", str(getattr(source, name)), getattr(source, name) >= least
    )


def _of_header(name: str) -> Callable[[Quote | Td, int], Held]:
    def rule(source: Quote | Td, least: int) -> Held:
        if not isinstance(source, Quote):
            return Held(f"at least {least}", "a TDREPORT has none", False)
        return _least(name)(source.header, least)

    return rule


def _tcb(name: str) -> Callable[[AttestationReport, Any], Held]:
    """Return the rule that each level of a TCB is at least the one that is wanted."""

    def rule(report: AttestationReport, wanted: Any) -> Held:
        found = report.levels(getattr(report, name))
        least = wanted if isinstance(wanted, Mapping) else None
        if wanted == BULLETIN:
            least = bulletins.least(report)
            if not least:
                return Held("AMD's bulletins", described.levels(found), False, "no product named")
        elif least is None:
            least = report.levels(wanted)
        missing = [part for part in least if part not in found]
        low = [part for part, level in least.items() if found.get(part, 0) < level]
        why = f"below: {', '.join(low)}" if low else ""
        if missing:
            why = f"this product has no {', '.join(missing)}"
        expected = f"at least {described.levels(dict(least))}"
        return Held(expected, described.levels(found), not low and not missing, why)

    return rule


def _firmware(report: AttestationReport, least: tuple[int, int]) -> Held:
    _, minor, major = report.current_version
    return Held(f"at least {least[0]}.{least[1]}", f"{major}.{minor}", (major, minor) >= least)


def _build(report: AttestationReport, least: int) -> Held:
    build = report.current_version[0]
    return Held(f"at least {least}", str(build), build >= least)


_MAY = 1 << 0 | 1 << 1 | 1 << 7  # SMT, TSME and TIO weaken where they are on, the others strengthen


def _platform_info(report: AttestationReport, weakest: int) -> Held:
    found, known = report.platform_info, sum(1 << bit for bit in described.PLATFORM_INFO)
    more = found & _MAY & ~weakest | found & ~known
    less = weakest & known & ~_MAY & ~found
    wrong = [f"must be clear: {names(more, described.PLATFORM_INFO)}"] if more else []
    wrong += [f"must be set: {names(less, described.PLATFORM_INFO)}"] if less else []
    return Held(f"not weaker than {weakest:#x}", hex(found), not wrong, ", ".join(wrong))


def _mitigations(name: str) -> Callable[[AttestationReport, int], Held]:
    def rule(report: AttestationReport, wanted: int) -> Held:
        found = getattr(report, name)
        return Held(f"with {wanted:#x}", hex(found), found & wanted == wanted)

    return rule


def _block(report: AttestationReport, _: bool) -> Held:
    has = any(report.id_key_digest)
    return Held("an ID key", "an ID key" if has else "none: no ID block", has)


def _author(report: AttestationReport, _: bool) -> Held:
    has = bool(report.key_info & AUTHOR_KEY_EN) and any(report.author_key_digest)
    return Held("an author key", "an author key" if has else "none", has)


def _tee_tcb_svn(source: Quote | Td, least: bytes) -> Held:
    td = source.td if isinstance(source, Quote) else source
    enough = all(a >= b for a, b in zip(td.tee_tcb_svn, least, strict=True))
    return Held(f"at least {least.hex()}", td.tee_tcb_svn.hex(), enough, "a byte is lower")


RULES: Final[Mapping[str, Callable[[Any, Any], Held]]] = {
    "require_id_block": _block,
    "require_author_key": _author,
    "min_guest_svn": _least("guest_svn"),
    "min_tcb": _tcb("reported_tcb"),
    "min_launch_tcb": _tcb("launch_tcb"),
    "min_version": _firmware,
    "min_build": _build,
    "platform_info": _platform_info,
    "launch_mitigations": _mitigations("launch_mit_vector"),
    "current_mitigations": _mitigations("current_mit_vector"),
    "min_tee_tcb_svn": _tee_tcb_svn,
    "min_qe_svn": _of_header("qe_svn"),
    "min_pce_svn": _of_header("pce_svn"),
}
"""Pin by name that is more than a value of its field."""
