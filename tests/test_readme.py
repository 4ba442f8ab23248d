"""The README: its set-up commands, and that it stays short."""

from __future__ import annotations

from tests.docs import ROOT, blocks

README = (ROOT / "README.md").read_text()
BLOCKS = list(blocks(README))


def test_the_first_two_blocks_set_up_and_go() -> None:
    shell = [b for b in BLOCKS if b.kind == "sh"]
    assert len(shell) == 2
    assert "cvmplan measure --example snp" in shell[0].text
    assert "pytest" in shell[1].text
    assert all(b.text.count("\n") == 1 for b in shell)


def test_the_first_screen_has_an_answer() -> None:
    first = README[: README.index("## ")]
    assert "MEASUREMENT (SHA-384)" in first
    assert first.count("\n") < 45
