"""Plans for each kernel: simulated to their end, refused where another kernel refuses them."""

from __future__ import annotations

import ast
import json
import re
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import cvmplan
from cvmplan.kvm import abi as abis
from cvmplan.kvm.abi import ABIS
from tests.build.ovmf import good_snp, good_tdx
from tests.manifests import document, region, write
from tests.oracles.firmware import FakePsp
from tests.plans import PAGE, Answers, guest, op, plan, simulate, update
from tests.run import assert_refused, run
from tests.test_layers import code_without_prose

PLATFORMS = ("snp", "tdx", "sev", "sev-es", "sw-protected", "default")
MEASURED = ("snp", "tdx", "sev", "sev-es")
SIMULATED = [a for a in ABIS.values() if a.plans and a.simulates]
PAIRS = [(a.name, p) for a in SIMULATED for p in PLATFORMS if p in a.vm_types]
MEASURE_FIELDS = ("vmsa_scope", "es_fpu_state", "default_sev_features", "tdx_extend")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two good images, by the platforms that launch them."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "snp.fd").write_bytes(good_snp().build())
    (folder / "tdx.fd").write_bytes(good_tdx().build())
    return {p: str(folder / ("tdx.fd" if p == "tdx" else "snp.fd")) for p in PLATFORMS}


def planned(image: str, platform: str, abi: str, *options: str) -> str:
    result = run("plan", image, "--platform", platform, "--abi", abi, "--format", "json", *options)
    assert result.code == 0, result.err
    return result.out


def answers_of(document: str, *options: str) -> Answers:
    return Answers(run("simulate", "-", "--format", "json", *options, stdin=document.encode()))


@pytest.mark.parametrize(("abi", "platform"), PAIRS)
@pytest.mark.parametrize("vcpus", ["1", "3"])
def test_a_plan_is_accepted_to_its_end_and_reaches_the_digest_of_measure(
    images: dict[str, str], abi: str, platform: str, vcpus: str
) -> None:
    image = images[platform]
    options: tuple[str, ...] = ("--vcpus", vcpus, "--prefault", "0x10000000+4MiB")
    if abi == "kvm-tdx-v19":
        options = options[:2]
    answers = answers_of(planned(image, platform, abi, *options), "--abi", abi)
    assert answers.errors() == []
    assert answers.code == 0
    assert answers.finalized
    if platform in MEASURED:
        measured = run(
            "measure", image, "--platform", platform, "--abi", abi, "--vcpus", vcpus, "--bare"
        )
        assert answers.digest == measured.out


@pytest.mark.parametrize("abi", [a.name for a in ABIS.values() if not a.simulates])
def test_an_interface_for_plans_only_is_not_simulated(abi: str) -> None:
    document = json.dumps(plan("snp", guest("snp", update(0)))).encode()
    assert_refused(run("simulate", "-", "--abi", abi, stdin=document), {4})


@pytest.mark.parametrize("abi", [a.name for a in ABIS.values() if not a.plans])
def test_an_interface_that_was_turned_down_gets_no_plans(images: dict[str, str], abi: str) -> None:
    assert_refused(run("plan", images["snp"], "--platform", "snp", "--abi", abi), {4})


@pytest.mark.parametrize(
    ("abi", "platform"),
    [(a.name, p) for a in ABIS.values() for p in PLATFORMS if p not in a.vm_types],
)
def test_a_guest_that_a_kernel_does_not_have_is_not_planned(
    images: dict[str, str], abi: str, platform: str
) -> None:
    assert_refused(run("plan", images[platform], "--platform", platform, "--abi", abi), {4})


def test_the_measurement_depends_on_four_fields_of_the_interface_and_on_nothing_else(
    images: dict[str, str],
) -> None:
    digests: dict[tuple[str, str], str] = {}
    for abi, platform in PAIRS:
        if platform in MEASURED:
            options = ("--platform", platform, "--abi", abi, "--vcpus", "3", "--bare")
            result = run("measure", images[platform], *options)
            assert result.code == 0
            digests[abi, platform] = result.out
    alike = 0
    for (one, platform), (other, also) in combinations(digests, 2):
        fields = [[getattr(ABIS[name], f) for f in MEASURE_FIELDS] for name in (one, other)]
        if platform == also and fields[0] == fields[1]:
            assert digests[one, platform] == digests[other, platform]
            alike += 1
    assert alike > 40
    assert digests["kvm-svsm", "snp"] != digests["kvm-6.11", "snp"]
    assert digests["kvm-tdx-v19", "tdx"] != digests["kvm-6.16", "tdx"]


def test_only_the_boot_vcpu_counts_where_only_its_state_is_measured(images: dict[str, str]) -> None:
    options = ("--platform", "snp", "--bare")
    one = run("measure", images["snp"], *options, "--vcpus", "1").out
    for vcpus in ("1", "2", "7"):
        many = run("measure", images["snp"], *options, "--abi", "kvm-svsm", "--vcpus", vcpus)
        assert many.out == one


def test_the_patches_of_2024_measure_what_two_pass_measures(images: dict[str, str]) -> None:
    options = ("--platform", "tdx", "--bare")
    v19 = run("measure", images["tdx"], *options, "--abi", "kvm-tdx-v19")
    assert v19.out == run("measure", images["tdx"], *options, "--page-order", "two-pass").out
    assert v19.out


@pytest.mark.parametrize(
    ("abi", "order"),
    [("kvm-6.16", "two-pass"), ("kvm-7.0", "two-pass"), ("kvm-tdx-v19", "single-pass")],
)
def test_an_order_that_a_kernel_cannot_do_is_not_supported(
    images: dict[str, str], abi: str, order: str
) -> None:
    options = ("--platform", "tdx", "--abi", abi, "--page-order", order)
    assert_refused(run("measure", images["tdx"], *options), {4})


# --- a plan for one kernel under another -----------------------------------------------------

CROSSED: dict[tuple[str, str, str], list[tuple[str, str | None]]] = {
    # (platform, made for, simulated under): the first two refusals; spec/kvm.md 1.3, 1.5, 1.7, 2.2
    ("snp", "map-memory", "kvm-6.11"): [("map-memory", "EOPNOTSUPP")] * 2,
    ("snp", "map-memory", "kvm-7.0"): [("map-memory", "EOPNOTSUPP")] * 2,
    ("tdx", "map-memory", "kvm-6.16"): [("map-memory", "EOPNOTSUPP"), ("tdx-add", None)],
    ("tdx", "kvm-6.16", "kvm-6.11"): [("create-vm", "EINVAL"), ("tdx-init-vm", "EBADF")],
    ("tdx", "kvm-6.16", "map-memory"): [("tdx-init-mem-region", None)] * 2,
    ("tdx", "kvm-tdx-v19", "kvm-6.16"): [("tdx-extend", None)],
    ("snp", "kvm-in-place", "kvm-7.0"): [("create-gmem", "EINVAL"), ("set-memslot", "EBADF")],
    ("snp", "kvm-in-place", "kvm-6.11"): [("create-gmem", "EINVAL"), ("set-memslot", "EBADF")],
    ("snp", "kvm-7.0", "kvm-in-place"): [("set-private", "ENOTTY")] * 2,
    ("tdx", "kvm-7.0", "kvm-in-place"): [("set-private", "ENOTTY")] * 2,
}  # fmt: skip


@pytest.mark.parametrize(("platform", "made", "under"), CROSSED)
def test_a_plan_for_one_kernel_fails_under_another_with_its_errno(
    images: dict[str, str], platform: str, made: str, under: str
) -> None:
    answers = answers_of(planned(images[platform], platform, made), "--abi", under)
    assert answers.code == 1
    assert answers.errors()[:2] == CROSSED[platform, made, under]


@pytest.mark.parametrize(("platform", "abi"), [("snp", "kvm-6.11"), ("tdx", "kvm-6.16")])
def test_a_plan_for_the_first_kernel_is_good_on_every_later_one(
    images: dict[str, str], platform: str, abi: str
) -> None:
    document = planned(images[platform], platform, abi)
    for later in ("kvm-6.16", "kvm-6.18", "kvm-6.19", "kvm-7.0"):
        assert answers_of(document, "--abi", later).code == 0


def test_states_that_a_kernel_measures_and_the_plan_does_not_know_leave_no_digest(
    images: dict[str, str],
) -> None:
    document = planned(images["snp"], "snp", "kvm-svsm", "--vcpus", "2")
    answers = answers_of(document, "--abi", "kvm-6.11")
    assert answers.digest is None
    crossed = planned(images["snp"], "snp", "kvm-6.11", "--vcpus", "2")
    other = answers_of(crossed, "--abi", "kvm-svsm")
    assert other.digest is not None
    assert other.findings == {"digest-differs", "not-checked"}
    assert other.code == 1


# --- single rules ----------------------------------------------------------------------------


def test_an_id_block_for_another_digest_is_bad_measurement() -> None:
    ops = guest("snp", update(0x100000))
    ops[-1] |= {"id_block": "00" * 96, "id_auth": "00" * 4096}
    answers = simulate("snp", ops, "kvm-6.11")
    finish = answers.results[-1]
    assert (finish["errno"], finish["fw_error"]) == ("EIO", 0xB)
    assert not answers.finalized


def test_an_add_after_the_launch_is_invalid_guest_state() -> None:
    ops = [*guest("snp", update(0x100000)), update(0x200000)]
    answers = simulate("snp", ops, "kvm-6.11")
    assert (answers.results[-1]["errno"], answers.results[-1]["fw_error"]) == ("EIO", 2)


def test_a_range_is_clipped_at_its_memslots_end_and_called_again() -> None:
    held = [
        op("create-gmem", size=2 << 20, gmem=0),
        op("create-gmem", size=2 << 20, gmem=1),
        op("set-memslot", 0, 2 << 20, slot=0, gmem=0),
        op("set-memslot", 2 << 20, 2 << 20, slot=1, gmem=1),
        op("set-private", 0, 4 << 20),
    ]
    inside = simulate("snp", guest("snp", update(0x1FF000, 2 * PAGE), memory_ops=held), "kvm-6.11")
    assert inside.errors() == []
    assert inside.findings == {"slot-crossed"}
    past = simulate("snp", guest("snp", update(0x3FF000, 2 * PAGE), memory_ops=held), "kvm-6.11")
    assert past.errors() == [("snp-launch-update", "EINVAL")]
    residual = next(r["residual"] for r in past.results if "residual" in r)
    assert residual == {"gpa": "0x400000", "size": "0x1000"}


def test_a_failed_add_kills_a_td_where_the_kernel_says_so() -> None:
    bad = op("tdx-page-aug", 0x100000, PAGE)
    page = op("tdx-init-mem-region", 0x100000, PAGE, measured=True, source={"zeros": True})
    for abi, dead in (("kvm-6.18", False), ("kvm-6.19", True)):
        answers = simulate("tdx", guest("tdx", bad, page), abi)
        assert answers.of("tdx-finalize") == [("error", "EIO") if dead else ("ok", None)]


def test_sev_encrypts_a_page_twice_and_the_digest_is_no_longer_known() -> None:
    held = [op("set-memslot", 0, 2 << 20, slot=0)]
    data = op("sev-launch-update-data", 0, PAGE, source={"zeros": True})
    begin = [
        op("create-vm", vm_type="sev"), op("init", vmsa_features="0x0"), *held,
        op("sev-launch-start", policy="0x1"), op("create-vcpu", count=1),
    ]  # fmt: skip
    end = [op("sev-launch-measure"), op("sev-launch-finish")]
    once = simulate("sev", [*begin, data, *end], "kvm-6.11")
    assert (once.code, once.finalized) == (0, True)
    assert once.digest == "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7"
    twice = simulate("sev", [*begin, data, data, *end], "kvm-6.11")
    assert (twice.code, twice.digest) == (1, None)
    assert twice.findings == {"gpa-mapped-twice"}


def test_a_terabyte_costs_what_a_page_costs() -> None:
    size = 1 << 40
    held = [
        op("create-gmem", size=size, gmem=0),
        op("set-memslot", 0, size, slot=0, gmem=0),
        op("set-private", 0, size),
    ]
    fault = op("pre-fault-memory", 0, size)
    ops = [*guest("sw-protected", fault, fault, memory_ops=held), op("set-shared", 0, size)]
    began = time.perf_counter()
    answers = simulate("sw-protected", ops, "kvm-6.18")
    assert answers.of("pre-fault-memory") == [("ok", None), ("nop", None)]
    assert time.perf_counter() - began < 60  # page by page it would take an hour


def test_the_simulator_takes_nothing_of_the_planner() -> None:
    """Its modules import the interface's data, what answers have in common, and each other."""
    rooms = Path(cvmplan.__file__).parent
    allowed = {
        "cvmplan.core.documented", "cvmplan.core.errors", "cvmplan.core.findings",
        "cvmplan.core.platform", "cvmplan.core.values",
        "cvmplan.kvm.interface", "cvmplan.kvm.layouts", "cvmplan.kvm.recorded",
        "cvmplan.simulator",
    }  # fmt: skip
    for path in (*(rooms / "simulator").glob("*.py"), rooms / "kvm" / "interface.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cvmplan"):
                found = str(node.module)
                room = ".".join(found.split(".")[:2])
                assert found in allowed or room in allowed, (path, found)


def test_kernels_are_named_in_their_table_only() -> None:
    names = [re.escape(n) for n in ABIS if n.startswith(("kvm-", "rfc-", "isolated"))]
    for path in Path(cvmplan.__file__).parent.rglob("*.py"):
        if path.name not in ("abi.py", "asked.py", "releases.py", "pages.py"):
            assert not re.findall("|".join(names), code_without_prose(path)), path


# --- interfaces as data ----------------------------------------------------------------------


@pytest.mark.parametrize("abi", ABIS.values(), ids=ABIS)
def test_every_interface_says_where_its_facts_are_from(abi: Any) -> None:
    assert abi.facts
    assert all(f.source and f.confidence in ("read", "inferred") for f in abi.facts)
    assert abi.name in run("abis", abi.name).out
    told = json.loads(run("abis", abi.name, "--format", "json").out)
    assert told["name"] == abi.name
    assert bool(told["calls"]) == (abi.runs and not abi.imports)


@pytest.mark.parametrize(("abi", "platform"), PAIRS)
def test_the_calls_of_a_plan_are_those_that_the_interface_lists(
    images: dict[str, str], abi: str, platform: str
) -> None:
    listed = json.loads(run("abis", abi, "--format", "json").out)["calls"]
    known = {(c["op"], c["ioctl"], c.get("command")) for c in listed}
    result = run(
        "plan", images[platform], "--platform", platform, "--abi", abi, "--format", "calls"
    )
    assert result.code == 0
    for line in result.out.splitlines():
        call = json.loads(line)
        of_its_own = call["op"] in ("create-vm", "create-vcpu", "init")
        if "ioctl" in call and listed and not of_its_own and "REG_REGION" not in call["call"]:
            assert (call["op"], call["call"], call.get("command")) in known


def test_an_unknown_interface_lists_those_that_there_are() -> None:
    assert_refused(run("abis", "kvm-5.0"), {2})
    with pytest.raises(cvmplan.ConfigError):
        abis.find("kvm-5.0")


# --- memory ----------------------------------------------------------------------------------


def ops_of(document: str, name: str) -> list[dict[str, Any]]:
    return [o for o in json.loads(document)["ops"] if o["op"] == name]


def test_prefault_maps_at_the_end_what_was_not_added(images: dict[str, str]) -> None:
    document = planned(images["snp"], "snp", "kvm-6.18", "--prefault", "0x0-0xffffff")
    names = [o["op"] for o in json.loads(document)["ops"]]
    assert names.index("snp-launch-finish") < names.index("pre-fault-memory")
    added = {
        page
        for o in ops_of(document, "snp-launch-update")
        for page in range(int(o["gpa"], 0), int(o["gpa"], 0) + int(o["size"], 0), PAGE)
    }
    mapped = [
        page
        for o in ops_of(document, "pre-fault-memory")
        for page in range(int(o["gpa"], 0), int(o["gpa"], 0) + int(o["size"], 0), PAGE)
    ]
    assert mapped == [page for page in range(0, 0x1000000, PAGE) if page not in added]


@pytest.mark.parametrize(
    ("written", "code"),
    [("0x1000", 2), ("0x1000-0x0", 2), ("x+1", 2), ("0x800+0x1000", 1), ("0x1000+1", 1),
     ("0xfffffffffffff000+0x2000", 1), ("0x10000000000000+0x1000", 1)],
)  # fmt: skip
def test_a_range_that_cannot_be_mapped_is_refused(
    images: dict[str, str], written: str, code: int
) -> None:
    options = ("--platform", "snp", "--prefault", written)
    assert_refused(run("plan", images["snp"], *options), {code})


def test_a_manifest_has_backing_and_prefault(tmp_path: Path) -> None:
    body = document(
        region("0x0", "mapped"), platform="default", backing="guest-memfd", abi="kvm-6.18",
        prefault=[{"gpa": "0x200000", "size": "2MiB"}],
        memory=[{"gpa": "0x0", "size": "4MiB"}],
    )  # fmt: skip
    path = write(tmp_path, body)
    made = run("plan", path, "--format", "json").out
    assert ops_of(made, "create-gmem")[0]["flags"] == ["mmap", "init-shared"]
    assert ops_of(made, "pre-fault-memory")[-1]["gpa"] == "0x200000"
    assert answers_of(made).code == 0
    again = run("plan", path, "--backing", "vma", "--format", "json").out
    assert ops_of(again, "create-gmem") == []
    assert [o["size"] for o in ops_of(again, "write")] == ["0x1000"]
    outside = {**body, "prefault": [{"gpa": "0x400000", "size": "4KiB"}]}
    assert_refused(run("plan", write(tmp_path, outside)), {1})


@pytest.mark.parametrize(
    ("platform", "backing", "abi", "code"),
    [("snp", "vma", "kvm-6.18", 2), ("sev", "guest-memfd", "kvm-6.18", 2),
     ("default", "guest-memfd", "kvm-6.16", 4), ("default", "guest-memfd", "kvm-6.18", 0)],
)  # fmt: skip
def test_backing_is_what_the_platform_and_the_kernel_have(
    images: dict[str, str], platform: str, backing: str, abi: str, code: int
) -> None:
    options = ("--platform", platform, "--abi", abi, "--backing", backing)
    assert run("plan", images[platform], *options).code == code


def test_a_large_region_of_a_vma_is_advised_and_written_before_it_is_mapped(tmp_path: Path) -> None:
    body = document(region("0x0", "mapped", size="4MiB"), platform="default", abi="kvm-6.11")
    made = run("plan", write(tmp_path, body), "--format", "json").out
    names = [o["op"] for o in json.loads(made)["ops"]]
    assert names == [
        "create-vm", "create-vcpu", "set-memslot", "madvise", "write", "pre-fault-memory",
    ]  # fmt: skip
    answers = answers_of(made)
    assert answers.results[-1]["mapped"] == {"gpa": "0x0", "size": "0x400000", "level": "0x200000"}


def test_mainline_plans_say_once_why_they_map_nothing(images: dict[str, str]) -> None:
    text = run("plan", images["snp"], "--platform", "snp", "--abi", "kvm-6.18").out
    assert text.count("refused until the guest is finalized") == 1
    made = json.loads(planned(images["snp"], "snp", "kvm-6.18"))
    assert [f["severity"] for f in made["findings"] if f["rule"] == "pure-map-before-finalize"] == [
        "note"
    ]
    assert {o["fd"] for o in made["ops"]} == {"kvm", "vm"}
    cpuid = [o for o in made["ops"] if o.get("page_type") == "cpuid"]
    assert [o.get("retry") for o in cpuid] == [None]  # QEMU ends there; spec/recording-vmms.md, 6


def test_a_hypervisor_that_imports_takes_its_states_from_the_image(tmp_path: Path) -> None:
    state = region("0x3000000", "vmsa", source={"hex": "01" * PAGE})
    body = document(
        region("0x1000000", "secrets"), region("0x2000000", "cpuid"), state, abi="isolated-import"
    )
    path = write(tmp_path, body)
    made = run("plan", path, "--format", "json")
    names = [o["op"] for o in json.loads(made.out)["ops"]]
    assert names == [
        "create-vm",
        "snp-launch-start",
        "create-vcpu",
        *["import-page"] * 3,
        "import-complete",
    ]
    psp = FakePsp()
    psp.launch_start(0x30000)
    psp.launch_update(5, 0x1000000, bytes(PAGE))
    psp.launch_update(6, 0x2000000, bytes(PAGE))
    psp.launch_update(2, 0x3000000, b"\x01" * PAGE)
    psp.launch_finish()
    assert run("measure", path, "--bare").out == psp.digest.hex()
    (tmp_path / "plan.json").write_text(made.out)
    assert run("measure", str(tmp_path / "plan.json"), "--bare").out == psp.digest.hex()
    assert_refused(run("measure", path, "--abi", "kvm-6.18"), {1})
    without = {**body, "regions": body["regions"][:2]}
    assert_refused(run("measure", write(tmp_path, without, "without.json")), {1})


# --- SEV, and what a person reads ----------------------------------------------------------------


def sev(*middle: dict[str, Any], platform: str = "sev", legacy: bool = False) -> Answers:
    policy = "0x5" if platform == "sev-es" else "0x1"
    ops = [
        op("create-vm", vm_type=platform), op("init", vmsa_features="0x0", legacy=legacy),
        op("set-memslot", 0, 2 << 20, slot=0), op("sev-launch-start", policy=policy),
        op("create-vcpu", count=1), *middle,
    ]  # fmt: skip
    return simulate(platform, ops, "kvm-6.11")


DATA = op("sev-launch-update-data", 0, PAGE, source={"zeros": True})
MEASURE, FINISH = op("sev-launch-measure"), op("sev-launch-finish")
VMSA = op("sev-launch-update-vmsa", vmsas=[{"vcpus": "0", "hex": ""}])
SEV_REFUSED: dict[str, tuple[list[dict[str, Any]], tuple[str, str | None, int | None]]] = {
    # spec/kvm.md 2.5; AMD 55766: INVALID_GUEST_STATE 2, INVALID_LENGTH 4
    "data_after_the_measure": ([DATA, MEASURE, DATA], ("sev-launch-update-data", "EIO", 2)),
    "a_second_measure": ([DATA, MEASURE, MEASURE], ("sev-launch-measure", "EIO", 2)),
    "a_finish_without_a_measure": ([DATA, FINISH], ("sev-launch-finish", "EIO", 2)),
    "a_second_start": (
        [op("sev-launch-start", policy="0x1")], ("sev-launch-start", "EIO", 2),
    ),
    "data_of_15_bytes": (
        [{**DATA, "size": "0xf"}], ("sev-launch-update-data", "EIO", 4),
    ),
    "data_outside_the_memory": (
        [{**DATA, "gpa": "0x200000"}], ("sev-launch-update-data", None, None),
    ),
    "a_state_where_none_is_encrypted": ([DATA, VMSA], ("sev-launch-update-vmsa", "ENOTTY", None)),
    "a_second_init": ([op("init", vmsa_features="0x0")], ("init", "EINVAL", None)),
    "an_snp_call": (
        [op("snp-launch-start", policy="0x30000")], ("snp-launch-start", "ENOTTY", None),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("middle", "wanted"), SEV_REFUSED.values(), ids=SEV_REFUSED)
def test_sev_refuses(
    middle: list[dict[str, Any]], wanted: tuple[str, str | None, int | None]
) -> None:
    last = sev(*middle).results[-1]
    assert last["result"] == "error"
    assert (last["op"], last.get("errno"), last.get("fw_error")) == wanted


def test_sev_es_measures_the_state_that_its_init_leaves() -> None:
    """KVM_SEV_ES_INIT leaves MXCSR 0; a state with another one is not what KVM measures."""
    assert sev(DATA, VMSA, MEASURE, FINISH, platform="sev-es", legacy=True).digest is not None
    assert sev(DATA, VMSA, MEASURE, FINISH, platform="sev-es").digest is None


def test_text_says_what_each_call_answers_and_where_it_ends() -> None:
    page = update(0x100000)
    hidden = op("tdx-page-aug", 0x200000, PAGE)
    made = json.dumps(plan("snp", guest("snp", page, page), "kvm-6.11")).encode()
    told = run("simulate", "-", stdin=made)
    assert told.code == 1
    lines = told.out.splitlines()
    assert any("EIO" in line and "by op 7" in line and "left 0x100000-0x100fff" in line
               for line in lines)  # fmt: skip
    assert lines[-2] == "kvm-6.11: 10 calls, 1 refused, finalized"
    assert lines[-1].startswith("digest  ")
    region_of = op("tdx-init-mem-region", 0x200000, PAGE, measured=True, source={"zeros": True})
    td = json.dumps(plan("tdx", guest("tdx", hidden, region_of), "kvm-6.18")).encode()
    assert "TDX_EPT_ENTRY_STATE_INCORRECT" in run("simulate", "-", stdin=td).out
    late = json.dumps(plan("snp", [*guest("snp"), page], "kvm-6.11")).encode()
    assert "fw_error 0x2" in run("simulate", "-", stdin=late).out
    plain = json.dumps(plan("default", guest("default", memory_ops=[]), "kvm-6.11")).encode()
    assert "not measured" in run("simulate", "-", stdin=plain).out


def test_calls_of_a_plan_that_gives_memory_back_are_printed() -> None:
    shared = op("set-shared", 0x200000, PAGE)
    made = json.dumps(plan("snp", guest("snp", update(0), shared), "kvm-6.18")).encode()
    result = run("plan", "-", "--format", "calls", stdin=made)
    assert result.code == 0, result.err
    calls = [json.loads(line) for line in result.out.splitlines()]
    given = [c["fields"]["attributes"] for c in calls if c["call"] == "KVM_SET_MEMORY_ATTRIBUTES"]
    assert given == ["0x8", "0x0"]
