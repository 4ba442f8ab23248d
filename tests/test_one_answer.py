"""
One launch, one answer: what an interface refuses, every verb refuses.

The expected answers are those of ../shared/spec/corrections.md 2, written out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

import cvmplan
from tests.run import run

POLICIES: Final = (0x0, 0x20000, 0x30000, 0x70000, 0x130000, 0x230000)
TAKEN: Final[dict[str, set[int]]] = {
    "map-memory": {0x20000, 0x30000, 0x70000, 0x130000, 0x230000},
    "kvm-6.11": {0x30000},
    "kvm-6.16": {0x30000},
    "kvm-6.18": {0x20000, 0x30000, 0x130000},
    "kvm-6.19": {0x20000, 0x30000, 0x130000, 0x230000},
    "kvm-7.0": {0x20000, 0x30000, 0x130000, 0x230000},
    "kvm-7.1": {0x20000, 0x30000, 0x130000, 0x230000},
    "kvm-7.2": {0x20000, 0x30000, 0x130000, 0x230000},
    "kvm-7.3": {0x20000, 0x30000, 0x130000, 0x230000},
    "kvm-in-place": {0x20000, 0x30000, 0x130000, 0x230000},
    "kvm-svsm": {0x20000, 0x30000, 0x70000, 0x130000, 0x230000},
}
"""Interface to the guest policies of the table that it takes (bit 17 one, 16 SMT, 18 refused)."""
FEATURES: Final = (0x0, 0x1, 0x21, 0x201, 0x7FFF)
TAKEN_FEATURES: Final[dict[str, set[int]]] = {
    "map-memory": {*FEATURES},
    "kvm-svsm": {*FEATURES},
    "kvm-6.11": {0x1, 0x21},
    "kvm-6.16": {0x1, 0x21},
    "kvm-6.18": {0x1, 0x21},
    "kvm-6.19": {0x1, 0x21},
    "kvm-7.0": {0x1, 0x21},
    "kvm-7.1": {0x1, 0x21},
    "kvm-7.2": {0x1, 0x21, 0x201},
    "kvm-7.3": {0x1, 0x21, 0x201},
    "kvm-in-place": {0x1, 0x21, 0x201},
}
CASES: Final = [
    *(("policy", abi, p, p in taken) for abi, taken in TAKEN.items() for p in POLICIES),
    *(("sev-features", abi, f, f in t) for abi, t in TAKEN_FEATURES.items() for f in FEATURES),
]
IMAGE: Final = ("--example", "snp")
FIRMWARE: Final = Path(cvmplan.__file__).parent / "examples" / "snp.fd"
WORDS: Final = {"policy": "policy", "sev-features": "SEV_FEATURES"}


def plan_elsewhere(name: str, value: int, abi: str) -> bytes:
    """Return the plan for map-memory with another policy or features, as a document."""
    made = run("plan", *IMAGE, "--abi", "kvm-6.18", "--format", "json")
    assert made.code == 0, made.err
    document = json.loads(made.out)
    for op in document["ops"]:
        if name == "policy" and op["op"] == "snp-launch-start":
            op["policy"] = hex(value)
        if name == "sev-features" and op["op"] == "init":
            op["vmsa_features"] = hex(value & ~1)
    document["measurement"] = None
    document["abi"] = abi
    return json.dumps(document).encode()


@pytest.mark.parametrize(("name", "abi", "value", "taken"), CASES)
def test_every_verb_gives_the_same_verdict(
    name: str, abi: str, value: int, taken: bool, tmp_path: Path
) -> None:
    manifest = tmp_path / "image.json"
    (tmp_path / "snp.fd").write_bytes(FIRMWARE.read_bytes())
    guest = {name.replace("-", "_"): hex(value)}
    document = {"schema": "cvmplan.manifest/1", "platform": "snp", "guest": guest,
                "firmware": {"file": "snp.fd"}, "regions": []}  # fmt: skip
    manifest.write_text(json.dumps(document))
    options = (str(manifest), "--abi", abi)
    verbs: tuple[tuple[str, ...], ...] = (
        ("check", *options), ("plan", *options), ("measure", *options), ("map", *options),
        ("measure", *options, "--bare"), ("trace", *options), ("sweep", *options),
        ("idblock", *options, "--emit-tbs", str(tmp_path / "tbs")),
        ("explain", *options, "--quiet", "--expect", digest_of_the_example(value, name)),
    )  # fmt: skip
    results = {" ".join(verb[:1]): run(*verb) for verb in verbs}
    codes = {verb: result.code for verb, result in results.items() if verb != "map"}
    assert codes == dict.fromkeys(codes, 0 if taken else 1)
    reasons = {verb: r.err + r.out for verb, r in results.items() if verb != "map"}
    if not taken:
        assert all(f"refuses {WORDS[name]} {value:#x}" in reason for reason in reasons.values())


def digest_of_the_example(value: int, name: str) -> str:
    """Return the digest of the launch where it is not refused: policies are not measured."""
    more = ("--sev-features", hex(value)) if name == "sev-features" else ()
    return run("measure", *IMAGE, *more, "--bare").out


@pytest.mark.parametrize(("name", "abi", "value", "taken"), CASES)
def test_the_simulator_agrees(name: str, abi: str, value: int, taken: bool) -> None:
    if name == "sev-features" and not value & 1:  # the call has the features less bit 0
        made = run("plan", *IMAGE, "--sev-features", hex(value), "--format", "json")
        found = run("simulate", "-", "--abi", abi, "--format", "json", stdin=made.out.encode())
        known = json.loads(found.out)["digest"]  # KVM sets bit 0, and measures a VMSA with it
        assert (known is not None) == taken
        return
    document = plan_elsewhere(name, value, "kvm-6.18")
    answers = run("simulate", "-", "--abi", abi, "--format", "json", stdin=document)
    wanted = "snp-launch-start" if name == "policy" else "init"
    results = {r["op"]: r["result"] for r in json.loads(answers.out)["results"]}
    expected = "ok" if taken else "error"
    assert results[wanted] == expected
