"""
The configuration of go-tdx-guest's `check`.

Source: google/go-tdx-guest 91f9a52, proto/checkconfig.proto, tools/check/check.go.  Without
`header_policy` the tool panics; it takes no RTMR, or four of which an empty one is not compared.
`any_mr_td` and `enable_td_debug_check` are newer than 0.3.1, which refuses such a file: it takes
one value, with the ATTRIBUTES of the TD.
"""

from __future__ import annotations

from cvmplan.core.platform import TDX
from cvmplan.emit.references.protobuf_text import Field, comment, lines
from cvmplan.reference.values import Reference


def reference(made: Reference) -> list[str]:
    """Return one configuration with all values."""
    values = made.of(TDX)
    body: dict[str, Field] = {}
    if made.wanted.td_attributes is None:
        body["enable_td_debug_check"] = True  # else a TD whose host can read it would pass
    else:
        body["td_attributes"] = made.wanted.td_attributes.to_bytes(8, "little")
    if values[1:]:
        body["any_mr_td"] = [one.digest for one in values]
    else:
        body["mr_td"] = values[0].digest
    if made.wanted.xfam is not None:
        body["xfam"] = made.wanted.xfam.to_bytes(8, "little")
    if any(made.wanted.rtmrs):
        body["rtmrs"] = [one or b"" for one in made.wanted.rtmrs]
    policy: dict[str, Field] = {"header_policy": {}, "td_quote_body_policy": body}
    newer = made.wanted.td_attributes is None or values[1:]
    reader = "go-tdx-guest check newer than 0.3.1" if newer else "go-tdx-guest check"
    head = [comment(f"{reader}; made by cvmplan {made.version}")]
    head += [
        comment(f"{one.image} (SHA-256 {one.image_sha256}): {one.digest.hex()}") for one in values
    ]
    return ["".join((*head, *lines({"policy": policy, "root_of_trust": {}})))]
