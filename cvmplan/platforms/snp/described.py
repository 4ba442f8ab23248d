"""
What the fields of an attestation report mean.

Sources: AMD 56860, "ATTESTATION_REPORT Structure", "Guest Policy Structure", "PLATFORM_INFO
Field", "TCB_VERSION"; bits 6 and 7 of PLATFORM_INFO as google/go-sev-guest 0.15.0 names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cvmplan.core.field import Field, names
from cvmplan.platforms.snp.report import AUTHOR_KEY_EN, WITH_MITIGATIONS, AttestationReport
from cvmplan.profiles.cpus import CHIPS

POLICY: Final[dict[int, str]] = {
    16: "SMT", 17: "reserved-1", 18: "MIGRATE_MA", 19: "DEBUG", 20: "SINGLE_SOCKET",
    21: "CXL_ALLOW", 22: "MEM_AES_256_XTS", 23: "RAPL_DIS", 24: "CIPHERTEXT_HIDING_DRAM",
    25: "PAGE_SWAP_DISABLE",
}  # fmt: skip
PLATFORM_INFO: Final[dict[int, str]] = {
    0: "SMT_EN", 1: "TSME_EN", 2: "ECC_EN", 3: "RAPL_DIS", 4: "CIPHERTEXT_HIDING_DRAM_EN",
    5: "ALIAS_CHECK_COMPLETE", 7: "TIO_EN",
}  # fmt: skip
HOST: Final = 0xFFFFFFFF  # VMPL of a report that the host asked for
BYTES: Final = (
    "report_data", "measurement", "host_data", "id_key_digest", "author_key_digest",
    "report_id", "report_id_ma",
)  # fmt: skip


def fields(report: AttestationReport) -> Iterator[Field]:
    """Yield every field of a report in its order, with its meaning; the signature apart."""
    yield Field("version", str(report.version))
    yield Field("guest_svn", str(report.guest_svn))
    yield Field("policy", hex(report.policy), policy(report.policy))
    yield Field("family_id", report.family_id.hex())
    yield Field("image_id", report.image_id.hex())
    yield Field("vmpl", str(report.vmpl), vmpl(report.vmpl))
    yield Field("signature_algorithm", str(report.signature_algo), "ECDSA P-384 with SHA-384")
    yield _tcb(report, "current_tcb")
    yield Field(
        "platform_info", hex(report.platform_info), names(report.platform_info, PLATFORM_INFO)
    )
    yield Field("key_info", hex(report.key_info), _key_info(report))
    for name in BYTES:
        yield Field(name, getattr(report, name).hex())
    yield _tcb(report, "reported_tcb")
    if (signature := report.cpu_signature) is not None:
        chip = CHIPS.get(signature) or report.product or "unknown"
        numbers = f"{report.cpuid_fam_id}, {report.cpuid_mod_id}, {report.cpuid_step}"
        yield Field("cpu", hex(signature), f"{chip}: family, model, stepping {numbers}")
    yield Field("chip_id", report.chip_id.hex(), "" if any(report.chip_id) else "masked")
    yield _tcb(report, "committed_tcb")
    yield Field("current_version", version(report.current_version))
    yield Field("committed_version", version(report.committed_version))
    yield _tcb(report, "launch_tcb")
    if report.version >= WITH_MITIGATIONS:
        yield Field("launch_mitigations", hex(report.launch_mit_vector))
        yield Field("current_mitigations", hex(report.current_mit_vector))


def policy(value: int) -> str:
    """Return what a guest policy says: the least firmware ABI, and the bits that are set."""
    flags = names(value & ~0xFFFF & ~(1 << 17), POLICY)
    return f"ABI {value >> 8 & 0xFF}.{value & 0xFF}, {flags}"


def vmpl(value: int) -> str:
    """Return what is special about the VMPL of a report, "" for nothing."""
    return "the host asked for it, not the guest" if value == HOST else ""


def version(value: bytes) -> str:
    """Return the version of firmware (build, minor, major) as people write it."""
    return f"{value[2]}.{value[1]} build {value[0]}"


def levels(found: dict[str, int]) -> str:
    """Return security patch levels as text."""
    return ", ".join(f"{name} {level}" for name, level in found.items())


def _tcb(report: AttestationReport, name: str) -> Field:
    value = getattr(report, name)
    return Field(name, levels(report.levels(value)), f"{value:#018x}")


def _key_info(report: AttestationReport) -> str:
    said = [f"signed by {report.signer}" if report.signer != "none" else "not signed"]
    if report.key_info & AUTHOR_KEY_EN:
        said.append("AUTHOR_KEY_EN")
    if report.key_is_masked:
        said.append("MASK_CHIP_KEY")
    return ", ".join(said)
