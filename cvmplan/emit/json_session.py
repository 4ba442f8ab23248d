"""What `launch-measure` and `session` answer, as JSON documents."""

from __future__ import annotations

from base64 import b64encode

from cvmplan.emit.documents import finding
from cvmplan.emit.json import dumps, inputs_of
from cvmplan.sev_session.answers import LaunchMeasure, SessionAnswer


def launch_measure(answer: LaunchMeasure) -> str:
    """Return cvmplan.launch-measure/1."""
    plan = answer.plan
    return dumps(
        {
            "schema": "cvmplan.launch-measure/1",
            "platform": answer.platform,
            "digest": answer.digest.hex(),
            "policy": hex(answer.policy),
            "api": {"major": answer.api[0], "minor": answer.api[1]},
            "build": answer.build,
            "mnonce": answer.nonce.hex(),
            "measurement": answer.measurement.hex(),
            "reported": b64encode(answer.measurement + answer.nonce).decode(),
            "inputs": inputs_of(plan.inputs) if plan else [],
            "given": plan.given if plan else {},
            "assumed": plan.assumed if plan else {},
            "findings": [finding(f) for f in plan.findings] if plan else [],
        }
    )


def session(answer: SessionAnswer) -> str:
    """Return cvmplan.session/1."""
    made = answer.session
    names = ("nonce", "wrap_tk", "wrap_iv", "wrap_mac", "policy_mac")
    return dumps(
        {
            "schema": "cvmplan.session/1",
            "policy": hex(answer.policy),
            "inputs": inputs_of([answer.public] if answer.public else []),
            "session": {name: getattr(made, name).hex() for name in names},
            "random": list(answer.random),
            "folder": answer.folder or None,
            "files": list(answer.files),
            "verified": [check.name for check in answer.checks],
        }
    )
