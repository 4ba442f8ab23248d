"""Quotes that any enclave could have signed, and masks that no production TD has, differ."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from tests.build.evidence import intel
from tests.oracles import shared
from tests.run import run
from tests.test_evidence import differing, quote, statuses, verify

QE_LINES = {"qe_signer", "qe_product", "qe_debug", "qe_miscselect", "qe_vendor"}
# Offsets in REPORT: Intel SDM volume 3D; ATTRIBUTES.DEBUG is bit 1.
WRONG: dict[str, dict[str, Any]] = {
    "qe_signer": {"qe": {128: b"\xee" * 32}},
    "qe_product": {"qe": {256: b"\1\0"}},
    "qe_debug": {"qe": {48: b"\x17"}},
    "qe_miscselect": {"qe": {16: b"\1"}},
    "qe_vendor": {"vendor": b"any vendor"},
}


@pytest.mark.parametrize("line", WRONG)
def test_a_quote_of_another_enclave_differs(line: str, tmp_path: Path) -> None:
    chain = intel()
    result = verify(tmp_path, quote(chain, **WRONG[line]), platform="tdx", pin=chain[-1].pin)
    assert differing(result) == {line}


# Lines that differ at least; ../shared/cases/README.md, evidence/.
CASES = {
    "quote-by-any-enclave/q-attacker.bin": {"qe_signer", "qe_product"},
    "quote-by-any-enclave/q-debug.bin": {"qe_debug"},
    "td-attributes/q-1.bin": {"attributes"},
    "td-attributes/q-5.bin": {"attributes"},
    "td-attributes/q-all.bin": {"attributes"},
}


@pytest.mark.parametrize("case", CASES)
def test_the_published_cases_differ(case: str) -> None:
    file = shared(f"cases/evidence/{case}")
    pin = (file.parent / "pin").read_text().strip()
    args = (str(file), "--example", "tdx", "--pin", pin, "--at", "2026-01-01", "--format", "json")
    assert CASES[case] <= differing(run("verify", *args))


REAL = (
    "vectors/collateral/tdx_quote",
    "vectors/tdx/gtg-tdx_prod_quote_SPR_E4.dat",
    "cases/evidence/quote-alone/quote.dat",
    "cases/events/rtmr3-extended-at-run-time/quote.dat",
)


@pytest.mark.parametrize("path", REAL)
def test_quotes_of_hardware_are_of_intels_enclave_and_of_possible_tds(path: str) -> None:
    args = ("--example", "tdx", "--ignore-trailing", "--at", "2026-11-01", "--format", "json")
    found = statuses(run("verify", str(shared(path)), *args))
    assert {found[name] for name in QE_LINES} == {"ok"}
    assert {found["attributes"], found["xfam"]} <= {"ok", "assumed"}


# google/go-tdx-guest 13f12b2, validate/validate.go: DEBUG, SEPT_VE_DISABLE, PKS and PERFMON are
# allowed, XFAM within 0x6dbe7 and with 0x3.
MASKS = [
    ("td_attributes", 1 << 28 | 1 << 30 | 1 << 63, set()),
    *[("td_attributes", 1 << bit, {"attributes"}) for bit in (1, 4, 16, 27, 29, 31, 32, 62)],
    ("xfam", 0x6DBE7, set()), ("xfam", 0x3, set()),
    *[("xfam", mask, {"xfam"}) for mask in (0, 0x1, 0x6DBE4, 0x6DBE7 | 1 << 3, 1 << 63 | 3)],
]  # fmt: skip


@pytest.mark.parametrize(("field", "mask", "lines"), MASKS)
def test_masks_that_no_production_td_has_differ(
    field: str, mask: int, lines: set[str], tmp_path: Path
) -> None:
    chain = intel()
    changed: dict[str, Any] = {field: struct.pack("<Q", mask)}
    (tmp_path / "q").write_bytes(quote(chain, **changed))
    args = ("--example", "tdx", "--pin", chain[-1].pin, "--at", "2026-01-01", "--format", "json")
    assert differing(run("verify", str(tmp_path / "q"), *args)) == lines


def test_a_mask_that_the_plan_names_is_compared_with_it(tmp_path: Path) -> None:
    chain = intel()
    (tmp_path / "q").write_bytes(quote(chain, td_attributes=struct.pack("<Q", 1 << 29)))
    args = ["--example", "tdx", "--pin", chain[-1].pin, "--at", "2026-01-01", "--format", "json"]
    planned = run("verify", str(tmp_path / "q"), *args, "--attributes", hex(1 << 29))
    assert statuses(planned)["attributes"] == "ok"
