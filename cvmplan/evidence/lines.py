"""The line of a comparison: what was planned, what was found, and whether it holds."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple


class Status(StrEnum):
    """
    Whether a line holds, as documents write it.

    ASSUMED: another value than the plan assumed, which nobody asked for.  UNSIGNED: nothing shows
    that hardware wrote the evidence.
    """

    OK = "ok"
    DIFFERS = "differs"
    NOT_IN_PLAN = "not in plan"
    ASSUMED = "assumed"
    UNSIGNED = "unsigned"


class Line(NamedTuple):
    """
    One thing that was compared, as text.

    `id` names it for programs, `name` for people.  `expected` is None where nothing was
    planned.  `why` says more: the firmware's name of the error, or what a value means.
    """

    id: str
    name: str
    expected: str | None
    found: str
    status: Status
    why: str = ""

    @property
    def differs(self) -> bool:
        """Whether what was found is not what was planned."""
        return self.status is Status.DIFFERS


NAMES: Final = {
    "attestation_key": "attestation key",
    "attestation_key_type": "attestation key type",
    "attributes": "attributes",
    "author_key_digest": "author key digest",
    "authors_signature": "author's signature",
    "certificate_chain": "certificate chain",
    "certificates_algorithm": "certificate's algorithm",
    "certificates_bootloader_spl": "certificate's bootloader SPL",
    "certificates_chip_id": "certificate's chip ID",
    "certificates_csp_id": "certificate's CSP ID",
    "certificates_fields": "certificate's fields",
    "certificates_fmc_spl": "certificate's fmc SPL",
    "certificates_microcode_spl": "certificate's microcode SPL",
    "certificates_names": "certificates' names",
    "certificates_snp_spl": "certificate's snp SPL",
    "certificates_tee_spl": "certificate's tee SPL",
    "chip_id": "chip ID",
    "collateral": "collateral",
    "committed_tcb": "committed TCB",
    "committed_version": "committed version",
    "cpu": "CPU",
    "cpu_svn": "CPU SVN",
    "current_mitigations": "current mitigations",
    "current_tcb": "current TCB",
    "current_version": "current version",
    "debug": "debug",
    "family_id": "family ID",
    "guest_svn": "guest SVN",
    "host_data": "host data",
    "id_blocks_signature": "ID block's signature",
    "id_key_digest": "ID key digest",
    "image_id": "image ID",
    "key_info": "key info",
    "launch_digest": "launch digest",
    "launch_mitigations": "launch mitigations",
    "launch_tcb": "launch TCB",
    "measurement": "measurement",
    "min_build": "least build",
    "min_guest_svn": "least guest SVN",
    "min_launch_tcb": "least launch TCB",
    "min_pce_svn": "least PCE SVN",
    "min_qe_svn": "least QE SVN",
    "min_tcb": "least TCB",
    "min_tee_tcb_svn": "least TEE_TCB_SVN",
    "min_version": "least version",
    "module_status": "TDX module status",
    "mrconfigid": "MRCONFIGID",
    "mrowner": "MROWNER",
    "mrownerconfig": "MROWNERCONFIG",
    "mrseam": "MRSEAM",
    "mrservicetd": "MRSERVICETD",
    "mrsignerseam": "MRSIGNERSEAM",
    "mrtd": "MRTD",
    "pce_svn": "PCE SVN",
    "pck_fmspc": "FMSPC",
    "pck_pce_id": "PCE ID",
    "platform_info": "platform info",
    "platform_status": "platform status",
    "policy": "policy",
    "product": "product",
    "qe_cpu_svn": "QE CPU SVN",
    "qe_debug": "QE debug",
    "qe_identity": "QE identity",
    "qe_isv_svn": "QE ISV SVN",
    "qe_miscselect": "QE MISCSELECT",
    "qe_mrenclave": "QE MRENCLAVE",
    "qe_product": "QE product",
    "qe_report": "QE report",
    "qe_signer": "QE signer",
    "qe_status": "QE status",
    "qe_svn": "QE SVN",
    "qe_vendor": "QE vendor",
    "qe_vendor_id": "QE vendor ID",
    "report_data": "report data",
    "report_id": "report ID",
    "report_id_ma": "report ID MA",
    "reported_tcb": "reported TCB",
    "require_author_key": "author key required",
    "require_id_block": "ID block required",
    "revocation": "revocation",
    "rtmr0": "RTMR0",
    "rtmr1": "RTMR1",
    "rtmr2": "RTMR2",
    "rtmr3": "RTMR3",
    "runtime_data": "runtime data",
    "seam_attributes": "SEAM attributes",
    "signature": "signature",
    "signature_algorithm": "signature algorithm",
    "signers_certificate": "signer's certificate",
    "signers_issuer": "signer's issuer",
    "tcb_info": "TCB info",
    "tcb_order": "TCB order",
    "tcb_status": "TCB status",
    "tee_info_hash": "TEE_INFO_HASH",
    "tee_tcb_info_hash": "TEE_TCB_INFO_HASH",
    "tee_tcb_svn": "TEE_TCB_SVN",
    "tee_tcb_svn2": "TEE_TCB_SVN2",
    "user_data": "user data",
    "version": "version",
    "vmpl": "VMPL",
    "xfam": "xfam",
}
"""What is compared, by its id in documents, and its name for people."""


def line(
    which: str,
    expected: str | None,
    found: str,
    status: Status,
    why: str = "",
) -> Line:
    """Return the line of `which` of `NAMES`."""
    return Line(which, NAMES[which], expected, found, status, why)


def compared(
    which: str,
    expected: str | None,
    found: str,
    why: str = "",
    said: str = "",
) -> Line:
    """Return the line of `which`, of two values; `why` is said where they differ, `said` always."""
    if expected is None:
        return line(which, None, found, Status.NOT_IN_PLAN, said)
    if expected == found:
        return line(which, expected, found, Status.OK, said)
    return line(which, expected, found, Status.DIFFERS, why or said)


def all_hold(lines: Iterable[Line]) -> bool:
    """Whether no line differs."""
    return not any(line.differs for line in lines)


def is_unsigned(lines: Iterable[Line]) -> bool:
    """Whether nothing shows that hardware wrote the evidence."""
    return any(line.status is Status.UNSIGNED for line in lines)
