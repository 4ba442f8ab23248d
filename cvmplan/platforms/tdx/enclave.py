"""
The quoting enclave (QE) that signs for a TD, and what makes it Intel's.

Intel's PCE certifies the key of any enclave that may use PROVISION_KEY: without this check, a
host can sign quotes with an enclave of its own.  Sources: Intel SDM volume 3D, "REPORT" (the
layout); Intel TDX DCAP quoting library API, "Quote Format" (QE vendor ID); the TD QE identity
that Intel's provisioning service publishes (`mrsigner`, `isvprodid`, `miscselect`,
`attributes`).  The values are equal in all quotes of hardware that were at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final

from cvmplan.core.blob import Blob
from cvmplan.platforms.tdx.quote import Header, Signed

MRSIGNER: Final = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"
PRODUCT: Final = 2
VENDOR: Final = "939a7233f79c4ca9940a0db3957f0607"
DEBUG: Final = 1 << 1  # of ATTRIBUTES.FLAGS
WHY: Final = "not Intel's quoting enclave: any enclave of the host could have signed this"


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """REPORT of an SGX enclave, without its MAC."""

    LAYOUT: ClassVar = Struct("<16sI28sQQ32s32s32s96sHH60s64s")
    cpu_svn: bytes
    misc_select: int
    reserved_14: bytes
    flags: int
    xfrm: int
    mrenclave: bytes
    reserved_60: bytes
    mrsigner: bytes
    reserved_a0: bytes
    isv_prod_id: int
    isv_svn: int
    reserved_104: bytes
    report_data: bytes


def read(signed: Signed) -> EnclaveReport:
    """Return the report of the quoting enclave."""
    return Blob("QE report", memoryview(signed.qe_report)).take(EnclaveReport, 0)


def identity(signed: Signed) -> Iterator[tuple[str, str, str, str]]:
    """Yield (id, Intel's value, the quote's, why it matters) of what identifies the QE."""
    report = read(signed)
    header = Blob("quote", memoryview(signed.message)).take(Header, 0)
    yield "qe_signer", MRSIGNER, report.mrsigner.hex(), WHY
    yield "qe_product", str(PRODUCT), str(report.isv_prod_id), WHY
    why = "the host can read the keys of an enclave in debug mode"
    yield "qe_debug", "off", "on" if report.flags & DEBUG else "off", why
    yield "qe_miscselect", hex(0), hex(report.misc_select), WHY
    yield "qe_vendor", VENDOR, header.qe_vendor_id.hex(), WHY
