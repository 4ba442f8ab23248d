"""
tdx-measure's metadata.json as the TD that it describes.

Source: virtee/tdx-measure README.md and src/main.rs (boot_config, direct, indirect); MRTD covers
the firmware alone.
"""

from __future__ import annotations

import re
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.core.platform import TDX
from cvmplan.launch.given import Given
from cvmplan.launch.model import Opener
from cvmplan.readers.descriptions.described import Description, Said, json_object, wrong

FORMAT: Final = "tdx-measure metadata.json"
HEAD: Final = 1 << 16
_KEY: Final = re.compile(rb'"boot_config"\s*:')


def recognises(blob: Blob) -> bool:
    """Whether the text is a JSON object with the key boot_config."""
    head = bytes(blob.data[:HEAD])
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{" and _KEY.search(head) is not None


def describe(blob: Blob, open_file: Opener | None, options: Given) -> Description:
    """Return what the file describes; MalformedError with the place."""
    del open_file, options
    held = json_object(blob)
    boot = held["boot_config"] if isinstance(held.get("boot_config"), dict) else {}
    bios = boot.get("bios")
    if not isinstance(bios, str) or not bios:
        raise wrong(blob, "boot_config.bios", "missing")
    said = {
        "platform": Said(TDX, "boot_config"),
        "vmm": Said("qemu", "boot_config"),
        "firmware": Said(bios, "boot_config.bios"),
    }
    for name, setting in (("cpus", "vcpus"), ("memory", "memory")):
        if name in boot:
            said[setting] = Said(boot[name], f"boot_config.{name}")
    rest = [f"boot_config.{name}" for name in boot if name not in ("bios", "cpus", "memory")]
    rest += [name for name in held if name != "boot_config"]
    direct = held["direct"] if isinstance(held.get("direct"), dict) else {}
    names = {"kernel": "kernel", "initrd": "initrd", "append": "cmdline"}
    found = {n: Said(direct[k], f"direct.{k}") for n, k in names.items() if k in direct}
    return Description(FORMAT, said, uncovered=tuple(rest), boot=found if "kernel" in found else {})
