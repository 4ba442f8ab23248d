"""
The SNP attestation report, read and not verified.

Source: AMD 56860, SEV-SNP Firmware ABI, table "ATTESTATION_REPORT Structure", versions 2, 3
and 5.  Nothing here looks at the signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final

from cvmplan import cpus
from cvmplan.blob import Blob
from cvmplan.errors import MalformedError, UnsupportedError

VERSIONS: Final = (2, 3, 5)
SIZE: Final = 0x4A0
_WITH_CPU: Final = 3  # the first version that names the processor


@dataclass(frozen=True, slots=True)
class AttestationReport:
    """All fields up to the signature, those that are not looked at as bytes."""

    LAYOUT: ClassVar = Struct("<IIQ16s16sIIQQII64s48s32s48s48s32s32sQBBB21s64sQ184s512s")
    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algo: int
    current_tcb: int
    platform_info: int
    key_info: int
    reserved_4c: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: int
    cpuid_fam_id: int
    cpuid_mod_id: int
    cpuid_step: int
    reserved_18b: bytes
    chip_id: bytes
    committed_tcb: int
    reserved_1e8: bytes
    signature: bytes

    @property
    def cpu_signature(self) -> int | None:
        """The signature of the host's processor, where the report names it."""
        if self.version < _WITH_CPU:
            return None
        return cpus.signature(self.cpuid_fam_id, self.cpuid_mod_id, self.cpuid_step & 0xF)


def read(blob: Blob) -> AttestationReport:
    """Return the report that `blob` is; MalformedError, UnsupportedError for its version."""
    if len(blob) != SIZE:
        raise MalformedError(f"{len(blob)} bytes, an SNP report has {SIZE}", at=blob.name)
    report = blob.take(AttestationReport, 0)
    if report.version not in VERSIONS:
        problem = f"an SNP report of version {report.version}"
        raise UnsupportedError(problem, at=blob.where(0), hint="known are 2, 3 and 5")
    return report
