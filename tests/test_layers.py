"""The layers, as a test: each module may import only what stands below it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmplan import profiles

ROOT = Path(__file__).parent.parent / "cvmplan"
MODULES = sorted(ROOT.rglob("*.py"))
LAYERS = [
    ["errors", "values", "records"],
    ["blob", "order", "guids", "findings", "spans", "cpus", "documents", "mapped"],
    ["contents", "edk2", "signing"],
    ["lowering"],
    ["gpamap", "plan"],
    ["notes"],
    ["profiles", "kvm", "settings", "files", "outputs", "processes"],
    ["launch"],
    ["pages"],
    ["images"],
    ["readers", "snp", "tdx", "sev", "vbs", "vm"],
    ["boot"],
    ["resolve", "jobs"],
    ["sources", "counts"],
    ["assemble"],
    ["api"],
    ["sweep", "explain", "diff", "evidence"],
    ["emit"],
    ["host"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# Who may import what from outside the standard library.
OUTSIDE = {
    "typer": "cli",
    "rich": "cli",
    "pydantic": "documents",
    "yaml": "readers",
    "cryptography": "signing",
}
WORLD = {"os", "io", "sys", "pathlib", "logging", "subprocess", "mmap", "tempfile", "signal"}
MAY_TOUCH_THE_WORLD = {"cli", "files", "mapped", "outputs", "processes", "api", "host", "sweep"}

PROGRAMS = {ROOT / "boot" / "dump.py"}  # run as a module, imported by none


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def typing_only(tree: ast.Module) -> set[ast.AST]:
    blocks = [
        n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n)
    ]
    return {inner for block in blocks for inner in ast.walk(block)}


def imports(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    skipped = typing_only(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "cvmplan":
                yield from (f"cvmplan.{a.name}" for a in node.names)
            else:
                yield node.module or ""


def test_every_module_has_a_layer() -> None:
    assert {name_of(p) for p in MODULES} - {"__init__"} == set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    mine = name_of(path)
    for imported in imports(path):
        top, _, rest = imported.partition(".")
        if top == "cvmplan" and rest and mine in RANK and rest != "__version__":
            theirs = rest.split(".")[0]
            assert theirs == mine or RANK[theirs] < RANK[mine] or sibling(mine, theirs), imported
        assert OUTSIDE.get(top, mine) == mine or (top, mine) == ("pydantic", "readers"), imported
        assert top not in WORLD or mine in MAY_TOUCH_THE_WORLD or path in PROGRAMS, imported


def sibling(mine: str, theirs: str) -> bool:
    """Inside one layer: modules of core types and platforms, but SNP and TDX stay apart."""
    return RANK[mine] == RANK[theirs] and {mine, theirs} != {"snp", "tdx"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_package_neither_asserts_nor_exits(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Assert)]
    if name_of(path) != "cli":
        assert "sys.exit" not in path.read_text() or path in PROGRAMS


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_and_functions_fit_a_reader(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= 350
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, node.name


def code_without_prose(path: Path) -> str:
    """Return the code of a module: no docstrings, no comments."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]  # it has one
                n
                for n in body
                if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
            ] or [ast.Pass()]
    return ast.unparse(tree)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_vmm_is_named_in_profiles_only(path: Path) -> None:
    if name_of(path) == "profiles" or path in PROGRAMS:
        return
    words = "|".join(re.escape(n) for n in profiles.PROFILES if n != "td-shim")
    pattern = rf"\b(?:{words}|ec2|hyper-v|cloud.hypervisor|openvmm|virtee)\b"
    code = code_without_prose(path)
    found = re.findall(pattern, code, re.IGNORECASE)
    allowed = {"emit", "cli"}  # help texts
    assert not found or name_of(path) in allowed, found
