"""The program as a process: files that change under it, signals, workers, standard streams."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from cvmplan import InputError, measure, plan_image
from cvmplan.core.files import HELD, map_file
from cvmplan.core.mapped import confirm, confirm_all
from cvmplan.core.processes import map_forked
from cvmplan.platforms.snp import parallel
from tests import manifests
from tests.oracles.firmware import vmsas
from tests.oracles.igvm import Chain
from tests.run import assert_refused, run

PROGRAM = [sys.executable, "-m", "cvmplan"]
BIG = 512 << 20  # bytes that take half a second to measure
LONG = 60.0  # seconds after which something hangs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc as on Linux")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Return a manifest whose one region is a file of 512 MiB."""
    return region(tmp_path, "snp", "normal")


def region(folder: Path, platform: str, page_type: str, size: int = BIG) -> Path:
    with (folder / "big.bin").open("wb") as file:
        file.truncate(size)
    source = {"file": "big.bin"}
    regions = [{"gpa": "0x100000000", "size": hex(size), "type": page_type, "source": source}]
    if platform == "snp":
        for at, host_filled in ((0x80D000, "secrets"), (0x80E000, "cpuid")):
            regions.append({"gpa": hex(at), "size": "0x1000", "type": host_filled})
    document = {"schema": "cvmplan.manifest/1", "platform": platform, "regions": regions}
    (folder / "m.json").write_text(json.dumps(document))
    return folder / "m.json"


@contextmanager
def started(*args: str) -> Iterator[subprocess.Popen[str]]:
    """Run the program in a session of its own, which ends with the block."""
    with subprocess.Popen(
        [*PROGRAM, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def wait_for_line(file: IO[str] | None, start: str) -> None:
    assert file
    while not (line := file.readline()).startswith(start):
        assert line


def children(process: subprocess.Popen[str]) -> list[int]:
    task = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(word) for word in task.read_text().split()] if task.exists() else []


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- files that change -------------------------------------------------------------------------


def truncate(path: Path, *sizes: int) -> None:
    for size in sizes:
        os.truncate(path, size)


def write_unseen(path: Path) -> None:
    write_at(path, 0, b"x")
    os.utime(path, ns=(0, 0))


def write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


CHANGES: dict[str, Callable[[Path], None]] = {
    "truncated to nothing": lambda p: os.truncate(p, 0),
    "truncated": lambda p: os.truncate(p, BIG // 2 + 5),
    "truncated and long again": lambda p: truncate(p, 0, BIG),
    "written to": lambda p: write_at(p, BIG - 1, b"x"),
    "written to, its time as before": write_unseen,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("platform", "page_type", "more"),
    [("snp", "normal", []), ("snp", "normal", ["--jobs", "2"]), ("tdx", "measured", [])],
    ids=["snp", "two processes", "tdx"],
)
def test_a_file_that_changes_while_it_is_measured_is_one_line(
    change: str, platform: str, page_type: str, more: list[str], tmp_path: Path
) -> None:
    path = region(tmp_path, platform, page_type)
    os.utime(tmp_path / "big.bin", ns=(0, 0))
    with started("measure", str(path), "--bare", "--verbose", *more) as process:
        wait_for_line(process.stderr, "region: ")
        CHANGES[change](tmp_path / "big.bin")
        out, err = process.communicate(timeout=LONG)
    assert (process.returncode, out) == (3, "")
    assert err.startswith(f"error: {tmp_path}/big.bin: the file changed while it was read\nhint: ")
    assert err.count("\n") == 2


def test_a_mapped_file_that_ends_early_reads_as_zeros_and_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"\1" * (HELD + 8192))
    blob = map_file(str(path))
    os.truncate(path, 4096)
    assert bytes(blob.data[4095:4097]) == b"\1\0"
    assert bytes(blob.data[-1:]) == b"\0"
    with pytest.raises(InputError, match="changed while it was read"):
        confirm(blob.data[5:9])
    with pytest.raises(InputError, match="changed while it was read"):
        confirm_all()
    del blob
    confirm_all()  # nothing refers to it any more


def test_a_program_that_uses_the_package_is_not_killed_either(tmp_path: Path) -> None:
    path = region(tmp_path, "snp", "normal", HELD + 4096)
    plan = plan_image(str(path))
    expected = measure(plan).digest
    os.truncate(tmp_path / "big.bin", 4096)
    with pytest.raises(InputError, match="changed while it was read"):
        measure(plan)
    region(tmp_path, "snp", "normal", HELD + 4096)
    assert measure(plan_image(str(path))).digest == expected


def test_a_fault_elsewhere_kills_as_it_did_before(tmp_path: Path) -> None:
    program = (
        "import mmap, os, sys; from cvmplan.core.files import map_file\n"
        "held = map_file(sys.argv[1])\n"
        "file = open(sys.argv[2], 'r+b'); other = mmap.mmap(file.fileno(), 0)\n"
        "os.truncate(sys.argv[2], 0); other[0]"
    )
    (tmp_path / "a").write_bytes(bytes(HELD + 1))
    (tmp_path / "b").write_bytes(bytes(4096))
    command = [sys.executable, "-c", program, str(tmp_path / "a"), str(tmp_path / "b")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGBUS


@pytest.mark.parametrize("size", [4096, 1 << 20, HELD])
def test_what_was_read_stays_whatever_becomes_of_the_file(size: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\1" * size)
    blob = map_file(str(path))
    path.write_bytes(b"\2" * 10)
    confirm_all()
    assert bytes(blob.data) == b"\1" * size


def test_a_file_that_is_replaced_under_another_run_changes_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\1" * 70_000)
    blob = map_file(str(tmp_path / "file"))
    (tmp_path / "new").write_bytes(b"\2" * 70_000)
    (tmp_path / "new").replace(tmp_path / "file")
    confirm(blob.data)
    assert bytes(blob.data[:1]) == b"\1"


def test_many_files_are_not_all_kept_in_memory(tmp_path: Path) -> None:
    blobs = []
    for number in range(6):
        (tmp_path / str(number)).write_bytes(bytes([number]) * HELD)
        blobs.append(map_file(str(tmp_path / str(number))))
    kinds = [type(blob.data.obj).__name__ for blob in blobs]
    assert kinds == ["_Held"] * 4 + ["mmap"] * 2
    assert [blob.data[-1] for blob in blobs] == [*range(6)]
    del blobs
    assert type(map_file(str(tmp_path / "0")).data.obj).__name__ == "_Held"


# --- signals and workers -----------------------------------------------------------------------

ENDS = {"SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}


def left_behind(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"m.json", "big.bin", "lines"}


def begun(folder: Path, verb: str) -> list[str]:
    """Return a command that runs for seconds, with two workers, and writes a file."""
    if verb == "measure":
        path = region(folder, "snp", "normal", 4 * BIG)
        return ["measure", str(path), "--jobs", "2", "-o", str(folder / "out")]
    (folder / "lines").write_text("".join(f"line={n}\n" for n in range(5000)))
    lines = ["--append-file", str(folder / "lines"), "--kernel-hash", "55" * 32]
    return ["sweep", "--example", "snp", *lines, "--jobs", "2", "-o", str(folder / "out")]


@pytest.mark.parametrize("verb", ["measure", "sweep"])
@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("group", [False, True], ids=["alone", "with its group"])
def test_a_signal_ends_the_run_and_its_workers_and_leaves_no_file(
    verb: str, name: str, group: bool, tmp_path: Path
) -> None:
    with started(*begun(tmp_path, verb)) as process:
        wait_for(lambda: len(children(process)) == 2)
        workers = children(process)
        (os.killpg if group else os.kill)(process.pid, getattr(signal, name))
        out, err = process.communicate(timeout=LONG)
    assert (process.returncode, out, err) == (ENDS[name], "", "")
    assert not [pid for pid in workers if runs(pid)]
    assert left_behind(tmp_path) == set()


@pytest.mark.parametrize("verb", ["measure", "sweep"])
def test_a_worker_that_is_killed_is_one_line(verb: str, tmp_path: Path) -> None:
    with started(*begun(tmp_path, verb)) as process:
        wait_for(lambda: len(children(process)) == 2)
        workers = children(process)
        os.kill(workers[0], signal.SIGKILL)
        out, err = process.communicate(timeout=LONG)
    assert (process.returncode, out) == (3, "")
    assert err.startswith("error: --jobs: a worker process was killed\nhint: ")
    assert err.count("\n") == 2
    assert not [pid for pid in workers if runs(pid)]
    assert left_behind(tmp_path) == set()


@pytest.mark.parametrize("verb", ["measure", "sweep"])
def test_workers_end_when_their_parent_is_killed(verb: str, tmp_path: Path) -> None:
    with started(*begun(tmp_path, verb)) as process:
        wait_for(lambda: len(children(process)) == 2)
        workers = children(process)
        time.sleep(0.05)  # they have begun
        process.kill()
        wait_for(lambda: not [pid for pid in workers if runs(pid)])


def test_what_is_ignored_when_it_starts_stays_ignored(manifest: Path) -> None:
    command = ["nohup", *PROGRAM, "measure", str(manifest), "--bare", "--verbose"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for_line(process.stderr, "region: ")
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=LONG)
    assert process.returncode == 0
    assert len(out) == 96


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_processes_that_share_the_hashing_reach_the_digest_of_the_chain(
    jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the threshold of two pieces the work is shared; the oracle adds page by page."""
    pages = 2 * parallel.PIECE // 4096 + 700
    data = b"".join(n.to_bytes(4, "little") * 1024 for n in range(pages))
    (tmp_path / "big").write_bytes(data[:-100])
    source = {"file": "big"}
    region = manifests.region("0x100000000", "normal", pad="zero", source=source)
    filled = [manifests.region("0x1000", "secrets"), manifests.region("0x2000", "cpuid")]
    path = manifests.write(tmp_path, manifests.document(region, *filled))
    shared: list[int] = []

    def counted(function: Any, calls: Any, jobs: int, **more: Any) -> Any:
        shared.append(jobs)
        return map_forked(function, calls, jobs, **more)

    monkeypatch.setattr("cvmplan.platforms.snp.parallel.map_forked", counted)
    told = run("measure", path, "--bare", "--jobs", str(jobs))
    chain = Chain()
    whole = data[:-100] + bytes(100)
    for number in range(pages):
        at = number * 4096
        chain.add(1, 0x100000000 + at, whole[at : at + 4096])
    chain.add(5, 0x1000, b"")
    chain.add(6, 0x2000, b"")
    chain.add(2, 0xFFFFFFFFF000, vmsas(1, 0, 1)[0])
    assert told.out == chain.digest.hex()
    assert shared == ([] if jobs == 1 else [jobs])


def test_processes_that_cannot_be_started_are_one_line(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("os.fork", refused)
    result = run("measure", str(manifest), "--jobs", "2")
    assert_refused(result, {3})
    assert "cannot start 2 processes: Resource temporarily unavailable" in result.err


# --- standard streams --------------------------------------------------------------------------


def shell(script: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    program = script.replace("cvmplan", " ".join(PROGRAM))
    return subprocess.run(
        ["bash", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=LONG,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )


WRONG = "cvmplan measure nowhere.fd"  # exit code 3
RIGHT = "cvmplan measure --example snp"
STREAMS = {
    "stderr closed": (f"{WRONG} 2>&-", 3),
    "stderr full": (f"{WRONG} 2>/dev/full", 3),
    "stderr closed, an option is wrong": ("cvmplan measure --nothing 2>&-", 2),
    "stderr full, an option is wrong": ("cvmplan measure --nothing 2>/dev/full", 2),
    "stderr full, all is well": (f"{RIGHT} --verbose -o /dev/null 2>/dev/full", 0),
    "stderr closed, a digest differs": (f"{RIGHT} --expect {'55' * 48} 2>&-", 1),
    "all closed": (f"{WRONG} <&- >&- 2>&-", 3),
    "a reader that has gone": ("cvmplan abis | true; exit ${PIPESTATUS[0]}", 141),
    "help without a reader": ("cvmplan measure --help | true; exit ${PIPESTATUS[0]}", 141),
}  # fmt: skip


@pytest.mark.parametrize(("script", "code"), STREAMS.values(), ids=STREAMS)
def test_the_exit_code_does_not_depend_on_who_listens(script: str, code: int) -> None:
    done = shell(script)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


FULL = ["--version", "--help", "measure --help", "schema plan", "abis", "check --example snp"]


@pytest.mark.parametrize("args", FULL)
def test_a_full_disk_behind_standard_output_is_one_line(args: str) -> None:
    done = shell(f"cvmplan {args} > /dev/full")
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


VERBS = {
    "inspect": "--example snp", "check": "--example snp", "map": "--example snp",
    "plan": "--example snp", "trace": "--example snp", "measure": "--example snp",
    "sweep": "--example snp", "td-params": "", "td-info": "--example tdx",
    "report": "--example snp",
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_writes_to_descriptors_pipes_and_files_alike(verb: str, tmp_path: Path) -> None:
    command = f"cvmplan {verb} {VERBS[verb]}"
    written = shell(command).stdout
    assert written
    assert shell(f"{command} -o /dev/stdout").stdout == written
    assert shell(f"{command} -o /dev/fd/3 3>&1").stdout == written
    assert shell(f"mkfifo f; cat f & {command} -o f; wait", tmp_path).stdout == written
    for output in ("-", "/dev/stdout", "/proc/self/fd/1"):  # what is there already stays
        done = shell(f"echo before > log; {command} -o {output} >> log; cat log", tmp_path)
        assert done.stdout == f"before\n{written}"
    full = shell(f"{command} -o /dev/full")
    assert (full.returncode, full.stdout, full.stderr.count("\n")) == (3, "", 1)
    # no file can grow there, that of coverage neither
    small = shell(f"unset COVERAGE_PROCESS_CONFIG; ulimit -f 0; {command} -o new; ls -A", tmp_path)
    assert (small.stdout, small.stderr.count("\n")) == ("f\nlog\n", 1)
    assert small.stderr.startswith("error: new: cannot write: File too large")


def test_closed_streams_do_not_end_up_in_a_file(tmp_path: Path) -> None:
    done = shell("cvmplan measure --example snp --verbose --bare -o out <&- >&- 2>&-", tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "out").read_text() == run("measure", "--example", "snp", "--bare").out


def test_without_a_terminal_there_is_no_progress(manifest: Path) -> None:
    for more in ([], ["--jobs", "2"]):
        done = shell(f"TERM=xterm FORCE_COLOR=1 cvmplan measure {manifest} --bare {' '.join(more)}")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout) == 96


# --- what is no file ---------------------------------------------------------------------------


def socket_at(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    return str(path)


def loop_at(path: Path) -> str:
    path.symlink_to(path)
    return str(path)


NO_FILES: dict[str, Callable[[Path], str]] = {
    "a folder": str,
    "a socket": lambda p: socket_at(p / "s"),
    "a loop of links": lambda p: loop_at(p / "l"),
    "a name that is too long": lambda p: str(p / ("x" * 300)),
    "a path that is too long": lambda _: "x/" * 3000,
    "below a file": lambda _: f"{__file__}/x",
    "no such process": lambda _: "/proc/999999999/maps",
    "a process that has ended": lambda _: f"/proc/{ended()}/maps",
    "memory": lambda _: "/proc/self/mem",
    "nothing": lambda _: "/dev/null",
    "an empty name": lambda _: "",
    "a NUL": lambda _: "a\0b",
    "no terminal": lambda _: "/dev/tty",
}


def ended() -> int:
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


@pytest.mark.parametrize("name", NO_FILES)
def test_what_is_no_file_is_one_line(name: str, tmp_path: Path) -> None:
    path = NO_FILES[name](tmp_path)
    profile = ["--vmm", f"{path}/x.json"]
    for args in (["measure", path], ["inspect", path], ["measure", "--example", "snp", *profile]):
        assert_refused(run(*args), {3, 4})


def test_standard_input_without_an_end_is_bounded() -> None:
    limit = 900 << 10  # KiB of address space
    done = shell(f"ulimit -v {limit}; cvmplan inspect - < /dev/zero")
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") <= 2


def test_standard_input_that_does_not_block_is_read_to_its_end() -> None:
    image = (Path(__file__).parent.parent / "cvmplan/examples/snp.fd").read_bytes()
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    command = [*PROGRAM, "measure", "-", "--platform", "snp", "--bare"]
    with subprocess.Popen(command, stdin=reading, stdout=subprocess.PIPE, text=True) as process:
        os.close(reading)
        for at in range(0, len(image), 8192):
            os.write(writing, image[at : at + 8192])
            time.sleep(0.1)
        os.close(writing)
        out, _ = process.communicate(timeout=LONG)
    assert out == run("measure", "--example", "snp", "--bare").out


def test_little_memory_is_one_line(manifest: Path) -> None:
    done = shell(f"ulimit -v 200000; cvmplan measure {manifest}")
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")


def test_a_folder_that_has_gone_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"schema":"cvmplan.manifest/1","regions":[]}')
    done = shell('mkdir d; cd d; rmdir ../d; cvmplan measure - -o x < "$OLDPWD/m.json"', tmp_path)
    assert done.returncode in {1, 2, 3}
    assert done.stderr.startswith("error: ")
