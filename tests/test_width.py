"""Text fits the terminal: 80 columns where there is none; the image's name stands once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmplan.cli import VERBS
from cvmplan.emit.lines import aligned, joined, without_name
from tests.build.eventlog import Log, LogEvent
from tests.build.evidence import amd, snp_report
from tests.run import run

DIGEST = re.compile(r" *[0-9a-f]{64,96};?")  # a digest stays whole, so that it can be copied
SHARED = Path(__file__).parent.parent.parent / "shared" / "firmware"
IMAGES = {
    "example-snp": ("example:snp", "snp"), "example-tdx": ("example:tdx", "tdx"),
    "snp": (str(SHARED / "OVMF.amdsev.fd"), "snp"),
    "tdx": (str(SHARED / "OVMF.inteltdx.ms.fd"), "tdx"),
}  # fmt: skip
JUDGING = ("check", "map", "plan", "trace", "measure")


def too_wide(text: str, most: int = 80) -> list[str]:
    lines = (n for n in text.splitlines() if not n.startswith("  cvmplan "))  # to be copied
    return [n for n in lines if len(n) > most and not DIGEST.fullmatch(n)]


def lines_of(name: str, folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield the command lines about an image."""
    image, platform = IMAGES[name]
    for verb in JUDGING:
        yield verb, image, "--platform", platform
        yield verb, image, "--platform", platform, "--vcpus", "64", "--abi", "kvm-6.18"
    yield "inspect", image
    yield "diff", image, image, "--platform", platform, "--b", "--vcpus 2"
    plan = str(folder / "p.json")
    options = ("--platform", platform, "--abi", "kvm-6.18", "--format", "json", "-o", plan)
    assert run("plan", image, *options).code == 0
    yield "simulate", plan
    yield "simulate", plan, "--abi", "kvm-7.0"


@pytest.mark.parametrize("columns", ["80", None, "120"])
@pytest.mark.parametrize("name", IMAGES)
def test_every_line_about_an_image_fits(
    name: str, columns: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not name.startswith("example") and not Path(IMAGES[name][0]).exists():
        pytest.skip(f"{IMAGES[name][0]} is not here")
    set_columns(monkeypatch, columns)
    for arguments in lines_of(name, tmp_path):
        text = run(*arguments).out
        assert text
        assert not too_wide(text, int(columns or 80)), arguments


def set_columns(monkeypatch: pytest.MonkeyPatch, columns: str | None) -> None:
    if columns is None:
        monkeypatch.delenv("COLUMNS")
    else:
        monkeypatch.setenv("COLUMNS", columns)


@pytest.mark.parametrize("verb", ["map", "inspect"])
def test_the_name_of_the_image_is_a_heading(verb: str, tmp_path: Path) -> None:
    path = tmp_path / "image.fd"
    path.write_bytes(Path("cvmplan/examples/snp.fd").read_bytes())
    assert run(verb, str(path)).out.splitlines()[0] == str(path)
    assert run(verb, str(path)).out.count("image.fd") == 1


@pytest.mark.parametrize("columns", ["80", None])
def test_every_other_answer_fits(
    columns: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_columns(monkeypatch, columns)
    monkeypatch.chdir(tmp_path)
    chain = amd()
    Path("report").write_bytes(snp_report(chain[0], 2, measurement=b"\x11" * 48))
    Path("log").write_bytes(Log([LogEvent(), LogEvent(b"something else")]).build())
    for name, one in zip(("vcek", "ask", "ark"), chain, strict=True):
        Path(name).write_bytes(one.pem)
    signed = ("--certs", "vcek", "--certs", "ask", "--certs", "ark")
    for arguments in (
        ("verify", "report", "example:snp", *signed), ("events", "log", "--rtmr0", "00" * 48),
        ("explain", "example:snp", "--expect", "00" * 48, "--budget", "0.3"),
        ("explain", "example:snp", "--report", "report", "--budget", "0.3"),
        ("td-params",), ("td-info", "example:tdx"), ("profiles",), ("abis",), ("rules",), ("cpus",),
        ("profiles", "qemu"), ("abis", "kvm-6.18"), ("abis", "map-memory"), ("help",),
    ):  # fmt: skip
        text = run(*arguments).out
        assert text, arguments
        assert not too_wide(text), arguments


@pytest.mark.parametrize("columns", [80, 100, 200])
@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_is_as_wide_as_the_terminal(
    verb: str | None, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = run(*([verb] if verb else []), "--help").out
    assert text.startswith("Usage: cvmplan")
    assert max(map(len, text.splitlines())) <= columns


# --- the parts ----------------------------------------------------------------------------------


@pytest.fixture
def eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.usefixtures("eighty")
def test_a_wide_column_is_wrapped_below_itself() -> None:
    rows = [("one", "word " * 30, "x"), ("three", "short", "y")]
    lines = aligned(rows, "  ")
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("  one    word word")
    assert lines[1].startswith("         word")
    assert lines[-1].split() == ["three", "short", "y"]
    assert lines[0].rstrip().endswith("x")
    assert " ".join(" ".join(lines).split()).count("word") == 30


@pytest.mark.usefixtures("eighty")
def test_a_pair_stays_together_and_a_long_word_is_cut() -> None:
    fields = "page-type normal  gpa 0xffc00000  size 0x400000"
    (first, second) = aligned([("a" * 40, fields)])
    assert first.endswith("page-type normal  gpa 0xffc00000")
    assert second.strip() == "size 0x400000"
    lines = aligned([("name", "f" * 200)])
    assert "".join(line.removeprefix("name").strip() for line in lines) == "f" * 200


@pytest.mark.usefixtures("eighty")
def test_a_sentence_is_wrapped_and_a_digest_is_not() -> None:
    text = joined(["note: " + "words of a sentence " * 8, "MRTD  " + "ab" * 48, "\x1b[2J"])
    assert not too_wide(text)
    assert text.splitlines()[1].startswith("  ")
    assert f"MRTD\n  {'ab' * 48}\n" in text
    assert text.endswith("\\x1b[2J\n")


def test_the_name_that_most_texts_have_is_left_out() -> None:
    assert without_name(["a: x", "KVM: z", "a: y"]) == ("a", ["x", "KVM: z", "y"])
    assert without_name(["f+0x10", "f+0x20"]) == ("f", ["+0x10", "+0x20"])
    assert without_name(["-", ""]) == ("", ["-", ""])
