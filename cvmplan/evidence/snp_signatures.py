"""
Whether an attestation report is signed by a key that AMD certified, for this chip and this TCB.

Sources: AMD 56860 (report), AMD 57230 (VCEK and VLEK certificates and their extensions).  What has
to hold is what google/go-sev-guest 0.15.0 asks for (packages verify and validate), and that the
product of report, certificate and authority agree.
"""

from __future__ import annotations

from collections.abc import Iterator

from cvmplan.evidence import amd, chains, revocation
from cvmplan.evidence.amd import Claims
from cvmplan.evidence.chains import Certificate
from cvmplan.evidence.evidence import Evidence
from cvmplan.evidence.keys import is_signed
from cvmplan.evidence.lines import Line, Status, compared, line
from cvmplan.evidence.trust import Trust, chain_line, verdict
from cvmplan.platforms.snp import idblock, report
from cvmplan.platforms.snp.described import levels, version
from cvmplan.platforms.snp.report import AttestationReport


def lines(evidence: Evidence, found: AttestationReport, trust: Trust) -> Iterator[Line]:
    """Yield what holds of the signature of report `found`, of its certificates and its TCBs."""
    yield from _signature(evidence, found, trust)
    yield _tcb_order(found, provisional=trust.provisional)


def _signature(evidence: Evidence, found: AttestationReport, trust: Trust) -> Iterator[Line]:
    data = evidence.source.body
    signature = data.slice(report.SIGNED, report.SIZE)
    if found.signer == "none" or found.key_is_masked:
        why = "MASK_CHIP_KEY is set" if found.key_is_masked else "the guest asked for no signature"
        yield line("signature", "by VCEK or VLEK", "not signed", Status.UNSIGNED, why)
        return
    numbers = idblock.read_signature(signature)
    if not trust.chain:
        told = f"by {found.signer}, not checked"
        yield line("signature", None, told, Status.UNSIGNED, "no certificates; --certs FILE")
        return
    leaf = trust.chain[0]
    key = chains.point(leaf)
    holds = (
        key is not None
        and key[0] == "P-384"
        and is_signed(bytes(data.data[: report.SIGNED]), numbers, key[1])
    )
    yield verdict("signature", holds, f"by {found.signer} {leaf.subject}", "BAD_SIGNATURE")
    yield chain_line(trust, "P-384", serial_0=True)
    yield from _names(leaf, found, trust)
    turin = "fmc" in found.parts
    claims = amd.claims(leaf, found.signer, turin=turin)
    yield _fields(claims, found, turin=turin)
    yield _product(leaf, claims, found, trust)
    yield from _levels(claims, found)
    yield from _chip(claims, found)
    if trust.revocations:
        yield _revocation(trust)


def _names(leaf: Certificate, found: AttestationReport, trust: Trust) -> Iterator[Line]:
    """Yield whose certificates they are by their names, and how they are signed."""
    named = chains.common_name(leaf).removeprefix("SEV-")
    yield compared("signers_certificate", found.signer, named or leaf.subject)
    for issuer in trust.chain[1:2]:
        name = chains.common_name(issuer)
        role = (
            "ASVK" if name.startswith("SEV-VLEK-") else "ASK" if name.startswith("SEV-") else name
        )
        wanted = {"VCEK": "ASK", "VLEK": "ASVK"}[found.signer]  # AMD 57230: SEV-Milan, SEV-VLEK-…
        yield compared("signers_issuer", wanted, role)
    yield _no_more("certificates_names", "AMD's", list(amd.names(leaf, found.signer)))
    others = [used for one in trust.chain if (used := amd.other_algorithm(one))]
    yield _no_more("certificates_algorithm", amd.ALGORITHM, others)


def _no_more(which: str, expected: str, wrong: list[str]) -> Line:
    """Return a line that holds where nothing is wrong; the first thing is said."""
    if not wrong:
        return line(which, expected, expected, Status.OK)
    more = f"; and {len(wrong) - 1} more" if wrong[1:] else ""
    return line(which, expected, wrong[0] + more, Status.DIFFERS)


def _fields(claims: Claims, found: AttestationReport, *, turin: bool) -> Line:
    """Return the line of what a certificate has to say, reserved SPLs among it."""
    wrong = list(claims.wrong)
    for number, at in amd.RESERVED[turin].items():
        level, told = claims.reserved.get(number), found.reported_tcb >> 8 * at & 0xFF
        if level is not None and level != told:
            wrong.append(f"reserved SPL {number} is {level}, the reported TCB has {told}")
    return _no_more("certificates_fields", "all of a signer's certificate", wrong)


def _product(leaf: Certificate, claims: Claims, found: AttestationReport, trust: Trust) -> Line:
    """Return the line of the product that report, certificate and authorities name."""
    named = {
        "certificate": amd.LINES.get((claims.product or "").partition("-")[0], ""),
        "issuer": amd.line_of_issuer(leaf, found.signer),
    }
    root = chains.common_name(trust.chain[-1])
    if root.startswith("ARK-"):
        named["root"] = root.removeprefix("ARK-")
    if found.names_cpu:
        named = {"report": found.product, **named}
    wanted = next(iter(named.values()))
    shown = claims.product or "no product"
    if wanted and set(named.values()) == {wanted}:
        return line("product", wanted, wanted, Status.OK, shown)
    told = ", ".join(f"{who} {name or 'unknown'}" for who, name in named.items())
    return line("product", "the same in report and certificates", told, Status.DIFFERS, shown)


def _levels(claims: Claims, found: AttestationReport) -> Iterator[Line]:
    """Yield what the certificate says of the TCB beside the report's reported TCB."""
    current = found.levels(found.current_tcb)
    for name, level in found.tcb.items():
        told = claims.levels.get(name)
        why = f"the certificate is for {name} {told}; the report says reported TCB {level}"
        if told is None:
            why = "the certificate does not say it"
        why = f"{why}, current TCB {current[name]}"
        shown = "missing" if told is None else str(told)
        yield compared(f"certificates_{name}_spl", str(level), shown, why)


def _chip(claims: Claims, found: AttestationReport) -> Iterator[Line]:
    """Yield whose certificate it is: a chip's, or a cloud's."""
    if found.signer == "VLEK":
        yield line("certificates_csp_id", None, claims.csp_id or "", Status.NOT_IN_PLAN)
    elif claims.hwid is not None and any(found.chip_id):
        yield compared(
            "certificates_chip_id", found.chip_id.hex(), claims.hwid.ljust(64, b"\0").hex()
        )


def _revocation(trust: Trust) -> Line:
    """Return the line of the lists of revoked certificates."""
    wrong = list(revocation.problems(trust.chain, trust.revocations, trust.at))
    return _no_more("revocation", f"none at {trust.at:%Y-%m-%d %H:%M:%S} UTC", wrong)


def _tcb_order(found: AttestationReport, *, provisional: bool) -> Line:
    """
    Return the line of how the TCBs of a report stand to each other.

    Committed and reported are at most current; without provisional firmware committed is current,
    and so launch is at most current, migration apart.
    """
    current, build = found.levels(found.current_tcb), _number(found.current_version)
    wrong = [
        f"{name} is above current_tcb"
        for name in ("committed_tcb", "reported_tcb", *(() if provisional else ("launch_tcb",)))
        if any(n > current[part] for part, n in found.levels(getattr(found, name)).items())
    ]
    if _number(found.committed_version) > build:
        wrong.append("committed_version is above current_version")
    if not wrong and not provisional:
        if found.committed_tcb != found.current_tcb:
            wrong.append(f"committed is {levels(found.levels(found.committed_tcb))}")
        elif found.committed_version != found.current_version:
            wrong.append(f"committed is {version(found.committed_version)}")
        if wrong:
            told = _no_more("tcb_order", "committed is current", wrong)
            return told._replace(why="--provisional accepts firmware that is not committed")
    return _no_more("tcb_order", "committed is current", wrong)


def _number(version_of: bytes) -> tuple[int, int, int]:
    """Return a version of firmware in the order of comparison."""
    build, minor, major = version_of
    return major, minor, build
