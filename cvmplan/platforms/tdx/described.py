"""
What the fields of a quote and of a TDREPORT mean.

Sources: Intel TDX DCAP quoting library API, "Quote Format"; Intel TDX Module ABI specification
(348551), "TDREPORT_STRUCT"; Intel's TCB info version 3 (`tdxModuleIdentities`: TEE_TCB_SVN[1] is
the module's version, [0] its SVN; `tdxtcbcomponents`: [2] is the SVN of late microcode).
"""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.core.field import Field, names
from cvmplan.platforms.tdx.bits import ATTRIBUTES, XFAM
from cvmplan.platforms.tdx.enclave import VENDOR, read
from cvmplan.platforms.tdx.quote import Quote, ReportMac, Td


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
    yield Field("mrseam", td.mrseam.hex())
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
