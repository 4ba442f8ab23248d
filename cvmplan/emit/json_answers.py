"""What `explain` answers, as a JSON document."""

from __future__ import annotations

from cvmplan.emit.json import dumps
from cvmplan.explain.answer import Explanation


def explanation(answer: Explanation) -> str:
    """Return cvmplan.explanation/1."""
    return dumps(
        {
            "schema": "cvmplan.explanation/1",
            "expected": answer.expected,
            "explained": answer.explained,
            "platform": answer.platform,
            "command": list(answer.command),
            "changes": [change._asdict() for change in answer.changes],
            "candidates": answer.candidates,
            "complete": answer.complete,
            "searched": [{"name": name, "values": values} for name, values in answer.searched],
            "not_searched": list(answer.not_searched),
            "evidence": answer.evidence,
            "doubts": list(answer.doubts),
        }
    )
