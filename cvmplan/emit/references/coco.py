"""
A plug-in of CoCo's reference-values repository: it prints the hex of one value and nothing else.

Source: confidential-containers/reference-values 1d39a0b, DEVELOPMENT.md.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from cvmplan.reference.values import Reference, Value

_OPTIONS = ("platform", "vmm", "abi", "vcpus", "cpu", "kernel", "initrd", "append", "page_order")


def reference(made: Reference) -> list[str]:
    """Return the value, or with --script the plug-in that computes it."""
    (*_, last) = made.values
    return ["".join(_script(last))] if made.wanted.script else [f"{last.digest.hex()}\n"]


def _script(value: Value) -> Iterator[str]:
    """Yield the lines of the plug-in, which runs where the release was unpacked."""
    image = f"./{value.image}" if value.image.startswith("-") else value.image
    words = ["cvmplan", "measure", image]
    settings = {"platform": str(value.platform), **value.settings}
    for name in _OPTIONS:
        if name in settings:
            words += [f"--{name.replace('_', '-')}={settings[name]}"]
    yield "#!/bin/sh\n# Print the launch measurement, and nothing else.\nset -eu\n"
    yield f"exec {shlex.join((*words, '--bare'))}\n"
