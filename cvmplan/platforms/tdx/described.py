"""
What the fields of a quote and of a TDREPORT mean.

Sources: Intel TDX DCAP quoting library API, "Quote Format"; Intel TDX Module ABI specification
(348551), "TDREPORT_STRUCT"; Intel's TCB info version 3 (`tdxModuleIdentities`: TEE_TCB_SVN[1] is
the module's version, [0] its SVN; `tdxtcbcomponents`: [2] is the SVN of late microcode).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cvmplan.core.field import Field, names
from cvmplan.platforms.tdx.bits import ATTRIBUTES, XFAM
from cvmplan.platforms.tdx.enclave import VENDOR, read
from cvmplan.platforms.tdx.quote import Quote, ReportMac, Td

MODULES: Final = {
    "49b66faa451d19ebbdbe89371b8daf2b65aa3984ec90110343e9e2eec116af08"
    "850fa20e3b1aa9a874d77a65380ee7e6": "1.5.08",
    "7bf063280e94fb051f5dd7b1fc59ce9aac42bb961df8d44b709c9b0ff87a7b4d"
    "f648657ba6d1189589feab1d5a3c9a9d": "1.5.16",
    "685f891ea5c20e8fa27b151bf34bf3b50fbaf7143cc53662727cbdb167c0ad83"
    "85f1f6f3571539a91e104a1c96d75e04": "2.0.02",
    "476a2997c62bccc78370913d0a80b956e3721b24272bc66c4d6307ced4be2865"
    "c40e26afac75f12df3425b03eb59ea7c": "2.0.08",
}
"""
MRSEAM to the version of Intel's TDX module, as far as it is known.

Source: the policy of tinfoilsh/verifier (attestation/tdx.go), which names releases; the same
values stand in other verifiers' policies.
"""


def of_quote(quote: Quote) -> Iterator[Field]:
    """Yield every field of a quote in its order; signatures and certificates apart."""
    header, qe = quote.header, read(quote.signed)
    yield Field("version", str(header.version))
    yield Field("attestation_key_type", str(header.att_key_type), "ECDSA P-256 with SHA-256")
    yield Field("qe_svn", str(header.qe_svn))
    yield Field("pce_svn", str(header.pce_svn))
    intel = "Intel" if header.qe_vendor_id.hex() == VENDOR else ""
    yield Field("qe_vendor_id", header.qe_vendor_id.hex(), intel)
    yield Field("user_data", header.user_data.hex())
    yield from of_td(quote.td)
    yield Field("qe_cpu_svn", qe.cpu_svn.hex())
    yield Field("qe_isv_svn", str(qe.isv_svn))
    yield Field("qe_mrenclave", qe.mrenclave.hex())


def of_report(td: Td, mac: ReportMac) -> Iterator[Field]:
    """Yield the fields of a TDREPORT; what its MAC covers apart."""
    yield Field("version", str(mac.version))
    yield Field("cpu_svn", mac.cpu_svn.hex())
    yield from of_td(td)


def of_td(td: Td) -> Iterator[Field]:
    """Yield what a quote and a TDREPORT both say."""
    yield _svn("tee_tcb_svn", td.tee_tcb_svn)
    known = MODULES.get(td.mrseam.hex())
    yield Field("mrseam", td.mrseam.hex(), f"TDX module {known}" if known else "")
    yield Field("mrsignerseam", td.mrsignerseam.hex(), "" if any(td.mrsignerseam) else "Intel")
    yield Field("seam_attributes", hex(td.seam_attributes))
    yield Field("attributes", hex(td.attributes), names(td.attributes, ATTRIBUTES))
    yield Field("xfam", hex(td.xfam), names(td.xfam, XFAM))
    for name in ("mrtd", "mrconfigid", "mrowner", "mrownerconfig"):
        yield Field(name, getattr(td, name).hex())
    for number, value in enumerate(td.rtmrs):
        yield Field(f"rtmr{number}", value.hex())
    yield Field("report_data", td.report_data.hex())
    if td.tee_tcb_svn2 is not None:
        yield _svn("tee_tcb_svn2", td.tee_tcb_svn2)
    if td.mrservicetd is not None:
        yield Field("mrservicetd", td.mrservicetd.hex())


def module(svn: bytes) -> str:
    """Return how Intel's TCB info names the module of a TEE_TCB_SVN."""
    return f"TDX_{svn[1]:02x}"


def _svn(name: str, svn: bytes) -> Field:
    """Return the field of a TEE_TCB_SVN, decoded."""
    meaning = f"module {module(svn)} with SVN {svn[0]}, late microcode SVN {svn[2]}"
    return Field(name, svn.hex(), meaning)
