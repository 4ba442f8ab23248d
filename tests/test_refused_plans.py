"""No digest for a plan that its own kernel would refuse, or of which nobody knows the states."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plans import PAGE, Answers, guest, op, plan, update
from tests.run import Result, assert_refused, run

Document = dict[str, Any]


def planned(platform: str, abi: str, *options: str) -> Document:
    image = "tdx" if platform == "tdx" else "snp"
    options = ("--platform", platform, "--abi", abi, *options)
    document: Document = json.loads(
        run("plan", "--example", image, *options, "--format", "json").out
    )
    return document


def renumbered(document: Document, ops: list[Document]) -> Document:
    return {**document, "measurement": None, "ops": [{**o, "seq": n} for n, o in enumerate(ops)]}


def without(*names: str) -> Callable[[Document], Document]:
    return lambda d: renumbered(d, [o for o in d["ops"] if o["op"] not in names])


def changed(name: str, **fields: Any) -> Callable[[Document], Document]:
    def change(document: Document) -> Document:
        ops = [{**o, **fields} if o["op"] == name else o for o in document["ops"]]
        return renumbered(document, ops)

    return change


def moved_last(name: str) -> Callable[[Document], Document]:
    def move(document: Document) -> Document:
        ops = document["ops"]
        rest = [o for o in ops if o["op"] != name]
        return renumbered(document, [*rest[:-1], *(o for o in ops if o["op"] == name), rest[-1]])

    return move


def other_abi(name: str) -> Callable[[Document], Document]:
    def change(document: Document) -> Document:
        ops = [{k: v for k, v in o.items() if k != "fd"} for o in document["ops"]]
        return {**renumbered(document, ops), "abi": name}

    return change


def vmsa(**fields: Any) -> Callable[[Document], Document]:
    def change(document: Document) -> Document:
        ops = document["ops"]
        last = {**ops[-1], "vmsas": [{**v, **fields} for v in ops[-1]["vmsas"]]}
        return renumbered(document, [*ops[:-1], last])

    return change


SPOILED: dict[str, tuple[str, str, Callable[[Document], Document]]] = {
    "snp_pages_that_are_not_private": ("snp", "kvm-6.16", without("set-private")),
    "snp_pages_without_a_memslot": ("snp", "kvm-6.16", without("set-memslot")),
    "snp_memslots_after_the_adds": ("snp", "kvm-6.16", moved_last("set-memslot")),
    "snp_started_before_it_is_initialised": ("snp", "kvm-6.16", moved_last("init")),
    "snp_policy_that_kvm_refuses": ("snp", "kvm-6.16", changed("snp-launch-start", policy="0x0")),
    "snp_features_that_init_does_not_set": (
        "snp", "kvm-6.16", changed("init", vmsa_features="0x20"),
    ),
    "snp_vmsa_at_another_address": ("snp", "kvm-6.16", vmsa(gpa="0x1000")),
    "snp_vmsa_longer_than_a_page": ("snp", "kvm-6.16", vmsa(hex="00" * 4097)),
    "snp_plan_on_a_kernel_for_tdx": ("snp", "kvm-6.16", other_abi("kvm-tdx-v19")),
    "snp_plan_on_an_interface_that_was_turned_down": ("snp", "kvm-6.16", other_abi("rfc-coupled")),
    "snp_maps_before_the_end_on_mainline": ("snp", "map-memory", other_abi("kvm-7.0")),
    "snp_contents_that_are_not_preserved": (
        "snp", "kvm-in-place", changed("set-private", preserve=False),
    ),
    "snp_written_after_it_is_private": ("snp", "kvm-in-place", moved_last("write")),
    "tdx_plan_on_a_kernel_without_tdx": ("tdx", "kvm-6.16", other_abi("kvm-6.11")),
    "tdx_fused_adds_where_extends_are_apart": ("tdx", "kvm-6.16", other_abi("kvm-tdx-v19")),
    "tdx_two_pass_where_they_are_fused": ("tdx", "kvm-tdx-v19", other_abi("kvm-6.16")),
    "tdx_vcpus_before_the_td": ("tdx", "kvm-6.16", moved_last("tdx-init-vm")),
    "tdx_written_and_not_preserved": (
        "tdx", "kvm-in-place", changed("set-private", preserve=False),
    ),
    "sev_es_state_of_the_other_init": ("sev-es", "kvm-6.11", changed("init", legacy=False)),
}  # fmt: skip


@pytest.mark.parametrize(("platform", "abi", "spoil"), SPOILED.values(), ids=SPOILED)
def test_no_digest_for(
    platform: str, abi: str, spoil: Callable[[Document], Document], tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(planned(platform, abi)))
    assert run("measure", str(path), "--bare").code == 0
    path.write_text(json.dumps(spoil(planned(platform, abi))))
    assert_refused(run("measure", str(path), "--bare"), {1, 3})
    assert run("check", str(path)).code in (1, 3)


def simulated(document: Document) -> Result:
    text = json.dumps(document).encode()
    return run("simulate", "-", "--format", "json", stdin=text)


def test_a_digest_stands_for_the_first_pages_only() -> None:
    known = {"digest_after": "ab" * 48}
    first = update(0x100000, 2 * PAGE, source=known)
    other = update(0x200000)
    for adds, has in (([first, other], True), ([other, first], False)):
        document = plan("snp", guest("snp", *adds), "kvm-6.11")
        answers = Answers(simulated(document))
        assert (answers.digest is not None) is has
        measured = run("measure", "-", "--bare", stdin=json.dumps(document).encode())
        assert (measured.code == 0) is has


@pytest.mark.parametrize("part", ["half of its pages", "another page type"])
def test_a_recording_of_half_a_firmware_is_not_confirmed_by_its_digest(
    part: str, tmp_path: Path
) -> None:
    ops = planned("snp", "kvm-6.11")["ops"]
    adds = [o for o in ops if o["op"] == "snp-launch-update"]
    known = adds[0]["digest_after"]
    size = int(adds[0]["size"], 0)
    lines = [json.dumps({"op": "snp-launch-start"})]
    for number, add in enumerate(adds):
        kept = {k: add[k] for k in ("op", "gpa", "size", "page_type")}
        if number == 0 and part == "half of its pages":
            kept["size"] = hex(size // 2)
        elif number == 0:
            kept["page_type"] = "zero"
        lines.append(json.dumps(kept))
    lines.append(json.dumps({"op": "snp-launch-finish"}))
    log = tmp_path / "launch.jsonl"
    log.write_text("\n".join(lines))
    image = tmp_path / "f.fd"
    image.write_bytes((Path(__file__).parent.parent / "cvmplan/examples/snp.fd").read_bytes())
    options = ("--image", str(image), "--firmware-digest", known, "--format", "json")
    answers = Answers(run("simulate", str(log), *options))
    assert answers.digest is None


def test_a_sev_recording_with_its_image_has_its_digest(tmp_path: Path) -> None:
    image = tmp_path / "f.fd"
    image.write_bytes((Path(__file__).parent.parent / "cvmplan/examples/snp.fd").read_bytes())
    ops = planned("sev", "kvm-6.11")["ops"]
    kept = ("op", "gpa", "size")
    lines = [json.dumps({k: o[k] for k in kept if k in o}) for o in ops if "sev-launch" in o["op"]]
    log = tmp_path / "launch.jsonl"
    log.write_text("\n".join(lines))
    answers = Answers(run("simulate", str(log), "--image", str(image), "--format", "json"))
    wanted = run("measure", str(image), "--platform", "sev", "--bare")
    assert (answers.code, answers.digest) == (0, wanted.out)


def test_sixteen_gigabytes_of_zeros_take_no_memory() -> None:
    """A buffer of that size would fail under any limit; 64 MiB of SEV data show the chunks."""
    held = [op("set-memslot", 0, 64 << 20, slot=0)]
    data = op("sev-launch-update-data", 0, 64 << 20, source={"zeros": True})
    ops = [
        op("create-vm", vm_type="sev"), op("init", vmsa_features="0x0"), *held,
        op("sev-launch-start", policy="0x1"), op("create-vcpu", count=1), data,
        op("sev-launch-measure"), op("sev-launch-finish"),
    ]  # fmt: skip
    answers = Answers(simulated(plan("sev", ops, "kvm-6.11")))
    assert answers.digest == "3b6a07d0d404fab4e23b6d34bc6696a6a312dd92821332385e5af7c01c421351"


def test_an_id_block_of_another_launch_is_an_error_of_check_and_a_warning_of_measure(
    tmp_path: Path,
) -> None:
    """The digest is needed to make the block; the launch would end in BAD_MEASUREMENT."""
    path = tmp_path / "plan.json"
    document = changed("snp-launch-finish", id_block="00" * 96, id_auth="00" * 4096)(
        planned("snp", "kvm-6.16")
    )
    path.write_text(json.dumps(document))
    checked = run("check", str(path), "--format", "json")
    assert checked.code == 1
    assert "id-block-mismatch" in checked.out
    assert "id-block-mismatch" in run("measure", str(path)).out
    answers = Answers(run("simulate", str(path), "--format", "json"))
    assert answers.results[-1]["fw_error"] == 0xB
