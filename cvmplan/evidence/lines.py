"""The line of a comparison: what was planned, what was found, and whether it holds."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple


class Status(StrEnum):
    """Whether a line holds, as documents write it."""

    OK = "ok"
    DIFFERS = "differs"
    NOT_IN_PLAN = "not in plan"


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
    "attributes": "attributes",
    "author_key_digest": "author key digest",
    "authors_signature": "author's signature",
    "certificate_chain": "certificate chain",
    "certificates_bootloader_spl": "certificate's bootloader SPL",
    "certificates_chip_id": "certificate's chip ID",
    "certificates_fmc_spl": "certificate's fmc SPL",
    "certificates_microcode_spl": "certificate's microcode SPL",
    "certificates_snp_spl": "certificate's snp SPL",
    "certificates_tee_spl": "certificate's tee SPL",
    "chip_id": "chip ID",
    "cpu": "CPU",
    "debug": "debug",
    "family_id": "family ID",
    "guest_svn": "guest SVN",
    "host_data": "host data",
    "id_blocks_signature": "ID block's signature",
    "id_key_digest": "ID key digest",
    "image_id": "image ID",
    "launch_digest": "launch digest",
    "measurement": "measurement",
    "mrconfigid": "MRCONFIGID",
    "mrowner": "MROWNER",
    "mrownerconfig": "MROWNERCONFIG",
    "mrseam": "MRSEAM",
    "mrservicetd": "MRSERVICETD",
    "mrsignerseam": "MRSIGNERSEAM",
    "mrtd": "MRTD",
    "policy": "policy",
    "qe_debug": "QE debug",
    "qe_miscselect": "QE MISCSELECT",
    "qe_product": "QE product",
    "qe_report": "QE report",
    "qe_signer": "QE signer",
    "qe_vendor": "QE vendor",
    "report_data": "report data",
    "reported_tcb": "reported TCB",
    "rtmr0": "RTMR0",
    "rtmr1": "RTMR1",
    "rtmr2": "RTMR2",
    "rtmr3": "RTMR3",
    "runtime_data": "runtime data",
    "seam_attributes": "SEAM attributes",
    "signature": "signature",
    "signers_certificate": "signer's certificate",
    "signers_issuer": "signer's issuer",
    "tee_info_hash": "TEE_INFO_HASH",
    "tee_tcb_info_hash": "TEE_TCB_INFO_HASH",
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
