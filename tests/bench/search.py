"""Searching and sweeping: what one more digest costs, and how long a question takes."""

from __future__ import annotations

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import cvmplan
from cvmplan.core.blob import Blob
from cvmplan.core.files import Files
from cvmplan.explanation import ask, explain_measurement
from cvmplan.launch.given import Given
from cvmplan.operations.measure import measure
from tests.bench.programs import PEER
from tests.bench.ratios import Benchmark, Sizes, SkippedError, seconds
from tests.build.ovmf import Ovmf, good_tdx

SIGNATURES = tuple(0xA00F00 + n for n in range(16))
FEATURES = (0x1, 0x21)
SAMPLE = 20


def peer_digest(path: str, vcpus: int, signature: int, features: int) -> str:
    """Return the digest of the peer's library; SkippedError where it is not installed."""
    try:
        from sevsnpmeasure import guest
        from sevsnpmeasure.sev_mode import SevMode
    except ModuleNotFoundError:
        raise SkippedError(f"{PEER} is not installed") from None
    made: bytes = guest.calc_launch_digest(
        SevMode.SEV_SNP, vcpus, signature, path, "", "", "", features
    )
    return made.hex()


def sweep(sizes: Sizes) -> list[float]:
    """
    Sweep an image, and call the peer once for it; a sample of the digests must be equal.

    The figures are 200 times the time of one digest, against that of the peer's call.
    """
    lists: dict[str, Any] = {"cpu": list(map(hex, SIGNATURES)), "sev_features": list(FEATURES)}
    lists["vcpus"] = f"1-{sizes.vcpus}"
    figures = []
    with TemporaryDirectory() as folder:
        image = Path(folder, "OVMF.fd")
        image.write_bytes(Ovmf(size=sizes.image).build())
        for pair in range(sizes.check_pairs):
            begin = perf_counter()
            rows = list(cvmplan.sweep_image(image, platform="snp", **lists))
            ours = (perf_counter() - begin) / len(rows)
            for row in Random(pair).sample(rows, SAMPLE):  # noqa: S311 a sample, not a secret
                masks = (int(str(row[name]), 16) for name in ("cpu_signature", "sev_features"))
                if row["digest"] != peer_digest(str(image), int(row["vcpus"]), *masks):
                    raise RuntimeError(f"cvmplan and {PEER} disagree: {row}")
            theirs = min(
                seconds(lambda: peer_digest(str(image), 1, SIGNATURES[0], 1)) for _ in range(5)
            )
            figures.append(200 * ours / theirs)
    return figures


def explanation(image: Blob, truth: dict[str, Any], sizes: Sizes) -> list[float]:
    """Return how long it takes to find the settings `truth` of an image, in seconds."""
    files = Files()
    blob = files.keep(image, "image")
    wanted = measure(cvmplan.plan_image(image, **truth)).digest
    given = Given({"platform": truth["platform"]})

    def search() -> None:
        asked = ask(blob, given, files.open, [], wanted)
        if not explain_measurement(asked, wanted).explained:
            raise RuntimeError(f"{truth} are not found")

    return [seconds(search) for _ in range(sizes.check_pairs)]


def explain_snp(sizes: Sizes) -> list[float]:
    """Find CPU model, features and number of vCPUs of an SNP digest, all given wrong."""
    image = Blob("OVMF.fd", memoryview(Ovmf(size=sizes.image).build()))
    truth = {"platform": "snp", "cpu": "EPYC-Turin", "sev_features": 0x221, "vcpus": 256}
    return explanation(image, truth, sizes)


def explain_tdx(sizes: Sizes) -> list[float]:
    """Find that an MRTD is two-pass."""
    small = good_tdx()
    sections = [*(small.tdx_sections or [])]
    end = sections[0].gpa + sections[0].mem
    code = sections[0]._replace(
        raw=sizes.image - sections[0].data_offset,
        mem=sizes.image - sections[0].data_offset,
        gpa=end - sizes.image + sections[0].data_offset,
    )
    variables = sections[1]._replace(gpa=end - sizes.image)
    large = Ovmf(
        size=sizes.image,
        seed="tdx",
        sev_sections=None,
        tdx_sections=[code, variables, *sections[2:]],
    )
    truth = {"platform": "tdx", "page_order": "two-pass"}
    return explanation(Blob("OVMF.fd", memoryview(large.build())), truth, sizes)


BENCHMARKS = (
    Benchmark(
        "sweep", "{image} image, 200 digests of {digests} / one call of the peer", sweep, 1.0
    ),
    Benchmark("explain, snp", "{image} image, CPU, features and 256 vCPUs", explain_snp, 3, " s"),
    Benchmark("explain, tdx", "{image} image, a two-pass MRTD", explain_tdx, 3, " s"),
)
