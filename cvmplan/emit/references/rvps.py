"""
A message of type `sample` for Trustee's reference value provider.

Source: confidential-containers/trustee 78962cd, rvps/src/lib.rs and rvps/src/extractors/sample.rs;
names of ear_default_policy_cpu.rego.  Values are lower-case hex in lists: its policy compares text.
"""

from __future__ import annotations

import json
from base64 import b64encode

from cvmplan.core.platform import Platform
from cvmplan.core.values import Json
from cvmplan.emit.json import dumps
from cvmplan.reference.targets import NAMES
from cvmplan.reference.values import Reference


def name_of(made: Reference, platform: Platform) -> str:
    """Return the name of the values of a platform: what was given, or the default policy's."""
    return made.wanted.name or NAMES.get(platform, f"{platform}_launch_measurement")


def payload(made: Reference) -> dict[str, Json]:
    """Return name to accepted values, all of one name in one list."""
    found: dict[str, Json] = {
        name_of(made, platform): [one.digest.hex() for one in made.of(platform)]
        for platform in made.platforms
    }
    for number in (1, 2):
        value = made.wanted.rtmrs[number]
        if value is not None:
            found[f"rtmr_{number}"] = [value.hex()]
    if made.wanted.xfam is not None:  # as it stands in the quote
        found["xfam"] = [made.wanted.xfam.to_bytes(8, "little").hex()]
    return found


def reference(made: Reference) -> list[str]:
    """Return the message."""
    inner = json.dumps(payload(made)).encode()
    return [dumps({"version": "0.1.0", "type": "sample", "payload": b64encode(inner).decode()})]
