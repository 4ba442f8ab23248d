"""Many configurations at once: digests of the peer, databases, processes, clusters."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random
from time import sleep
from typing import Any, Final

import pytest

import cvmplan
from cvmplan import documents
from cvmplan.sweep.rows import COLUMNS
from tests.build.igvm import good_snp as good_igvm
from tests.build.ovmf import good_snp, good_tdx
from tests.oracles.peer import Boot, Machine, theirs
from tests.run import assert_refused, run

IMAGE: Final = good_snp().build()
CPUS: Final = ("EPYC-v4", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin")
WIDE: Final = ("--vcpus", "1-512", "--cpu", ",".join(CPUS), "--sev-features", "0x1,0x21,0x3,0x9")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.fd").write_bytes(IMAGE)
    (tmp_path / "td.fd").write_bytes(good_tdx().build())
    for name in ("kernel", "initrd"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    return tmp_path


def lines(*args: str, code: int = 0) -> list[dict[str, Any]]:
    """What `sweep` prints, each line fitting its model."""
    result = run("sweep", *args)
    assert (result.code, result.err if not code else "") == (code, "")
    found = [json.loads(line) for line in result.out.splitlines()]
    for row in found:
        documents.model("sweep").model_validate(row)
    return found


# --- digests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("vmm", ["qemu", "ec2", "gce"])
def test_every_digest_is_the_peers(vmm: str) -> None:
    found = lines("a.fd", "--vmm", vmm, *WIDE)
    assert len(found) == 512 * 4 * 4
    for row in Random(vmm).sample(found, 40):  # noqa: S311 a sample, not a secret
        cpu = row.get("cpu", CPUS[0])
        truth = Machine("snp", vmm, row["vcpus"], cpu, int(row["sev_features"], 16))
        assert row["digest"] == theirs("a.fd", "", "", truth), row


def test_command_lines_and_kernels_are_the_peers() -> None:
    Path("lines.txt").write_text("console=ttyS0\n\n quiet \n")
    found = lines("a.fd", "--kernel", "kernel", "--initrd", "initrd", "--append-file", "lines.txt",
                  "--append", "first, with a comma", "--vcpus", "2")  # fmt: skip
    told = ["first, with a comma", "console=ttyS0", "", " quiet "]
    assert [row.get("append", "") for row in found] == told
    for row, append in zip(found, told, strict=True):
        boot = Boot(b"kernel" * 100, b"initrd" * 100, append)
        assert row["digest"] == theirs("a.fd", "kernel", "initrd", Machine(vcpus=2, boot=boot))
        assert (row["kernel"], row["initrd"]) == ("kernel", "initrd")


@pytest.mark.parametrize("platform", ["sev", "sev-es"])
def test_digests_of_the_other_platforms_are_the_peers(platform: str) -> None:
    found = lines("a.fd", "--platform", platform, "--vcpus", "1-5", *(
        ("--es-init", "init2") if platform == "sev-es" else ()
    ))  # fmt: skip
    for row in found:
        assert row["digest"] == theirs("a.fd", "", "", Machine(platform, vcpus=row["vcpus"]))
    assert len({row["digest"] for row in found}) == (1 if platform == "sev" else 5)


def test_mrtd_is_the_same_for_every_number_of_vcpus_and_not_for_another_order() -> None:
    found = lines("td.fd", "--vcpus", "1-3", "--page-order", "single-pass,two-pass")
    for order in ("single-pass", "two-pass"):
        alone = run("measure", "td.fd", "--page-order", order, "--bare").out
        assert [r["digest"] for r in found if r["page_order"] == order] == [alone] * 3


def test_only_the_boot_vcpu_counts_under_a_kernel_for_svsms() -> None:
    found = lines("a.fd", "--abi", "kvm-svsm", "--vcpus", "1,2,300")
    assert {row["digest"] for row in found} == {theirs("a.fd", "", "", Machine())}


def test_an_igvm_file_has_the_vcpus_that_it_says() -> None:
    Path("image.igvm").write_bytes(good_igvm().build())
    found = lines("image.igvm", "--platform", "snp", "--vmm", "hyper-v,igvmmeasure")
    assert [row["vmm"] for row in found] == ["hyper-v", "igvmmeasure"]
    for row in found:
        alone = run("measure", "image.igvm", "--platform", "snp", "--vmm", row["vmm"], "--bare")
        assert row["digest"] == alone.out
        assert row["vcpus"] == 1


def test_order_is_that_of_the_lists_and_vcpus_are_fastest() -> None:
    found = lines("a.fd", "--vcpus", "3,1-2,2", "--cpu", "EPYC-Milan,EPYC", "--vmm", "gce,qemu,gce")
    assert [(r["vmm"], r["cpu"], r["vcpus"]) for r in found] == [
        (vmm, cpu, n) for vmm in ("gce", "qemu") for cpu in ("EPYC-Milan", "EPYC")
        for n in (3, 1, 2)
    ]  # fmt: skip


def test_a_launch_that_is_refused_has_an_error_and_no_digest() -> None:
    found = lines("a.fd", "--platform", "snp,tdx", "--vcpus", "1-2")
    assert ["digest" in row for row in found] == [True, True, False, False]
    assert all(("error" in row) is not ("digest" in row) for row in found)
    assert "no TDX metadata" in found[2]["error"]


def test_fewer_vcpus_may_be_a_launch_where_more_are_not() -> None:
    region = {"gpa": "0x100000", "size": "0x1000", "type": "zero"}
    regions = [region, {**region, "gpa": "0x1000", "type": "secrets"}]
    regions += [{**region, "gpa": "0x2000", "type": "cpuid"}]
    document = {"schema": "cvmplan.manifest/1", "platform": "snp", "regions": regions}
    Path("m.json").write_text(json.dumps(document))
    found = lines("m.json", "--vcpus", "1-2")
    assert ["digest" in row for row in found] == [True, False]
    assert "ap-without-entry" in found[1]["error"]


# --- formats -------------------------------------------------------------------------------------


def test_a_table_has_the_peers_digests_beside_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("sweep", "a.fd", "--vcpus", "1-3", "--cpu", "EPYC-v4,EPYC-Milan", "--format", "text")
    monkeypatch.setenv("COLUMNS", "160")
    above, _, below = run(*line).out.partition("\n\n")
    assert {"platform  ", "vmm       "} < {row[:10] for row in above.splitlines()}
    assert "cpu" not in above.split()
    head, *rows = [row.split() for row in below.splitlines()]
    assert head == ["cpu", "vcpus", "MEASUREMENT"]
    assert rows == [
        [cpu, str(n), theirs("a.fd", "", "", Machine(vcpus=n, cpu=cpu))]
        for cpu in ("EPYC-v4", "EPYC-Milan")
        for n in (1, 2, 3)
    ]
    monkeypatch.setenv("COLUMNS", "80")
    narrow = run(*line).out.splitlines()
    assert [row.strip() for row in narrow if len(row) > 80] == [row[-1] for row in rows]


def test_a_table_says_why_there_is_no_digest_and_has_an_end() -> None:
    (Path("empty-name")).write_text("x" * 300)
    lines = ("--append-file", "empty-name", "--append", "b", "--kernel", "kernel")
    out = run("sweep", "a.fd", "td.fd", *lines, "--format", "text").out
    assert "error: --append: is not supported on tdx" in out
    assert len({*re.findall("[0-9a-f]{96}", out)}) == 2
    assert re.fullmatch(
        "MEASUREMENT\n  [0-9a-f]{96}\n",
        run("sweep", "a.fd", "--format", "text").out.partition("\n\n")[2],
    )
    assert_refused(run("sweep", "a.fd", "--vcpus", "1-4096", "--cpu",
                       ",".join(map(str, range(17))), "--format", "text"), {2})  # fmt: skip


def test_csv_has_a_column_for_everything() -> None:
    result = run("sweep", "a.fd", "--vcpus", "1-2", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["digest"] for row in rows] == [r["digest"] for r in lines("a.fd", "--vcpus", "1-2")]


def test_a_file_is_written_whole_or_not_at_all() -> None:
    assert run("sweep", "a.fd", "--vcpus", "1-2", "-o", "out.jsonl").out == ""
    before = Path("out.jsonl").read_text()
    assert before.count("\n") == 2
    assert_refused(run("sweep", "a.fd", "--platform", "tdx", "-o", "out.jsonl"), {1})
    assert Path("out.jsonl").read_text() == before


def rows_of(path: str) -> list[dict[str, Any]]:
    with sqlite3.connect(path) as database:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("SELECT * FROM measurement")]
    database.close()
    return rows


def test_a_database_has_every_result_once_and_a_second_run_fills_in_what_is_missing() -> None:
    base = ["sweep", "a.fd", "--cpu", "EPYC-Milan,EPYC-Genoa", "--format", "sqlite", "-o", "v.db"]
    assert run(*base, "--vcpus", "1-4").code == 0
    with sqlite3.connect("v.db") as database:
        database.execute("UPDATE measurement SET digest = 'kept' WHERE vcpus = 2")
        database.execute("DELETE FROM measurement WHERE vcpus = 3")
    database.close()
    assert run(*base, "--vcpus", "1-6").code == 0
    found = {(r["cpu_signature"], r["vcpus"]): r["digest"] for r in rows_of("v.db")}
    assert len(found) == len(rows_of("v.db")) == 12
    for row in lines("a.fd", "--cpu", "EPYC-Milan,EPYC-Genoa", "--vcpus", "1-6"):
        wanted = "kept" if row["vcpus"] == 2 else row["digest"]
        assert found[row["cpu_signature"], row["vcpus"]] == wanted


def test_what_is_no_unicode_is_written_with_escapes() -> None:
    Path("lines").write_bytes(b"caf\xe9\n")
    Path("bytes\udcff.fd").write_bytes(IMAGE)
    base = ["sweep", "bytes\udcff.fd", "--kernel", "kernel", "--append-file", "lines"]
    assert run(*base, "--format", "sqlite", "-o", "v.db").code == 0
    (row,) = rows_of("v.db")
    assert (row["append"], row["image"]) == ("caf\\xe9", "bytes\\xff.fd")
    (line,) = lines(*base[1:])
    assert line["append"] == "caf\\xe9"


def test_an_empty_command_line_is_shown_beside_none() -> None:
    Path("empty").write_text("\n")
    (row,) = lines("a.fd", "--kernel", "kernel", "--append-file", "empty")
    assert row["append"] == ""
    (row,) = lines("a.fd", "--kernel", "kernel")
    assert "append_hash" not in row


def test_results_of_another_image_file_or_version_are_other_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = ["sweep", "--format", "sqlite", "-o", "v.db"]
    other = bytearray(IMAGE)
    other[0x3000] ^= 1
    Path("b.fd").write_bytes(other)
    for image in ("a.fd", "b.fd", "a.fd"):
        assert run(*base, image).code == 0
    assert len(rows_of("v.db")) == 2
    profile = json.loads(run("profiles", "qemu", "--format", "json").out)
    profile["vmsa"]["boot"]["rdx"] = "0x1"
    Path("qemu.json").write_text(json.dumps(profile))
    assert run(*base, "a.fd", "--vmm", "./qemu.json").code == 0
    assert len(rows_of("v.db")) == 3
    assert len({r["digest"] for r in rows_of("v.db")}) == 3
    for module in ("rows", "store"):
        monkeypatch.setattr(f"cvmplan.sweep.{module}.__version__", "9.9")
    assert run(*base, "a.fd").code == 0
    assert sorted(r["version"] for r in rows_of("v.db")) == ["0.1.0", "0.1.0", "9.9"]


def test_what_was_finished_stays_when_a_run_is_killed() -> None:
    cpus = ",".join(hex(0xA00F00 + n) for n in range(256))
    command = ["sweep", "a.fd", "--vcpus", "1-512", "--cpu", cpus]
    command += ["--format", "sqlite", "-o", "v.db"]
    program = [sys.executable, "-m", "cvmplan", *command]
    with subprocess.Popen(program) as process:
        while not Path("v.db").exists() or not finished("v.db"):
            sleep(0.01)
        process.send_signal(signal.SIGKILL)
    before = finished("v.db")
    assert 0 < before < 512 * 256
    assert run(*command).code == 0
    found = rows_of("v.db")
    assert len(found) == len({(r["cpu_signature"], r["vcpus"]) for r in found}) == 512 * 256
    for row in Random(1).sample(found, 5):  # noqa: S311 a sample
        settings = ["--cpu", row["cpu_signature"], "--vcpus", str(row["vcpus"])]
        assert row["digest"] == run("measure", "a.fd", *settings, "--bare").out


def finished(path: str) -> int:
    """How many results a database has that another process fills."""
    try:
        database = sqlite3.connect(path)
        count = database.execute("SELECT count(*) FROM measurement").fetchone()[0]
        database.close()
    except sqlite3.OperationalError:
        return 0
    return int(count)


# --- processes and clusters ----------------------------------------------------------------------


def test_processes_print_what_one_prints() -> None:
    assert run("sweep", "a.fd", *WIDE, "--jobs", "2").out == run("sweep", "a.fd", *WIDE).out


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_any_executor_computes_the_same(kind: str) -> None:
    lists: dict[str, Any] = {"cpu": list(CPUS), "sev_features": [1, 0x21, 3], "vcpus": "1-512"}
    alone = list(cvmplan.sweep_image("a.fd", **lists))
    assert [row["vcpus"] for row in alone[:512]] == list(range(1, 513))
    executor: Executor = ThreadPoolExecutor(2)
    if kind == "processes":
        executor = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    with executor:
        assert list(cvmplan.sweep_image("a.fd", executor=executor, **lists)) == alone


def test_bytes_are_an_image_too() -> None:
    (row,) = cvmplan.sweep_image(IMAGE, vcpus=2)
    assert row["digest"] == theirs("a.fd", "", "", Machine(vcpus=2))


CLUSTER: Final = """
import json, os, sys
import dask
from distributed import LocalCluster
from cvmplan.core.files import Files
from cvmplan.sweep import matrix, run
from cvmplan.sweep.cluster import connected
from cvmplan.sweep.pool import Pool

def main():
    dask.config.set({"distributed.worker.daemon": False})
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        files = Files()
        lists = json.loads(sys.argv[2])
        product = matrix.read([sys.argv[1]], lists, files.open)
        parcels = run.parcels([product], Files, lambda _, vcpus: vcpus)
        address = cluster.scheduler_address.replace("tcp", "dask")
        with connected(address) as (executor, share):
            finished = Pool(executor, share).run(parcels)
            killed = False
            for number, rows in finished:
                names = ("cpu_signature", "sev_features", "vcpus", "digest")
                print(json.dumps([[row[name] for name in names] for row in rows]))
                if not killed:
                    os.kill(cluster.workers[0].pid, 9)
                    killed = True

if __name__ == "__main__":
    main()
"""


def test_a_cluster_gives_every_row_once_though_a_worker_is_killed() -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    lists: dict[str, Any] = {
        "cpu": list(CPUS),
        "sev_features": ["0x1,0x21,0x3,0x9"],
        "vcpus": ["1-512"],
    }
    Path("cluster.py").write_text(CLUSTER)
    done = subprocess.run(
        [sys.executable, "cluster.py", "a.fd", json.dumps(lists)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = [tuple(row) for line in done.stdout.splitlines() for row in json.loads(line)]
    alone = cvmplan.sweep_image("a.fd", **lists)
    names = ("cpu_signature", "sev_features", "vcpus", "digest")
    assert sorted(found) == sorted(tuple(row[name] for name in names) for row in alone)
    assert len(found) == 512 * 16


def test_a_cluster_that_does_not_answer_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    monkeypatch.setattr("cvmplan.sweep.cluster.PATIENCE", 0.2)
    assert_refused(run("sweep", "a.fd", "--executor", "dask://127.0.0.1:9"), {3})


# --- matrices ------------------------------------------------------------------------------------


def matrix(*sweeps: dict[str, Any]) -> str:
    Path("sub").mkdir(exist_ok=True)
    Path("sub/m.json").write_text(json.dumps({"schema": "cvmplan.matrix/1", "sweeps": sweeps}))
    for name in ("a.fd", "td.fd", "kernel"):
        Path("sub", name).write_bytes(Path(name).read_bytes())
    return "sub/m.json"


def test_a_matrix_has_sweeps_one_after_the_other() -> None:
    path = matrix(
        {"images": ["a.fd"], "vcpus": "1-2", "cpu": ["EPYC", "EPYC-Milan"], "kernel": "kernel",
         "append": ["x", "y"]},
        {"images": ["td.fd"], "page_order": ["single-pass", "two-pass"], "gpaw": [48, 52]},
    )  # fmt: skip
    found = lines("--matrix", path)
    assert [row["image"] for row in found] == ["sub/a.fd"] * 8 + ["sub/td.fd"] * 4
    boot = Boot(b"kernel" * 100, None, "y")
    truth = Machine(vcpus=2, cpu="EPYC-Milan", boot=boot)
    assert found[7]["digest"] == theirs("a.fd", "kernel", "", truth)


WRONG_MATRICES: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "no images": ({"images": []}, 3),
    "an unknown key": ({"images": ["a.fd"], "vcpu": 1}, 3),
    "an empty list": ({"images": ["a.fd"], "cpu": []}, 3),
    "a model that there is not": ({"images": ["a.fd"], "cpu": ["none"]}, 2),
    "vCPUs that are none": ({"images": ["a.fd"], "vcpus": [0]}, 3),
    "a range that ends before it begins": ({"images": ["a.fd"], "vcpus": "4-2"}, 3),
    "a file outside": ({"images": ["../a.fd"]}, 2),
    "a file that is absent": ({"images": ["nothing.fd"]}, 3),
    "a kernel that is absent": ({"images": ["a.fd"], "kernel": "nothing"}, 3),
    "a kernel and its hash": (
        {"images": ["a.fd"], "kernel": "kernel", "kernel_hash": "ab" * 32},
        3,
    ),
    "no image": ({"images": ["kernel"]}, 4),
}


@pytest.mark.parametrize("name", WRONG_MATRICES)
def test_a_wrong_matrix_is_refused(name: str) -> None:
    document, code = WRONG_MATRICES[name]
    assert_refused(run("sweep", "--matrix", matrix(document)), {code})


WRONG: Final[dict[str, tuple[list[str], int]]] = {
    "nothing": ([], 2),
    "an image beside a matrix": (["a.fd", "--matrix", "m.json"], 2),
    "a setting beside a matrix": (["--matrix", "m.json", "--vcpus", "2"], 2),
    "a database without a file": (["a.fd", "--format", "sqlite"], 2),
    "a database on standard output": (["a.fd", "--format", "sqlite", "-o", "-"], 2),
    "another format": (["a.fd", "--format", "html"], 2),
    "vCPUs past the most": (["a.fd", "--vcpus", "1-4097"], 2),
    "no number": (["a.fd", "--vcpus", "x"], 2),
    "an empty piece": (["a.fd", "--cpu", "EPYC,,EPYC"], 2),
    "a mask that is none": (["a.fd", "--sev-features", "x"], 2),
    "a profile that there is not": (["a.fd", "--vmm", "none"], 2),
    "an interface that there is not": (["a.fd", "--abi", "none"], 2),
    "a platform that there is not": (["a.fd", "--platform", "none"], 2),
    "no lines": (["a.fd", "--append-file", "empty"], 2),
    "a file that is absent": (["nothing.fd"], 3),
    "a kernel that is absent": (["a.fd", "--kernel", "nothing"], 3),
    "no image": (["kernel"], 4),
    "a command line without a kernel": (["a.fd", "--append", "x"], 1),
    "no launch at all": (["a.fd", "--platform", "tdx"], 1),
    "a cluster of another kind": (["a.fd", "--executor", "ray://here"], 2),
    "a cluster and processes": (["a.fd", "--executor", "dask://here:1", "--jobs", "2"], 2),
    "a database that is none": (["a.fd", "--format", "sqlite", "-o", "kernel"], 3),
    "a database of others": (["a.fd", "--format", "sqlite", "-o", "other.db"], 3),
    "a database in no folder": (["a.fd", "--format", "sqlite", "-o", "no/v.db"], 3),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_questions_are_refused(name: str) -> None:
    args, code = WRONG[name]
    Path("empty").write_bytes(b"")
    document = {"schema": "cvmplan.matrix/1", "sweeps": [{"images": ["a.fd"]}]}
    Path("m.json").write_text(json.dumps(document))
    other = sqlite3.connect("other.db")
    other.execute("CREATE TABLE measurement (x)")
    other.close()
    result = run("sweep", *args)
    assert result.code == code, result
    assert result.err.startswith("error: ")
    assert "digest" not in result.out
