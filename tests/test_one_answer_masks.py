"""
One launch, one answer, for ATTRIBUTES and XFAM of TDs, and for policies of SEV and SEV-ES.

The expected answers are written out from the kernel's text: linux 3829d81b
arch/x86/kvm/vmx/tdx.c, tdx_get_supported_attrs (SEPT_VE_DISABLE alone), tdx_get_supported_xfam
(what KVM has in XCR0 and XSS, within the module's) and setup_tdparams (which sets what the module
fixes to 1); KVM_SUPPORTED_XSS is 0 up to 6.17 and has CET from 6.18.  What the module takes is
from intel/tdx-module 1666adc, TDX_ATTRIBUTES_FIXED0, TDX_XFAM_FIXED0, check_xfam.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

import cvmplan
from cvmplan import profiles
from tests.plans import Answers
from tests.run import Result, run

ATTRIBUTES: Final = (0x10000000, 0x0, 0x1, 0x40000000, 0x20000001, 0x2)
XFAM: Final = (0x3, 0x1, 0x2E7, 0x602E7, 0x61AE7, 0x103, 0x4003, 0xB, 0x23, 0xE3, 0x20003, 0x803)
MODULE: Final = {
    "attributes": {0x10000000, 0x0, 0x1, 0x40000000},
    "xfam": {0x3, 0x1, 0x2E7, 0x602E7, 0x61AE7, 0x103, 0x4003},
}
KVM_6_16: Final = {"attributes": {0x10000000, 0x0}, "xfam": {0x3, 0x1, 0x2E7, 0x602E7}}
KVM_6_18: Final = {**KVM_6_16, "xfam": {*KVM_6_16["xfam"], 0x61AE7}}
TAKEN: Final = {
    "map-memory": MODULE,
    "kvm-tdx-v19": MODULE,
    "kvm-6.16": KVM_6_16,
    "kvm-6.18": KVM_6_18,
    "kvm-6.19": KVM_6_18,
    "kvm-7.0": KVM_6_18,
    "kvm-7.1": KVM_6_18,
    "kvm-7.2": KVM_6_18,
    "kvm-7.3": KVM_6_18,
    "kvm-in-place": KVM_6_18,
}
TD_CASES: Final = [
    (abi, name, value, value in taken[name])
    for abi, taken in TAKEN.items()
    for name, values in (("attributes", ATTRIBUTES), ("xfam", XFAM))
    for value in values
]
EXAMPLES: Final = Path(cvmplan.__file__).parent / "examples"


def verdicts(
    folder: Path, platform: str, abi: str, guest: dict[str, str], measured: tuple[str, ...] = ()
) -> dict[str, Result]:
    """
    Return what each verb answers about the example with these settings.

    `measured` are the names of settings on which the digest depends: what is explained is
    measured without the others, under the interface that refuses none of them.
    """
    image = "tdx" if platform == "tdx" else "snp"
    (folder / "image.fd").write_bytes((EXAMPLES / f"{image}.fd").read_bytes())
    document = {"schema": "cvmplan.manifest/1", "platform": platform, "guest": guest,
                "firmware": {"file": "image.fd"}, "regions": []}  # fmt: skip
    (folder / "image.json").write_text(json.dumps(document))
    launch = (str(folder / "image.json"), "--abi", abi)
    verbs = ("check", "plan", "measure", "trace", "sweep")
    found = {verb: run(verb, *launch) for verb in verbs}
    if platform == "tdx":
        found["td-info"] = run("td-info", *launch)
    found["measure --bare"] = run("measure", *launch, "--bare")
    given = [n for n in measured if n in guest]
    options = [o for n in given for o in (f"--{n.replace('_', '-')}", guest[n])]
    digest = run("measure", "--example", image, "--platform", platform, *options, "--bare").out
    found["explain"] = run("explain", *launch, "--quiet", "--budget", "1", "--expect", digest)
    return found


def assert_all_say(found: dict[str, Result], *, taken: bool, reason: str) -> None:
    """All verbs exit alike, with the reason where the launch is refused."""
    codes = {verb: result.code for verb, result in found.items()}
    assert codes == dict.fromkeys(codes, 0 if taken else 1), found
    for verb, result in found.items():
        said = result.err + result.out
        assert (reason in said) or taken, (verb, said)
        assert "error: " not in said or not taken, (verb, said)


def edited(made: Result, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return a plan with its operations changed, as another program might have written it."""
    assert made.code == 0, made.err
    document = json.loads(made.out)
    for op in document["ops"]:
        change(op)
    document["measurement"] = None
    return json.dumps(document).encode()


def simulated(document: bytes, abi: str, call: str) -> tuple[str, str]:
    """Return how the simulator answers `call` of the plan under `abi`: result and errno."""
    answers = Answers(run("simulate", "-", "--abi", abi, "--format", "json", stdin=document))
    result = next(r for r in answers.results if r["op"] == call)
    return result["result"], str(result.get("errno"))


@pytest.mark.parametrize(("abi", "name", "value", "taken"), TD_CASES)
def test_every_verb_gives_the_same_verdict_of_a_td(
    abi: str, name: str, value: int, taken: bool, tmp_path: Path
) -> None:
    guest = {name: hex(value)} | ({"page_order": "two-pass"} if abi == "kvm-tdx-v19" else {})
    found = verdicts(tmp_path, "tdx", abi, guest, ("page_order",))
    assert_all_say(found, taken=taken, reason=f"td-{name}: ")


@pytest.mark.parametrize(("abi", "name", "value", "taken"), TD_CASES)
def test_the_simulator_gives_that_verdict_of_a_td(
    abi: str, name: str, value: int, taken: bool
) -> None:
    order = ("--page-order", "two-pass") if abi == "kvm-tdx-v19" else ()
    made = run("plan", "--example", "tdx", "--abi", abi, "--format", "json", *order)
    document = edited(made, lambda op: op.update({name: hex(value)} if name in op else {}))
    result, errno = simulated(document, abi, "tdx-init-vm")
    assert result == ("ok" if taken else "error")
    assert taken or errno == ("EINVAL" if abi.startswith("kvm-") else "None")


@pytest.mark.parametrize("abi", ["map-memory", "kvm-6.11", "kvm-7.3"])
@pytest.mark.parametrize(
    ("platform", "policy", "taken"),
    [
        # AMD 55766, "Guest Policy Structure": bit 2 is ES; the call's field has 32 bits
        ("sev", 0x0, True), ("sev", 0x1, True), ("sev", 0x21, True), ("sev", 0x5, False),
        ("sev", 0x100000001, False), ("sev-es", 0x4, True), ("sev-es", 0x5, True),
        ("sev-es", 0x1, False), ("sev-es", 0x100000005, False),
    ],
)  # fmt: skip
def test_every_verb_and_the_simulator_agree_on_policies_of_sev(
    abi: str, platform: str, policy: int, taken: bool, tmp_path: Path
) -> None:
    found = verdicts(tmp_path, platform, abi, {"policy": hex(policy)})
    assert_all_say(found, taken=taken, reason="policy-mask: ")
    image = ("--example", "snp", "--platform", platform, "--abi", abi, "--format", "json")
    document = edited(
        run("plan", *image), lambda op: op.update({"policy": hex(policy)} if "policy" in op else {})
    )
    result, _ = simulated(document, abi, "sev-launch-start")
    assert result == ("ok" if taken else "error")


@pytest.mark.parametrize("abi", ["kvm-6.11", "kvm-6.18", "kvm-7.1", "kvm-7.3"])
@pytest.mark.parametrize(
    ("features", "taken"),
    [(0x0, True), (0x20, True), (0x1, False), (0x200, False), (0x7FFF, False)],
)
def test_every_verb_and_the_simulator_agree_on_sev_features_of_sev_es(
    abi: str, features: int, taken: bool, tmp_path: Path
) -> None:
    # sev_supported_vmsa_features has DEBUG_SWAP; SECURE_TSC is for SNP (corrections 2)
    guest = {"es_init": "init2", "sev_features": hex(features)}
    found = verdicts(tmp_path, "sev-es", abi, guest, ("es_init", "sev_features"))
    assert_all_say(found, taken=taken, reason=f"{abi} refuses SEV_FEATURES")
    options = ("--abi", abi, "--es-init", "init2", "--format", "json")
    image = ("--example", "snp", "--platform", "sev-es", *options)
    changed = {"vmsa_features": hex(features)}
    document = edited(
        run("plan", *image), lambda op: op.update(changed if op["op"] == "init" else {})
    )
    assert simulated(document, abi, "init")[0] == ("ok" if taken else "error")


def test_reserved_bits_of_a_sev_policy_are_said_not_to_be_checked() -> None:
    result = run("check", "--example", "snp", "--platform", "sev", "--policy", "0x41")
    assert result.code == 0
    assert "whether the firmware takes reserved bits of the policy (0x40)" in result.out


@pytest.mark.parametrize(
    ("abi", "example", "words"),
    [
        ("kvm-svsm", "snp", "guest policies and SEV_FEATURES that the kernel refuses (kvm-svsm)"),
        ("rfc-coupled", "snp", "guest policies and SEV_FEATURES that the kernel refuses"),
        ("rfc-eexist", "tdx", "ATTRIBUTES and XFAM that the kernel refuses (rfc-eexist)"),
        ("kvm-tdx-v19", "tdx", "ATTRIBUTES and XFAM that the kernel refuses (kvm-tdx-v19)"),
    ],
)
def test_what_is_not_modelled_is_said_and_not_counted_as_taken(
    abi: str, example: str, words: str
) -> None:
    # ../shared/spec/corrections.md 2, the last row of the table of policies
    made = run("plan", "--example", example, "--format", "json").out.encode()
    assert f"not checked: {words}" in run("simulate", "-", "--abi", abi, stdin=made).out
    if abi.startswith("kvm-"):
        assert f"not checked: {words}" in run("check", "--example", example, "--abi", abi).out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("snp", "--sev-features", "0x21"), "bits 0x20 of SEV_FEATURES 0x21"),
        (("snp", "--sev-features", "0x201"), "bits 0x200 of SEV_FEATURES 0x201"),
        (("snp", "--policy", "0x230000"), "bits 0x200000 of policy 0x230000"),
        (("tdx", "--xfam", "0x2e7"), "bits 0x2e4 of XFAM 0x2e7"),
    ],
)
def test_a_condition_on_the_host_is_said_by_the_simulator_too(
    options: tuple[str, ...], words: str
) -> None:
    made = run("plan", "--example", *options, "--abi", "kvm-7.3", "--format", "json")
    result = run("simulate", "-", stdin=made.out.encode())
    assert result.code == 0
    assert f"not checked: whether the host has {words}" in result.out


def test_sev_features_that_no_interface_has_a_rule_for_are_said_not_to_be_checked() -> None:
    words = "not checked: whether a kernel with map-memory takes SEV_FEATURES 0x"
    assert f"{words}7fff" in run("check", "--example", "snp", "--sev-features", "0x7fff").out
    made = run("plan", "--example", "snp", "--sev-features", "0x7fff", "--format", "json")
    assert f"{words}7ffe" in run("simulate", "-", stdin=made.out.encode()).out


def test_a_bit_that_only_some_modules_take_is_a_note_that_names_them() -> None:
    # PMT_PROF (bit 6) is the module 2.0's; 576 vCPUs are the most from 1.5.06 on
    result = run("check", "--example", "tdx", "--attributes", "0x40", "--vcpus", "600")
    assert result.code == 1  # no module takes both
    one = run("check", "--example", "tdx", "--attributes", "0x40")
    assert (one.code, "that are known, 2.0.12 take it" in one.out) == (0, True)
    many = run("check", "--example", "tdx", "--vcpus", "600")
    assert (many.code, "that are known, 1.5.01 take it" in many.out) == (0, True)


def test_what_reaches_the_module_is_printed_and_alike_for_all_verbs() -> None:
    # ../shared/spec/recording-vmms.md, Differences 1: QEMU's defaults
    wanted = {"attributes": "0x10000000", "xfam": "0x3"}
    for verb in ("plan", "measure", "td-info"):
        assumed = json.loads(run(verb, "--example", "tdx", "--format", "json").out)["assumed"]
        assert {name: assumed[name] for name in wanted} == wanted
    params = json.loads(run("td-params", "--format", "json").out)["assumed"]
    assert {name: params[name] for name in wanted} == wanted
    qemu = profiles.find("qemu")
    assert (qemu.td_attributes, qemu.td_xfam) == (0x10000000, 0x3)


def test_an_xfam_of_zero_is_not_what_reaches_the_module() -> None:
    plan = json.loads(run("plan", "--example", "tdx", "--xfam", "0", "--format", "json").out)
    assert plan["assumed"]["xfam"] == "0x3"
    assert [op["xfam"] for op in plan["ops"] if "xfam" in op] == ["0x3"]


def test_an_author_key_without_an_id_block_is_said_to_have_no_effect() -> None:
    # ../shared/spec/kvm.md 2.3, SNP_LAUNCH_FINISH: auth_key_en only with id_block_en
    result = run("check", "--example", "snp", "--author-key-enabled")
    assert "warning: example:snp: id-block-incomplete: the author key is enabled" in result.out


def test_a_kernel_of_which_only_the_hash_is_known_is_not_checked() -> None:
    firmware = Path("../shared/firmware/OVMF.amdsev.fd")
    if not firmware.exists():
        pytest.skip("../shared is absent")
    result = run("check", str(firmware), "--platform", "snp", "--kernel-hash", "11" * 32)
    assert "not checked: the format of the kernel, because only its hash is given" in result.out
