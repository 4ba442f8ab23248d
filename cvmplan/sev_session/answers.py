"""What `launch-measure` and `session` answer; no secret is part of it."""

from __future__ import annotations

from typing import NamedTuple

from cvmplan.core.inputs import Input
from cvmplan.core.platform import Platform
from cvmplan.operations.plan import Plan
from cvmplan.sev_session.session import Session


class Check(NamedTuple):
    """One thing that was verified, and what it means when it does not hold."""

    name: str
    holds: bool
    meaning: str


class LaunchMeasure(NamedTuple):
    """
    The firmware's answer to LAUNCH_MEASURE, and all that it depends on but the TIK.

    `plan` is the launch, None where only its digest is known.
    """

    platform: Platform | None
    digest: bytes
    policy: int
    api: tuple[int, int]
    build: int
    nonce: bytes
    measurement: bytes
    plan: Plan | None


class SessionAnswer(NamedTuple):
    """
    A session that was made or verified.

    `public` is the file of the other side's public key.  `random` names what was made up,
    `folder` and `files` what was written, `checks` what was verified.
    """

    session: Session
    policy: int
    public: Input | None = None
    random: tuple[str, ...] = ()
    folder: str = ""
    files: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
