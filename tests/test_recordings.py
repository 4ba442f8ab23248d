"""What real VMMs did (cvmplan.recorded/2): read, judged, measured and held against plans."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from hashlib import sha256, sha384
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan import documents
from cvmplan.readers import recorded_calls
from tests.build.igvm import good_snp as good_igvm
from tests.build.recording import PAGE, Tape, taken, written
from tests.docs import SHARED
from tests.recorder import kept
from tests.recorder.launches import SNP_IMAGE
from tests.run import Result, assert_refused, run

FOLDER: Final = SHARED / "vectors" / "recordings"
FIRMWARE: Final = SHARED / "firmware"
SNP: Final = str(FIRMWARE / "OVMF.amdsev.fd")
TDX: Final = str(FIRMWARE / "OVMF.inteltdx.ms.fd")
Line = dict[str, Any]

needs_shared = pytest.mark.skipif(not FOLDER.exists(), reason=f"there is no {FOLDER}")

# Name of the recording: the image that its launch was of, and that launch for `measure`.
LAUNCHES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "snp-sid-EPYC-v4-3": (SNP, ("--platform", "snp", "--vcpus", "3", "--cpu", "EPYC-v4")),
    "snp-trixie-EPYC-Milan-v2-1": (SNP, ("--platform", "snp", "--cpu", "EPYC-Milan-v2")),
    "f-again-sid": (SNP, ("--platform", "snp", "--cpu", "EPYC-v4")),
    "f-part-sid": (SNP, ("--platform", "snp", "--cpu", "EPYC-v4")),
    "sev-sid-off": (SNP, ("--platform", "sev", "--es-init", "init2")),
    "sev-trixie-auto": (SNP, ("--platform", "sev")),
    "es-sid-bios": (
        SNP,
        ("--platform", "sev-es", "--vcpus", "2", "--cpu", "EPYC-v4", "--es-init", "legacy"),
    ),
    "tdx-sid-1": (TDX, ("--platform", "tdx", "--abi", "kvm-6.18")),
    "tdx-sid-big": (TDX, ("--platform", "tdx", "--abi", "kvm-6.18")),
}
# Where the VMM ended before the launch was final, and what it had been told.
ENDED: Final = {
    "es-sid-off": None,  # pflash with INIT2: QEMU ends before the first add
    "f-cpuid-sid": ("snp-launch-update", "EIO"),
    "f-tdbusy": ("tdx-init-mem-region", "EBUSY"),
}


def simulated(recording: bytes | str, *options: str) -> tuple[int, dict[str, Any]]:
    """Return exit code and document of `simulate`."""
    where = "-" if isinstance(recording, bytes) else recording
    stdin = recording if isinstance(recording, bytes) else b""
    result = run("simulate", where, "--format", "json", *options, stdin=stdin)
    assert result.err == "", result.err
    document = json.loads(result.out)
    documents.model("simulation").model_validate(document)
    return result.code, document


def shared(name: str) -> list[Line]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def rules(document: dict[str, Any]) -> set[str]:
    return {finding["rule"] for finding in document["findings"]}


def errors(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(r["op"], r["errno"]) for r in document["results"] if r["result"] == "error"]


# --- the recordings of real VMMs -----------------------------------------------------------------


@needs_shared
def test_all_recordings_are_named_here() -> None:
    kernel = {"snp-sid-kernel"}
    assert {p.stem for p in FOLDER.glob("*.jsonl")} == {*LAUNCHES, *ENDED, *kernel}


@needs_shared
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.jsonl")), ids=lambda path: path.stem)
def test_each_line_fits_the_document(path: Path) -> None:
    model = documents.model("recorded-calls")
    numbers = [model.model_validate_json(line).n for line in path.read_text().splitlines()]
    assert len(numbers) > 100
    assert numbers == sorted(set(numbers))


@needs_shared
@pytest.mark.parametrize("name", LAUNCHES)
def test_a_recording_leads_to_the_digest_of_its_launch(name: str) -> None:
    image, launch = LAUNCHES[name]
    code, document = simulated(str(FOLDER / f"{name}.jsonl"), "--image", image)
    wanted = run("measure", image, *launch, "--vmm", "qemu", "--bare")
    assert (document["digest"], document["finalized"]) == (wanted.out, True), wanted.err
    # The recorder offered ATTRIBUTES.PKS to the VMM, which no released kernel does.
    refused = [("tdx-init-vm", "EINVAL")] if name.startswith("tdx") else []
    assert (errors(document), code) == (refused, 1 if refused else 0)


@needs_shared
def test_a_recorded_direct_boot_leads_to_the_digest_of_its_hashes() -> None:
    """The page of the kernel hashes was recorded; `measure` takes the three hashes in it."""
    page = next(
        bytes.fromhex(line["source"]["hex"]).ljust(PAGE, b"\0")
        for line in shared("snp-sid-kernel")
        if line.get("cmd") == 101 and "hex" in line.get("source", {}) and "0" * 99 in
        line["source"]["hex"][:2000] and line["data"][48:50] == "01"
    )  # fmt: skip
    hashes = {guid: _hash_behind(page, guid) for guid in ("4de79437", "44baf731", "97d02dd8")}
    options = [
        part
        for option, guid in (("kernel", "4de79437"), ("initrd", "44baf731"), ("append", "97d02dd8"))
        for part in (f"--{option}-hash", hashes[guid])
    ]
    wanted = run("measure", SNP, "--platform", "snp", "--vmm", "qemu", "--vcpus", "2", "--cpu",
                 "EPYC-v4", "--policy", "0xb0000", *options, "--bare")  # fmt: skip
    code, document = simulated(str(FOLDER / "snp-sid-kernel.jsonl"), "--image", SNP)
    assert (code, document["digest"]) == (0, wanted.out), wanted.err


def _hash_behind(page: bytes, guid: str) -> str:
    """Return the SHA-256 behind the GUID that begins so (first field little-endian)."""
    at = page.index(bytes.fromhex(guid)[::-1]) + 16 + 2
    return page[at : at + 32].hex()


@needs_shared
@pytest.mark.parametrize("name", ENDED)
def test_a_launch_that_the_vmm_gave_up_is_not_final(name: str) -> None:
    image = TDX if "td" in name else SNP
    code, document = simulated(str(FOLDER / f"{name}.jsonl"), "--image", image)
    refused = ENDED[name]
    assert (code, document["finalized"], document["digest"]) == (1, False, None)
    assert errors(document) == ([refused] if refused else [])
    assert "not-finalized" in rules(document)
    assert not {"added-twice", "maybe-added-twice"} & rules(document)


@needs_shared
@pytest.mark.parametrize("name", ["f-part-sid", "f-again-sid"])
def test_what_was_left_over_is_no_second_add(name: str) -> None:
    _, document = simulated(str(FOLDER / f"{name}.jsonl"), "--image", SNP)
    assert document["findings"] == []
    adds = [r for r in document["results"] if r["op"] == "snp-launch-update"][:3]
    again = "nop" if "again" in name else "ok"
    assert [r["result"] for r in adds] == [again, again, "ok"]


@needs_shared
def test_without_the_image_the_contents_that_are_not_known_are_named() -> None:
    name = "snp-sid-EPYC-v4-3"
    digest = next(d["source"]["sha256"] for d in shared(name) if d.get("cmd") == 101)
    code, document = simulated(str(FOLDER / f"{name}.jsonl"))
    assert (code, document["digest"]) == (0, None)
    told = [f["message"] for f in document["findings"] if f["rule"] == "not-checked"]
    assert len(told) == 1
    assert digest in told[0]


@needs_shared
def test_plain_sev_needs_no_image_for_one_add() -> None:
    """Its digest is the SHA-256 of what is added, and that was recorded."""
    code, document = simulated(str(FOLDER / "sev-sid-off.jsonl"))
    wanted = sha256(Path(SNP).read_bytes()).hexdigest()
    assert (code, document["digest"]) == (0, wanted)


@needs_shared
def test_sev_adds_have_the_guest_address_of_their_memslot() -> None:
    result = run("diff", str(FOLDER / "sev-sid-off.jsonl"), SNP, "--platform", "sev")
    assert "0xffc00000" not in result.out, result.out


# --- sabotage ------------------------------------------------------------------------------------


def original() -> list[Line]:
    """A launch of QEMU 11.1, with lines that may be spoiled."""
    return [json.loads(line) for line in kept.read()["qemu-11.1", "snp-3"].text.splitlines()]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("image") / "snp.fd"
    path.write_bytes(SNP_IMAGE)
    return str(path)


def adds(lines: list[Line]) -> list[int]:
    """Return the positions of SNP's adds."""
    return [n for n, line in enumerate(lines) if line.get("cmd") == 101]


def swap_two_adds(lines: list[Line]) -> list[Line]:
    first, second = adds(lines)[1:3]
    lines[first], lines[second] = lines[second], lines[first]
    return lines


def spoil_a_source(lines: list[Line]) -> list[Line]:
    at = adds(lines)[0]
    data = bytearray(SNP_IMAGE)
    data[0x1234] ^= 1
    lines[at]["source"]["sha256"] = sha256(data).hexdigest()
    return lines


def spoil_rdx(lines: list[Line]) -> list[Line]:
    """RDX of vCPU 1, an application processor: in its state and in what was set."""
    for line in lines:
        if line["on"] == "vcpu" and line.get("i") == 1:
            for key in ("regs", "in") if line.get("call") == "state" else ("in",):
                held = line.get(key)
                if held and (key == "regs" or line["req"] == "0x4090ae82"):
                    line[key] = held[:48] + "ff" + held[50:]
    return lines


def add_a_page_again(lines: list[Line]) -> list[Line]:
    at = adds(lines)[1]
    return [*lines[: adds(lines)[-1] + 1], lines[at], *lines[adds(lines)[-1] + 1 :]]


def set_a_policy_bit(lines: list[Line]) -> list[Line]:
    line = next(one for one in lines if one.get("cmd") == 100)
    line["data"] = "000007" + line["data"][6:]
    return lines


SABOTAGE: Final[dict[str, Callable[[list[Line]], list[Line]]]] = {
    "swapped": swap_two_adds,
    "source": spoil_a_source,
    "rdx": spoil_rdx,
    "again": add_a_page_again,
    "policy": set_a_policy_bit,
}


def sabotaged(how: str) -> bytes:
    return written(SABOTAGE[how](original()))


@pytest.mark.parametrize("how", ["swapped", "rdx"])
def test_sabotage_changes_the_digest(image: str, how: str) -> None:
    _, before = simulated(written(original()), "--image", image)
    _, after = simulated(sabotaged(how), "--image", image)
    assert after["digest"] not in (None, before["digest"])


def test_a_spoiled_source_is_named(image: str) -> None:
    code, document = simulated(sabotaged("source"), "--image", image)
    line = adds(original())[0] + 1
    found = [(f["rule"], f["message"]) for f in document["findings"]]
    assert (code, document["digest"], len(found)) == (1, None, 1)
    assert found[0][0] == "contents-differ"
    assert found[0][1].startswith(f"line {line} added other contents than the image has there")


def test_a_page_added_again_is_named_with_both_lines(image: str) -> None:
    code, document = simulated(sabotaged("again"), "--image", image)
    lines = adds(original())
    wanted = f"line {lines[-1] + 2} adds what line {lines[1] + 1} added"
    found = [f["message"] for f in document["findings"] if f["rule"] == "added-twice"]
    assert code == 1
    assert len(found) == 1
    assert found[0].startswith(wanted)


def test_a_policy_bit_that_kernels_refuse_is_named(image: str) -> None:
    """0x70000 has MIGRATE_MA, which every kernel refuses (spec/corrections.md, 2)."""
    code, document = simulated(sabotaged("policy"), "--image", image)
    refused = next(r for r in document["results"] if r["op"] == "snp-launch-start")
    assert (code, refused["errno"]) == (1, "EINVAL")
    assert "bit 18" in refused["why"]
    assert refused["why"].endswith("it is recorded as done")


# --- against a plan ------------------------------------------------------------------------------


def compared(image: str, recording: bytes | str, *launch: str) -> tuple[int, dict[str, Any]]:
    """Return exit code and document of `diff IMAGE RECORDING`."""
    where = "-" if isinstance(recording, bytes) else recording
    stdin = recording if isinstance(recording, bytes) else b""
    result = run("diff", image, where, *launch, "--format", "json", stdin=stdin)
    assert result.err == "", result.err
    document = json.loads(result.out)
    documents.model("diff").model_validate(document)
    return result.code, document


def told(document: dict[str, Any]) -> set[tuple[str, str]]:
    """Return (what, field) of each difference."""
    return {(d["what"], d["where"].rpartition(": ")[2]) for d in document["differences"]}


# What differs and is no deviation: the recorder offered the VMM other masks than any kernel does.
MASKS: Final = {("KVM_TDX_INIT_VM", "attributes"), ("KVM_TDX_INIT_VM", "xfam")}
DIFFERENCES: Final[dict[str, set[tuple[str, str]]]] = {
    "tdx-sid-1": MASKS,
    "tdx-sid-big": MASKS | {("KVM_TDX_INIT_VM", "mrconfigid")},
}
COUNTS: Final = {"tdx-sid-big": "2", "sev-sid-off": "2", "sev-trixie-auto": "2"}


@needs_shared
@pytest.mark.parametrize("name", LAUNCHES)
def test_the_calls_of_a_vmm_are_those_of_its_plan(name: str) -> None:
    image, launch = LAUNCHES[name]
    launch += ("--vcpus", COUNTS[name]) if name in COUNTS else ()
    code, document = compared(image, str(FOLDER / f"{name}.jsonl"), "--vmm", "qemu", *launch)
    wanted = DIFFERENCES.get(name, set())
    assert (told(document), code) == (wanted, 1 if wanted else 0)
    assert (document["parting"], document["same_measurement"]) == (None, True)
    calls = document["calls"]
    assert calls["compared"] > 6
    assert calls["differences"] == len(wanted)
    assert all(d["reason"] and d["count"] for d in calls["deviations"])


@needs_shared
def test_a_legacy_vm_type_is_named_where_the_plan_has_none() -> None:
    image, launch = LAUNCHES["sev-trixie-auto"]
    path = str(FOLDER / "sev-trixie-auto.jsonl")
    options = (*launch, "--vcpus", "2", "--es-init", "init2")
    code, document = compared(image, path, *options)
    wanted = {("KVM_CREATE_VM", "argument"), ("KVM_SEV_INIT2", "op 1"), ("KVM_SEV_INIT", "line 41")}
    assert (told(document), document["same_measurement"], code) == (wanted, True, 1)


@needs_shared
def test_a_guest_address_width_that_was_not_asked_for_is_named() -> None:
    image, launch = LAUNCHES["tdx-sid-1"]
    path = str(FOLDER / "tdx-sid-1.jsonl")
    code, document = compared(image, path, *launch, "--gpaw", "52")
    assert told(document) == MASKS | {("KVM_TDX_INIT_VM", "guest address width")}
    assert code == 1


SNP_LAUNCH: Final = ("--vcpus", "3", "--cpu", "EPYC-v4", "--vmm", "qemu")


def test_two_adds_that_are_swapped_are_named(image: str) -> None:
    code, document = compared(image, sabotaged("swapped"), *SNP_LAUNCH)
    assert (code, document["same_measurement"]) == (1, False)
    order = [d for d in document["differences"] if d["what"] == "order"]
    assert [d["where"] for d in order] in (["0x800000-0x808fff"], ["0x80a000-0x80cfff"])


def test_a_byte_of_a_source_is_named_by_its_pages_and_hashes(image: str) -> None:
    code, document = compared(image, sabotaged("source"), *SNP_LAUNCH)
    wanted = sha256(SNP_IMAGE).hexdigest()
    found = next(d for d in document["differences"] if d["what"] == "contents")
    assert (code, found["where"], found["measured"]) == (1, "0xfffe0000-0xffffffff", True)
    assert wanted in found["a"]
    assert wanted not in found["b"]


def test_two_recordings_are_compared_by_the_hashes_of_their_contents(tmp_path: Path) -> None:
    (tmp_path / "original").write_bytes(written(original()))
    spoiled_source = tmp_path / "spoiled"
    spoiled_source.write_bytes(sabotaged("source"))
    code, document = compared(str(tmp_path / "original"), str(spoiled_source))
    found = [d["where"] for d in document["differences"]]
    assert (code, found) == (1, ["0xfffe0000-0xffffffff"])


def test_rdx_of_an_application_processor_is_named(image: str) -> None:
    code, document = compared(image, sabotaged("rdx"), *SNP_LAUNCH)
    states = [d for d in document["differences"] if d["what"] == "vCPU state"]
    assert (code, document["same_measurement"]) == (1, False)
    assert [(d["where"], d["a"], d["b"]) for d in states] == [
        ("vCPU 1 rdx", "0x800f12", "0x800fff")
    ]


@pytest.mark.parametrize("key", ["regs", "in"])
def test_registers_that_are_not_those_that_were_set_are_named(image: str, key: str) -> None:
    """RDX of vCPU 1 in its state alone, or in what was set alone."""
    lines = original()
    for line in lines:
        mine = line["on"] == "vcpu" and line.get("i") == 1 and key in line
        if mine and (key == "regs" or line["req"] == "0x4090ae82"):
            line[key] = line[key][:48] + "ff" + line[key][50:]
    code, document = simulated(written(lines), "--image", image)
    values = ("0x800f12", "0x800fff") if key == "regs" else ("0x800fff", "0x800f12")
    told_of = [f["message"] for f in document["findings"] if f["rule"] == "state-differs"]
    wanted = f"vCPU 1: rdx was set to {values[0]} and is {values[1]} in the end"
    assert (code, told_of) == (1, [wanted])
    code, document = compared(image, written(lines), *SNP_LAUNCH)
    assert code == 1
    assert "vCPU 1 rdx" in {d["where"] for d in document["differences"]}


def test_a_policy_bit_is_named_by_call_and_field(image: str) -> None:
    code, document = compared(image, sabotaged("policy"), *SNP_LAUNCH)
    found = [d for d in document["differences"] if d["what"] == "KVM_SEV_SNP_LAUNCH_START"]
    assert code == 1
    assert [(d["where"].rpartition(": ")[2], d["a"], d["b"]) for d in found] == [
        ("policy", "0x30000", "0x70000")
    ]


def test_a_page_that_is_added_again_is_named(image: str) -> None:
    code, document = compared(image, sabotaged("again"), *SNP_LAUNCH)
    found = {d["what"] for d in document["differences"]}
    assert code == 1
    assert {"added twice", "KVM_SEV_SNP_LAUNCH_UPDATE"} <= found


def test_known_deviations_are_counted_in_text(image: str) -> None:
    result = run("diff", image, "-", *SNP_LAUNCH, stdin=written(original()))
    assert result.code == 0
    assert "known deviations: " in result.out
    assert "zero-source  5 " in result.out


def test_a_plan_for_an_interface_without_calls_is_compared_by_its_pages(image: str) -> None:
    launch = (*SNP_LAUNCH, "--abi", "map-memory")
    code, document = compared(image, written(original()), *launch)
    assert (code, "calls" in document, document["same_measurement"]) == (0, False, True)


# --- what a VMM makes again ----------------------------------------------------------------------


def repeats(*args: str) -> list[tuple[str, str | None, str | None]]:
    """Return (operation, repeat, retry) of the adds in the calls of a plan."""
    result = run("plan", *args, "--abi", "kvm-6.18", "--format", "calls")
    calls = [json.loads(line) for line in result.out.splitlines()]
    adds_of = [c for c in calls if c["op"] in ("snp-launch-update", "tdx-init-mem-region")]
    assert adds_of, result.err
    return [(c["op"], c.get("repeat"), c.get("retry")) for c in adds_of]


def test_qemu_makes_an_add_again_for_its_rest_and_never_a_refused_cpuid_page() -> None:
    """spec/recording-vmms.md, 6 and 7; spec/kvm.md, 3.1."""
    snp = set(repeats("--example", "snp", "--platform", "snp", "--vmm", "qemu"))
    assert snp == {("snp-launch-update", "while len is not 0, and on EAGAIN", None)}
    tdx = set(repeats("--example", "tdx", "--platform", "tdx", "--vmm", "qemu"))
    again = "on EAGAIN and EINTR, with the struct as it was left"
    assert tdx == {("tdx-init-mem-region", again, None)}


def test_cloud_hypervisor_makes_each_add_once_and_tries_the_cpuid_page_again(
    tmp_path: Path,
) -> None:
    """spec/kvm.md, 3.2."""
    path = tmp_path / "guest.igvm"
    path.write_bytes(good_igvm().build())
    found = repeats(str(path), "--platform", "snp", "--vmm", "cloud-hypervisor")
    assert {repeat for _, repeat, _ in found} == {None}
    assert len([retry for *_, retry in found if retry]) == 1


def test_a_profile_file_says_what_its_vmm_makes_again(tmp_path: Path) -> None:
    profile = json.loads(run("profiles", "qemu", "--format", "json").out)
    profile |= {"name": "mine", "retries_cpuid": True}
    profile["practices"]["tdx"]["repeats"] = ["EAGAIN", "EINTR", "EBUSY"]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(profile))
    found = repeats("--example", "snp", "--platform", "snp", "--vmm", str(path))
    assert len([retry for *_, retry in found if retry]) == 1
    tdx = repeats("--example", "tdx", "--platform", "tdx", "--vmm", str(path))
    told_errors = "on EAGAIN and EINTR and EBUSY, with the struct as it was left"
    assert {repeat for _, repeat, _ in tdx} == {told_errors}


# --- recordings made here ------------------------------------------------------------------------


def page_info(before: bytes, kind: int, gpa: int, contents: bytes) -> bytes:
    """AMD 56860: the launch digest after one page."""
    middle = (0x70).to_bytes(2, "little") + bytes((kind, 0)) + bytes(4)
    return sha384(before + contents + middle + gpa.to_bytes(8, "little")).digest()


def snp_tape(*, vcpus: int = 1) -> Tape:
    tape = Tape()
    tape.begin(vcpus)
    return tape


def test_the_digest_follows_from_contents_alone() -> None:
    tape = snp_tape(vcpus=0)
    data = b"data" * 2048
    tape.update(0x100000, 2 * PAGE, source=taken(data))
    tape.update(0x200000, PAGE, "zero")
    tape.finish()
    _, document = simulated(tape.text(), "--abi", "kvm-6.18")
    digest = bytes(48)
    for n in range(2):
        page = sha384(data[n * PAGE : (n + 1) * PAGE]).digest()
        digest = page_info(digest, 1, 0x100000 + n * PAGE, page)
    digest = page_info(digest, 3, 0x200000, bytes(48))
    assert document["digest"] == digest.hex()


def vmsa(rip: int, cs_base: int, rdx: int) -> bytes:
    """
    Return a VMSA of the reset state; offsets by APM volume 2, appendix B.

    EFER.SVME and CR4.MCE are KVM's, FCW and MXCSR the initial FPU state.
    """
    page = bytearray(PAGE)
    for n, (selector, attrib, base) in enumerate(
        [
            (0, 0x93, 0),
            (0xF000, 0x9B, cs_base),
            *[(0, 0x93, 0)] * 4,
            (0, 0, 0),
            (0, 0x82, 0),
            (0, 0, 0),
            (0, 0x8B, 0),
        ]
    ):
        page[16 * n : 16 * n + 16] = b"".join(
            value.to_bytes(size, "little")
            for value, size in ((selector, 2), (attrib, 2), (0xFFFF, 4), (base, 8))
        )
    fields = {
        0xD0: 0x1000, 0x148: 0x40, 0x158: 0x10, 0x160: 0x400, 0x168: 0xFFFF0FF0, 0x170: 2,
        0x178: rip, 0x268: 0x7040600070406, 0x310: rdx, 0x3B0: 1, 0x3E8: 1, 0x408: 0x1F80,
        0x410: 0x37F,
    }  # fmt: skip
    for at, value in fields.items():
        page[at : at + 8] = (int.from_bytes(page[at : at + 8], "little") | value).to_bytes(
            8, "little"
        )
    return bytes(page)


def test_the_states_of_vcpus_are_measured_as_kvm_builds_them() -> None:
    tape = snp_tape(vcpus=2)
    tape.update(0x200000, PAGE, "zero")
    tape.finish()
    tape.state(0, 0xFFF0, 0xFFFF0000, 0x800F12)
    tape.state(1, 0xB004, 0x800000, 0x800F12)
    code, document = simulated(tape.text(), "--abi", "kvm-6.18")
    digest = page_info(bytes(48), 3, 0x200000, bytes(48))
    for page in (vmsa(0xFFF0, 0xFFFF0000, 0x800F12), vmsa(0xB004, 0x800000, 0x800F12)):
        digest = page_info(digest, 2, 0xFFFFFFFFF000, sha384(page).digest())
    assert (code, document["digest"]) == (0, digest.hex())


def test_a_vcpu_without_a_state_leaves_the_digest_unknown() -> None:
    tape = snp_tape(vcpus=2)
    tape.finish()
    tape.state(0, 0xFFF0, 0xFFFF0000, 0x800F12)
    _, document = simulated(tape.text())
    assert document["digest"] is None
    finish = next(r for r in document["results"] if r["op"] == "snp-launch-finish")
    assert "vCPU states" in finish["why"]


def test_a_vcpu_without_a_state_is_not_compared(tmp_path: Path) -> None:
    tape = snp_tape(vcpus=2)
    tape.finish()
    tape.state(1, 0xFFF0, 0xFFFF0000, 0x800F12)
    path = tmp_path / "recording"
    path.write_bytes(tape.text())
    result = run("diff", str(path), str(path), "--format", "json")
    assert (result.code, result.err) == (0, "")
    assert any("has 1 of 2" in told for told in json.loads(result.out)["not_compared"])


def test_a_partial_add_is_told_by_what_it_took() -> None:
    """The first call takes 2 of 4 pages and returns 0; the second takes the rest."""
    tape = snp_tape()
    data = bytes(range(256)) * 64
    tape.update(0x100000, 4 * PAGE, source=taken(data[: 2 * PAGE]))
    tape.update(0x102000, 2 * PAGE, source=taken(data[2 * PAGE :]))
    tape.finish()
    code, document = simulated(tape.text())
    assert (code, document["findings"]) == (0, [])


def test_a_partial_add_without_its_rest_or_sources_is_no_second_add() -> None:
    """recorded/1: 0, and then the end of the range; a kernel takes no page of SNP twice."""
    first = {"op": "snp-launch-update", "gpa": "0x100000", "size": "0x4000", "page_type": "normal"}
    lines: list[Line] = [{"op": "snp-launch-start"}, {**first, "ret": 0},
             {**first, "gpa": "0x102000", "size": "0x2000", "ret": 0},
             {"op": "snp-launch-finish"}]  # fmt: skip
    code, document = simulated(written(lines))
    assert (code, document["findings"]) == (0, [])


def test_a_rest_that_is_asked_for_again_or_refused_is_no_second_add(tmp_path: Path) -> None:
    """
    recorded/1 without rests and sources, as a VMM's loop makes them.

    Linux arch/x86/kvm/svm/sev.c, snp_launch_update: a call that adds a page answers 0, also where
    it stops at the next one, and the call for that one has the errno.
    """
    first = {"op": "snp-launch-update", "gpa": "0x100000", "size": "0x4000", "page_type": "normal"}
    rest = {**first, "gpa": "0x102000", "size": "0x2000"}
    begin: list[Line] = [{"op": "snp-launch-start"}, {**first, "ret": 0}]
    again = [*begin, {**rest, "ret": -11}, {**rest, "ret": 0}, {"op": "snp-launch-finish"}]
    code, document = simulated(written(again))
    assert (code, document["findings"]) == (0, [])
    whole_file = tmp_path / "whole.jsonl"
    whole_file.write_bytes(written([*begin, {"op": "snp-launch-finish"}]))
    assert compared(str(whole_file), written(again))[1]["differences"] == []
    _, document = simulated(written([*begin, {**rest, "ret": -5}]))
    found = {f["rule"]: (f.get("first"), f.get("last")) for f in document["findings"]}
    assert found.pop("maybe-added-twice") == ("0x102000", "0x103000")
    assert "added-twice" not in found
    whole = simulated(written([*begin, {**first, "ret": -5}]))[1]
    assert "added-twice" in {f["rule"] for f in whole["findings"]}


@pytest.mark.parametrize(("errno", "name"), [(11, "EAGAIN"), (4, "EINTR"), (16, "EBUSY")])
def test_a_call_that_is_made_again_is_no_second_add(errno: int, name: str) -> None:
    tape = Tape("tdx")
    tape.begin()
    tape.command(2, on="vcpu", flags=0, rcx="0x809000")
    tape.region(0x100000, 2 * PAGE, -errno, source=taken(b"\1" * PAGE))
    tape.region(0x101000, PAGE, source=taken(b"\1" * PAGE))
    tape.finish()
    code, document = simulated(tape.text())
    adds_of = [r for r in document["results"] if r["op"] == "tdx-init-mem-region"]
    assert (code, document["findings"]) == (0, [])
    assert [(r["result"], r.get("errno")) for r in adds_of] == [("nop", name), ("ok", None)]


@pytest.mark.parametrize(("errno", "name"), [(11, "EAGAIN"), (16, "EBUSY")])
def test_a_call_that_is_not_made_again_ended_the_launch(errno: int, name: str) -> None:
    tape = Tape("tdx")
    tape.begin()
    tape.command(2, on="vcpu", flags=0, rcx="0x809000")
    tape.region(0x100000, 2 * PAGE, -errno, source=taken(b"\1" * PAGE))
    code, document = simulated(tape.text())
    assert (code, errors(document)) == (1, [("tdx-init-mem-region", name)])


def test_a_refused_cpuid_page_may_be_tried_once_more() -> None:
    tape = snp_tape(vcpus=0)
    tape.update(0x10E000, PAGE, "cpuid", -5, fw_error=0x16, source=taken(b""))
    tape.update(0x10E000, PAGE, "cpuid", source=taken(b"\1" * PAGE))
    tape.finish()
    code, document = simulated(tape.text())
    assert (code, errors(document)) == (0, [])


# --- malformed ------------------------------------------------------------------------------------


def spoiled(**more: Any) -> bytes:
    """A recording whose third line has these keys instead."""
    tape = snp_tape()
    tape.lines[2].update(more)
    return tape.text()


MALFORMED: Final = {
    "an unknown key": spoiled(other=1),
    "a short struct": spoiled(data="00"),
    "no hex": spoiled(data="zz"),
    "an odd number of digits": spoiled(data="0"),
    "a wrong type": spoiled(ret="0"),
    "an MSR that is no number": spoiled(msr_277="x"),
    "another hash": spoiled(source={"size": 4, "sha256": "0" * 64, "hex": "00000001"}),
    "more bytes than its size": spoiled(source={"size": 1, "sha256": "0" * 64, "hex": "0001"}),
    "no number": spoiled(req="open"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_recording_is_one_error_with_its_line(what: str) -> None:
    result = run("simulate", "-", stdin=MALFORMED[what])
    assert_refused(result, {3})
    assert result.err.startswith("error: -:3"), result.err


def test_a_line_that_is_cut_off_is_named() -> None:
    text = snp_tape().text()
    result: Result = run("simulate", "-", stdin=text[:-10])
    assert_refused(result, {3})
    assert result.err.startswith(f"error: -:{len(text.splitlines())}: "), result.err


def test_a_recording_without_a_vm_is_refused() -> None:
    tape = Tape()
    tape.update(0x100000, PAGE)
    assert_refused(run("simulate", "-", stdin=tape.text()), {3})


def test_a_recording_of_too_many_calls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_calls, "MOST_CALLS", 5)
    result = run("simulate", "-", stdin=snp_tape().text())
    assert_refused(result, {4})
    assert "more than 5 calls" in result.err


def test_time_is_linear_in_the_calls() -> None:
    """Ten thousand adds, memslots and attributes: no step looks at all that came before."""
    tape = Tape(memory=1 << 30)
    tape.begin()
    for n in range(10_000):
        tape.update(0x100000 + 2 * n * PAGE, PAGE, "zero")
    tape.finish()
    began = time.process_time()
    code, document = simulated(tape.text())
    assert (code, errors(document)) == (0, [])
    assert time.process_time() - began < 20
