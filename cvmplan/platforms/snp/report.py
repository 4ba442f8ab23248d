"""
The SNP attestation report, read and not verified.

Source: AMD 56860, SEV-SNP Firmware ABI, table "ATTESTATION_REPORT Structure", versions 2 to 5,
and "TCB_VERSION".  Version 4 is written by firmware 1.55.31 (virtee/sev#307) and has the fields of
version 3.  A later version has the same size, and the fields of version 5 where AMD keeps what it
has kept so far; it is read, and `is_later` says so.  Nothing here computes a signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.profiles import cpus

VERSIONS: Final = (2, 3, 4, 5)
LATEST: Final = VERSIONS[-1]
MOST: Final = 15  # a greater number is no version
SIZE: Final = 0x4A0
SIGNED: Final = 0x2A0  # bytes that the signature is of
ECDSA_P384_SHA384: Final = 1
SIGNERS: Final = {0: "VCEK", 1: "VLEK", 7: "none"}  # bits 4:2 of key_info
_TURIN: Final = 0x1A  # family whose TCB_VERSION begins with the FMC
TCB_PARTS: Final = {
    False: {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7},
    True: {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7},
}
"""Security patch levels in a TCB_VERSION to their byte; True for family 1Ah."""
_WITH_CPU: Final = 3  # the first version that names the processor
WITH_MITIGATIONS: Final = 5  # the first version that has the mitigation vectors
LINES: Final = {
    (0x19, range(0x10)): "Milan", (0x19, range(0x10, 0x20)): "Genoa",
    (0x19, range(0xA0, 0xB0)): "Genoa", (0x1A, range(0x20)): "Turin",
}  # fmt: skip
"""
Family and models to the line of products whose keys sign: Bergamo and Siena have Genoa's.

Source: AMD 57230, "Product Name"; AMD 57095, 55901, 58268 (families and models).
"""
AUTHOR_KEY_EN, MASK_CHIP_KEY = 1 << 0, 1 << 1  # of KEY_INFO


@dataclass(frozen=True, slots=True)
class AttestationReport:
    """
    All fields, those that are not looked at as bytes.

    `current_version` and `committed_version` are firmware's: build, minor, major.
    """

    LAYOUT: ClassVar = Struct("<IIQ16s16sIIQQII64s48s32s48s48s32s32sQBBB21s64sQ3sB3sBQQQ152s512s")
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
    current_version: bytes
    reserved_1eb: int
    committed_version: bytes
    reserved_1ef: int
    launch_tcb: int
    launch_mit_vector: int
    current_mit_vector: int
    reserved_208: bytes
    signature: bytes

    @property
    def cpu_signature(self) -> int | None:
        """The signature of the host's processor, where the report names it."""
        if self.version < _WITH_CPU:
            return None
        return cpus.signature(self.cpuid_fam_id, self.cpuid_mod_id, self.cpuid_step & 0xF)

    @property
    def is_later(self) -> bool:
        """Whether the version is later than those that are known."""
        return self.version > LATEST

    @property
    def signer(self) -> str:
        """Which key signed: "VCEK", "VLEK", "none"; "" for a reserved number."""
        return SIGNERS.get(self.key_info >> 2 & 7, "")

    @property
    def product(self) -> str:
        """The line of products, "Milan", "Genoa" or "Turin"; "" where the report names none."""
        if self.version < _WITH_CPU:
            return ""
        family, model = self.cpuid_fam_id, self.cpuid_mod_id
        return next((n for (f, models), n in LINES.items() if f == family and model in models), "")

    @property
    def names_cpu(self) -> bool:
        """Whether the report says which processor it is of."""
        return self.version >= _WITH_CPU

    @property
    def parts(self) -> dict[str, int]:
        """The byte of each security patch level in the TCB_VERSIONs of this report."""
        return TCB_PARTS[self.version >= _WITH_CPU and self.cpuid_fam_id == _TURIN]

    def levels(self, tcb: int) -> dict[str, int]:
        """Return the security patch levels of a TCB_VERSION, by their names in TCB_PARTS."""
        return {name: tcb >> 8 * at & 0xFF for name, at in self.parts.items()}

    @property
    def tcb(self) -> dict[str, int]:
        """The security patch levels of the reported TCB."""
        return self.levels(self.reported_tcb)

    @property
    def key_is_masked(self) -> bool:
        """Whether MASK_CHIP_KEY is set: firmware then writes zeros for a signature."""
        return bool(self.key_info & MASK_CHIP_KEY)


def read(blob: Blob) -> AttestationReport:
    """Return the report that `blob` is; MalformedError, UnsupportedError for its version."""
    if len(blob) != SIZE:
        raise MalformedError(f"{len(blob)} bytes, an SNP report has {SIZE}", at=blob.name)
    report = blob.take(AttestationReport, 0)
    if not VERSIONS[0] <= report.version <= MOST:
        problem = f"an SNP report of version {report.version}"
        raise UnsupportedError(problem, at=blob.where(0), hint="supported: 2 to 5")
    if report.signature_algo != ECDSA_P384_SHA384:
        problem = f"a signature algorithm with number {report.signature_algo}"
        hint = "supported: 1, ECDSA P-384 with SHA-384"
        raise UnsupportedError(problem, at=blob.where(0x34), hint=hint)
    if not report.signer:
        problem = f"a signing key with number {report.key_info >> 2 & 7}"
        hint = "supported: 0 (VCEK), 1 (VLEK) and 7 (none)"
        raise UnsupportedError(problem, at=blob.where(0x48), hint=hint)
    if report.key_info >> 5 or report.reserved_4c:
        raise MalformedError("reserved bits that are not 0", at=blob.where(0x48))
    return report
