"""
What the program answers, as hashes: to show that a change of the code's shape changes no answer.

    python -m tests.snapshot > before.txt    # in the checkout before the change
    python -m tests.snapshot > after.txt     # in the one after it
    diff before.txt after.txt

Each line is the exit code, the SHA-256 of stdout and of stderr, and the command line.  It is
no test: what is right is said by the tests, with values that come from someone else.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.run import run

SHARED = Path("../shared")
PLATFORMS = ("snp", "tdx", "sev", "sev-es", "vbs", "sw-protected", "default")
KERNELS = ("kvm-6.11", "kvm-6.18", "kvm-7.0")
VMMS = {
    "snp": ("qemu", "ec2", "gce", "cloud-hypervisor", "openvmm", "hyper-v", "igvmmeasure"),
    "tdx": ("qemu", "qemu-8.2", "td-shim", "gce", "hyper-v"),
    "vbs": ("hyper-v", "openvmm-mshv"),
}
IMAGES = (
    "firmware/*.fd", "vectors/igvm/**/*.igvm", "vectors/tdx/*.fd", "vectors/snp/fixtures/ovmf*",
    "cases/check/**/*.igvm", "cases/check/**/*.json",
)  # fmt: skip
EVIDENCE = ("cases/evidence/**/*.bin", "cases/evidence/**/*.dat", "vectors/tdx/*.dat")
LOGS = ("cases/events/**/*", "vectors/rtmr/*CCEL*", "vectors/rtmr/*ccel*")
RECORDED = ("cases/simulate/**/*", "vectors/recordings/*.jsonl")
JUDGING = ("check", "map", "plan", "trace", "measure")
AT = "2026-11-01T00:00:00Z"  # certificates are judged at one time, whenever this runs
FORMATS = (("--format", "json"), ())


def found(*patterns: str) -> Iterator[str]:
    """Yield the files of ../shared that fit, sorted."""
    for pattern in patterns:
        yield from (str(p) for p in sorted(SHARED.glob(pattern)) if p.is_file())


def of_images() -> Iterator[tuple[str, ...]]:
    """Yield the command lines about images."""
    images = [("--example", "snp"), ("--example", "tdx"), *((name,) for name in found(*IMAGES))]
    for image in images:
        for form in FORMATS:
            yield ("inspect", *image, *form)
            for platform in PLATFORMS:
                for verb in JUDGING:
                    yield (verb, *image, "--platform", platform, *form)
        for platform, vmms in VMMS.items():
            for vmm in vmms:
                more = ("--platform", platform, "--vmm", vmm, "--vcpus", "2")
                yield ("plan", *image, *more, "--format", "json")
                yield ("measure", *image, *more)
            for kernel in KERNELS:
                under = ("--platform", platform, "--abi", kernel)
                yield ("check", *image, *under)
                yield ("plan", *image, *under, "--format", "calls")
                yield ("plan", *image, *under, "--format", "vendor")
        yield ("sweep", *image, "--vcpus", "1-3", "--platform", "snp")
        yield ("diff", *image, *image, "--platform", "snp", "--b", "--vcpus 2", "--format", "json")
        yield ("explain", *image, "--platform", "snp", "--expect", "ab" * 48, "--quiet")


def of_plans(folder: str) -> Iterator[tuple[str, ...]]:
    """Yield the command lines about plans, which are made in `folder` first."""
    for platform in PLATFORMS:
        for kernel in ("map-memory", *KERNELS):
            name = f"{folder}/{platform}-{kernel}.json"
            image = ("--example", "tdx" if platform == "tdx" else "snp")
            made = ("--platform", platform, "--abi", kernel, "--format", "json", "-o", name)
            if run("plan", *image, *made).code:
                continue
            yield ("measure", name)
            for form in FORMATS:
                yield ("simulate", name, *form)


def of_evidence() -> Iterator[tuple[str, ...]]:
    """Yield the command lines about evidence, logs and recordings."""
    for name in found(*EVIDENCE):
        for example in ("snp", "tdx"):
            for form in FORMATS:
                yield ("verify", name, "--example", example, "--at", AT, *form)
    for name in found(*LOGS):
        for form in FORMATS:
            yield ("events", name, *form)
    for name in found(*RECORDED):
        for form in FORMATS:
            yield ("simulate", name, *form)


def of_tables() -> Iterator[tuple[str, ...]]:
    """Yield the command lines about what is built in."""
    for verb in ("profiles", "abis", "cpus", "rules", "schema"):
        yield (verb,)
    for name in run("schema").out.split():
        yield ("schema", name)
    yield ("td-params", "--example", "tdx")
    yield ("td-info", "--example", "tdx")
    yield ("idblock", "--example", "snp")


def line(arguments: tuple[str, ...], folder: str) -> str:
    """Run one command line and return its line."""
    result = run(*arguments)
    texts = [t.replace(folder, "FOLDER") for t in (result.out, result.err)]
    hashes = " ".join(sha256(t.encode()).hexdigest()[:24] for t in texts)
    return f"{result.code:3} {hashes} {shlex.join(arguments).replace(folder, 'FOLDER')}"


def main() -> None:
    """Print all lines."""
    with TemporaryDirectory() as folder:
        for part in (of_tables(), of_plans(folder), of_evidence(), of_images()):
            for arguments in part:
                sys.stdout.write(line(arguments, folder) + "\n")


if __name__ == "__main__":
    main()
