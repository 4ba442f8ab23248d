"""No reader and no verb fails in another way than it says, on a sample of all that is cut off."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cvmplan.cli import VERBS
from cvmplan.core.blob import Blob
from tests.fuzz import harness
from tests.fuzz.corpus import CUTS, HEAD, cut, inputs

SAMPLE = 1000  # inputs a reader
CALLS = 150  # a verb
LARGE = 1 << 20  # bytes of an input of which fewer are taken


def sample(name: str, count: int) -> list[tuple[str, bytes]]:
    """Some of all inputs that are cut off, other ones for each `name`, the same in each run."""
    chosen = random.Random(name)  # noqa: S311 a sample, not a secret
    names = [n for n, data in inputs().items() if len(data) < LARGE or chosen.random() < 0.1]
    drawn = []
    for one in chosen.choices(names, k=count):
        pieces = [*cut(inputs()[one])]
        number = chosen.randrange(len(pieces))
        drawn.append((f"{one}, cut {number} of {len(pieces)}", pieces[number]))
    return drawn


@pytest.mark.parametrize("name", harness.READERS)
def test_a_reader_raises_errors_of_the_project_alone(name: str) -> None:
    wrong = [
        f"{what}: {w}" for what, data in sample(name, SAMPLE) for w in harness.read(name, data)
    ]
    assert wrong == []


@pytest.mark.parametrize("name", harness.VERBS)
def test_a_verb_ends_with_a_documented_code(name: str, tmp_path: Path) -> None:
    wrong = []
    for number, (what, data) in enumerate(sample(name, CALLS)):
        path = tmp_path / str(number)
        path.write_bytes(data)
        wrong += [f"{what}: {w}" for w in harness.call(name, path, len(data))]
    assert wrong == []


def test_each_input_is_cut_at_64_places() -> None:
    assert all(len([*cut(data)]) == CUTS for data in inputs().values() if len(data) >= HEAD * CUTS)


def test_what_is_whole_is_read() -> None:
    read = {
        "made/ovmf-snp": "ovmf", "made/ovmf-tdx": "tdvf", "made/svsm": "svsm",
        "made/igvm-snp": "igvm", "made/igvm-vbs": "igvm-vbs", "made/log": "events",
        "made/report": "report", "made/quote-4": "quote", "made/quote-5": "evidence-exact",
        "made/tdreport": "tdreport", "made/hcl": "evidence", "made/trustee": "certificates-inside",
        "made/chain": "certificates", "made/certificate": "certificates", "made/plan-snp": "plan",
        "made/plan-tdx": "calls", "made/plan-kvm": "plan", "made/trace": "trace",
        "made/trace-lines": "trace", "made/profile": "profile", "made/manifest": "manifest",
        "made/firmware": "firmware", "made/manifest-toml": "manifest",
        "made/manifest-yaml": "manifest",
        "made/matrix": "matrix-files", "made/recording": "recorded",
        "made/ioctls-snp": "recorded", "made/ioctls-tdx": "recorded", "made/qemu-log": "recorded",
        "made/strace-qemu.log": "recorded-strace", "made/qemu-sev.log": "recorded-events",
        "made/openvmm-snp.log": "recorded-fields",
        "made/cloud-hypervisor-snp.log": "recorded-groups",
    }  # fmt: skip
    for name, reader in read.items():
        harness.READERS[reader](Blob(name, memoryview(inputs()[name])))


def test_what_goes_wrong_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(_: Blob) -> object:
        raise ValueError("a bug")

    monkeypatch.setitem(harness.READERS, "rom", fails)
    assert [w.what for w in harness.read("rom", b"")] == ["ValueError: a bug"]
    monkeypatch.setattr(harness, "SECONDS", -1.0)
    assert [w.who for w in harness.read("report", b"")] == ["report"]
    monkeypatch.setitem(harness.VERBS, "check", ["check", "{}", "--no-such-option"])
    monkeypatch.setattr(harness, "CODES", {0})
    assert len([*harness.call("check", tmp_path / "absent", 0)]) == 2


def test_every_verb_that_takes_a_file_is_called() -> None:
    without = {"profiles", "abis", "cpus", "rules", "schema", "help"}
    assert {args[0] for args in harness.VERBS.values()} == set(VERBS) - without
