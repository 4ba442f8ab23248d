"""
The options of a QEMU command line as QEMU takes them: merged, the last one of each.

Sources: qemu 11.1.3 system/vl.c (-kernel, -bios and others are properties of the machine),
hw/core/machine.c (machine_set_smp), util/keyval.c.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.values import Json
from cvmplan.readers.descriptions.described import Said, wrong
from cvmplan.readers.descriptions.qemu_words import Line, Option

Properties: TypeAlias = Mapping[str, Json]
OBJECTS: Final = ("sev-guest", "sev-snp-guest", "tdx-guest")
_CPU: Final = re.compile(r"cpu\b", re.IGNORECASE)
"""In what -device and -global name: a processor, or its class."""


def names_a_cpu(value: str) -> bool:
    """Whether an option's value makes a processor or sets what one has."""
    return _CPU.search(value) is not None


class Options:
    """The options of a command line, the last one of each, as QEMU takes them."""

    def __init__(self, blob: Blob, line: Line) -> None:
        self.blob = blob
        self.line = line
        self.cpu = ""
        self.machine: dict[str, str] = {}
        self.memory: dict[str, str] = {}
        self.objects: dict[str, Properties] = {}
        for option in line.options:
            self._take(option)

    def _take(self, option: Option) -> None:
        match option.name:
            case "machine" | "M":
                self.machine |= keys(option.value, "type")
            case "smp":
                told = keys(option.value, "cpus")
                self.machine |= {f"smp.{name}": value for name, value in told.items()}
            case "kernel" | "initrd" | "append":
                self.machine[option.name] = option.value
            case "bios":
                self.machine["firmware"] = option.value
            case "m":
                self.memory |= keys(option.value, "size")
            case "cpu":
                self.cpu = option.value
            case "object":
                made = self._object(option.value)
                self.objects[str(made.get("id", ""))] = made
            case "readconfig" | "set":
                self._refuse(option, "sets options that are not in the line")
            case "global" | "device" if names_a_cpu(option.value):
                self._refuse(option, "changes the processors")

    def _refuse(self, option: Option, why: str) -> None:
        raise UnsupportedError(
            f"{option.value[:60]}: {why}", at=f"{self.blob.name}: -{option.name}"
        )

    def wrong(self, place: str, problem: str) -> MalformedError:
        return wrong(self.blob, place, problem)

    def _object(self, value: str) -> Properties:
        if not value.startswith("{"):
            return keys(value, "qom-type")
        from cvmplan.documents import text

        try:
            made = text.parse_line(value)
        except (ValueError, RecursionError) as error:
            raise self.wrong("-object", f"not JSON: {error}") from None
        if not isinstance(made, dict) or not isinstance(made.get("qom-type"), str):
            raise self.wrong("-object", "names no qom-type")
        text.check_values(made, f"{self.blob.name}: -object")
        return made

    def guest(self) -> Properties:
        """Return the object that the machine names; empty for a guest that is not confidential."""
        place = "-machine confidential-guest-support"
        name = self.machine.get("confidential-guest-support", self.machine.get("memory-encryption"))
        kinds = [o for o in self.objects.values() if o.get("qom-type") in OBJECTS]
        if name is None and kinds:
            what = kinds[0].get("id", kinds[0]["qom-type"])
            raise self.wrong(place, f"does not name the object {what}: the guest would be plain")
        if name is None:
            return {}
        found = self.objects.get(name, {})
        if found.get("qom-type") not in OBJECTS:
            raise self.wrong(place, f"no object {name!r} of a confidential guest")
        return found

    @property
    def size(self) -> Said | None:
        """The RAM, where the option says it and the machine is the one whose layout is known."""
        size = self.memory.get("size")
        if not size or not self.machine.get("type", "").startswith(("q35", "pc-q35")):
            return None
        return Said(size if size[-1:].isalpha() else f"{size}M", "-m")


def keys(value: str, implied: str) -> dict[str, str]:
    """Return the properties of an option: KEY=VALUE with commas between, ",," for a comma."""
    found: dict[str, str] = {}
    for number, part in enumerate(value.replace(",,", "\0").split(",")):
        name, equals, written = part.replace("\0", ",").partition("=")
        if not equals and not number:
            found[implied] = name
        elif name:
            found[name] = written if equals else "on"
    return found
