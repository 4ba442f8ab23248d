"""
The simulator's calls from a plan's operations are those of its document, over all vectors.

The digests that they lead to are the vectors' own: other implementations made them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cvmplan.core.blob import Blob
from cvmplan.core.files import Files
from cvmplan.kvm.abi import find
from cvmplan.memory.contents import Made
from cvmplan.operations.measure import measure
from cvmplan.platforms.snp.ops import SnpLaunchUpdate
from cvmplan.platforms.snp.steps import PageType
from cvmplan.readers import calls, plan
from cvmplan.simulator.call import Call
from cvmplan.simulator.simulate import simulate
from tests.run import run
from tests.test_vectors import FILES, read_vector

LAUNCHES = [path for path in FILES if "args" in json.loads(path.read_text())]
KERNELS = {"snp": ("kvm-6.11", "kvm-6.18", "kvm-7.3", "kvm-in-place"), "tdx": ()}


def both(document: str, tmp_path: Path) -> tuple[calls.Calls, calls.Calls]:
    """Return the calls of a plan as its document has them, and as its operations."""
    blob = Blob("plan.json", memoryview(document.encode()))
    files = Files(folders=(str(tmp_path),))
    read = plan.read(blob, files.find)
    made = calls.of_plan(read, measure(read) if read.platform.measured else None)
    return calls.read(blob, files.find), made


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda p: p.stem)
def test_operations_and_document_are_the_same_calls(path: Path, tmp_path: Path) -> None:
    vector = read_vector(path)
    own: tuple[tuple[str, ...], ...] = ((),)
    others = () if "--abi" in (vector.args or ()) else KERNELS.get(vector.platform, ("kvm-6.18",))
    for abi in (*own, *(("--abi", kernel) for kernel in others)):
        written, made = both(vector.command("plan", *abi, "--format", "json"), tmp_path)
        assert made == written
        outcomes = [simulate(c.platform, find(c.abi), c.calls, c.gpaw) for c in (written, made)]
        assert outcomes[0] == outcomes[1]
        if vector.read == "measurement" and outcomes[0].digest is not None:
            assert outcomes[0].digest.hex() == vector.expected


@pytest.mark.parametrize(
    ("platform", "kernel"),
    [
        ("sw-protected", "map-memory"), ("default", "kvm-7.0"), ("tdx", "kvm-6.18"),
        ("tdx", "kvm-tdx-v19"), ("tdx", "kvm-in-place"),
    ],
)  # fmt: skip
def test_so_are_those_of_further_kernels(platform: str, kernel: str, tmp_path: Path) -> None:
    example = "tdx" if platform == "tdx" else "snp"
    launch = ("--example", example, "--platform", platform, "--abi", kernel)
    written, made = both(run("plan", *launch, "--format", "json").out, tmp_path)
    assert made == written
    assert len(made.calls) > 1


def test_a_call_has_the_fields_and_the_contents_of_its_operation() -> None:
    contents = Made(b"held", 16)
    op = SnpLaunchUpdate(0x5000, 0x1000, PageType.SECRETS, contents)
    ((call, source),) = calls.of_operations([op])
    assert call == Call(
        0, "snp-launch-update", 0x5000, 0x1000, page_type="secrets", has_source=True
    )
    assert source is not None
    assert (bytes(source.data), source.at) == (b"held", 16)
