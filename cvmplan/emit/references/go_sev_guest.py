"""
Configurations of go-sev-guest's `check`, which has room for one measurement each.

Source: google/go-sev-guest af1c107, proto/check.proto, tools/check/check.go.  A policy of 0 is
refused there; the product is an option of the tool, not of the file.
"""

from __future__ import annotations

from typing import Final

from cvmplan.core.platform import SNP
from cvmplan.emit.references.protobuf_text import Field, comment, lines
from cvmplan.reference.values import Reference, Value

POLICY: Final = SNP.policy or 0


def reference(made: Reference) -> list[str]:
    """Return one configuration for each value."""
    return ["".join(_config(made, one)) for one in made.of(SNP)]


def _config(made: Reference, value: Value) -> list[str]:
    policy: dict[str, Field] = {
        "policy": POLICY if made.wanted.policy is None else made.wanted.policy,
        "measurement": value.digest,
        "minimum_version": "0.0",
    }
    if made.wanted.min_tcb is not None:
        policy["minimum_tcb"] = made.wanted.min_tcb
    if "svsm" not in value.settings:  # below an SVSM the guest has another VMPL
        policy["vmpl"] = {"value": 0}
    told = " ".join(f"{name}={one}" for name, one in value.settings.items())
    head = [
        comment(f"go-sev-guest check; made by cvmplan {made.version}"),
        comment(f"{value.image} (SHA-256 {value.image_sha256}) {told}"),
    ]
    return [*head, *lines({"policy": policy, "root_of_trust": {"disallow_network": True}})]
