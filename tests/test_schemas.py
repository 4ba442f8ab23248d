"""The schemas that are committed are those of the models; what is printed fits the models."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cvmplan import documents
from cvmplan.emit.json import dumps
from tests.run import run

SCHEMAS = Path(__file__).parent.parent / "schemas"


def test_every_document_has_its_schema_committed() -> None:
    assert {p.name for p in SCHEMAS.iterdir()} == {f"{n}.json" for n in documents.DOCUMENTS}


@pytest.mark.parametrize("name", documents.DOCUMENTS)
def test_the_committed_schema_is_the_one_that_the_code_has(name: str) -> None:
    assert (SCHEMAS / f"{name}.json").read_text() == dumps(documents.schema(name))


@pytest.mark.parametrize("name", documents.DOCUMENTS)
def test_schema_prints_what_is_committed(name: str) -> None:
    assert run("schema", name).out == (SCHEMAS / f"{name}.json").read_text()


PRINTED = {
    "measurement": ["measure"],
    "findings": ["check"],
    "map": ["map"],
    "plan": ["plan"],
    "trace": ["trace"],
}


@pytest.mark.parametrize("document", PRINTED)
@pytest.mark.parametrize("platform", ["snp", "tdx", "sev", "sev-es", "default", "sw-protected"])
def test_what_a_verb_prints_fits_its_model(document: str, platform: str) -> None:
    example = "tdx" if platform == "tdx" else "snp"
    result = run(
        *PRINTED[document], "--example", example, "--platform", platform, "--format", "json"
    )
    if document == "measurement" and platform in ("default", "sw-protected"):
        assert result.code == 4
        return
    assert result.code == 0, result.err
    documents.model(document).model_validate(json.loads(result.out))


@pytest.mark.parametrize("name", ["qemu", "qemu-8.2-tdx", "ec2", "gce", "td-shim", "svsm-qemu"])
def test_a_profile_fits_its_model(name: str) -> None:
    printed = json.loads(run("profiles", name, "--format", "json").out)
    assert documents.model("profile").model_validate(printed).name == name


def test_no_validator_is_a_class() -> None:
    """From Python 3.12 on pydantic refuses an enum: its signature has other parameters there."""
    folder = Path(documents.__file__).parent
    code = "".join(path.read_text("utf-8") for path in sorted(folder.glob("*.py")))
    named = re.findall(r"(?:After|Before)Validator\(([\w.]+)", code)
    assert "values.integer" in named
    assert [name for name in named if name.rpartition(".")[2][0].isupper()] == []
