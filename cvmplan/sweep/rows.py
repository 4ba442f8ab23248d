"""
What a result of a sweep is: every input that its digest depends on, and the digest.

Files stand with their SHA-256, so that a result is found again wherever they lie.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple, TypeAlias

from cvmplan import __version__
from cvmplan.launch.documented import document_settings
from cvmplan.launch.given import Given
from cvmplan.launch.model import Launch
from cvmplan.profiles import PROFILES, Profile

Row: TypeAlias = dict[str, str | int]
SETTINGS: Final = (
    "platform", "vmm", "abi", "cpu_signature", "sev_features", "es_init", "vmsa_scope",
    "kernel_hash", "initrd_hash", "append_hash", "firmware_digest", "firmware_size", "vars_size",
    "reset_eip", "c_bit", "gpaw", "page_order", "pad",
)  # fmt: skip
KEY: Final = ("image_sha256", "files", "svsm", "profile", *SETTINGS, "vcpus")
"""
What a result is found by: settings, and SHA-256 of the image, of further `files` that it names,
of the `svsm`, and of a `profile` that is not built in.
"""
NAMES: Final = ("image", "cpu", "kernel", "initrd", "append")
FOUND: Final = ("register", "algorithm", "digest", "pages", "error", "version")
COLUMNS: Final = ("image", *KEY, *NAMES[1:], *FOUND)
NUMBERS: Final = frozenset({"vcpus", "pages"})


class Result(NamedTuple):
    """What a launch with `vcpus` measures, or why there is no such launch (`error`)."""

    vcpus: int
    register: str = ""
    algorithm: str = ""
    digest: str = ""
    pages: int = 0
    error: str = ""


def of_launch(launch: Launch) -> Row:
    """Return the row of `launch`, without its files, vCPUs and result."""
    return _row(launch.profile, launch.assumed | launch.given)


def of_settings(settings: Given) -> Row:
    """Return the row of settings that are no launch."""
    profile = settings.value("vmm")
    return _row(profile if isinstance(profile, Profile) else None, settings)


def _row(profile: Profile | None, settings: Given) -> Row:
    told = document_settings(settings.only(*SETTINGS, *NAMES))
    row: Row = dict.fromkeys(COLUMNS, "")
    row |= {name: text(str(value)) for name, value in told.items()}
    if profile is not None and PROFILES.get(profile.name) != profile:
        row["profile"] = sha256(repr(profile).encode()).hexdigest()
    row["version"] = __version__
    return row


def text(written: str) -> str:
    """Return a path or command line as text that is valid Unicode; other bytes as escapes."""
    try:
        data = written.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair that stands for no byte
        data = written.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def with_result(row: Row, result: Result) -> Row:
    """Return a row with the number of vCPUs and what was found."""
    return row | result._asdict()
