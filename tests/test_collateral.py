"""
TDX quotes held against collateral, beside dcap-qvl: the same status, or the same refusal.

The quotes, the collateral and all keys are made here; the pair of hardware and Intel is that of
../shared/vectors/collateral.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from cvmplan.evidence.tcb_level import STATUSES, converged, relaunched
from tests.build import intel
from tests.build.evidence import Signer, certify, td_quote
from tests.build.intel import AT, Published, level, module, platform_tcb, qe_identity, tcb_info
from tests.oracles import shared
from tests.run import run

BODY: Final[dict[str, bytes]] = {
    "td_attributes": struct.pack("<Q", 0x10000000), "xfam": struct.pack("<Q", 0x61AE7),
    "tee_tcb_svn": bytes([5, 1, 2]), "tee_tcb_svn2": bytes([5, 1, 2]),
}  # fmt: skip
HEX: Final = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")


def quote(chain: list[Signer] | None = None, version: int = 4, body: int = 2, **more: Any) -> bytes:
    fields = {n: v for n, v in BODY.items() if body == 3 or n != "tee_tcb_svn2"}
    made: dict[str, Any] = {**fields, **more}
    return td_quote(chain or intel.pck(), version, body, **made)


def verified(folder: Path, data: bytes, collateral: str, *more: str, at: datetime = AT) -> Any:
    """The answer of `verify`, without an image, under the throw-away root."""
    (folder / "quote").write_bytes(data)
    (folder / "collateral.json").write_text(collateral)
    return run(
        "verify", str(folder / "quote"), "--collateral", str(folder / "collateral.json"),
        "--pin", intel.authority()[1].pin, "--at", at.isoformat(), "--format", "json", *more,
    )  # fmt: skip


def differing(result: Any) -> set[str]:
    assert result.err == "", result.err
    return {one["name"] for one in json.loads(result.out)["lines"] if one["status"] == "differs"}


def found(result: Any, name: str) -> dict[str, str]:
    lines = json.loads(result.out)["lines"]
    return next(one for one in lines if one["name"] == name)


def oracle(data: bytes, document: dict[str, str], at: datetime) -> str:
    """The status that dcap-qvl gives, "" where it refuses."""
    qvl = pytest.importorskip("dcap_qvl", reason="dcap-qvl (PyPI) is not installed")
    parts = {n: bytes.fromhex(v) if n in HEX else v for n, v in document.items()}
    try:
        made = qvl.QuoteCollateralV3(**parts)
        root = intel.authority()[1].der
        return str(qvl.verify_with_root_ca(data, made, root, int(at.timestamp())).status)
    except ValueError:
        return ""


class Case(NamedTuple):
    """Collateral and a quote, the lines that differ, and the status, "" where none is given."""

    published: Callable[[], Published]
    differs: frozenset[str]
    status: str = ""
    quote: Callable[[], bytes] = quote
    at: datetime = AT


STRANGER = "stranger"


def stranger() -> Signer:
    return certify(STRANGER, "P-256")


def flipped(text: str) -> str:
    return ("1" if text[0] != "1" else "2") + text[1:]


def forged(name: str, change: Callable[[str], str] = flipped) -> Published:
    return Published(forged={name: change(Published().document()[name])})


def platform_status(status: str, *advisories: str) -> Published:
    return Published(tcb_info(tcbLevels=[level(platform_tcb(), status, *advisories)]))


def module_status(status: str) -> Published:
    identities = [module("TDX_01", level({"isvsvn": 4}, status, "SA-7"))]
    return Published(tcb_info(tdxModuleIdentities=identities))


def qe_status(status: str) -> Published:
    return Published(identity=qe_identity(tcbLevels=[level({"isvsvn": 0}, status, "SA-9")]))


def ca() -> Signer:
    return intel.authority()[0]


def root() -> Signer:
    return intel.authority()[1]


def other(value: bytes, at: int) -> Callable[[], bytes]:
    """A quote whose QE has other bytes."""
    return lambda: quote(qe={at: value})


LATE, EARLY = AT + timedelta(days=60), AT - timedelta(days=10)
DATED = frozenset({"tcb_info", "qe_identity", "revocation"})
STATUS, INFO, IDENTITY = (frozenset({n}) for n in ("tcb_status", "tcb_info", "qe_identity"))
REVOKED = frozenset({"revocation"})
CASES: Final[dict[str, Case]] = {
    "right": Case(Published, frozenset(), "UpToDate"),
    "expired": Case(Published, DATED, at=LATE),
    "of the future": Case(Published, DATED, at=EARLY),
    "TCB info expired": Case(lambda: Published(tcb_info(**intel.dates(EARLY, 5))), INFO),
    "QE identity expired": Case(
        lambda: Published(identity=qe_identity(**intel.dates(EARLY, 5))), IDENTITY
    ),
    "signature of the TCB info": Case(lambda: forged("tcb_info_signature"), INFO),
    "signature of the QE identity": Case(lambda: forged("qe_identity_signature"), IDENTITY),
    "TCB level raised": Case(
        lambda: forged("tcb_info", lambda text: text.replace('"pcesvn":5', '"pcesvn":4')), INFO
    ),
    "signer of another name": Case(
        lambda: Published(signer=[intel.signing("Intel SGX TCB Sign"), root()]), INFO | IDENTITY
    ),
    "signer under another root": Case(
        lambda: Published(signer=[intel.signing(root=stranger()), stranger()]),
        INFO | IDENTITY | REVOKED,
    ),
    "FMSPC of another platform": Case(
        lambda: Published(tcb_info(fmspc="00606A000000")), frozenset({"pck_fmspc"}), "UpToDate"
    ),
    "FMSPC of the certificate": Case(
        Published, frozenset({"pck_fmspc"}), "UpToDate",
        lambda: quote(intel.pck(fmspc="00606a000000")),
    ),
    "PCE ID": Case(
        lambda: Published(tcb_info(pceId="0001")), frozenset({"pck_pce_id"}), "UpToDate"
    ),
    "TCB info of SGX": Case(lambda: Published(tcb_info(id="SGX")), INFO, "UpToDate"),
    "TCB info of version 2": Case(lambda: Published(tcb_info(version=2)), INFO, "UpToDate"),
    "QE identity of SGX": Case(
        lambda: Published(identity=qe_identity(id="QE")), IDENTITY, "UpToDate"
    ),
    "PCK revoked": Case(lambda: Published(pck_crl=intel.revocations(ca(), [77])), REVOKED),
    "PCK CA revoked": Case(lambda: Published(root_crl=intel.revocations(root(), [9])), REVOKED),
    "signer revoked": Case(lambda: Published(root_crl=intel.revocations(root(), [11])), REVOKED),
    "other serial numbers revoked": Case(
        lambda: Published(pck_crl=intel.revocations(ca(), [78, 7])), frozenset(), "UpToDate"
    ),
    "CRL of another": Case(
        lambda: Published(pck_crl=intel.revocations(ca(), key=stranger().key)), REVOKED
    ),
    "CRL expired": Case(
        lambda: Published(pck_crl=intel.revocations(ca(), begin=EARLY, days=5)), REVOKED
    ),
    "root CRL in place of the PCK's": Case(
        lambda: Published(pck_crl=intel.revocations(root())), REVOKED
    ),
    **{
        f"platform {status}": Case(
            lambda status=status: platform_status(status, "SA-1"),  # type: ignore[misc]  # of this turn
            frozenset() if status == "UpToDate" else STATUS, status,
        )
        for status in (
            "UpToDate", "OutOfDate", "ConfigurationNeeded", "OutOfDateConfigurationNeeded",
            "SWHardeningNeeded", "ConfigurationAndSWHardeningNeeded",
        )
    },
    "platform revoked": Case(lambda: platform_status("Revoked"), STATUS),
    "platform with a made-up status": Case(lambda: platform_status("Fine"), STATUS),
    "platform below all levels": Case(
        Published, STATUS, quote=lambda: quote(intel.pck(components=(1, *(0,) * 15)))
    ),
    "PCE below": Case(
        Published, STATUS, "OutOfDate", lambda: quote(intel.pck(pce_svn=6))
    ),
    "late microcode below": Case(
        Published, STATUS, quote=lambda: quote(tee_tcb_svn=bytes([5, 1, 1]))
    ),
    "module out of date": Case(
        Published, STATUS, "OutOfDate", lambda: quote(tee_tcb_svn=bytes([3, 1, 2]))
    ),
    "module below all levels": Case(
        Published, STATUS, quote=lambda: quote(tee_tcb_svn=bytes([1, 1, 2]))
    ),
    "module unknown": Case(
        Published, STATUS, quote=lambda: quote(tee_tcb_svn=bytes([5, 2, 2]))
    ),
    "first module, by the platform's level": Case(
        Published, frozenset(), "UpToDate", lambda: quote(tee_tcb_svn=bytes([5, 0, 2]))
    ),
    "first module, below": Case(
        Published, STATUS, quote=lambda: quote(tee_tcb_svn=bytes([4, 0, 2]))
    ),
    "module revoked": Case(lambda: module_status("Revoked"), STATUS),
    "module with the status of a platform": Case(
        lambda: module_status("ConfigurationNeeded"), STATUS
    ),
    "module of another signer": Case(
        lambda: Published(tcb_info(tdxModuleIdentities=[
            module("TDX_01", level({"isvsvn": 4}), signer="11" * 48)
        ])),
        STATUS,
    ),
    "QE out of date": Case(lambda: qe_status("OutOfDate"), STATUS, "OutOfDate"),
    "QE revoked": Case(lambda: qe_status("Revoked"), STATUS),
    "QE that needs configuration": Case(
        lambda: qe_status("ConfigurationNeeded"), STATUS, "OutOfDate"
    ),
    "QE out of date that needs configuration": Case(
        lambda: qe_status("OutOfDateConfigurationNeeded"), STATUS, "OutOfDate"
    ),
    "QE with a status it cannot have": Case(lambda: qe_status("SWHardeningNeeded"), STATUS),
    "QE below all levels": Case(
        lambda: Published(identity=qe_identity(tcbLevels=[level({"isvsvn": 3})])), STATUS
    ),
    "QE of another product": Case(
        lambda: Published(identity=qe_identity(isvprodid=3)), STATUS
    ),
    "QE of another signer": Case(
        lambda: Published(identity=qe_identity(mrsigner="22" * 32)), STATUS
    ),
    "QE with other attributes": Case(Published, STATUS, quote=other(b"\x11\1", 48)),
    "QE with MISCSELECT": Case(
        Published, STATUS | {"qe_miscselect"}, quote=other(b"\1", 16)
    ),
    "QE in debug mode": Case(Published, STATUS | {"qe_debug"}, quote=other(b"\x13", 48)),
    "version 5": Case(Published, frozenset(), "UpToDate", lambda: quote(version=5)),
    "TD of version 1.5": Case(
        Published, frozenset(), "UpToDate", lambda: quote(version=5, body=3)
    ),
    "TD started under an older module": Case(
        Published, STATUS, "TDRelaunchAdvised",
        lambda: quote(version=5, body=3, tee_tcb_svn=bytes([3, 1, 2])),
    ),
    "TD whose module of today is unknown": Case(
        Published, STATUS, quote=lambda: quote(version=5, body=3, tee_tcb_svn2=bytes([5, 9, 2]))
    ),
    "levels in another order": Case(
        lambda: Published(tcb_info(tcbLevels=[
            level(platform_tcb(pce_svn=5), "OutOfDate"), level(platform_tcb()),
        ])),
        frozenset(), "UpToDate",
    ),
}  # fmt: skip
STRICTER: Final = {
    "signer of another name": "dcap-qvl asks for no name of the signer",
    "PCE ID": "dcap-qvl compares no PCE ID",
    "QE that needs configuration": "dcap-qvl drops it, to Intel's QVL it is out of date",
    "QE out of date that needs configuration": "the same",
}
"""What is refused here and not there, each with the reason."""


@pytest.mark.parametrize("name", CASES)
def test_the_line_that_is_wrong_differs(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    collateral = json.dumps(case.published().document())
    result = verified(tmp_path, case.quote(), collateral, at=case.at)
    assert differing(result) == case.differs
    assert result.code == bool(case.differs)
    if case.status:
        assert found(result, "tcb_status")["found"] == case.status


@pytest.mark.parametrize("name", CASES)
def test_dcap_qvl_gives_the_same_status_or_refuses(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    document, data = case.published().document(), case.quote()
    theirs = oracle(data, document, case.at)
    result = verified(tmp_path, data, json.dumps(document), at=case.at)
    ours = found(result, "tcb_status")["found"] if differing(result) <= STATUS else ""
    if name in STRICTER:
        assert (theirs, result.code) == ("UpToDate", 1)
    else:
        assert (ours if ours in STATUSES and ours != "Revoked" else "") == theirs


def test_a_status_is_accepted_where_that_is_asked_for(tmp_path: Path) -> None:
    text = json.dumps(platform_status("SWHardeningNeeded", "SA-1", "SA-2").document())
    refused = verified(tmp_path, quote(), text)
    assert (refused.code, found(refused, "tcb_status")["why"]) == (1, "SA-1, SA-2")
    for more in (["--accept", "SWHardeningNeeded"], ["--accept", "UpToDate"]):
        result = verified(tmp_path, quote(), text, *more)
        assert result.code == (0 if more[1] == "SWHardeningNeeded" else 1)
    bad = verified(tmp_path, quote(), text, "--accept", "Revoked")
    assert (bad.code, bad.out) == (2, "")


def test_statuses_of_components_and_of_relaunched_tds() -> None:
    """Intel QVL, convergeTcbStatuses and checkForRelaunch, as dcap-qvl 0.7.0 tests them."""
    assert converged("UpToDate", "OutOfDate") == "OutOfDate"
    assert converged("SWHardeningNeeded", "OutOfDate") == "OutOfDate"
    assert converged("ConfigurationNeeded", "OutOfDate") == "OutOfDateConfigurationNeeded"
    assert converged("ConfigurationAndSWHardeningNeeded", "Revoked") == "Revoked"
    assert converged("ConfigurationNeeded", "UpToDate") == "ConfigurationNeeded"
    assert relaunched("OutOfDate", "UpToDate") == "TDRelaunchAdvised"
    assert relaunched("OutOfDate", "OutOfDate") == "OutOfDate"
    assert relaunched("UpToDate", "OutOfDate") == "UpToDate"
    configured = "TDRelaunchAdvisedConfigurationNeeded"
    assert relaunched("OutOfDateConfigurationNeeded", "UpToDate") == configured
    assert relaunched("OutOfDate", "ConfigurationNeeded") == configured


# --- the shapes in which people have it --------------------------------------------------------


def parts(folder: Path) -> list[str]:
    """The same collateral as the answers of Intel's PCS, each in a file of its own."""
    document = Published().document()
    info, identity = document["tcb_info"], document["qe_identity"]
    document["qe_identity_signature"]
    files = {
        "tcb.json": '{{"tcbInfo":{},"signature":"{}"}}'.format(
            info, document["tcb_info_signature"]
        ),
        "qe.json": '{{"enclaveIdentity": {}, "signature":"{}"}}'.format(
            identity, document["qe_identity_signature"]
        ),
        "chain.pem": document["tcb_info_issuer_chain"],
        "root.hex": document["root_ca_crl"],
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "pck.der").write_bytes(bytes.fromhex(document["pck_crl"]))
    return [str(folder / name) for name in (*files, "pck.der")]


def test_answers_of_the_pcs_are_put_together(tmp_path: Path) -> None:
    (tmp_path / "quote").write_bytes(quote())
    args = ["verify", str(tmp_path / "quote"), "--pin", root().pin, "--at", AT.isoformat()]
    files = parts(tmp_path)
    every = [word for path in files for word in ("--collateral", path)]
    assert run(*args, *every).code == 0
    assert run(*args, *every[:-2], "--crl", files[-1]).code == 0
    without = run(*args, *every[:-2], "--format", "json")
    assert (without.code, differing(without)) == (1, {"revocation"})
    nothing = run(*args, *every[2:])
    assert (nothing.code, nothing.err) == (2, "error: --collateral: no TCB info in these files\n")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: {**d, "tcb_info": {"tcbInfo": 1}}, 3),
        (lambda d: {**d, "tcb_info": "{"}, 3),
        (lambda d: {**d, "tcb_info_signature": "00"}, 3),
        (lambda d: {**d, "tcb_info_signature": 7}, 3),
        (lambda d: {**d, "pck_crl": "00"}, 3),
        (lambda d: {**d, "qe_identity": d["tcb_info"]}, 3),
        (lambda d: {k: v for k, v in d.items() if k != "qe_identity_signature"}, 2),
        (lambda d: {**d, "tcb_info": d["tcb_info"].replace('"svn"', '"svm"')}, 3),
        (lambda d: {**d, "tcb_info": d["tcb_info"].replace('"2025', '"in 2025')}, 3),
        (lambda d: {**d, "tcb_info": d["tcb_info"].replace('"tcbLevels":[', '"tcbLevels":[1,')}, 3),
    ],
)
def test_collateral_that_cannot_be_read_is_one_line(
    change: Callable[[Any], Any], code: int, tmp_path: Path
) -> None:
    text = json.dumps(change(Published().document()))
    result = verified(tmp_path, quote(), text)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err


def test_collateral_of_objects_and_of_whole_answers_is_read(tmp_path: Path) -> None:
    document = Published().document()
    text = json.dumps({n: v for n, v in document.items() if n != "tcb_info"})
    as_object = text[:-1] + ', "tcb_info": ' + document["tcb_info"] + "}"
    assert verified(tmp_path, quote(), as_object).code == 0
    answer = '{{"tcbInfo":{},"signature":"{}"}}'.format(
        document["tcb_info"], document["tcb_info_signature"],
    )  # fmt: skip
    assert verified(tmp_path, quote(), json.dumps({**document, "tcb_info": answer})).code == 0


def test_collateral_is_for_quotes_alone(tmp_path: Path) -> None:
    from tests.build.evidence import amd, snp_report

    (tmp_path / "r").write_bytes(snp_report(amd()[0], 3))
    (tmp_path / "c").write_text(json.dumps(Published().document()))
    result = run("verify", str(tmp_path / "r"), "--collateral", str(tmp_path / "c"))
    assert (result.code, result.out) == (2, "")


# --- hardware and Intel ------------------------------------------------------------------------

SIGNED: Final = datetime(2025, 6, 19, 11, 16, 3, tzinfo=UTC)


def test_intels_collateral_says_that_a_platform_is_up_to_date() -> None:
    path = str(shared("vectors/collateral/tdx_quote"))
    args = ("verify", path, "--collateral", f"{path}_collateral.json", "--format", "json")
    result = run(*args, "--at", SIGNED.isoformat())
    assert (result.code, differing(result)) == (0, set())
    assert found(result, "tcb_status")["found"] == "UpToDate"
    assert found(result, "pck_fmspc")["found"] == "b0c06f000000"
    late = run(*args, "--at", "2025-10-01")
    assert (late.code, differing(late)) == (1, set(DATED))


@pytest.mark.parametrize("day", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_that_no_calendar_has_is_one_line(day: str, tmp_path: Path) -> None:
    document = Published(tcb_info(nextUpdate=day)).document()
    told = verified(tmp_path, quote(), json.dumps(document))
    assert (told.code, told.out) == (3, "")
    assert "is not a time" in told.err


def test_a_second_tcb_info_is_asked_about(tmp_path: Path) -> None:
    """Who brings an older one beside a new one does not choose the status."""
    for number in (17, 18):
        document = Published(tcb_info(tcbEvaluationDataNumber=number)).document()
        (tmp_path / str(number)).write_text(json.dumps(document))
    (tmp_path / "q").write_bytes(quote())
    both = [w for n in (17, 18) for w in ("--collateral", str(tmp_path / str(n)))]
    told = run("verify", str(tmp_path / "q"), *both)
    assert (told.code, "a second TCB info" in told.err) == (2, True)
