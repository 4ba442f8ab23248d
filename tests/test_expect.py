"""Expected measurements (cvmplan.expect/1): `check` compares each launch, and names the place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cvmplan.core.files import PACKAGE
from tests.build import boot
from tests.oracles.peer import EPYC_V4, Boot, Machine, theirs
from tests.run import assert_refused, run

MILAN = {"platform": "snp", "vcpus": 2, "cpu": "EPYC-Milan"}
ZEROS = "00" * 48


def peer(path: Path, **machine: Any) -> str:
    """Return what sev-snp-measure computes for an image."""
    return theirs(str(path), "", "", Machine(**machine))


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The SNP example as image.fd in a folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(PACKAGE) / "examples" / "snp.fd", tmp_path / "image.fd")
    return tmp_path / "image.fd"


def launch(digest: str, **settings: Any) -> dict[str, Any]:
    return {"settings": settings, "registers": {"MEASUREMENT": digest}}


def expect(folder: Path, *launches: dict[str, Any], name: str = "image.fd.expect.json") -> str:
    """Write a document, a line for each key; return its name."""
    document = {"schema": "cvmplan.expect/1", "launches": [*launches]}
    (folder / name).write_text(json.dumps(document, indent=1))
    return name


def checked(*args: str) -> tuple[int, dict[str, Any]]:
    result = run("check", *args, "--format", "json")
    return result.code, json.loads(result.out)


def test_one_command_compares_all_launches(image: Path) -> None:
    two = peer(image, vcpus=2, cpu="EPYC-Milan")
    four = peer(image, vcpus=4, cpu=EPYC_V4)
    expect(image.parent, launch(two, **MILAN), launch(four.upper(), vcpus=4))
    code, document = checked("image.fd")
    (one,) = document["files"]
    assert code == 0
    assert [(c["launch"], c["same"]) for c in one["compared"]] == [
        ("platform snp, vcpus 2, cpu EPYC-Milan", True), ("vcpus 4", True),
    ]  # fmt: skip
    assert [c["digest"] for c in one["compared"]] == [two, four]
    rules = [f["rule"] for f in document["findings"]]
    assert len(rules) == len(set(rules))  # both launches have them, once


def test_a_drifted_measurement_is_an_error_at_its_line(image: Path) -> None:
    name = expect(image.parent, launch(peer(image), vcpus=1), launch(ZEROS, **MILAN))
    code, document = checked("image.fd")
    (found,) = [f for f in document["findings"] if f["severity"] == "error"]
    text = (image.parent / name).read_text().splitlines()
    assert code == 1
    assert found["rule"] == "measurement-differs"
    assert found["place"]["file"] == name
    assert ZEROS in text[found["place"]["line"] - 1]
    two = peer(image, vcpus=2, cpu="EPYC-Milan")
    assert f"MEASUREMENT is {two}, expected {ZEROS}" in found["message"]
    assert "--vcpus=2" in found["hint"]


def test_the_hint_finds_the_launch_that_was_expected(image: Path) -> None:
    expect(image.parent, launch(peer(image, vcpus=4), vcpus=2))
    (found,) = [f for f in checked("image.fd")[1]["findings"] if f["severity"] == "error"]
    words = found["hint"].split()
    assert words[:2] == ["cvmplan", "explain"]
    assert "--vcpus 4" in run(*words[1:]).out


def test_options_hold_where_the_document_says_nothing(image: Path) -> None:
    expect(image.parent, launch(peer(image, vcpus=3, cpu="EPYC-Milan"), vcpus=3))
    assert checked("image.fd", "--cpu", "EPYC-Milan", "--vcpus", "9")[0] == 0
    assert checked("image.fd")[0] == 1


def test_files_of_a_launch_lie_beside_the_document(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image.parent / "bzImage").write_bytes(boot.kernel())
    wanted = theirs(
        str(image), str(image.parent / "bzImage"), "",
        Machine(boot=Boot(boot.kernel(), append="quiet")),
    )  # fmt: skip
    expect(image.parent, launch(wanted, kernel="bzImage", append="quiet"))
    monkeypatch.chdir("/")
    assert checked(str(image))[0] == 0
    expect(image.parent, launch(wanted, kernel="../bzImage", append="quiet"))
    assert checked(str(image))[0] == 2
    assert checked(str(image), "--allow-outside")[0] == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel": "../secret"}, {"initrd": "/etc/passwd"}, {"svsm": "../secret"},
        {"vmm": "../own.json"}, {"pod": "../secret"}, {"mrconfigid": "file:../secret"},
    ],
    ids=str,
)  # fmt: skip
def test_no_file_outside_its_folder_is_opened(image: Path, settings: dict[str, str]) -> None:
    expect(image.parent, launch(ZEROS, **settings))
    result = run("check", "image.fd", "--vcpus", "1")
    assert_refused(result, {2})
    assert "is outside the manifest's folder" in result.err


def test_a_file_of_expectations_for_several_images(image: Path) -> None:
    shutil.copy(image, image.parent / "other.fd")
    one = {**launch(peer(image), vcpus=1), "image": "image.fd"}
    two = {**launch(peer(image, vcpus=2), vcpus=2), "image": "./other.fd"}
    name = expect(image.parent, one, two, name="all.json")
    code, document = checked("image.fd", str(image.parent / "other.fd"), "--expect-file", name)
    assert code == 0
    assert [[c["launch"] for c in f["compared"]] for f in document["files"]] == [
        ["vcpus 1"], ["vcpus 2"],
    ]  # fmt: skip
    result = run("check", "--example", "snp", "--expect-file", name)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: --expect-file all.json: expects nothing of any FILE")


def test_expectations_that_are_named_replace_those_beside_the_image(image: Path) -> None:
    expect(image.parent, launch(ZEROS))
    assert checked("image.fd")[0] == 1
    name = expect(image.parent, launch(peer(image)), name="all.json")
    assert checked("image.fd", "--expect-file", name)[0] == 0


def test_expectations_stand_for_their_image(image: Path) -> None:
    """pre-commit passes the files that changed."""
    name = expect(image.parent, launch(peer(image)))
    code, document = checked(name, "image.fd")
    assert code == 0
    assert [one["path"] for one in document["files"]] == ["image.fd"]


def test_an_image_that_is_not_a_launch_is_not_compared(image: Path) -> None:
    expect(image.parent, launch(ZEROS, policy="0x10000"))
    code, document = checked("image.fd")
    assert code == 1
    assert document["files"][0]["compared"] == []
    assert "policy-mask" in {f["rule"] for f in document["findings"]}


def test_other_files_are_checked_where_expectations_are_malformed(image: Path) -> None:
    (image.parent / "image.fd.expect.json").write_text("{")
    shutil.copy(image, image.parent / "other.fd")
    expect(image.parent, launch(peer(image)), name="other.fd.expect.json")
    code, document = checked("image.fd", "other.fd")
    assert code == 3
    assert [f["exit_code"] for f in document["files"]] == [3, 0]


GOOD = launch(ZEROS)
MALFORMED: list[tuple[Any, str]] = [
    ({**GOOD, "settings": {"vcpu": 1}}, "launches[0].settings.vcpu: unknown setting"),
    ({**GOOD, "settings": {"vcpus": 0}}, "launches[0].settings.vcpus: "),
    ({**GOOD, "settings": {"cpu": "Pentium"}}, ""),
    ({**GOOD, "settings": {"vmm": "nobody"}}, "launches[0].settings.vmm: "),
    ({**GOOD, "settings": {"policy": 1.5}}, "launches[0].settings.policy"),
    ({"registers": {}}, "launches[0].registers: "),
    ({"registers": {"RTMR1": ZEROS}}, "launches[0].registers"),
    ({"registers": {"MEASUREMENT": "00"}}, "launches[0].registers.MEASUREMENT: "),
    ({"registers": {"MEASUREMENT": 0}}, "launches[0].registers.MEASUREMENT: "),
    ({"registers": {"MRTD": ZEROS}}, "launches[0].registers.MRTD: the launch is measured into"),
    ({**GOOD, "more": 1}, "launches[0].more: unknown key"),
    ({"settings": {}}, "launches[0].registers: missing"),
]


@pytest.mark.parametrize(("wrong", "said"), MALFORMED)
def test_a_wrong_document_is_refused_at_its_place(image: Path, wrong: Any, said: str) -> None:
    name = expect(image.parent, wrong)
    result = run("check", "image.fd")
    assert result.code in (2, 3)
    assert result.out == ""
    assert name in result.err or not said
    assert said in result.err
    found = json.loads(run("check", "image.fd", "--format", "json").out)["findings"][-1]
    assert found["place"].get("line") or not said


def test_no_launch_at_all_is_malformed(image: Path) -> None:
    expect(image.parent)
    assert run("check", "image.fd").code == 3


def test_each_format_shows_what_was_compared(image: Path) -> None:
    expect(image.parent, launch(peer(image), vcpus=1), launch(ZEROS, vcpus=2))
    shown = {
        "text": ("as expected", "differs"),
        "markdown": ("as expected", "**differs**"),
        "junit": ('name="MEASUREMENT vcpus 1"', "measurement-differs"),
        "github": ("file=image.fd.expect.json,line=", "title=measurement-differs"),
        "sarif": ('"measurement-differs"', "image.fd.expect.json"),
    }
    for form, words in shown.items():
        result = run("check", "image.fd", "--format", form)
        assert result.code == 1
        assert all(word in result.out for word in words), result.out


HALF = "\ud800"
HOSTILE: dict[str, str] = {
    "deep": '{"schema": "cvmplan.expect/1", "launches": ' + "[" * 500 + "]" * 500 + "}",
    "a duplicate key": '{"schema": "cvmplan.expect/1", "launches": [], "launches": []}',
    "half a character": json.dumps(
        {"schema": "cvmplan.expect/1", "launches": [launch(ZEROS, append=HALF)]}
    ),
    "a terminal's escape": json.dumps(
        {"schema": "cvmplan.expect/1", "launches": [launch(ZEROS, **{"\x1b[31m": 1})]}
    ),
    "a number of many digits": '{"schema": "cvmplan.expect/1", "launches": [{"settings": '
    '{"vcpus": ' + "9" * 5000 + '}, "registers": {"MEASUREMENT": "' + ZEROS + '"}}]}',
    "NaN": '{"schema": "cvmplan.expect/1", "launches": [{"settings": {"vcpus": NaN}}]}',
    "too many launches": json.dumps(
        {"schema": "cvmplan.expect/1", "launches": [launch(ZEROS)] * 10_001}
    ),
    "bytes": "\0" * 64,
    "nothing": "",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("named", [False, True], ids=["beside", "named"])
def test_a_hostile_document_is_one_line_of_error(image: Path, name: str, named: bool) -> None:
    path = image.parent / ("x.json" if named else "image.fd.expect.json")
    path.write_text(HOSTILE[name])
    result = run("check", "image.fd", *(("--expect-file", "x.json") if named else ()))
    assert_refused(result, {3, 4})
    assert result.err.removesuffix("\n").replace("\n", "").isprintable()


def test_a_launch_that_cannot_be_asked_for_does_not_hide_a_difference(image: Path) -> None:
    expect(image.parent, launch("00" * 48), launch("00" * 48, append="x"))
    told = run("check", "image.fd")
    assert "measurement-differs" in told.out
    assert told.code > 1


def test_expectations_beside_an_image_are_of_it(image: Path) -> None:
    (image.parent / "other.fd").write_bytes(b"")
    expect(image.parent, launch("00" * 48) | {"image": "other.fd"})
    assert_refused(run("check", "image.fd"), {2})


def test_a_plan_whose_digest_was_changed_is_not_valid(image: Path) -> None:
    made = json.loads(run("plan", image.name, "--format", "json").out)
    assert run("check", "-", stdin=json.dumps(made).encode()).code == 0
    made["measurement"]["digest"] = "00" * 48
    assert_refused(run("check", "-", stdin=json.dumps(made).encode()), {1})


@pytest.mark.parametrize("read", ["image.fd.expect.json", "image.fd", "cvmplan.toml"])
def test_what_was_read_is_not_written_over(read: str, image: Path) -> None:
    expect(image.parent, launch("00" * 48))
    (image.parent / "cvmplan.toml").write_text("vcpus = 2")
    before = (image.parent / read).read_bytes()
    assert "is also read" in run("check", "image.fd", "-o", read).err
    assert (image.parent / read).read_bytes() == before


def test_a_file_without_expectations_does_not_pass_beside_one_that_has_some(image: Path) -> None:
    shutil.copy(image, image.parent / "other.fd")
    digest = run("measure", "image.fd", "--bare").out
    name = expect(image.parent, launch(digest) | {"image": "image.fd"}, name="e.json")
    assert run("check", "image.fd", "--expect-file", name).code == 0
    assert run("check", "image.fd", "other.fd", "--expect-file", name).code == 2


def test_a_link_without_an_end_is_not_the_absence_of_expectations(image: Path) -> None:
    (image.parent / "image.fd.expect.json").symlink_to("nowhere")
    assert_refused(run("check", "image.fd"), {3})
