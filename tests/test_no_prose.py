"""
No prose as logic: other words in every sentence change no document but in its messages.

Each literal of the package that is a sentence gets other words in a copy, each literal its own,
so that a part of a sentence is no longer found in the whole.  The same command lines are run with
both packages, and their documents compared.  A decision, a key or a value that is made from words
differs then, where it is not among `MESSAGES`.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any, Final
from zlib import crc32

import pytest

import cvmplan
from cvmplan.kvm.abi import ABIS
from cvmplan.profiles import PROFILES
from tests.build import igvm
from tests.build.evidence import amd, intel, snp_report, td_quote, td_report
from tests.plans import guest, plan, region, update
from tests.run import run
from tests.test_events import PUBLISHED

PACKAGE: Final = Path(cvmplan.__file__).parent
SENTENCE = re.compile(
    r"[A-Za-z]{2,}[,:;)]? [a-z(]|[a-z]{2,} [A-Za-z]|(?:^| )[a-z]{2,} | [a-z]{2,}$"
)
WORD = re.compile(r"(?<![\w{%\\])[A-Za-z]{2,}(?![\w}])")
NAMES: Final = {
    "Intel SGX PCK Certificate": "the subject of a certificate",
    "Intel SGX TCB Signing": "the subject of a certificate",
    "Santa Clara": "the subject of a certificate",
    "Advanced Micro Devices": "the subject of a certificate",
    "Intel SGX Root": "the subject of a certificate",
    "ACPI DATA": "what firmware logs",
    "dstack runtime event": "the name of a type of event",
    "parameter_area_index byte_offset": "fields of a header",
}
"""Strings with spaces that others chose: they are compared with, and no sentences."""
READ_BY_MACHINES: Final = {"compile", "Struct", "split", "_layout", "_words", "Field"}
"""Functions whose arguments, or on which object they are called, are patterns and layouts."""


def words_of_documents() -> set[str]:
    """Return the values with spaces that documents enumerate: they are part of the format."""
    found = set()
    for path in (PACKAGE / "documents").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
                found |= {
                    n.value
                    for n in ast.walk(node)
                    if isinstance(n, ast.Constant) and isinstance(n.value, str)
                }
    return {word for word in found if " " in word}


class OtherWords(ast.NodeTransformer):
    """Gives each sentence other words; layouts, patterns, names and docstrings stay."""

    def __init__(self, kept: set[str]) -> None:
        self.kept = kept

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if isinstance(node.value, str) and node.value not in self.kept:
            return ast.copy_location(ast.Constant(other_words(node.value)), node)
        return node

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.FormattedValue:
        node.value = self.visit(node.value)  # not its format
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        return node if name in READ_BY_MACHINES else self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        return node if ast.unparse(node.value) == "Literal" else self.generic_visit(node)


def other_words(text: str) -> str:
    """Return a sentence with other words, its numbers and placeholders as they are."""
    if not SENTENCE.search(text):
        return text
    mark = f"{crc32(text.encode()):08x}"
    return WORD.sub(lambda found: found[0][::-1] + mark, text)


PROGRAM: Final = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from cvmplan.cli import main
found = []
for line in json.load(open(sys.argv[1])):
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in "ab")
    with redirect_stdout(out), redirect_stderr(err):
        code = main(line)
    found.append([code, out.buffer.getvalue().decode()])
print(json.dumps(found))
"""
AT: Final = ("--at", "2026-11-01")
AS_JSON: Final = ("--format", "json")


def recorded(*calls: dict[str, Any]) -> bytes:
    """Return a recorded launch of SNP with these adds."""
    whole = ({"op": "snp-launch-start"}, *calls, {"op": "snp-launch-finish"})
    return "".join(f"{json.dumps(call)}\n" for call in whole).encode()


def inputs() -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the files that the command lines read."""
    digest, mrtd = (
        bytes.fromhex(run("measure", "--example", p, "--bare").out) for p in ("snp", "tdx")
    )
    chain = amd()
    yield "report", snp_report(chain[0], measurement=digest)
    yield "other-report", snp_report(chain[0], at={8: (1 << 19 | 1 << 17).to_bytes(8, "little")})
    yield "certs", b"".join(signer.pem for signer in chain)
    yield "quote", td_quote(intel(), mrtd=mrtd, mrsignerseam=b"\1" * 48)
    yield "tdreport", td_report(mrtd=bytes(48), attributes=b"\2")
    yield "image.igvm", igvm.good_everything().build()
    yield "log", PUBLISHED.read_bytes()
    yield "line", b"console=ttyS0\n"
    yield "kernel", bytes(4096)
    add = {"op": "snp-launch-update", "gpa": "0x1000", "size": "0x1000", "page_type": "zero"}
    yield "recorded", recorded(add, add)
    yield "recorded-twice", recorded({**add, "ret": 0}, {**add, "ret": 0}, {**add, "ret": -5})
    page = update(0x1000)
    bad = (page, page, update(0x10000000), update(0x1001), update(0x2000, 0))
    yield "bad-snp", json.dumps(plan("snp", guest("snp", *bad))).encode()
    pages = (region(0x1000), region(0x1000), region(0x900000))
    yield "bad-tdx", json.dumps(plan("tdx", guest("tdx", *pages))).encode()


def lines(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield the command lines; those that write a plan come before those that read it."""

    def at(name: str) -> str:
        return str(folder / name)

    yield ("inspect", "--example", "tdx", *AS_JSON)
    yield ("inspect", at("image.igvm"), *AS_JSON)
    for image in (
        ("--example", "snp"),
        ("--example", "tdx"),
        (at("image.igvm"), "--platform", "snp"),
    ):
        for verb in ("check", "map", "plan", "trace", "measure"):
            yield (verb, *image, *AS_JSON)
    yield ("check", "--example", "snp", "--policy", "0xa0000", "--sev-features", "0x7f", *AS_JSON)
    for kernel in ("kvm-6.11", "kvm-7.0", "rfc-coupled", "map-memory"):
        yield ("simulate", at("bad-snp"), "--abi", kernel, *AS_JSON)
        yield ("simulate", at("bad-tdx"), "--abi", kernel.replace("6.11", "6.18"), *AS_JSON)
        yield ("simulate", at("recorded"), "--abi", kernel, *AS_JSON)
        yield ("simulate", at("recorded-twice"), "--abi", kernel, *AS_JSON)
    yield ("plan", "--example", "snp", *AS_JSON, "-o", at("one"))
    yield ("plan", "--example", "snp", "--vcpus", "2", *AS_JSON, "-o", at("two"))
    yield ("plan", "--example", "tdx", *AS_JSON, "-o", at("td"))
    for name in ("one", "two"):
        yield ("trace", at(name), *AS_JSON, "-o", at(f"{name}-traced"))
    for a, b in (("one", "two"), ("one", "two-traced"), ("recorded", "one-traced"), ("one", "td")):
        yield ("diff", at(a), at(b), *AS_JSON)
    yield (
        "diff",
        "--a",
        "--policy 0x70000",
        "--platform",
        "snp",
        *(at("image.igvm"),) * 2,
        *AS_JSON,
    )
    certs = ("--certs", at("certs"))
    for name, example in (("report", "snp"), ("quote", "tdx"), ("tdreport", "tdx")):
        yield ("verify", at(name), *AT, "--example", example, *AS_JSON)
    for name in ("report", "other-report"):
        yield ("verify", at(name), *AT, "--example", "snp", *certs, *AS_JSON)
    yield ("events", at("log"), "--rtmr0", "00" * 48, *AS_JSON)
    changed = ("--kernel", at("kernel"), "--append-file", at("line"))
    yield ("explain", "--example", "snp", "--report", at("report"), *changed, "--quiet", *AS_JSON)
    unknown = ("--expect", "00" * 48, "--quiet", *AS_JSON)
    yield ("explain", "--example", "tdx", "--kernel", at("kernel"), *unknown)
    yield ("td-params", "--attributes", "0x2", *AS_JSON)
    yield ("td-info", "--example", "tdx", *AS_JSON)
    yield ("rtmr", *AS_JSON)
    yield ("rules", *AS_JSON)
    yield ("sweep", "--example", "snp", "--vcpus", "1-2", "--format", "jsonl")
    yield from (("abis", kernel, *AS_JSON) for kernel in ABIS)
    yield from (("profiles", profile, *AS_JSON) for profile in PROFILES)
    yield ("plan", "--example", "snp", "--abi", "kvm-6.18", "--format", "calls")
    yield ("plan", "--example", "tdx", "--abi", "kvm-7.0", "--format", "calls")


def translate(source: str, kept: set[str]) -> str:
    """Return the text of a module with other words."""
    return ast.unparse(OtherWords(kept).visit(ast.parse(source)))


def answers(
    package: Path, folder: Path, files: list[tuple[str, bytes]]
) -> list[tuple[int, list[Any]]]:
    """Return (exit code, documents) of all command lines under the package in `package`."""
    for name, data in files:
        (folder / name).write_bytes(data)
    asked = folder / "lines.json"
    asked.write_text(json.dumps([*lines(folder)]))
    command = [sys.executable, "-c", PROGRAM, str(asked)]
    done = subprocess.run(command, cwd=package, capture_output=True, check=True, text=True)
    return [
        (code, parsed(out.replace(str(folder), "FOLDER"))) for code, out in json.loads(done.stdout)
    ]


def parsed(text: str) -> list[Any]:
    """Return the documents of an answer: one, or one a line."""
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def differences(one: Any, two: Any, path: str = "") -> Iterator[str]:
    """Yield the places in which two documents differ; of a list without its numbers."""
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        for key in one:
            yield from differences(one[key], two[key], f"{path}.{key}")
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for a, b in zip(one, two, strict=True):
            yield from differences(a, b, f"{path}[]")
    elif one != two:
        yield path


MESSAGES: Final = frozenset({
    # findings, answers, notes
    ".findings[].message", ".findings[].hint", ".findings[].origins[]", ".results[].why",
    ".format", ".regions[].owner", ".tables[].name", ".tables[].rows[].entry", "[].explanation",
    # what VMMs do between calls
    ".repeat", ".retry", ".wants",
    # interfaces and profiles: what they are, and why that is believed
    ".title", ".nearest", ".facts[].fact", ".facts[].source", ".sources[].fact",
    ".sources[].source", ".sources[].commit", ".sources[].until", ".refusals[].answer",
    ".refusals[].call", ".refusals[].situation", ".refusals[].source", ".refusals[].where",
    ".not_modelled.snp", ".not_modelled.tdx", ".module.confidence", ".names.attributes[]",
    # comparisons
    ".parting.a", ".parting.b", ".parting.why", ".differences[].what", ".differences[].where",
    ".differences[].a", ".differences[].b", ".not_compared[]", ".calls_differ",
    ".kind", ".lines[].expected", ".lines[].found", ".lines[].why", ".not_checked[]",
    # events
    ".events[].description", ".events[].why", ".compared[].why", ".events[].what",
    ".events[].needs", ".registers[].needs", ".registers[].unknown",
    # explanations
    ".evidence", ".changes[].typed", ".changes[].why", ".searched[].name", ".searched[].values",
    ".not_searched[]",
})  # fmt: skip
"""Places in documents that are for people."""


def copies(folder: Path, changed: dict[str, tuple[str, str]]) -> tuple[Path, Path]:
    """
    Return a folder with the package, and one with the package in other words.

    `changed`: module to what is put in the place of what, in both.
    """
    kept = words_of_documents() | set(NAMES)
    plain, other = folder / "plain", folder / "other"
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text()
        name = path.relative_to(PACKAGE.parent)
        old, new = changed.get(str(name.relative_to("cvmplan")), ("", ""))
        assert old in source
        source = source.replace(old, new) if old else source
        for root, text in ((plain, source), (other, translate(source, kept))):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    for root in (plain, other):
        copytree(PACKAGE / "examples", root / "cvmplan" / "examples")
    return plain, other


def seen_differences(folder: Path, changed: dict[str, tuple[str, str]]) -> set[str]:
    """Return where documents of both packages differ; "code" for an exit code."""
    files = [*inputs()]
    found, told = set(), []
    for package in copies(folder, changed):
        (package / "files").mkdir()
        told.append(answers(package, package / "files", files))
    for line, (one_code, one), (other_code, other) in zip(lines(folder), *told, strict=True):
        assert one or "-o" in line, f"{line} has no answer"
        found |= {"code"} if one_code != other_code else set()
        found |= {path.removeprefix("[]") for path in differences(one, other)}
    return found


def test_other_words_change_no_document_but_in_its_messages(tmp_path: Path) -> None:
    found = seen_differences(tmp_path, {})
    assert found <= MESSAGES
    assert len(found) > len(MESSAGES) // 2


KEY: Final = ('"name": line.id', '"name": line.name.replace(" ", "_").lower()')
DECISION: Final = ("one.differs and one.id in MEASUREMENTS", "'read the guest' in one.why")
MADE_OF_WORDS: Final = {
    "a key": (".lines[].name", {"emit/json_identity.py": KEY}),
    "a decision": (".explain", {"evidence/verify.py": DECISION}),
}


@pytest.mark.parametrize("name", MADE_OF_WORDS)
def test_what_is_made_of_words_is_seen(name: str, tmp_path: Path) -> None:
    """So that the test before can fail."""
    path, changed = MADE_OF_WORDS[name]
    found = seen_differences(tmp_path, changed)
    assert path in found
    assert path not in MESSAGES


def sentences_compared(source: str) -> Iterator[str]:
    """Yield the expressions that compare with a sentence, or look something up by one."""
    for node in ast.walk(ast.parse(source)):
        held: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            held = [node.left, *node.comparators]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) != "Literal":
            held = [node.slice]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in LOOKING:
            held = node.args
        elif isinstance(node, ast.Dict):
            held = [key for key in node.keys if key is not None]
        parts = [part for one in held for part in (one, *getattr(one, "elts", ()))]
        if any(is_sentence(part) for part in parts):
            yield ast.unparse(node)


LOOKING: Final = {"startswith", "endswith", "removeprefix", "removesuffix", "partition", "find"}


def is_sentence(node: ast.expr) -> bool:
    """Whether an expression is a sentence, with values in it or without."""
    if isinstance(node, ast.JoinedStr):
        return any(is_sentence(value) for value in node.values)
    text = node.value if isinstance(node, ast.Constant) else None
    return isinstance(text, str) and text not in NAMES and SENTENCE.search(text) is not None


def test_no_sentence_is_compared_or_a_key() -> None:
    for path in PACKAGE.rglob("*.py"):
        found = [*sentences_compared(path.read_text())]
        assert set(found) <= OF_OTHERS, path


OF_OTHERS: Final = {"str(error['msg']).removeprefix('Value error, ')"}
"""What looks at a sentence of another library: pydantic's, to print it."""


@pytest.mark.parametrize(
    "source",
    ['x = "added before" in answer.why', 'status == "not in plan"', '{"the TD is dead": dead}',
     'why.startswith("policy bits")', 'f"event {n} differs" == line'],
)  # fmt: skip
def test_a_sentence_that_is_compared_is_found(source: str) -> None:
    assert [*sentences_compared(source)]


@pytest.mark.parametrize("of", [*ABIS, *PROFILES])
def test_facts_are_named_by_ids_of_their_own(of: str) -> None:
    facts = ABIS[of].facts if of in ABIS else PROFILES[of].sources
    ids = [fact.id for fact in facts]
    assert ids
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", one) for one in ids)
