"""
The guest owner's side of a session: made, and read again.

Source: as `sev_session.session`; the order of checks is that of the firmware (sev_channel.c
`establish_channel`, then the policy's MAC in LAUNCH_START).
"""

from __future__ import annotations

import secrets

from cvmplan.core.errors import MismatchError
from cvmplan.sev_session.answers import Check
from cvmplan.sev_session.crypto import aes_ctr, same
from cvmplan.sev_session.session import (
    KEY_SIZE,
    Session,
    SessionKeys,
    policy_mac,
    wrap_mac,
    wrapping_keys,
)


def fresh() -> bytes:
    """Return 16 random bytes for a key, a nonce or an IV."""
    return secrets.token_bytes(KEY_SIZE)


def seal(shared: bytes, keys: SessionKeys, policy: int, nonce: bytes, iv: bytes) -> Session:
    """
    Return the session that brings `keys` to the firmware.

    `shared` is the agreed secret (48 bytes), `nonce` and `iv` are 16 bytes.  ConfigError.
    """
    derived = wrapping_keys(shared, nonce)
    wrapped = aes_ctr(derived.kek, iv, keys.tek + keys.tik)
    return Session(nonce, wrapped, iv, wrap_mac(derived.kik, wrapped), policy_mac(keys.tik, policy))


def unseal(shared: bytes, session: Session) -> SessionKeys | None:
    """Return the transport keys of a session, None where its WRAP_MAC does not match."""
    derived = wrapping_keys(shared, session.nonce)
    if not same(wrap_mac(derived.kik, session.wrap_tk), session.wrap_mac):
        return None
    both = aes_ctr(derived.kek, session.wrap_iv, session.wrap_tk)
    return SessionKeys(both[:KEY_SIZE], both[KEY_SIZE:])


def verify(
    shared: bytes, session: Session, policy: int, tek: bytes | None, tik: bytes | None
) -> tuple[Check, ...]:
    """
    Return what was verified, in order; `tek` and `tik` are compared where they are given.

    Without WRAP_MAC the keys are unknown, and nothing else is verified.
    """
    keys = unseal(shared, session)
    meaning = "other keys made this session, or NONCE or WRAP_TK was changed"
    checks = [Check("WRAP_MAC", keys is not None, meaning)]
    if keys is not None:
        holds = same(policy_mac(keys.tik, policy), session.policy_mac)
        meaning = "it is for a different policy, or WRAP_IV or the MAC was changed"
        checks.append(Check("POLICY_MAC", holds, meaning))
        for name, found, wanted in (("TEK", keys.tek, tek), ("TIK", keys.tik, tik)):
            if wanted is not None:
                checks.append(Check(name, same(found, wanted), "the session has another key"))
    return tuple(checks)


def confirmed(checks: tuple[Check, ...], at: str) -> tuple[Check, ...]:
    """Return `checks` where all hold; MismatchError names those that do not."""
    failed = [check for check in checks if not check.holds]
    if failed:
        names = " and ".join(check.name for check in failed)
        verb = "does not match" if len(failed) == 1 else "do not match"
        raise MismatchError(f"{names} {verb}: {failed[0].meaning}", at=at)
    return checks
