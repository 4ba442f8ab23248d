"""The generated parts of the pages: tables and help texts that are those of the program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from cvmplan.cli import VERBS
from cvmplan.core.findings import RULES
from cvmplan.documents import DOCUMENTS, model
from cvmplan.kvm import abi as abis
from cvmplan.launch.settings import SETTINGS
from cvmplan.profiles import PROFILES
from tests.run import run


def rows(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    written = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in written)


def help_of(*verb: str) -> str:
    """Return the help of a verb, or of the program, on 80 columns, as a block."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        text = run(*verb, "--help").out
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return f"```console\n$ {' '.join(('cvmplan', *verb, '--help'))}\n{text}```\n"


def verbs() -> str:
    """Return the help of the program and of each verb."""
    return help_of() + "".join(f"\n## {verb}\n\n{help_of(verb)}" for verb in VERBS)


def profiles() -> str:
    """Return a row for each VMM profile."""
    lines = ([f"`{p.name}`", ", ".join(p.platforms), p.title] for p in PROFILES.values())
    return rows(("profile", "platforms", "VMM"), lines)


def interfaces() -> str:
    """Return a row for each kernel interface."""
    lines = ([f"`{abi.name}`", ", ".join(abi.vm_types), abi.title] for abi in abis.ABIS.values())
    return rows(("interface", "platforms", "kernel"), lines)


def rules() -> str:
    """Return a row for each rule."""
    lines = ([f"`{name}`", rule.severity, rule.explanation] for name, rule in RULES.items())
    return rows(("rule", "severity", "meaning"), lines)


def settings() -> str:
    """Return a row for each setting of a launch."""
    lines = (
        [
            f"`--{name.replace('_', '-')}`",
            "all" if s.platforms is None else ", ".join(s.platforms),
            s.help.replace("|", "\\|"),
        ]
        for name, s in SETTINGS.items()
    )
    return rows(("option", "platforms", "meaning"), lines)


def documents() -> str:
    """Return a row for each JSON document."""
    return rows(("document", "what it is"), ([f"`{name}`", summary(name)] for name in DOCUMENTS))


def summary(document: str) -> str:
    """Return the first paragraph of a document's description, without its name."""
    text = model(document).__doc__.strip().split("\n\n")[0]
    return " ".join(text.split()).removeprefix(f"cvmplan.{document}/1").lstrip(":; ")


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "verbs": verbs,
    "profiles": profiles,
    "interfaces": interfaces,
    "rules": rules,
    "settings": settings,
    "documents": documents,
}
