"""Plain English: idioms that readers stumble over are in no text that users read."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

import cvmplan
from cvmplan.cli import VERBS
from tests.docs import BLOCK, PAGES, ROOT
from tests.run import run

PACKAGE: Final = ROOT / "cvmplan"
STEMS: Final = [
    r"goes? (?:with|without|together)\b", r"means nothing",
    r"\b(?:is|are) no (?!longer|such|source|network)",
    r"\bhas not\b(?! \w+ed\b)", r"\b(?:lies|lie) (?:in|at|outside|inside|over|beside)\b",
    r"\bstands? (?:in|at|for|twice|there|beside)\b", r"\b(?:is|are|was|unless) told\b",
    r"\bheld against\b", r"\bthey part\b", r"\bparts? at\b", r"\bnobody to ask\b",
    r"\btime (?:sufficed|did not suffice)\b", r"\bof no use\b", r"\banother (?:launch )?digest\b",
    r"\banother (?:number|order|place|policy|measurement|address)\b", r"\bspoil(?:ed|t)\b",
    r"\bwants\b|, want ", r"\bthere is no (?:platform|document|profile|format|setting)\b",
    r"\bneither .* nor without\b", r"\bholds? (?:another|no|the)\b", r"\bWhere to;",
    r"\bWhere else\b", r"\bWhat follows\b", r"\bin vain\b", r"\bas good as\b", r"\bthereof\b",
    r"\bgo together\b", r"\bbeside it\b", r"\bbehind (?:it|the|its)\b", r"\bin place of\b",
    r"\bwhole or not at all\b",
]  # fmt: skip
"""From the rules of the project's English: what they rule out, and their examples' left side."""
FOUND: Final = re.compile("|".join(f"(?:{stem})" for stem in STEMS), re.IGNORECASE)
ALLOWED: Final[Mapping[str, str]] = {}
"""At most three texts that have such an idiom, each with the reason."""


def literals(path: Path) -> Iterator[str]:
    """Yield the texts of a module that are not docstrings, each part of an f-string alone."""
    tree = ast.parse(path.read_text())
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def texts() -> Iterator[tuple[str, str]]:
    """Yield (where, text) of everything that users and contributors read."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for text in literals(path):
            if " " in text:
                yield path.relative_to(ROOT).as_posix(), text
    for verb in VERBS:
        yield f"{verb} --help", run(verb, "--help").out
    for page in (*PAGES, *(ROOT / ".github").glob("*.md")):
        prose = BLOCK.sub("", page.read_text())
        yield from ((page.relative_to(ROOT).as_posix(), line) for line in prose.splitlines())
    for name in cvmplan.__all__:
        yield name, inspect.getdoc(getattr(cvmplan, name)) or ""


def idioms(text: str) -> list[str]:
    return [found[0] for found in FOUND.finditer(text)]


def test_no_text_has_an_idiom_that_the_rules_rule_out() -> None:
    assert len(ALLOWED) <= 3
    found = {f"{where}: {text}": idioms(text) for where, text in texts() if text not in ALLOWED}
    assert not {where: words for where, words in found.items() if words}


def test_what_is_allowed_is_needed() -> None:
    said = [text for _, text in texts()]
    assert all(text in said and idioms(text) for text in ALLOWED)


@pytest.mark.parametrize(
    "sentence",
    [
        "--bare goes without a format", "means nothing for tdx", "is no certificate in PEM or DER",
        "a report or quote, held against a plan", "the key stands twice", "wants one image",
        "where the pages lie in the file", "they part at op 3", "nobody to ask",
        "as far as the time sufficed", "gives another digest", "there is no platform 'x'",
        "holds another number of VMSAs", "Where to; written whole or not at all.",
        "the bytes behind the quote", "SHA-256 in place of --kernel",
    ],
)  # fmt: skip
def test_such_a_sentence_is_found(sentence: str) -> None:
    assert idioms(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "missing IMAGE (or --example)", "unknown platform 'x'; choose from snp, tdx",
        "OK: evidence matches the plan", "not a PEM or DER certificate",
        "there is no network access",
    ],
)  # fmt: skip
def test_plain_english_is_left_alone(sentence: str) -> None:
    assert not idioms(sentence)
