"""The rooms of the house, floor by floor: each may import only what stands below it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from cvmplan import profiles
from cvmplan.core.platform import Platform

ROOT = Path(__file__).parent.parent / "cvmplan"
MODULES = sorted(ROOT.rglob("*.py"))
FLOORS = [
    ["core"],
    ["documents", "memory"],
    ["eventlog", "operations"],
    ["kvm", "sev_session"],
    ["profiles", "simulator"],
    ["launch"],
    ["images", "platforms"],
    ["boot", "calls", "comparison", "evidence", "readers"],
    ["planning"],
    ["explanation", "reference", "sweep"],
    ["catalogue"],
    ["api", "emit"],
    ["host"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(FLOORS) for name in names}
# Who may import what from outside the standard library.
OUTSIDE = {
    "typer": {"cli"},
    "rich": {"cli"},
    "pydantic": {"documents", "readers"},
    "yaml": {"documents"},
    "cbor2": {"emit", "evidence"},
    "msgpack": {"evidence"},
    "cryptography": {"evidence", "sev_session"},
}
WORLD = {"os", "io", "sys", "pathlib", "logging", "subprocess", "mmap", "tempfile", "signal"}
# What touches files, processes and streams: rooms, and single modules of others.
MAY_TOUCH_THE_WORLD = {
    "cli", "host", "sweep", "core/files.py", "core/mapped.py", "core/outputs.py",
    "core/processes.py", "planning/request.py", "boot/dump.py",
}  # fmt: skip
PROGRAMS = {"boot/dump.py"}  # run as a module, imported by none


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def place_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


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


def test_every_room_has_a_floor() -> None:
    assert {name_of(p) for p in MODULES} - {"__init__"} == set(RANK)


@pytest.mark.parametrize("room", sorted(set(RANK) - {"__main__"}))
def test_a_room_says_what_it_is(room: str) -> None:
    says = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text()))
    assert says
    assert says.split("\n")[0].endswith((".", ":")), says


@pytest.mark.parametrize("path", MODULES, ids=place_of)
def test_imports_point_downwards(path: Path) -> None:
    mine, place = name_of(path), place_of(path)
    for imported in imports(path):
        top, _, rest = imported.partition(".")
        if top == "cvmplan" and rest and mine in RANK and rest != "__version__":
            theirs = rest.split(".")[0]
            assert theirs == mine or RANK[theirs] < RANK[mine], imported
        assert mine in OUTSIDE.get(top, {mine}), imported
        allowed = top not in WORLD or MAY_TOUCH_THE_WORLD & {mine, place}
        assert allowed, f"import {imported}: files, streams, processes are for others"


def test_snp_and_tdx_stay_apart() -> None:
    for mine, theirs in (("snp", "tdx"), ("tdx", "snp")):
        for path in (ROOT / "platforms" / mine).glob("*.py"):
            assert not [i for i in imports(path) if i.startswith(f"cvmplan.platforms.{theirs}")]


def test_no_module_needs_itself() -> None:
    """Raises CycleError: two modules that import each other are one that cannot be read alone."""
    graph = {}
    names = {".".join(("cvmplan", *p.relative_to(ROOT).with_suffix("").parts)) for p in MODULES}
    for path in MODULES:
        own = ".".join(("cvmplan", *path.relative_to(ROOT).with_suffix("").parts))
        graph[own] = {i for i in imports(path) if i in names}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", MODULES, ids=place_of)
def test_the_package_neither_asserts_nor_exits(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Assert)]
    if name_of(path) != "cli":
        assert "sys.exit" not in path.read_text() or place_of(path) in PROGRAMS


@pytest.mark.parametrize("path", MODULES, ids=place_of)
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


def is_foreign(path: Path) -> bool:
    """Whether a module reads what others write, in whose words VMMs and platforms are named."""
    return place_of(path).startswith("readers/descriptions/")


@pytest.mark.parametrize("path", MODULES, ids=place_of)
def test_a_vmm_is_named_in_profiles_only(path: Path) -> None:
    if name_of(path) == "profiles" or place_of(path) in PROGRAMS or is_foreign(path):
        return
    words = "|".join(re.escape(n) for n in profiles.PROFILES if n != "td-shim")
    pattern = rf"\b(?:{words}|ec2|hyper-v|cloud.hypervisor|openvmm|virtee)\b"
    code = code_without_prose(path)
    found = re.findall(pattern, code, re.IGNORECASE)
    allowed = {"emit", "cli"}  # help texts
    assert not found or name_of(path) in allowed, found


# Tables of kernels and VMMs, which say what they have, and the registry of simulated VMs.
TABLES = {
    "emit/references/corim.py",
    "kvm/abi.py", "kvm/interface.py", "kvm/refusals.py", "kvm/releases.py", "simulator/simulate.py",
    "reference/targets.py",
}  # fmt: skip
FORMATS = {"images", "platforms", "profiles"}  # where a file format or a table names a platform
TCB_PART = (
    "snp"  # a part of AMD's TCB version has the name of a platform, as have families of calls
)
NAMES = {str(p) for p in Platform}
CONSTANTS = {p.name for p in Platform}


def names_platform(node: ast.AST) -> bool:
    """Whether an expression is a platform, by its name or by a constant."""
    if isinstance(node, ast.Constant):
        return node.value in NAMES
    if isinstance(node, ast.Attribute):
        return node.attr in CONSTANTS
    return isinstance(node, ast.Name) and node.id in CONSTANTS


def parts(node: ast.AST) -> list[ast.expr]:
    """Return the members of a container, or the node itself."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return node.elts
    if isinstance(node, ast.Dict):
        return [key for key in node.keys if key is not None]
    return [node] if isinstance(node, ast.expr) else []


@pytest.mark.parametrize("path", MODULES, ids=place_of)
def test_platforms_are_asked_and_neither_compared_nor_listed(path: Path) -> None:
    place = place_of(path)
    exempt = place in TABLES or name_of(path) in FORMATS or is_foreign(path)
    if place == "core/platform.py" or exempt:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            held = [part for side in (node.left, *node.comparators) for part in parts(side)]
            assert not any(map(names_platform, held)), ast.unparse(node)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "startswith":
            assert not any(map(names_platform, node.args)), ast.unparse(node)
        if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict):
            named = [part for part in parts(node) if names_platform(part)]
            named = [n for n in named if not (isinstance(n, ast.Constant) and n.value == TCB_PART)]
            assert len(named) < 2, ast.unparse(node)
        assert not (isinstance(node, ast.match_case) and any(map(names_platform, ast.walk(node))))
