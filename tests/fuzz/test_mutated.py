"""20 000 changed inputs for each decoder of evidence: errors of the project alone, and bounded."""

from __future__ import annotations

import pytest

from tests.fuzz import mutated
from tests.fuzz.mutated import COUNTED, READERS, wrong

CASES = 20_000


@pytest.mark.parametrize("name", READERS)
def test_a_decoder_raises_errors_of_the_project_alone(name: str) -> None:
    assert [*wrong(name, CASES)] == []
    assert COUNTED[name] == CASES


def test_what_goes_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> object:
        raise KeyError("a bug")

    monkeypatch.setitem(READERS, "policy", fails)
    monkeypatch.setattr(mutated, "seeds", lambda _: [b"seed"])
    assert next(iter(wrong("policy", 1))).startswith("policy: KeyError: 'a bug'")
