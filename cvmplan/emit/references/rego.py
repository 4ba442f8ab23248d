"""
A policy for Trustee's attestation service: `executables` is 3 for an accepted measurement.

Source: confidential-containers/trustee 78962cd, attestation-service/src/ear_token/broker.rs
(`data.policy.trust_claims`, `query_reference_value`); the claims and their numbers are those of
draft-ietf-rats-ar4si: 2 and 3 affirm, 33 an unrecognised executable, 36 a configuration that is
not accepted.  It says nothing of the hardware, whose TCB levels an image does not tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from cvmplan.core.platform import Platform
from cvmplan.emit.references.rvps import name_of
from cvmplan.reference.targets import CLAIMS, SAFE
from cvmplan.reference.values import Reference

_HEAD: Final = """\
package policy

import rego.v1

default executables := 33

default configuration := 36

trust_claims := {
\t"executables": executables,
\t"configuration": configuration,
}
"""


def reference(made: Reference) -> list[str]:
    """Return the policy: with names that it asks for, or with the values themselves."""
    return ["".join((f"# made by cvmplan {made.version}\n", _HEAD, *_rules(made)))]


def _rules(made: Reference) -> Iterator[str]:
    for platform in made.platforms:
        claim, accepted = CLAIMS[platform], _accepted(made, platform)
        yield _rule("executables", 3, (f"{claim} in {accepted}",))
        yield _rule("configuration", 2, SAFE[platform])


def _accepted(made: Reference, platform: Platform) -> str:
    if not made.wanted.self_contained:
        return f"query_reference_value({json.dumps(name_of(made, platform))})"
    values = "".join(f'\t\t"{one.digest.hex()}",\n' for one in made.of(platform))
    return f"[\n{values}\t]"


def _rule(name: str, value: int, conditions: tuple[str, ...]) -> str:
    lines = "".join(f"\t{one}\n" for one in conditions)
    return f"\n{name} := {value} if {{\n{lines}}}\n"
