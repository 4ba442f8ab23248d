"""Outputs: each format has what its protocol says, and none of them computes anything."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from cvmplan import emit
from cvmplan.core.errors import ConfigError
from cvmplan.emit import Output, protocols

FOLDER = Path(emit.__file__).parent
MODULES = sorted(FOLDER.glob("*.py"))
OUTPUTS = [value for value in vars(emit).values() if isinstance(value, Output)]
FORMATS = [(output, name) for output in OUTPUTS for name in output.modules]
COMPUTING = {"hashlib", "hmac", "secrets"}
"""Modules that whoever computes something needs."""
FOLDS = {"measure", "measure_steps", "lowered", "running", "replay", "replayed", "fit", "pack",
         "checkpoints", "tee_info_hash", "key_digests", "sign"}  # fmt: skip
"""Functions that compute digests, or the bytes of records."""


TABLES = {"ABIS", "PROFILES", "RULES", "find", "calls_of", "of_interface"}
"""What is built in: whoever prints it is given it."""
WRITTEN = {
    "_DIRECTIVE.pack", "FIXED.pack", "FIXED_2.pack", "HEAD.pack", "layout.pack",
    "layout.struct.pack",
}  # fmt: skip
"""Records that no stage has: an ID block of an IGVM file, and the headers of one."""


def protocol_of(output: Output[Any]) -> type[Any]:
    """Return the protocol of an output, as its annotation names it."""
    tree = ast.parse((FOLDER / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and getattr(emit, ast.unparse(node.target)) is output:
            name = ast.unparse(node.annotation).removeprefix("Final[Output[").removesuffix("]]")
            found: type[Any] = getattr(protocols, name)
            return found
    raise AssertionError(output.what)


@pytest.mark.parametrize(("output", "name"), FORMATS, ids=lambda v: getattr(v, "what", v))
def test_each_format_is_called_as_its_protocol_says(output: Output[Any], name: str) -> None:
    protocol = protocol_of(output)
    module = import_module(f"cvmplan.emit.{output.modules[name]}")
    assert output.printer(name) is module
    methods = {n: f for n, f in vars(protocol).items() if inspect.isfunction(f) and n[0] != "_"}
    methods = {n: f for n, f in methods.items() if n != "_no_init_or_replace_init"}
    assert methods
    for method, wanted in methods.items():
        _, *parameters = inspect.signature(wanted).parameters.values()
        found = inspect.signature(getattr(module, method)).parameters.values()
        assert [str(p) for p in found] == [str(p) for p in parameters]


def test_a_format_that_an_output_has_not_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(ConfigError, match="unknown format 'calls' for trace") as error:
        emit.TRACE.printer("calls")
    assert error.value.hint == "choose from text, json, jsonl"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_emitters_compute_nothing(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not COMPUTING & {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module not in COMPUTING
            assert not TABLES & {alias.name for alias in node.names}
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            assert called not in FOLDS or ast.unparse(node.func) in WRITTEN, ast.unparse(node)
