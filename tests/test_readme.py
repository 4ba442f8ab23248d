"""The README: its set-up commands, and that it stays short."""

from __future__ import annotations

from tests.docs import ROOT, blocks

README = (ROOT / "README.md").read_text()
SHELL = [block for block in blocks(README) if block.kind == "sh"]


def test_the_first_two_blocks_set_up_and_go() -> None:
    assert len(SHELL) == 2
    assert "cvmplan measure --example snp" in SHELL[0].text
    assert "pytest" in SHELL[1].text
    assert all(b.text.count("\n") == 1 for b in SHELL)


def test_the_first_screen_has_an_answer() -> None:
    first = README[: README.index("## ")]
    assert "MEASUREMENT (SHA-384)" in first
    assert first.count("\n") < 45
