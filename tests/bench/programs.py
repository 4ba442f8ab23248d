"""The program as its users start it: how long it takes, and what memory it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any, Final

from tests.bench.ratios import MIB, Benchmark, Sizes, SkippedError, alternate
from tests.build.ovmf import Ovmf

PEER: Final = "sev-snp-measure"
COMMAND: Final = (
    "qemu-system-x86_64 -machine q35,confidential-guest-support=g -smp 1 -cpu EPYC-v4 -bios {} "
    "-object sev-snp-guest,id=g,policy=0x30000\n"
)
STATUS: Final = Path("/proc/self/status")
POLL: Final = 0.001  # seconds
BARE: Final = f"print(open({str(STATUS)!r}).read())"


def script(name: str) -> str:
    """Return a console script of this environment; SkippedError where it is not installed."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise SkippedError(f"{name} is not installed")
    return str(path)


def environment(folder: str) -> dict[str, str]:
    """
    Return the environment in which programs keep their bytecode in `folder`.

    Installed programs have theirs; a checkout might be compiled anew at each start.
    """
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": f"{folder}/pyc"}


def output(command: list[str], env: dict[str, str]) -> str:
    """Run a program that must succeed and return what it prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout


def described(sizes: Sizes) -> list[float]:
    """Measure the command line of QEMU that starts an image; the peer is told of the image."""
    return whole_process(sizes, "snp.args")


def whole_process(sizes: Sizes, description: str = "") -> list[float]:
    """Measure one image with both programs, which must agree, or its `description` with one."""
    cvmplan, peer = script("cvmplan"), script(PEER)
    with TemporaryDirectory() as folder:
        image = Path(folder, "OVMF.fd")
        image.write_bytes(Ovmf(size=sizes.image).build())
        ours = [cvmplan, "measure", str(image), "--platform", "snp", "--vmm", "qemu"]
        ours += ["--vcpus", "1", "--cpu", "EPYC-v4", "--bare"]
        if description:
            line = Path(folder, description)
            line.write_text(COMMAND.format(image))
            ours = [cvmplan, "measure", str(line), "--bare"]
        theirs = [peer, "--mode", "snp", "--vcpus", "1", "--vcpu-type", "EPYC-v4"]
        theirs += ["--ovmf", str(image)]
        env = environment(folder)
        digests = output(ours, env).strip(), output(theirs, env).strip()
        if digests[0] != digests[1]:
            raise RuntimeError(f"cvmplan and {PEER} disagree: {' and '.join(digests)}")
        return alternate(
            lambda: output(ours, env), lambda: output(theirs, env), sizes.process_pairs
        )


def help_texts(sizes: Sizes) -> list[float]:
    """Print the help of both programs."""
    with TemporaryDirectory() as folder:
        env = environment(folder)
        ours, theirs = ([script(name), "--help"] for name in ("cvmplan", PEER))
        return alternate(
            lambda: output(ours, env), lambda: output(theirs, env), sizes.process_pairs
        )


def report(sizes: Sizes) -> list[float]:
    """Write the report about an image, and its measurement as JSON."""
    cvmplan = script("cvmplan")
    with TemporaryDirectory() as folder:
        image = Path(folder, "OVMF.fd")
        image.write_bytes(Ovmf(size=sizes.image).build())
        env, options = environment(folder), [str(image), "--platform", "snp"]
        page, document = [cvmplan, "report", *options], [cvmplan, "measure", *options]
        document += ["--format", "json"]
        return alternate(
            lambda: output(page, env), lambda: output(document, env), sizes.process_pairs
        )


def anonymous(status: str) -> int:
    """
    Return the bytes of anonymous memory in the text of /proc/PID/status, 0 in that of a zombie.

    Pages of mapped files are not in it: the kernel drops them when it needs the memory.
    """
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def peak_anonymous(command: list[str], env: dict[str, str]) -> int:
    """Run a program that must succeed and return the most anonymous memory it was seen with."""
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            peak = max(peak, anonymous(status.read_text()))
            sleep(POLL)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak


def sparse_manifest(folder: str, size: int, platform: str, page_type: str) -> Path:
    """Write a manifest of one region whose contents are a file with nothing in it."""
    with Path(folder, "sparse.bin").open("wb") as file:
        file.truncate(size)
    source = {"file": "sparse.bin"}
    regions = [{"gpa": "0x100000000", "size": hex(size), "type": page_type, "source": source}]
    manifest: dict[str, Any] = {"schema": "cvmplan.manifest/1", "platform": platform}
    if platform == "snp":
        regions += [
            {"gpa": hex(0x80D000 + n * 0x1000), "size": "0x1000", "type": host_filled}
            for n, host_filled in enumerate(("secrets", "cpuid"))
        ]
    path = Path(folder, "manifest.json")
    path.write_text(json.dumps({**manifest, "regions": regions}), encoding="utf-8")
    return path


def memory(
    sizes: Sizes, platform: str, page_type: str, verb: tuple[str, ...] = ("measure", "--bare")
) -> list[float]:
    """Return the peak above the bare interpreter's, in MiB, of each run."""
    if not STATUS.exists() or not anonymous(STATUS.read_text()):
        raise SkippedError("no RssAnon in /proc/self/status")
    cvmplan = script("cvmplan")
    with TemporaryDirectory() as folder:
        manifest = sparse_manifest(folder, sizes.sparse, platform, page_type)
        command, env = [cvmplan, verb[0], str(manifest), *verb[1:]], environment(folder)
        output(command, env)  # compiles what is not yet compiled, which takes memory too
        bare = anonymous(output([sys.executable, "-c", BARE], env))
        return [(peak_anonymous(command, env) - bare) / MIB for _ in range(sizes.memory_runs)]


BENCHMARKS = (
    Benchmark("process", f"{{image}} image, cvmplan / {PEER}", whole_process, 2.0),
    Benchmark("description", f"its QEMU command line, cvmplan / {PEER}", described, 2.2),
    Benchmark("report", "{image} image, report / measure --format json", report, 3.0),
    Benchmark("help", f"cvmplan --help / {PEER} --help", help_texts, 1.5),
    Benchmark(
        "memory, tdx",
        "{sparse} sparse region above bare Python",
        lambda sizes: memory(sizes, "tdx", "measured"),
        60,
        " MiB",
    ),
    Benchmark(
        "memory, snp",
        "{sparse} sparse region above bare Python",
        lambda sizes: memory(sizes, "snp", "normal"),
        60,
        " MiB",
    ),
    Benchmark(
        "memory, report",
        "{sparse} sparse region above bare Python",
        lambda sizes: memory(sizes, "snp", "normal", ("report",)),
        60,
        " MiB",
    ),
)
