"""
What both vendors' signatures are judged with: the certificates, the pinned keys, the time.

Source: RFC 5280, section 6.1, by `chains`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from cvmplan.evidence import chains
from cvmplan.evidence.chains import Certificate
from cvmplan.evidence.collateral import Collateral
from cvmplan.evidence.lines import Line, Status, line
from cvmplan.evidence.revocation import Revocations


class Trust(NamedTuple):
    """
    Certificates from the signer's upwards, the pinned keys by hash, and the time, in UTC.

    `notes` are certificates that could not be read, a line each.  `revocations` are lists of
    revoked certificates, and `collateral` is what Intel publishes of a platform.
    `provisional`: firmware that is not committed is accepted; `accepted` are the statuses of a
    TCB that are.
    """

    chain: Sequence[Certificate]
    pins: Mapping[str, str]
    at: datetime
    notes: tuple[str, ...] = ()
    revocations: tuple[Revocations, ...] = ()
    collateral: Collateral | None = None
    provisional: bool = False
    accepted: tuple[str, ...] = ("UpToDate",)


def verdict(which: str, holds: bool, by: str, why: str) -> Line:
    """Return the line of one signature, which is by `by`; `why` says what a wrong one means."""
    if holds:
        return line(which, by, by, Status.OK)
    return line(which, by, "does not match: different data or a different key", Status.DIFFERS, why)


def chain_line(trust: Trust, curve: str, *, serial_0: bool) -> Line:
    """Return the line of the chain; the first thing that is wrong is said, and how many more."""
    expected = f"valid at {trust.at:%Y-%m-%d %H:%M:%S} UTC, ends at a pinned key"
    wrong = [*chains.problems(trust.chain, trust.pins, curve, trust.at, serial_0)]
    if wrong:
        more = f"; and {len(wrong) - 1} more" if wrong[1:] else ""
        return line("certificate_chain", expected, wrong[0] + more, Status.DIFFERS)
    name = chains.anchor(trust.chain, trust.pins)
    return line("certificate_chain", expected, f"{expected}: {name}", Status.OK)
