"""
Firmware known by its digests: what ships, what is added, and what is found without an image.

Digests are those of sev-snp-measure (SNP) and of the model of the TDX module, given the pages in
the order of sections that this file reads by itself.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan import ConfigError, explain
from cvmplan.catalogue.known import SHIPPED
from cvmplan.core.files import PACKAGE
from tests.build import igvm
from tests.build.catalogue import CACHE
from tests.build.evidence import intel, snp_report, td_quote
from tests.build.ovmf import good_snp, good_tdx
from tests.oracles import FIRMWARE, SHARED, digest_of
from tests.oracles.firmware import CHUNK, PAGE, FakeTdxModule
from tests.oracles.peer import Boot, Machine, guest, theirs
from tests.recorder.record import consumers
from tests.run import assert_refused, run

ENTRIES: Final[dict[str, Any]] = {
    one["name"]: one for one in json.loads(Path(SHIPPED).read_text())["firmware"]
}
KERNEL: Final = b"MZ kernel" * 500


@pytest.fixture(autouse=True)
def _no_catalogue_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def file_of(entry: dict[str, Any]) -> Path:
    """The file of an entry; the test is skipped where it is absent."""
    if entry["file"].startswith("example:"):
        return Path(PACKAGE) / "examples" / f"{entry['file'].removeprefix('example:')}.fd"
    folders = [SHARED / "firmware", CACHE / "unpacked", consumers() / "firmware"]
    folders.append(Path(os.environ.get(FIRMWARE, "/none")))
    for folder in folders:
        for path in sorted(folder.rglob(entry["file"])):
            if digest_of(path) == entry["sha256"]:
                return path
    pytest.skip(f"{entry['file']} ({entry['source']}) is absent: python -m tests.build.catalogue")


# --- what ships --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, one in ENTRIES.items() if "snp" in one])
def test_what_ships_for_snp_is_what_sev_snp_measure_reads(name: str) -> None:
    ovmf = pytest.importorskip("sevsnpmeasure.ovmf")
    entry, snp = ENTRIES[name], ENTRIES[name]["snp"]
    path = file_of(entry)
    assert snp["digest"] == guest.calc_snp_ovmf_hash(str(path)).hex()
    read = ovmf.OVMF(str(path))
    items = [(i.gpa, i.size, i.section_type().value) for i in read.metadata_items()]
    sections = [tuple(int(s[key], 16) for key in ("gpa", "size", "type")) for s in snp["sections"]]
    assert sections == items
    assert int(snp["reset_eip"], 16) == read.sev_es_reset_eip()
    assert ("hash_table" in snp) == read.is_sev_hashes_table_supported()
    if "hash_table" in snp:
        assert int(snp["hash_table"]["gpa"], 16) == read.sev_hashes_table_gpa()
    assert entry["size"] == path.stat().st_size


@pytest.mark.parametrize("order", ["single-pass", "two-pass"])
@pytest.mark.parametrize("name", [name for name, one in ENTRIES.items() if "tdx" in one])
def test_what_ships_for_tdx_is_what_the_model_of_the_module_measures(name: str, order: str) -> None:
    data = file_of(ENTRIES[name]).read_bytes()
    assert ENTRIES[name]["tdx"][order] == mrtd(data, two_pass=order == "two-pass")


def mrtd(data: bytes, *, two_pass: bool) -> str:
    """MRTD of a firmware: Intel 344991, section 11, page by page or section by section."""
    start = data.rindex(b"TDVF")
    (count,) = struct.unpack_from("<I", data, start + 12)
    sections = list(struct.iter_unpack("<IIQQII", data[start + 16 : start + 16 + 32 * count]))
    module = FakeTdxModule()
    module.mng_init()
    module.vp_init()
    for level in (3, 2, 1):
        span = 1 << (12 + 9 * level)
        regions = {gpa - gpa % span for _, _, gpa, _, _, _ in sections}
        regions |= {
            end - end % span for _, _, gpa, size, _, _ in sections for end in [gpa + size - 1]
        }
        for gpa in sorted(regions):
            module.mem_sept_add(level, gpa)
    for offset, raw, gpa, size, _, attributes in sections:
        held = data[offset : offset + raw].ljust(size, b"\0")
        for at in range(0, size, PAGE):
            module.mem_page_add(gpa + at, held[at : at + PAGE])
            if attributes & 1 and not two_pass:
                extend(module, gpa + at)
        for at in range(0, size, PAGE) if attributes & 1 and two_pass else ():
            extend(module, gpa + at)
    module.mr_finalize()
    return module.digest.hex()


def extend(module: FakeTdxModule, gpa: int) -> None:
    for chunk in range(gpa, gpa + PAGE, CHUNK):
        module.mr_extend(chunk)


def test_the_catalogue_that_ships_is_one_of_its_schema_and_is_listed() -> None:
    listed = run("catalogue").out.splitlines()
    assert [line.split()[0] for line in listed[1:]] == [*ENTRIES]
    assert json.loads(run("catalogue", "--format", "json").out)["firmware"] == [*ENTRIES.values()]


def test_one_firmware_is_shown_in_any_case_and_the_nearest_is_named() -> None:
    assert "\n".join(run("catalogue", "EXAMPLE-SNP").out.split()).count(
        ENTRIES["example-snp"]["sha256"]
    )
    shown = json.loads(run("catalogue", "example-tdx", "--format", "json").out)
    assert shown["firmware"] == [ENTRIES["example-tdx"]]
    result = run("catalogue", "exampel-snp")
    assert_refused(result, {2})
    assert "did you mean example-snp?" in result.err


# --- found without an image --------------------------------------------------------------------


def found(*args: str) -> dict[str, Any]:
    """What `explain` answers without an image."""
    result = run("explain", *args, "--format", "json")
    assert (result.code in (0, 1), result.err) == (True, "")
    document: dict[str, Any] = json.loads(result.out)
    assert document["explained"] is (result.code == 0) is ("firmware" in document)
    return document


def measured(document: dict[str, Any]) -> str:
    """What the command of an answer measures."""
    words = document["command"]
    assert words[:2] == ["cvmplan", "measure"]
    return run(*words[1:], "--bare").out


EXAMPLE: Final = str(file_of(ENTRIES["example-snp"]))
LAUNCHES: Final = {
    "as assumed": (Machine(), {"vcpus": 1, "cpu": "EPYC-v4", "vmm": "qemu"}),
    "vcpus and model": (
        Machine(vcpus=4, cpu="EPYC-Milan"), {"vcpus": 4, "cpu": "EPYC-Milan", "vmm": "qemu"}
    ),
    "features": (Machine(vcpus=2, features=0x21), {"vcpus": 2, "sev_features": "0x21"}),
    "many vcpus": (Machine(vcpus=200, cpu="EPYC-Genoa"), {"vcpus": 200, "cpu": "EPYC-Genoa"}),
    "a VMM": (Machine(vmm="ec2", vcpus=2), {"vcpus": 2, "vmm": "ec2"}),
}  # fmt: skip


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", LAUNCHES)
def test_a_report_says_which_firmware_was_launched(name: str, version: int, tmp_path: Path) -> None:
    machine, settings = LAUNCHES[name]
    digest = theirs(EXAMPLE, "", "", machine)
    report = tmp_path / "report.bin"
    report.write_bytes(snp_report(None, version, measurement=bytes.fromhex(digest)))
    document = found("--report", str(report))
    assert document["firmware"]["name"] == "example-snp"
    assert document["evidence"].startswith(f"SNP report, version {version}")
    assert settings.items() <= document["settings"].items()
    assert document["settings"]["kernel_hashes"] == "off"
    assert measured(document) == digest


@pytest.mark.parametrize(
    "name", [n for n in ENTRIES if n.startswith("debian") and "snp" in ENTRIES[n]]
)
def test_debians_firmware_is_found_from_a_launch_digest(name: str) -> None:
    digest = theirs(str(file_of(ENTRIES[name])), "", "", Machine(vcpus=3, cpu="EPYC-Milan"))
    document = found("--expect", digest)
    assert document["firmware"]["name"] == name
    assert (document["settings"]["vcpus"], document["settings"]["cpu"]) == (3, "EPYC-Milan")
    assert measured(document) == digest


def test_a_kernel_that_is_given_is_searched_with_each_firmware(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(KERNEL)
    boot = Machine(vcpus=2, boot=Boot(KERNEL, None, "console=ttyS0"))
    digest = theirs(EXAMPLE, str(kernel), "", boot)
    line = ("--append", "console=ttyS0")
    document = found("--expect", digest, "--kernel", str(kernel), *line)
    assert document["firmware"]["name"] == "example-snp"
    assert (document["settings"]["vcpus"], measured(document)) == (2, digest)


@pytest.mark.parametrize("order", ["single-pass", "two-pass"])
def test_a_quote_says_which_firmware_was_launched(order: str, tmp_path: Path) -> None:
    data = file_of(ENTRIES["example-tdx"]).read_bytes()
    expected = mrtd(data, two_pass=order == "two-pass")
    quote = tmp_path / "quote.dat"
    quote.write_bytes(td_quote(intel(), mrtd=bytes.fromhex(expected)))
    document = found("--report", str(quote))
    assert document["firmware"]["name"] == "example-tdx"
    assert document["settings"] == {"platform": "tdx", "page_order": order}
    assert measured(document) == expected


def test_the_text_says_what_matched() -> None:
    digest = theirs(EXAMPLE, "", "", Machine(vcpus=4, cpu="EPYC-Milan"))
    lines = run("explain", "--expect", digest).out.splitlines()
    assert lines[0] == "explained: firmware of the catalogue produces the measurement"
    told = {line.split()[0]: line.split()[1] for line in lines[1:] if len(line.split()) > 1}
    assert told | {
        "firmware": "example-snp", "version": "1", "vcpus": "4", "cpu": "EPYC-Milan",
        "sha256": ENTRIES["example-snp"]["sha256"], "kernel_hashes": "off",
    } == told  # fmt: skip
    assert (
        "  cvmplan measure catalogue:example-snp --vcpus 4 --cpu EPYC-Milan --platform snp" in lines
    )


def test_what_no_catalogue_has_is_not_explained_within_the_budget(tmp_path: Path) -> None:
    document = found("--expect", "ab" * 48, "--platform", "snp", "--budget", "0.5")
    assert not document["complete"]
    assert any("'cvmplan catalogue add FILE'" in words for words in document["not_searched"])
    quote = tmp_path / "quote.dat"
    quote.write_bytes(td_quote(intel(), mrtd=b"\xab" * 48))
    document = found("--report", str(quote))
    assert document["complete"]
    assert "example-tdx" in document["searched"][0]["values"]
    both = found("--expect", "ab" * 48, "--budget", "0.1")["searched"]
    assert [one["name"] for one in both][:2] == [
        "MRTD of the catalogue",
        "firmware of the catalogue",
    ]


def test_python_searches_without_an_image_too() -> None:
    digest = theirs(EXAMPLE, "", "", Machine(vcpus=4))
    answer = explain(expect=digest)
    assert (answer.firmware and answer.firmware.name, answer.settings["vcpus"]) == (
        "example-snp",
        4,
    )
    with pytest.raises(ConfigError, match="cannot be combined"):
        explain("example:snp", expect=digest, catalogues=["x"])


def test_evidence_of_one_platform_is_not_looked_for_on_another(tmp_path: Path) -> None:
    quote = tmp_path / "quote.dat"
    quote.write_bytes(td_quote(intel(), mrtd=bytes(48)))
    result = run("explain", "--report", str(quote), "--platform", "snp")
    assert_refused(result, {2})
    assert "the evidence is of tdx" in result.err


WITHOUT_IMAGE: Final = {
    "a digest of SEV": ("--expect", "ab" * 32),
    "a platform that catalogues do not have": ("--expect", "ab" * 48, "--platform", "sev-es"),
    "catalogue and image": ("--example", "snp", "--expect", "ab" * 48, "--catalogue", "x"),
    "files to try for a TD": ("--expect", "ab" * 48, "--platform", "tdx", "--try", EXAMPLE),
}


@pytest.mark.parametrize("args", WITHOUT_IMAGE.values(), ids=WITHOUT_IMAGE)
def test_what_a_catalogue_cannot_answer_is_refused(args: tuple[str, ...]) -> None:
    assert_refused(run("explain", *args), {2})


# --- added -------------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A firmware that does not ship."""
    made = tmp_path / "my firmware.fd"
    made.write_bytes(good_snp().build()[:-1] + b"\x01")
    return made


def test_a_file_that_is_added_is_found_in_the_users_own_catalogue(
    image: Path, tmp_path: Path
) -> None:
    told = ("--version", "1.2", "--source", "https://example.org/my.fd")
    shown = run("catalogue", "add", str(image), *told, "--format", "json")
    assert (shown.code, shown.err) == (0, "")
    (entry,) = json.loads(shown.out)["firmware"]
    assert (entry["name"], entry["file"]) == ("my-firmware.fd", "my firmware.fd")
    assert (entry["version"], entry["source"]) == ("1.2", "https://example.org/my.fd")
    assert entry["snp"]["digest"] == guest.calc_snp_ovmf_hash(str(image)).hex()
    assert (tmp_path / "data" / "cvmplan" / "firmware.json").exists()
    digest = theirs(str(image), "", "", Machine(vcpus=8, cpu="EPYC-Genoa"))
    document = found("--expect", digest)
    assert document["firmware"]["version"] == "1.2"
    assert measured(document) == digest
    assert run("catalogue").out.splitlines()[1].startswith("my-firmware.fd")


def test_a_catalogue_that_is_named_is_searched_and_named_in_the_command(
    image: Path, tmp_path: Path
) -> None:
    file = str(tmp_path / "own.json")
    assert run("catalogue", "add", str(image), "--name", "mine", "--catalogue", file).code == 0
    tdx = tmp_path / "td.fd"
    tdx.write_bytes(good_tdx().build())
    assert run("catalogue", "add", str(tdx), "--catalogue", file).code == 0
    digest = theirs(str(image), "", "", Machine(vcpus=2))
    document = found("--expect", digest, "--catalogue", file)
    assert document["command"][2] == f"catalogue:mine@{file}"
    assert measured(document) == digest
    document = found("--expect", mrtd(tdx.read_bytes(), two_pass=True), "--catalogue", file)
    assert (document["firmware"]["name"], document["settings"]["page_order"]) == (
        "td.fd",
        "two-pass",
    )
    assert not (tmp_path / "data").exists()


def test_a_file_without_variables_is_left_out_for_tdx_and_it_is_said(tmp_path: Path) -> None:
    if not (path := SHARED / "firmware" / "OVMF.amdsev.fd").exists():
        pytest.skip(f"{path} is absent")
    code = tmp_path / "CODE.fd"
    code.write_bytes(path.read_bytes()[0x84000:])
    result = run("catalogue", "add", str(code), "--format", "json")
    assert (result.code, "tdx" in json.loads(result.out)["firmware"][0]) == (0, False)
    assert result.err.startswith("not for tdx: ")


REFUSED: Final[dict[str, tuple[tuple[str, ...], set[int]]]] = {
    "not firmware": (("add", "@/zeros"), {4}),
    "a document": (("add", "catalogue:example-snp"), {4}),
    "an IGVM file": (("add", "@/x.igvm"), {4}),
    "a name with a slash": (("add", EXAMPLE, "--name", "../x"), {2}),
    "a version of two lines": (("add", EXAMPLE, "--version", "1\n2"), {2}),
    "a long source": (("add", EXAMPLE, "--source", "x" * 401), {2}),
    "a name that ships": (("add", EXAMPLE, "--name", "example-tdx"), {2}),
    "two catalogues": (("add", EXAMPLE, "--catalogue", "@/a", "--catalogue", "@/b"), {2}),
    "a folder that is not there": (("add", EXAMPLE, "--catalogue", "@/none/c.json"), {3}),
    "nothing to add": (("add",), {2}),
    "two names": (("example-snp", "example-tdx"), {2}),
    "a version without a file": (("example-snp", "--version", "1"), {2}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_added_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.igvm").write_bytes(igvm.good_snp().build())
    (tmp_path / "zeros").write_bytes(bytes(4096))
    args, codes = REFUSED[name]
    assert_refused(run("catalogue", *(a.replace("@", str(tmp_path)) for a in args)), codes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.igvm", "zeros"]


def test_a_catalogue_stays_as_it_is_where_adding_fails(image: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    for before in ("{", '{"schema": "cvmplan.firmware/1"}'):
        file.write_text(before)
        assert_refused(run("catalogue", "add", str(image), "--catalogue", str(file)), {3})
        assert file.read_text() == before
    file.unlink()
    add = ("catalogue", "add", "--catalogue", str(file), "--name", "x")
    assert run(*add, str(image)).code == 0
    before = file.read_text()
    assert_refused(run(*add, EXAMPLE), {2})
    assert file.read_text() == before
    assert run(*add, str(image), "--version", "2").code == 0
    assert [one["version"] for one in json.loads(file.read_text())["firmware"]] == ["2"]


# --- documents ---------------------------------------------------------------------------------


def entry_with(**changed: Any) -> dict[str, Any]:
    return {**ENTRIES["example-snp"], **changed}


def snp_with(**changed: Any) -> dict[str, Any]:
    return entry_with(snp={**ENTRIES["example-snp"]["snp"], **changed})


SECTION: Final = {"gpa": "0x800000", "size": "0x1000", "type": 1}
WRONG: Final[dict[str, list[Any]]] = {
    "no platform": [{k: v for k, v in ENTRIES["example-snp"].items() if k != "snp"}],
    "a name twice": [ENTRIES["example-snp"], ENTRIES["example-snp"]],
    "a name with a slash": [entry_with(name="a/b")],
    "a name with a newline": [entry_with(name="a\n")],
    "a hash of 20 bytes": [entry_with(sha256="ab" * 20)],
    "a size that is not whole pages": [entry_with(size=5000)],
    "a size above 4 GiB": [entry_with(size=(1 << 32) + 4096)],
    "no sections": [snp_with(sections=[])],
    "65 sections": [snp_with(sections=[SECTION] * 65)],
    "a section of a terabyte": [snp_with(sections=[{**SECTION, "size": 1 << 40}])],
    "a section of 32 MiB": [snp_with(sections=[{**SECTION, "size": 32 << 20}])],
    "a section of half a page": [snp_with(sections=[{**SECTION, "size": 2048}])],
    "a digest of 32 bytes": [snp_with(digest="ab" * 32)],
    "a file with an escape": [entry_with(file="\x1b[31m.fd")],
    "a source of two lines": [entry_with(source="a\nb")],
    "one page order": [entry_with(tdx={"single-pass": "ab" * 48})],
    "an unknown key": [entry_with(more=1)],
    "too many": [{}] * 1001,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_catalogue_with_one_thing_wrong_is_malformed(name: str, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"schema": "cvmplan.firmware/1", "firmware": WRONG[name]}))
    assert_refused(run("catalogue", "--catalogue", str(file)), {3})
    assert_refused(run("explain", "--expect", "ab" * 48, "--catalogue", str(file)), {3})


def test_a_file_that_begins_like_an_option_is_no_option_of_the_command(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    entries = [{**ENTRIES["example-tdx"], "file": "--output=x", "tdx": dict.fromkeys(
        ("single-pass", "two-pass"), "ab" * 48
    )}]  # fmt: skip
    file.write_text(json.dumps({"schema": "cvmplan.firmware/1", "firmware": entries}))
    document = found("--expect", "ab" * 48, "--catalogue", str(file))
    assert document["command"][2] == "./--output=x"


def test_a_large_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"schema": "cvmplan.firmware/1", "firmware": [' + " " * (16 << 20) + "]}")
    result = run("catalogue", "--catalogue", str(file))
    assert_refused(result, {3})
    assert "larger than 16 MiB" in result.err


def test_a_document_of_one_firmware_is_an_image(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_text(run("catalogue", "example-snp", "--format", "json").out)
    digest = theirs(EXAMPLE, "", "", Machine(vcpus=5))
    assert run("measure", str(file), "--vcpus", "5", "--bare").out == digest
    assert run("inspect", str(file), "--format", "json").code == 0
    plan = tmp_path / "plan.json"
    assert run("plan", str(file), "--vcpus", "5", "--format", "json", "-o", str(plan)).code == 0
    assert run("measure", str(plan), "--bare").out == digest
    assert_refused(run("measure", SHIPPED), {2})
    assert_refused(run("measure", "catalogue:example-tdx"), {4})
    assert_refused(run("measure", str(file), "--platform", "tdx"), {2, 4})


def test_firmware_that_cannot_be_launched_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    twice = snp_with(sections=[SECTION, SECTION], digest="cd" * 48)
    entries = [{**twice, "name": "twice"}]
    file.write_text(json.dumps({"schema": "cvmplan.firmware/1", "firmware": entries}))
    digest = theirs(EXAMPLE, "", "", Machine())
    assert found("--expect", digest, "--catalogue", str(file))["firmware"]["name"] == "example-snp"
