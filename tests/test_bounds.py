"""Small inputs take little time and memory, large ones are refused before they are searched."""

from __future__ import annotations

import json
import sqlite3
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage

from cvmplan import documents
from cvmplan.core.blob import Blob
from cvmplan.core.errors import InputError
from cvmplan.core.files import map_file
from cvmplan.documents import text
from cvmplan.emit import csv
from cvmplan.evidence import certificates, wrappers
from cvmplan.sweep.matrix import Product
from cvmplan.sweep.rows import COLUMNS
from tests.run import assert_refused, run

SECONDS = 2.0  # no run of more than 2 s for less than 1 MB
TRACED = 3  # times as long where coverage counts each line
FIRST = b"-----BEGIN CERTIFICATE-----\n"
MANIFEST = '{"schema":"cvmplan.manifest/1","platform":"snp","regions":['


@contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds * (TRACED if Coverage.current() else 1)


def blob(data: bytes) -> Blob:
    return Blob("input", memoryview(data))


# --- certificates ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        FIRST * 35_000,
        (FIRST + b"AA==\n") * 28_000,
        FIRST + b"-----END " * 100_000,
        b"-" * 1_000_000,
    ],
    ids=["first lines", "without last lines", "half of a last line", "dashes"],
)
def test_certificates_that_never_end_take_no_time(data: bytes) -> None:
    with in_time():
        assert not certificates.read(blob(data)).certificates


@pytest.mark.parametrize("key", ["vcek", "cert_chain"])
def test_certificates_inside_evidence_take_no_time(key: str, tmp_path: Path) -> None:
    pem = (FIRST * 3000).decode()
    report = bytearray(1184)
    struct.pack_into("<I", report, 0, 2)  # a report of version 2, signed by somebody
    struct.pack_into("<I", report, 0x34, 1)
    held: Any = pem if key == "vcek" else [{"cert_type": "VCEK", "data": pem}]
    document = {"attestation_report": bytes(report).hex(), key: held}
    (tmp_path / "e.json").write_text(json.dumps(document))
    with in_time():
        told = run("verify", str(tmp_path / "e.json"), "--example", "snp")
    assert told.code == 1
    assert "that are not whole certificates" in " ".join(told.out.split())


# --- sparse files ------------------------------------------------------------------------------


def sparse(path: Path, size: int, head: bytes = b"") -> str:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return str(path)


HEADS = {
    "a brace": b"{", "a bracket": b"[", "YAML": b"schema: cvmplan.manifest/1\n", "nothing": b"",
    "an HCL report": b"HCLA\2\0\0\0", "an IGVM file": b"IGVM\1\0\0\0", "a quote": b"\4\0\2\0\x81",
}  # fmt: skip
VERBS: list[tuple[list[str], list[str]]] = [
    (["measure"], []), (["inspect"], []), (["check"], []), (["simulate"], []), (["events"], []),
    (["diff"], ["--a", ""]), (["verify"], ["--example", "snp"]), (["sweep", "--matrix"], []),
    (["measure", "--example", "snp", "--vmm"], []), (["verify", "--example", "snp", "--certs"], []),
    (["sweep", "--example", "snp", "--append-file"], []),
]  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [300 << 20, 4 << 30], ids=["300 MiB", "4 GiB"])
def test_a_sparse_file_is_one_error_in_no_time(name: str, size: int, tmp_path: Path) -> None:
    path = sparse(tmp_path / "sparse", size, HEADS[name])
    for before, after in VERBS:
        args = [*before, path, *after]
        if before == ["diff"]:
            args = ["diff", path, path]
        if before[0] == "verify" and len(before) > 1:
            continue
        with in_time():
            result = run(*args)
        assert_refused(result, {2, 3, 4})


def test_an_hcl_report_with_a_tail_of_zeros_is_refused_by_its_size() -> None:
    header = struct.pack("<4sIII16x", b"HCLA", 2, 1184, 2) + bytes(1184)
    data = header + struct.pack("<IIIII", 20, 1, 2, 1, 10) + bytes(10)
    with in_time(), pytest.raises(InputError):
        wrappers.unwrap(blob(data.ljust(64 << 20, b"\0")))
    with pytest.raises(InputError, match="after its parts"):
        wrappers.unwrap(blob(data.ljust(3000, b"\1")))


def test_a_document_has_no_nul() -> None:
    with pytest.raises(InputError, match=r"input\+0x1"):
        text.parse(blob(b"{\0"))


# --- files that do not say their size ----------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no procfs here")
def test_a_file_of_size_0_that_has_contents_is_read() -> None:
    assert Path("/proc/self/status").stat().st_size == 0
    assert bytes(map_file("/proc/self/status").data[:5]) == b"Name:"


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="no procfs here")
def test_a_file_without_an_end_is_refused() -> None:
    with in_time(), pytest.raises(InputError, match="more than"):
        map_file("/proc/self/pagemap")


# --- many small things -------------------------------------------------------------------------

YAML, TOML = "schema: cvmplan.manifest/1\n", 'schema = "cvmplan.manifest/1"\n'
PLAN = '{"schema":"cvmplan.plan/1","ops":['


def listed(item: str, count: int, before: str = MANIFEST) -> str:
    return before + ",".join([item] * count) + "]}"


MANY: dict[str, Callable[[], str]] = {
    "empty regions": lambda: listed('{"gpa":0,"type":"zero","size":0}', 30_000),
    "equal regions": lambda: listed('{"gpa":0,"type":"zero","size":4096}', 28_000),
    "empty objects": lambda: listed("{}", 330_000),
    "numbers": lambda: listed("1", 490_000),
    "operations": lambda: listed('{"op":"init"}', 70_000, PLAN),
    "keys in JSON": lambda: MANIFEST + "]" + "".join(f',"k{n}":1' for n in range(70_000)) + "}",
    "keys in YAML": lambda: YAML + "".join(f"k{n}: 1\n" for n in range(80_000)),
    "regions in YAML": lambda: YAML + "regions:\n" + "- {gpa: 0, type: zero}\n" * 40_000,
    "keys in TOML": lambda: TOML + "".join(f"a{n}.b.c=0\n" for n in range(60_000)),
    "tables in TOML": lambda: TOML + "[[regions]]\ngpa=0\n" * 50_000,
    "a long key": lambda: '{"schema":"cvmplan.manifest/1","' + "x" * 900_000 + '":1}',
    "a long number": lambda: '{"schema":"cvmplan.manifest/1","x":' + "1" * 900_000 + "}",
}


@pytest.mark.parametrize("name", MANY)
def test_many_small_things_are_one_answer_in_time(name: str, tmp_path: Path) -> None:
    (tmp_path / "d").write_text(MANY[name]())
    assert (tmp_path / "d").stat().st_size < 1 << 20
    with in_time():
        result = run("measure", str(tmp_path / "d"))
    assert_refused(result, {1, 2, 3})
    assert len(result.err) < 1000


def test_four_times_as_many_empty_regions_cost_no_more_than_ten_times(tmp_path: Path) -> None:
    spent = []
    for count in (15_000, 60_000):
        regions = [{"gpa": 4096 * n, "type": "zero", "size": 0} for n in range(count)]
        document = {"schema": "cvmplan.manifest/1", "platform": "snp", "regions": regions}
        (tmp_path / "d").write_text(json.dumps(document))
        start = time.process_time()
        assert run("measure", str(tmp_path / "d")).code == 1
        spent.append(time.process_time() - start)
    assert spent[1] < 10 * max(spent[0], 0.05)


def matrix(tmp_path: Path, **more: Any) -> str:
    sweep = {"images": ["a.fd"], "platform": "snp", **more}
    (tmp_path / "m.json").write_text(json.dumps({"schema": "cvmplan.matrix/1", "sweeps": [sweep]}))
    return str(tmp_path / "m.json")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("append", ["x"] * 80_000),
        ("sev_features", [1] * 80_000),
        ("append", [str(n) for n in range(80_000)]),
        ("sev_features", [*range(80_000)]),
        ("vcpus", [-1] * 80_000),
        ("vmm", ["qemu"] * 80_000),
    ],
    ids=["equal texts", "equal numbers", "texts", "numbers", "wrong numbers", "profiles"],
)
def test_80_000_values_are_read_in_time(name: str, values: list[Any], tmp_path: Path) -> None:
    path = matrix(tmp_path, kernel_hash="55" * 32, **{name: values})
    with in_time():
        assert_refused(run("sweep", "--matrix", path), {2, 3})  # a.fd is not there


def test_a_product_past_2_63_is_refused(tmp_path: Path) -> None:
    several = {n: [*range(1, 3001)] for n in ("reset_eip", "firmware_size", "vars_size")}
    numbers = {"sev_features": [*range(3000)], "vcpus": "1-4096", "c_bit": [*range(32, 52)]}
    product = Product(("a",), {n: tuple(range(1 << 16)) for n in "abcd"}, (1, 2))
    assert product.size == 1 << 65
    path = matrix(tmp_path, **several, **numbers)
    with in_time():
        result = run("sweep", "--matrix", path)
    assert_refused(result, {3})
    assert f"{3000**4 * 4096 * 20} combinations" in result.err


def test_an_image_that_is_named_again_is_measured_once() -> None:
    once = run("sweep", "--example", "snp")
    assert once.code == 0
    assert run("sweep", "example:snp", "--example", "snp").out == once.out


# --- what is printed ---------------------------------------------------------------------------


def test_a_trace_of_a_million_commands_is_printed_as_it_is_made(tmp_path: Path) -> None:
    regions = [{"gpa": "0x10000000", "type": "zero", "size": "64 MiB"}]
    document = {"schema": "cvmplan.manifest/1", "platform": "snp", "regions": regions}
    (tmp_path / "m.json").write_text(json.dumps(document))
    out = str(tmp_path / "t.jsonl")
    run("trace", "--example", "snp", "--format", "jsonl")  # what is imported is no part of it
    tracemalloc.start()
    try:
        assert run("trace", str(tmp_path / "m.json"), "--format", "jsonl", "-o", out).code == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert Path(out).read_text().count("\n") == (64 << 20) // 4096 + 3
    assert peak < 2 << 20  # 4 MiB of text


def test_an_error_comes_before_the_first_line_of_a_trace(tmp_path: Path) -> None:
    made = json.loads(run("plan", "--example", "tdx", "--format", "json").out)
    made["ops"] = [{**op, "seq": n} for n, op in enumerate(made["ops"][:-2])]
    (tmp_path / "p.json").write_text(json.dumps(made))
    assert_refused(run("trace", str(tmp_path / "p.json"), "--format", "jsonl"), {1, 2})


FORMULAS = ("=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\uff1d1")  # OWASP, "CSV Injection"


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_spreadsheet_computes_no_cell(cell: str) -> None:
    row: dict[str, str | int] = dict.fromkeys(COLUMNS, "")
    line = csv.value({**row, "append": cell, "vcpus": 1})
    assert not any(c.strip('"').startswith(FORMULAS) for c in line.rstrip("\n").split(","))
    assert "'" in line


def test_a_terminal_acts_on_no_cell() -> None:
    row: dict[str, str | int] = dict.fromkeys(COLUMNS, "")
    line = csv.value({**row, "append": "a\x1b[31m\nb\x9b\u202e"})
    assert line.rstrip("\n").isprintable()
    assert "\\x1b[31m\\nb" in line


# --- databases ---------------------------------------------------------------------------------


def sweep_into(path: str) -> Any:
    return run("sweep", "--example", "snp", "--vcpus", "1-3", "--format", "sqlite", "-o", path)


@pytest.mark.parametrize("name", [":memory:", "file:x", "file:x?mode=memory", "a b%20#?c.db"])
def test_a_database_is_a_file_of_that_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert sweep_into(name).code == 0
        with closing(sqlite3.connect(tmp_path / name)) as file:
            assert file.execute("SELECT count(*) FROM measurement").fetchall() == [(3,)]


def foreign(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute(statement)


FOREIGN: dict[str, Callable[[Path], Any]] = {
    "other tables": lambda p: foreign(p, "CREATE TABLE mine (a)"),
    "a table of that name": lambda p: foreign(p, "CREATE TABLE measurement (a)"),
    "a view of that name": lambda p: foreign(p, "CREATE VIEW measurement AS SELECT 1"),
    "no database": lambda p: p.write_bytes(b"hello"),
    "half a database": lambda p: p.write_bytes(b"SQLite format 3\0" + bytes(100)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_database_of_others_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    FOREIGN[name](path)
    before = path.read_bytes()
    result = sweep_into(str(path))
    assert_refused(result, {3})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["f.db"]


@pytest.mark.parametrize("path", ["", "/dev/null", "/nowhere/x.db", ".", "\udcff/x"])
def test_what_cannot_be_a_database_is_one_line(path: str) -> None:
    assert_refused(sweep_into(path), {2, 3})


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no procfs here")
def test_a_refused_database_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    foreign(path, "CREATE TABLE mine (a)")
    sweep_into(str(path))
    opened = [p.readlink() for p in Path("/proc/self/fd").iterdir() if p.is_symlink()]
    assert path not in opened


# --- the C-bit ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bit", "code"), [(47, 0), (51, 0), (0, 2), (11, 2), (12, 2), (52, 2), (63, 2)]
)
def test_a_c_bit_is_one_of_a_physical_address(bit: int, code: int, tmp_path: Path) -> None:
    # AMD APM 2, 15.34.1; 47 (Naples, Rome) and 51 (Milan and later) are those of processors.
    assert run("measure", "--example", "snp", "--c-bit", str(bit)).code == code
    regions = [{"gpa": 0, "type": "zero", "size": 4096}]
    document = {"schema": "cvmplan.manifest/1", "platform": "snp", "regions": regions}
    (tmp_path / "m.json").write_text(json.dumps({**document, "guest": {"c_bit": bit}}))
    malformed = 3 if code else 0
    assert run("measure", str(tmp_path / "m.json")).code == malformed


def test_every_list_of_a_document_stops_at_its_first_wrong_item() -> None:
    wrong: dict[str, Any] = {
        "manifest": {"schema": "cvmplan.manifest/1", "regions": [{}] * 1000},
        "plan": {"schema": "cvmplan.plan/1", "ops": [{}] * 1000, "inputs": [1] * 1000},
        "trace": {"schema": "cvmplan.trace/1", "steps": [{}] * 1000},
        "matrix": {"schema": "cvmplan.matrix/1", "sweeps": [{"images": [1] * 1000}] * 1000},
        "profile": {"schema": "cvmplan.profile/1", "sources": [{}] * 1000, "abis": [1] * 1000},
    }
    for name, document in wrong.items():
        with pytest.raises(ValueError, match="validation error") as caught:
            documents.model(name).model_validate(document)
        assert caught.value.error_count() < 20, name  # type: ignore[attr-defined]  # pydantic's
