"""An entry of a catalogue, made from a firmware file by planning its launches."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, CvmplanError, UnsupportedError
from cvmplan.core.platform import Platform
from cvmplan.documents.firmware import MOST_SECTION, MOST_TEXT, NAME
from cvmplan.images.ovmf import SECTION_ROLES
from cvmplan.launch.given import Given
from cvmplan.launch.model import Opener
from cvmplan.memory.regions import Role
from cvmplan.operations.measure import measure
from cvmplan.planning.build import launch_source, plan
from cvmplan.planning.source import Source, open_source
from cvmplan.platforms.snp.digest import NO_CONTENTS, after_update
from cvmplan.platforms.snp.steps import LaunchUpdate
from cvmplan.readers.firmware import Firmware, SevFirmware

ORDERS: Final = ("single-pass", "two-pass")
_TYPES: Final = {role: kind for kind, role in SECTION_ROLES.items()}

_NAME: Final = re.compile(NAME)
_OTHERS: Final = re.compile(r"[^A-Za-z0-9._+~-]+")  # what names of a catalogue do not have


def name_of(path: str) -> str:
    """Return the name that the firmware of a file gets: that of the file, as far as it may be."""
    return _OTHERS.sub("-", path.rpartition("/")[2]).lstrip("._+~-")[:100] or "firmware"


class Names(NamedTuple):
    """What an entry says to people: its name, the version, and where the file can be had."""

    name: str
    version: str = ""
    source: str = ""

    def check(self) -> None:
        """Raise ConfigError for what a catalogue cannot have."""
        if not _NAME.fullmatch(self.name):
            problem = f"{self.name[:60]!r} is not letters, digits and ._+~-"
            raise ConfigError(problem, at="--name")
        for option, value in (("version", self.version), ("source", self.source)):
            if len(value) > MOST_TEXT or not value.isprintable():
                problem = f"expected at most {MOST_TEXT} printable characters"
                raise ConfigError(problem, at=f"--{option}")


class Made(NamedTuple):
    """An entry, and for each platform that the file names and cannot be used on, the reason."""

    firmware: Firmware
    left_out: tuple[tuple[Platform, str], ...]


def make(blob: Blob, open_file: Opener, names: Names) -> Made:
    """
    Return the entry of the firmware in `blob`: its tables, and its digests.

    ConfigError for names that a catalogue cannot have, UnsupportedError for what is not
    firmware; where the file can be used on no platform, the error of the first.
    """
    names.check()
    source = open_source(blob, open_file)
    if source.reader is None or source.declared.firmware is not blob or source.format == "igvm":
        problem = "not firmware with OVMF or TDX metadata, which alone the catalogue has"
        raise UnsupportedError(problem, at=blob.name)
    sev, mrtd, errors = None, {}, {}
    for platform in map(Platform, source.reader.platforms(blob)):
        try:
            if platform.page_info:
                sev = _sev(source, platform, open_file)
            else:
                mrtd = _mrtd(source, platform, open_file)
        except CvmplanError as error:
            errors[platform] = error
    if sev is None and not mrtd:
        for reason in errors.values():
            raise reason
        raise UnsupportedError("no SEV or TDX metadata", at=blob.name)
    file = blob.name.rpartition("/")[2]
    file = file if file.isprintable() else name_of(file)
    entry = Firmware(*names, file, sha256(blob.data).digest(), len(blob), sev, mrtd)
    return Made(entry, tuple((platform, str(error)) for platform, error in errors.items()))


def _sev(source: Source, platform: Platform, open_file: Opener) -> SevFirmware:
    """Return what a launch needs beside the pages, and the digest after them."""
    launch = launch_source(source, Given({"platform": platform}), open_file)
    image = launch.image
    if image is None:
        raise UnsupportedError("no firmware", at=source.image.name)
    sections = []
    for region in image.regions:
        if region.role is Role.FIRMWARE:
            continue
        if region.role not in _TYPES or region.size > MOST_SECTION:
            raise UnsupportedError(f"{region.origin} is not supported", at=region.at)
        sections.append((region.gpa, region.size, _TYPES[region.role]))
    steps = (step for step in plan(launch).trace() if isinstance(step, LaunchUpdate))
    digest = after_update(NO_CONTENTS, next(steps))
    return SevFirmware(digest, tuple(sections), image.hash_table, image.reset_eip)


def _mrtd(source: Source, platform: Platform, open_file: Opener) -> dict[str, bytes]:
    """Return MRTD for each order in which kernels add and extend pages."""
    found = {}
    for order in ORDERS:
        options = Given({"platform": platform, "page_order": order})
        found[order] = measure(plan(launch_source(source, options, open_file))).digest
    return found
