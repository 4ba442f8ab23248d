"""What a launch description says: settings with their places, files by the paths it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.core.findings import Finding
from cvmplan.core.platform import SEV, SEV_ES, Platform
from cvmplan.core.values import Json, printable
from cvmplan.documents.plain import decode
from cvmplan.profiles import cpus

if TYPE_CHECKING:
    from cvmplan.readers.firmware import SevFirmware

MOST_BYTES: Final = 4 << 20  # of a description
NEEDS_ES: Final = 1 << 2  # of the guest policy of SEV
FILES: Final = ("firmware", "kernel", "initrd")
"""What a description names files for."""


BOOT: Final = ("kernel", "initrd", "append")
"""What is booted directly; of a TD it is in RTMR1 and RTMR2."""


class Said(NamedTuple):
    """A value as it is written, and where: an option, an element, a key."""

    value: Json
    place: str


class Description(NamedTuple):
    """
    A launch as its description has it.

    `format` names what it is.  `settings` are by the names of `launch.settings`, and paths for
    those of `FILES`.  `tables` is firmware that is known by its digest alone.  `uncovered` is what
    the description says and the measurement does not cover.  `reads` are options of the launch that
    decide how it is read.  `boot` is what a TD boots, by the names of `BOOT`.
    """

    format: str
    settings: Mapping[str, Said]
    findings: tuple[Finding, ...] = ()
    uncovered: tuple[str, ...] = ()
    tables: SevFirmware | None = None
    reads: tuple[str, ...] = ()
    boot: Mapping[str, Said] = {}


def whole_text(blob: Blob) -> str:
    """Return the text of a description; MalformedError where it is too large, or no text."""
    if len(blob) > MOST_BYTES:
        raise MalformedError(f"larger than {MOST_BYTES >> 20} MiB", at=blob.name)
    return decode(blob)


def json_object(blob: Blob) -> dict[str, Any]:
    """Return the object that a JSON document is; MalformedError."""
    written = whole_text(blob)
    if written.lstrip()[:1] != "{":
        raise MalformedError("is not a JSON object", at=blob.name)
    from cvmplan.documents import text

    found: dict[str, Any] = text.parse(blob)
    return found


def wrong(blob: Blob, place: str, problem: str) -> MalformedError:
    """Return the error for what is wrong at a place of a description."""
    return MalformedError(
        printable(problem)[:200], at=f"{blob.name}: {place}" if place else blob.name
    )


def sev_platform(policy: int) -> Platform:
    """Return SEV-ES where a policy demands encrypted state, else SEV (AMD 55766, guest policy)."""
    return SEV_ES if policy & NEEDS_ES else SEV


def no_hashes(blob: Blob, hint: str) -> Finding:
    """Return the finding for a kernel that is started, and not measured."""
    problem = "a kernel is given without its hashes: the digest does not cover it"
    return Finding("kernel-hashes-off", problem, at=blob.name, hint=hint)


def host_cpu(blob: Blob, named: Said | None, taken: str) -> list[Finding]:
    """
    Return the finding for a CPU whose signature is measured and that no model names.

    `taken`: what says which one it is then.
    """
    hint = "give its signature as --cpu 0x…; 'cvmplan explain' tries those of known processors"
    if named is None:
        problem = f"names no CPU model, whose signature is measured: {taken}"
        return [Finding("host-cpu", problem, at=blob.name, hint=hint, severity="warning")]
    if str(named.value).partition(",")[0].lower() not in cpus.HOST:
        return []
    problem = "the CPU is that of the host, and its signature is measured"
    return [Finding("host-cpu", problem, at=f"{blob.name}: {named.place}", hint=hint)]
