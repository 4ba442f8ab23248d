"""Forged evidence under throw-away chains: the right line differs, and no peer is stricter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.consumers import check
from tests.forgeries import SNP, TDX, UNSIGNED, Forgery, Quoted, Report
from tests.run import run

AT: Final = "2026-01-01"
WITHOUT_PEER: Final = "the peer's `check` has no option for this"


def judged(folder: Path, evidence: Any, *more: str) -> tuple[Any, dict[str, str]]:
    """The answer of `verify` under the chain's root, and the status of each line."""
    data, chain = evidence.build()
    (folder / "evidence").write_bytes(data)
    pin = ("--pin", chain[-1].pin, "--at", AT)
    result = run("verify", str(folder / "evidence"), *pin, *more, "--format", "json")
    assert result.err == "", result.err
    return result, {one["name"]: one["status"] for one in json.loads(result.out)["lines"]}


@pytest.mark.parametrize("evidence", [Report(), Report(version=5), Report(leaf="VLEK"), Quoted()])
def test_evidence_that_is_right_holds(evidence: Any, tmp_path: Path) -> None:
    if evidence == Report(leaf="VLEK"):
        from tests.forgeries import chain

        evidence = Report(leaf="VLEK", chain=lambda: chain("VLEK"))
    result, statuses = judged(tmp_path, evidence)
    assert [n for n, s in statuses.items() if s == "differs"] == []
    assert (result.code, json.loads(result.out)["verdict"]) == (0, "ok")


@pytest.mark.parametrize(("kind", "name"), [*(("snp", n) for n in SNP), *(("tdx", n) for n in TDX)])
def test_the_right_line_of_a_forgery_differs(kind: str, name: str, tmp_path: Path) -> None:
    forgery = (SNP if kind == "snp" else TDX)[name]
    result, statuses = judged(tmp_path, forgery.evidence, *forgery.ours)
    assert {n for n, s in statuses.items() if s == "differs"} == forgery.differs
    assert result.code == 1


@pytest.mark.parametrize("name", UNSIGNED)
def test_what_nothing_signs_is_not_accepted(name: str, tmp_path: Path) -> None:
    result, statuses = judged(tmp_path, UNSIGNED[name])
    assert (result.code, statuses["signature"]) == (1, "unsigned")


# --- beside the peers --------------------------------------------------------------------------


def snp_check(folder: Path, forgery: Forgery) -> int:
    """The exit code of go-sev-guest's `check`: 0 accepts."""
    data, chain = forgery.evidence.build()
    (folder / "r.bin").write_bytes(data)
    (folder / "chain.pem").write_bytes(b"".join(one.pem for one in chain[1:]))
    config = folder / "c.textproto"
    root = f'root_of_trust {{ cabundle_paths: "{folder}/chain.pem" disallow_network: true }}\n'
    config.write_text(f"policy {{ policy: 0x30000 }}\n{root}")
    words = ["-in", str(folder / "r.bin"), "-network=false", "-config", str(config)]
    return check(
        "go-sev-guest", *words, "-product_name=Milan-B1", *(forgery.theirs or ())
    ).returncode


def tdx_check(folder: Path, forgery: Forgery) -> int:
    """The exit code of go-tdx-guest's `check`: 0 accepts."""
    data, chain = forgery.evidence.build()
    (folder / "q.bin").write_bytes(data)
    (folder / "root.pem").write_bytes(chain[-1].pem)
    words = ["-in", str(folder / "q.bin"), "-trusted_roots", str(folder / "root.pem")]
    return check("go-tdx-guest", *words, *(forgery.theirs or ())).returncode


# What the peers accept, each with the reason; the others they refuse as we do.
LOOSER: Final = {
    "Genoa's certificate, Milan's authority": "the product of a report with CPUID is not compared",
    "VMPL 4": "no VMPL is compared unless one is asked for",
}


@pytest.mark.parametrize("name", SNP)
def test_go_sev_guest_refuses_it_too(name: str, tmp_path: Path) -> None:
    forgery = SNP[name]
    code = snp_check(tmp_path, forgery)
    if forgery.theirs is None:
        pytest.skip(WITHOUT_PEER)
    assert bool(code) is (name not in LOOSER)


@pytest.mark.parametrize("name", TDX)
def test_go_tdx_guest_refuses_it_too(name: str, tmp_path: Path) -> None:
    forgery = TDX[name]
    code = tdx_check(tmp_path, forgery)
    if forgery.theirs is None:
        pytest.skip(WITHOUT_PEER)
    assert bool(code) is (name not in LOOSER)


def test_the_peers_accept_what_is_right(tmp_path: Path) -> None:
    assert snp_check(tmp_path, Forgery(Report(), frozenset())) == 0
    assert tdx_check(tmp_path, Forgery(Quoted(), frozenset())) == 0
