"""
Whether an attestation report is signed by a key that AMD certified, for this chip and this TCB.

Sources: AMD 56860 (report), AMD 57230 (VCEK and VLEK certificates and their extensions).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cvmplan.evidence import chains
from cvmplan.evidence.chains import Certificate
from cvmplan.evidence.evidence import Evidence
from cvmplan.evidence.keys import is_signed
from cvmplan.evidence.lines import Line, Status, compared, line
from cvmplan.evidence.trust import Trust, chain_line, verdict
from cvmplan.platforms.snp import idblock, report
from cvmplan.platforms.snp.report import AttestationReport

# AMD 57230, table "x509 certificate extensions": what a VCEK or VLEK certificate says.
_OID: Final = "1.3.6.1.4.1.3704.1."
_SPLS: Final = {
    "bootloader": f"{_OID}3.1", "tee": f"{_OID}3.2", "snp": f"{_OID}3.3",
    "microcode": f"{_OID}3.8", "fmc": f"{_OID}3.9",
}  # fmt: skip
_ISSUERS: Final = {"VCEK": "ASK", "VLEK": "ASVK"}  # AMD 57230: CN SEV-Milan, SEV-VLEK-Milan
_HWID: Final = f"{_OID}4"


def lines(evidence: Evidence, found: AttestationReport, trust: Trust) -> Iterator[Line]:
    """Yield what holds of the signature of report `found`, and of its certificates."""
    data = evidence.source.body
    if found.signer == "none":
        yield line("signature", "by VCEK or VLEK", "the report is not signed", Status.DIFFERS)
        return
    signature = idblock.read_signature(data.slice(report.SIGNED, report.SIZE))
    if not trust.chain:
        yield line(
            "signature", None, f"by {found.signer}, not checked", Status.NOT_IN_PLAN, "no --certs"
        )
        return
    leaf = trust.chain[0]
    key = chains.point(leaf)
    holds = (
        key is not None
        and key[0] == "P-384"
        and is_signed(bytes(data.data[: report.SIGNED]), signature, key[1])
    )
    yield verdict("signature", holds, f"by {found.signer} {leaf.subject}", "BAD_SIGNATURE")
    yield chain_line(trust, "P-384", serial_0=True)
    named = chains.common_name(leaf).removeprefix("SEV-")
    yield compared("signers_certificate", found.signer, named or leaf.subject)
    for issuer in trust.chain[1:2]:
        name = chains.common_name(issuer)
        role = (
            "ASVK" if name.startswith("SEV-VLEK-") else "ASK" if name.startswith("SEV-") else name
        )
        yield compared("signers_issuer", _ISSUERS[found.signer], role)
    yield from _of_leaf(leaf, found)


def _of_leaf(leaf: Certificate, found: AttestationReport) -> Iterator[Line]:
    """Yield what the certificate says of the chip and its TCB, as far as it does."""
    for name, level in found.tcb.items():
        value = chains.extension(leaf, _SPLS[name])
        if value is not None:
            written = bytes([2, 1, level]) if level < 0x80 else bytes([2, 2, 0, level])
            same = value == written
            shown = str(level) if same else f"DER {value.hex()}"
            yield compared(f"certificates_{name}_spl", str(level), shown)
    chip = chains.extension(leaf, _HWID)
    if chip is not None and found.signer == "VCEK" and any(found.chip_id):
        wanted = found.chip_id[: len(chip)] if len(chip) == 8 else found.chip_id
        yield compared("certificates_chip_id", wanted.hex(), chip.hex())
