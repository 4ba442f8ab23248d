"""What became of evidence, as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cvmplan.emit.json import streamed
from cvmplan.emit.json_events import event_documents
from cvmplan.emit.json_identity import compared_line

if TYPE_CHECKING:
    from cvmplan.evidence.verify import Verification

_TIME = "%Y-%m-%dT%H:%M:%SZ"


def verification(found: Verification) -> Iterator[str]:
    """Yield cvmplan.verification/1."""
    evidence, trust = found.evidence, found.trust
    yield from streamed(
        {
            "schema": "cvmplan.verification/1",
            "platform": evidence.platform,
            "kind": evidence.kind,
            "wrappers": list(evidence.source.how),
            "notes": list(found.notes),
            "certificates": [
                {
                    "subject": one.subject,
                    "issuer": one.issuer,
                    "sha256_spki": one.spki,
                    "not_before": one.not_before.strftime(_TIME),
                    "not_after": one.not_after.strftime(_TIME),
                }
                for one in trust.chain
            ],
            "anchor": found.anchor,
            "at": trust.at.strftime(_TIME),
            "lines": [compared_line(line) for line in found.lines],
            "events": [],
            "not_checked": list(found.not_checked),
            "verdict": found.verdict,
            "planned": found.planned,
            "launched": None if found.launched is None else found.launched._asdict(),
            "holds": found.holds,
            "explain": list(found.explain),
        },
        "events",
        () if found.replay is None else event_documents(found.replay),
    )
