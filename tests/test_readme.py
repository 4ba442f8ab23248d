"""The README: its set-up commands, and help texts that are those of the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cvmplan import profiles
from tests.run import run

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
HELP = [text for _, text in BLOCKS if text.startswith("$ cvmplan") and "--help" in text]


def test_the_first_two_blocks_set_up_and_go() -> None:
    assert [kind for kind, _ in BLOCKS[:2]] == ["sh", "sh"]
    assert [kind for kind, _ in BLOCKS].count("sh") == 2
    assert "cvmplan measure --example snp" in BLOCKS[0][1]
    assert "pytest" in BLOCKS[1][1]
    assert all(text.count("\n") == 1 for _, text in BLOCKS[:2])


def test_there_are_help_blocks() -> None:
    assert len(HELP) == 2


@pytest.mark.parametrize("block", HELP, ids=lambda b: b.splitlines()[0])
def test_help_is_what_the_program_prints(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command, _, text = block.partition("\n")
    assert run(*command.removeprefix("$ cvmplan ").split()).out == text


def test_every_profile_is_named() -> None:
    text = README.read_text()
    assert all(f"| `{name}` |" in text for name in profiles.PROFILES)
