"""Plans as documents: what is wrong in one is refused with its place, without a digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.build.ovmf import good_snp, good_tdx
from tests.run import Result, assert_refused, run

Document = dict[str, Any]


def planned(folder: Path, data: bytes, *options: str) -> Document:
    """Return the plan of an image that lies in `folder`."""
    (folder / "f.fd").write_bytes(data)
    result = run("plan", str(folder / "f.fd"), "--format", "json", *options)
    document: Document = json.loads(result.out)
    return document


def measured(folder: Path, document: Document, *options: str) -> Result:
    """Write a plan beside its inputs and measure it."""
    path = folder / "plan.json"
    path.write_text(json.dumps(document))
    return run("measure", str(path), "--bare", *options)


INIT, START, IMAGE, ZERO, FINISH = "init", "snp-launch-start", "first add", "second add", "finish"


def number_of(document: Document, what: str) -> int:
    """Return the number of an operation of an SNP plan."""
    adds = [op["seq"] for op in document["ops"] if op["kind"] == "add"]
    first = {op["op"]: op["seq"] for op in reversed(document["ops"])}
    last = len(document["ops"]) - 1
    return int({IMAGE: adds[0], ZERO: adds[1], FINISH: last}.get(what, first.get(what, -1)))


def create_vcpus_last(document: Document, **finish: Any) -> None:
    document["ops"][-1].update(finish)
    created = next(op for op in document["ops"] if op["op"] == "create-vcpu")
    document["ops"].remove(created)
    document["ops"].append(created)
    for number, op in enumerate(document["ops"]):
        op["seq"] = number


def set_in(*path: str | int, value: Any) -> Callable[[Document], None]:
    """Return what puts `value` at `path` of a document."""

    def spoil(document: Document) -> None:
        holder: Any = document
        for part in path[:-1]:
            named = isinstance(holder, list) and isinstance(part, str)
            holder = holder[number_of(document, str(part)) if named else part]
        holder[path[-1]] = value

    return spoil


SPOILED: dict[str, tuple[Callable[[Document], None], int, str]] = {
    "another_schema": (set_in("schema", value="cvmplan.plan/2"), 3, "schema"),
    "a_platform_that_is_not_there": (set_in("platform", value="sgx"), 3, "platform"),
    "an_operation_of_another_platform": (set_in("platform", value="tdx"), 3, "ops["),
    "an_unknown_operation": (set_in("ops", IMAGE, "op", value="snp-launch-udpate"), 3, "ops["),
    "an_unknown_key": (set_in("ops", IMAGE, "level", value=1), 3, "level"),
    "a_wrong_kind": (set_in("ops", IMAGE, "kind", value="map"), 3, "kind"),
    "a_sequence_with_a_gap": (set_in("ops", IMAGE, "seq", value=7), 3, "ops["),
    "an_input_that_is_not_listed": (set_in("ops", IMAGE, "source", "input", value=1), 3, "ops["),
    "an_offset_past_the_end": (set_in("ops", IMAGE, "source", "offset", value=1), 3, "f.fd"),
    "a_length_past_the_run": (set_in("ops", IMAGE, "size", value="0x1000"), 3, "ops["),
    "a_negative_length": (set_in("ops", IMAGE, "source", "length", value=-1), 3, "length"),
    "two_sources": (set_in("ops", IMAGE, "source", "zeros", value=True), 3, "source"),
    "a_source_without_its_length": (
        set_in("ops", IMAGE, "source", value={"input": 0}), 3, "source",
    ),
    "hex_longer_than_the_run": (
        set_in("ops", IMAGE, "source", value={"hex": "00" * 32768, "at": 1}), 3, "ops[",
    ),
    "an_unaligned_address": (
        set_in("ops", IMAGE, "gpa", value="0x1"), 1, "refuses snp-launch-update",
    ),
    "an_empty_run": (set_in("ops", ZERO, "size", value="0x0"), 1, "refuses snp-launch-update"),
    "a_page_added_twice": (set_in("ops", ZERO, "gpa", value="0xfffff000"), 1, "added before"),
    "more_pages_than_are_taken": (
        lambda d: d["ops"][number_of(d, ZERO)].update(gpa=hex(1 << 32), size=hex(1 << 37)),
        4, "64 GiB",
    ),
    "a_page_past_52_bits": (set_in("ops", ZERO, "gpa", value="0x10000000000000"), 1, "no memslot"),
    "measured_pages_that_the_host_fills": (
        set_in("ops", IMAGE, "source", value={"vmm": "cpuid"}), 1, "not measurable",
    ),
    "a_short_digest": (
        set_in("ops", IMAGE, "source", value={"digest_after": "00" * 47}), 3, "digest_after",
    ),
    "vcpus_with_a_gap": (set_in("ops", FINISH, "vmsas", 1, "vcpus", value="2-3"), 3, "vmsas"),
    "vcpus_downwards": (set_in("ops", FINISH, "vmsas", 1, "vcpus", value="2-1"), 3, "vmsas"),
    "a_long_vmsa": (set_in("ops", -1, "vmsas", 0, "hex", value="00" * 4097), 3, "4096"),
    "vcpus_that_were_not_created": (
        set_in("ops", FINISH, "vmsas", 1, "vcpus", value="1-9"), 1, "vCPU",
    ),
    "no_vmsa": (set_in("ops", FINISH, "vmsas", value=[]), 1, "vCPU"),
    "a_vmsa_without_its_address": (
        set_in("ops", FINISH, "vmsas", 0, "gpa", value=None), 3, "vmsas",
    ),
    "a_vmsa_page_from_user_space": (set_in("ops", ZERO, "page_type", value="vmsa"), 1, "VMSA"),
    "a_vm_of_another_type": (set_in("ops", 0, "vm_type", value="tdx"), 1, "create-vm"),
    "no_vm": (lambda d: d["ops"].pop(0), 3, "create-vm"),
    "a_null_source": (set_in("ops", IMAGE, "source", value={"zeros": None}), 3, "source"),
    "bytes_past_the_first_page": (
        set_in("ops", IMAGE, "source", value={"hex": "00", "at": 1 << 34}), 3, "ops[",
    ),
    "a_digest_that_is_not_reached": (
        set_in("measurement", "digest", value="00" * 48), 1, "the plan says",
    ),
    "a_register_of_another_platform": (
        set_in("measurement", "register", value="MRTD"), 1, "the plan says",
    ),
    "a_wrong_number_of_pages": (set_in("measurement", "pages", value=1), 1, "the plan says"),
    "vcpus_that_its_settings_deny": (set_in("given", "vcpus", value=64), 3, "vCPUs"),
    "a_width_that_is_no_number": (set_in("given", "gpaw", value="52"), 3, "gpaw"),
    "no_init": (lambda d: d["ops"].pop(1), 3, "init"),
    "vcpus_created_last": (create_vcpus_last, 1, "vCPU"),
    "vcpus_created_last_and_no_vmsa": (lambda d: create_vcpus_last(d, vmsas=[]), 1, "vCPU"),
    "an_error_among_its_findings": (
        set_in("findings", value=[{"rule": "empty-region", "severity": "error", "message": "x"}]),
        1, "empty-region",
    ),
    "no_start": (lambda d: d["ops"].pop(number_of(d, START)), 3, "ops["),
    "a_changed_hash": (set_in("inputs", 0, "sha256", value="00" * 32), 3, "has changed"),
    "another_file": (set_in("inputs", 0, "path", value="g.fd"), 3, "not found"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "code", "place"), SPOILED.values(), ids=SPOILED)
def test_refused(tmp_path: Path, spoil: Callable[[Document], None], code: int, place: str) -> None:
    document = planned(tmp_path, good_snp().build(), "--vcpus", "3")
    assert measured(tmp_path, document).code == 0
    spoil(document)
    result = measured(tmp_path, document)
    assert_refused(result, {code})
    assert place in result.err


def test_an_operation_left_out_is_seen(tmp_path: Path) -> None:
    """Each control operation is needed; without one the order is not legal."""
    for image in (good_snp(), good_tdx()):
        whole = planned(tmp_path, image.build())
        for number, op in enumerate(whole["ops"]):
            if op["op"] in ("create-vm", "create-vcpu", "init") or op["kind"] != "control":
                continue
            ops = whole["ops"][:number] + whole["ops"][number + 1 :]
            shorter = whole | {"ops": [o | {"seq": n} for n, o in enumerate(ops)]}
            assert_refused(measured(tmp_path, shorter), {1})


def test_a_plan_takes_no_settings(tmp_path: Path) -> None:
    document = planned(tmp_path, good_snp().build())
    assert_refused(measured(tmp_path, document, "--vcpus", "2"), {2})


def test_a_plan_from_standard_input_is_found_by_its_hash(tmp_path: Path) -> None:
    data = good_snp().build()
    document = json.loads(run("plan", "-", "--format", "json", stdin=data).out)
    store = tmp_path / "store"
    store.mkdir()
    assert_refused(measured(tmp_path, document, "--inputs", str(store)), {3})
    (store / "other.bin").write_bytes(b"other")
    (store / "some.bin").write_bytes(data)
    again = measured(tmp_path, document, "--inputs", str(store))
    assert again.out == document["measurement"]["digest"]
    assert_refused(measured(tmp_path, document, "--inputs", str(tmp_path / "none")), {3})


def test_a_digest_given_for_the_firmware_survives_the_plan(tmp_path: Path) -> None:
    seed = "ab" * 48
    document = planned(tmp_path, good_snp().build(), "--firmware-digest", seed)
    image = number_of(document, IMAGE)
    assert document["ops"][image]["source"] == {"digest_after": seed}
    assert document["ops"][image]["digest_after"] == seed
    (tmp_path / "f.fd").unlink()
    assert measured(tmp_path, document).out == document["measurement"]["digest"]


def test_a_plan_is_no_image_for_maps(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(planned(tmp_path, good_snp().build())))
    assert_refused(run("map", str(path)), {4})
    assert run("check", str(path)).code == 0
    assert "f.fd" in run("inspect", str(path)).out
    assert "SNP_LAUNCH_FINISH" in run("trace", str(path)).out
