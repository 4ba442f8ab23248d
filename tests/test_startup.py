"""What a verb loads: the answer for a firmware image costs no document library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.build.evidence import snp_report
from tests.build.igvm import good_snp
from tests.run import run

HEAVY = {"pydantic", "rich", "cryptography", "yaml"}
PROGRAM = """
import json, sys
from cvmplan.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(m.partition(".")[0] for m in sys.modules)]), file=sys.stderr)
"""


def modules_loaded(*args: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *args], capture_output=True, text=True, check=True
    )
    code, names = json.loads(done.stderr.splitlines()[-1])
    assert code == 0
    return set(names)


@pytest.mark.parametrize("verb", ["measure", "check", "map", "trace"])
@pytest.mark.parametrize("platform", ["snp", "tdx"])
def test_a_firmware_image_loads_no_document_library(verb: str, platform: str) -> None:
    assert not modules_loaded(verb, "--example", platform) & HEAVY


def test_a_picture_loads_no_document_library() -> None:
    for form in ("svg", "html"):
        assert not modules_loaded("map", "--example", "snp", "--format", form) & HEAVY
    assert not modules_loaded("report", "--example", "snp") & HEAVY


def test_an_igvm_image_loads_no_document_library_and_no_kernel(tmp_path: Path) -> None:
    path = tmp_path / "image.igvm"
    path.write_bytes(good_snp().build())
    for verb in ("measure", "check", "map"):
        loaded = modules_loaded(verb, str(path), "--platform", "snp")
        assert not loaded & HEAVY


def test_help_loads_no_reader() -> None:
    assert "cvmplan" in (loaded := modules_loaded("measure", "--help"))
    assert not loaded & HEAVY


def test_a_manifest_loads_pydantic(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    region = {"gpa": "0x1000", "size": "4KiB", "type": "zero"}
    document = {"schema": "cvmplan.manifest/1", "platform": "snp", "regions": [region]}
    path.write_text(json.dumps(document))
    assert "pydantic" in modules_loaded("measure", str(path))


def test_cryptography_is_for_signatures_alone(tmp_path: Path) -> None:
    plan, report = tmp_path / "plan.json", tmp_path / "report"
    plan.write_text(run("plan", "--example", "snp", "--format", "json").out)
    digest = run("measure", "--example", "snp", "--bare").out
    report.write_bytes(snp_report(None, 2, measurement=bytes.fromhex(digest)))
    for args in (["measure", str(plan)], ["diff", str(plan), str(plan)], ["schema", "idblock"]):
        assert "cryptography" not in modules_loaded(*args)
    assert "cryptography" not in modules_loaded(
        "explain", "--example", "snp", "--report", str(report)
    )
    assert "cryptography" in modules_loaded(
        "verify", str(report), "--example", "snp", "--no-signature"
    )


def test_importing_the_package_imports_nothing_else() -> None:
    program = (
        "import sys; before = set(sys.modules); import cvmplan; print(set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {n for n in eval(done.stdout) if n.startswith("cvmplan")}  # noqa: S307 our own set
    assert loaded == {"cvmplan"}
