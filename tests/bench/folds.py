"""The digest folds against the hashing that no implementation can avoid."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha384
from multiprocessing import get_context
from random import Random

from cvmplan.core.blob import Blob
from cvmplan.core.platform import Platform
from cvmplan.launch.given import Given
from cvmplan.operations.measure import measure
from cvmplan.operations.plan import MapMemory, Op, Plan
from cvmplan.planning import build
from cvmplan.platforms.snp.ops import SnpLaunchFinish, SnpLaunchStart, SnpLaunchUpdate
from cvmplan.platforms.snp.parallel import hashing
from cvmplan.platforms.snp.steps import PageType
from cvmplan.platforms.tdx.ops import TdxAdd, TdxExtend, TdxFinalize, TdxInitVcpu, TdxInitVm
from tests.bench.ratios import MIB, PAGE, Benchmark, Sizes, SkippedError, alternate
from tests.build.ovmf import Ovmf

GPA = 0x1_0000_0000
PAGE_INFO = bytes(112)  # what the digest of an SNP page is chained with
MEASURED_PAGE = 128 + 16 * (128 + 256)  # bytes that MRTD eats for one page: 6272
BATCH = 256  # pages; their blocks are 1.5 MiB


def dense(size: int) -> Blob:
    """Contents without a page of zeros, the same in every run."""
    random = Random(size)  # noqa: S311 contents, not secrets
    data = b"".join(random.randbytes(MIB) for _ in range(size // MIB))
    return Blob("dense", memoryview(data))


def snp_plan(blob: Blob) -> Plan:
    """One run of pages whose contents are measured."""
    update = SnpLaunchUpdate(GPA, len(blob), PageType.NORMAL, blob)
    return Plan(
        Platform.SNP, "bench", "bench", (SnpLaunchStart(0x30000), update, SnpLaunchFinish(()))
    )


def tdx_plan(blob: Blob, *, two_pass: bool = False) -> Plan:
    """One run of pages, each added and extended in turn, or all added and then all extended."""
    size = len(blob)
    pages: tuple[Op, ...] = (MapMemory(GPA, size), TdxAdd(GPA, size, not two_pass, blob))
    if two_pass:
        pages = (*pages, TdxExtend(GPA, size))
    begin = TdxInitVm(0, 0), TdxInitVcpu(1, 0)
    return Plan(Platform.TDX, "bench", "bench", (*begin, *pages, TdxFinalize()))


def hash_pages(data: memoryview) -> None:
    """Hash each page, and one PAGE_INFO for it."""
    for at in range(0, len(data), PAGE):
        sha384(data[at : at + PAGE]).digest()
        sha384(PAGE_INFO).digest()


def hash_stream(buffer: memoryview, pages: int) -> None:
    """Hash as many bytes as MRTD eats for so many pages, out of one buffer of BATCH pages."""
    digest = sha384()
    for done in range(0, pages, BATCH):
        digest.update(buffer[: min(BATCH, pages - done) * MEASURED_PAGE])
    digest.digest()


def snp_fold(sizes: Sizes) -> list[float]:
    """Measure dense contents as one SNP region."""
    blob = dense(sizes.fold)
    plan = snp_plan(blob)
    return alternate(lambda: measure(plan), lambda: hash_pages(blob.data), sizes.fold_pairs)


def tdx_fold(sizes: Sizes, *, two_pass: bool = False) -> list[float]:
    """
    Measure dense contents as one TDX region.

    Two threads: where another program keeps a core busy, the ratio is higher than on a quiet
    machine.
    """
    size, pairs = (sizes.fold, sizes.fold_pairs) if two_pass else (sizes.big, sizes.big_pairs)
    plan = tdx_plan(dense(size), two_pass=two_pass)
    buffer, pages = dense(2 * MIB).data[: BATCH * MEASURED_PAGE], size // PAGE
    return alternate(lambda: measure(plan), lambda: hash_stream(buffer, pages), pairs)


def sparse(sizes: Sizes) -> list[float]:
    """Measure contents of which three pages of four are zeros, and dense ones."""
    full = dense(sizes.fold)
    data = bytearray(full.data)
    for at in range(0, len(data), 4 * PAGE):
        data[at + PAGE : at + 4 * PAGE] = bytes(3 * PAGE)
    plans = snp_plan(Blob("sparse", memoryview(bytes(data)))), snp_plan(full)
    return alternate(lambda: measure(plans[0]), lambda: measure(plans[1]), sizes.fold_pairs)


def two_jobs(sizes: Sizes) -> list[float]:
    """Measure one SNP region with two processes and with one, which must agree."""
    if (os.cpu_count() or 1) < 2:
        raise SkippedError("one processor")
    plan = snp_plan(dense(sizes.big))

    def shared() -> bytes:
        with hashing(2) as watch:
            return measure(plan, watch).digest

    if shared() != measure(plan).digest:
        raise RuntimeError("two processes and one disagree")
    return alternate(shared, lambda: measure(plan), sizes.big_pairs)


def two_bare(sizes: Sizes) -> list[float]:
    """Hash as many pages with two processes and with one, and nothing else."""
    half, data = sizes.big // 2, dense(2 * MIB).data
    return alternate(
        lambda: hash_apart(data, [half, half]),
        lambda: hash_apart(data, [2 * half]),
        sizes.big_pairs,
    )


def hash_apart(data: memoryview, sizes: list[int]) -> None:
    """Hash pages of so many bytes, each number of them in a process of its own."""
    processes = [
        get_context("fork").Process(target=hash_again, args=(data, size)) for size in sizes
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def hash_again(data: memoryview, size: int) -> None:
    """Hash the pages of `data` over and over, `size` bytes together."""
    for _ in range(0, size, len(data)):
        hash_pages(data)


def tdx_two_pass(sizes: Sizes) -> list[float]:
    """Measure dense contents as one TDX region, adds before extends."""
    return tdx_fold(sizes, two_pass=True)


def measure_image(image: Blob, vcpus: int) -> Callable[[], object]:
    """Return what reads, plans and measures a firmware image for so many vCPUs."""

    def opener(path: str, role: str, beside: str | None = None, *, searched: bool = False) -> Blob:
        del searched
        raise FileNotFoundError(path, role, beside)

    options = Given({"platform": "snp", "vmm": "qemu", "vcpus": vcpus})
    return lambda: measure(build.plan(build.launch(image, options, opener)))


def many_vcpus(sizes: Sizes) -> list[float]:
    """Measure one image for 512 vCPUs and for one."""
    image = Blob("OVMF.fd", memoryview(Ovmf(size=sizes.image).build()))
    return alternate(measure_image(image, 512), measure_image(image, 1), sizes.image_pairs, 4)


_STREAM = "{} of contents / one SHA-384 of what MRTD eats"
BENCHMARKS = (
    Benchmark("snp fold", "{fold} of contents / its bare SHA-384s", snp_fold, 1.10),
    Benchmark("snp fold, sparse", "{fold}, three of four pages zeros / dense", sparse, 1 / 2.2),
    Benchmark("snp fold, 2 jobs", "{big} of contents, two processes / one", two_jobs, 0.6),
    Benchmark("bare, 2 jobs", "the same of bare hashing: what this machine can", two_bare),
    Benchmark("tdx fold", _STREAM.format("{big}"), tdx_fold, 1.05),
    Benchmark("tdx fold, two-pass", _STREAM.format("{fold}"), tdx_two_pass),
    Benchmark("512 vcpus", "{image} image, 512 vCPUs / 1 vCPU", many_vcpus, 1.3),
)
