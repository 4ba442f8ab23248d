"""A log against a prediction: the first event that differs, and the input that explains it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.boot.places import VECTORS, kernel, needs_vectors, ovmf
from tests.run import Result, run

pytestmark = needs_vectors


def compare(tmp_path: Path, made: list[str], asked: list[str]) -> Result:
    """Make a log with the options `made`, and hold it against those `asked`."""
    log = tmp_path / "log"
    tables = str(VECTORS / "fixtures/canonical-defaults.acpi_tables.bin")
    base = ["rtmr", str(ovmf("2025.02")), "--kernel", str(kernel()), "--acpi-tables", tables]
    written = run(*base, *made, "--format", "ccel", "-o", str(log))
    assert written.code == 0, written.err
    return run(*base, *asked, "--log", str(log), "--format", "json")


SAME = ["--memory", "2GiB", "--append", "quiet", "--qemu", "10.2"]


def test_the_same_inputs_differ_nowhere(tmp_path: Path) -> None:
    result = compare(tmp_path, SAME, SAME)
    assert result.code == 0, result.err
    assert json.loads(result.out)["differences"] == []


@pytest.mark.parametrize(
    ("asked", "register", "why"),
    [
        (["--memory", "3GiB", *SAME[2:]], "RTMR0", "equal with --memory 2048MiB"),
        ([*SAME[:4], "--qemu", "patched"], "RTMR1", "equal with --qemu unpatched"),
        (
            ["--memory", "2GiB", "--append", "quiet ", "--qemu", "10.2"], "RTMR2",
            "equal with no initrd=initrd, without the blanks at its end",
        ),
    ],
)  # fmt: skip
def test_the_input_that_explains_a_difference_is_named(
    asked: list[str], register: str, why: str, tmp_path: Path
) -> None:
    result = compare(tmp_path, SAME, asked)
    assert result.code == 1
    (found,) = json.loads(result.out)["differences"]
    assert (found["register"], found["why"]) == (register, why)


def test_a_template_that_is_the_log_under_test_is_refused(tmp_path: Path) -> None:
    log = VECTORS / "attestrs-tdx_ccel_live2.dat"
    copy = tmp_path / "copy"
    copy.write_bytes(log.read_bytes())
    for other in (log, copy):
        result = run("rtmr", "--template", str(log), "--log", str(other))
        assert (result.code, result.out) == (2, "")
