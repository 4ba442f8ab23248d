"""
The SEV-SNP launch digest, as a fold over the launch trace.

Each page handed to the PSP replaces the digest by SHA-384(PAGE_INFO), and PAGE_INFO
begins with the digest so far (AMD 56860, SEV-SNP Firmware ABI, SNP_LAUNCH_UPDATE, "Layout
of the PAGE_INFO structure").  Contents count for NORMAL and VMSA pages only; every page
counts with type and address.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import sha384
from struct import Struct

from cvmplan.core.errors import PlanError
from cvmplan.core.platform import Platform
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import Contents, DigestAfter, Hashed, page_runs
from cvmplan.operations.measure import Coverage, Measurement
from cvmplan.operations.steps import Step, in_order
from cvmplan.platforms.snp.steps import (
    MEASURED_CONTENTS,
    ORDER,
    LaunchFinish,
    LaunchUpdate,
    PageType,
    VmsaUpdate,
)

# What follows DIGEST_CUR and CONTENTS and precedes GPA: LENGTH 0x70, PAGE_TYPE, IMI_PAGE,
# and the permissions of the lower VMPLs, which no mainline kernel ever sets.
TAIL = Struct("<HBBI")
PAGE_INFO_SIZE = 0x70
GPA = Struct("<Q")
ONE_PAGE = Struct(f"{PAGE}s")
LINK = 64  # bytes of PAGE_INFO behind DIGEST_CUR
NO_CONTENTS = bytes(48)
ZERO_PAGE = bytes(PAGE)
ZERO_PAGE_DIGEST = sha384(ZERO_PAGE).digest()


class Chains:
    """
    Digests that were computed before: launches that begin alike are folded alike once.

    Contents are told apart by identity; they are kept, so that none takes another's place.
    """

    def __init__(self) -> None:
        self._after: dict[tuple[bytes, int, int, int, int], tuple[bytes, Contents]] = {}

    def after(self, digest: bytes, step: LaunchUpdate) -> bytes:
        """Return the launch digest after `step`, where it is `digest` before."""
        key = (digest, step.page_type, step.gpa, step.size, id(step.contents))
        if key not in self._after:
            self._after[key] = after_update(digest, step), step.contents
        return self._after[key][0]


def running(trace: Iterable[Step]) -> Iterator[tuple[Step, bytes]]:
    """Yield each step of `trace` with the 48-byte launch digest after it; PlanError."""
    digest = NO_CONTENTS
    for step in in_order(trace, ORDER):
        if isinstance(step, LaunchUpdate):
            digest = after_update(digest, step)
        elif isinstance(step, VmsaUpdate):
            *_, digest = after_vmsas(digest, step)
        yield step, digest


def measure(platform: Platform, trace: Iterable[Step]) -> Measurement:
    """Return the MEASUREMENT that the attestation report will carry; PlanError."""
    return measured(platform, running(trace))


def measured(platform: Platform, pairs: Iterable[tuple[Step, bytes]]) -> Measurement:
    """Return the measurement at the end of what `running` yielded."""
    digest = NO_CONTENTS
    counts: Counter[str] = Counter()
    for step, after in pairs:
        digest = after
        if isinstance(step, LaunchUpdate):
            counts[_covered(step)] += step.size // PAGE
        elif isinstance(step, VmsaUpdate):
            counts["vmsas"] += len(step.vcpus)
    return Measurement(platform, "MEASUREMENT", "sha384", digest, Coverage(**counts))


def by_vcpus(platform: Platform, trace: Iterable[Step], chains: Chains) -> Iterator[Measurement]:
    """
    Yield the measurement of the launch with 1, 2, … vCPUs up to all whose VMSA the kernel adds.

    The kernel adds them last, one after the other, so that the digest after each of them is
    that of a launch with so many.  Where it adds none there is one measurement.  PlanError.
    """
    digest = NO_CONTENTS
    counts: Counter[str] = Counter()
    for step in in_order(trace, ORDER):
        if isinstance(step, LaunchUpdate):
            digest = chains.after(digest, step)
            counts[_covered(step)] += step.size // PAGE
        elif isinstance(step, VmsaUpdate):
            for after in after_vmsas(digest, step):
                digest = after
                counts["vmsas"] += 1
                yield Measurement(platform, "MEASUREMENT", "sha384", digest, Coverage(**counts))
        elif isinstance(step, LaunchFinish) and not counts["vmsas"]:
            yield Measurement(platform, "MEASUREMENT", "sha384", digest, Coverage(**counts))


def _covered(step: LaunchUpdate) -> str:
    if isinstance(step.contents, DigestAfter):
        return "by_digest"
    if step.page_type is PageType.VMSA:
        return "vmsas"
    if step.page_type in MEASURED_CONTENTS:
        return "contents"
    return "address_only" if step.page_type is PageType.ZERO else "host_filled"


def _tail(page_type: PageType) -> bytes:
    return TAIL.pack(PAGE_INFO_SIZE, page_type, 0, 0)


def after_update(digest: bytes, step: LaunchUpdate) -> bytes:
    """Return the launch digest after a run of pages, where it is `digest` before; PlanError."""
    if isinstance(step.contents, DigestAfter):
        if digest != NO_CONTENTS or step.page_type is not PageType.NORMAL:
            raise PlanError(
                "a digest can only replace the first pages of a launch, and only NORMAL ones"
            )
        return step.contents.digest
    tail = _tail(step.page_type)
    if step.page_type not in MEASURED_CONTENTS:
        return _chain_equal(digest, NO_CONTENTS + tail, range(step.gpa, step.gpa + step.size, PAGE))
    gpa = step.gpa
    if isinstance(step.contents, Hashed):
        return _chain_links(digest, step.contents.links)
    for view, count in page_runs(step.contents, step.size):
        gpas = range(gpa, gpa + count * PAGE, PAGE)
        if view is None:
            digest = _chain_equal(digest, ZERO_PAGE_DIGEST + tail, gpas)
        else:
            digest = _chain_pages(digest, view, tail, gpas)
        gpa += count * PAGE
    return digest


def page_links(view: memoryview, page_type: PageType, gpa: int) -> bytes:
    """
    Return what each page of `view` adds to PAGE_INFO, CONTENTS to GPA: 64 bytes a page.

    No page depends on another.
    """
    tail = _tail(page_type)
    found = []
    for number, (page,) in enumerate(ONE_PAGE.iter_unpack(view)):
        contents = ZERO_PAGE_DIGEST if page == ZERO_PAGE else sha384(page).digest()
        found.append(contents + tail + GPA.pack(gpa + number * PAGE))
    return b"".join(found)


def _chain_links(digest: bytes, links: bytes) -> bytes:
    for at in range(0, len(links), LINK):
        digest = sha384(digest + links[at : at + LINK]).digest()
    return digest


def after_vmsas(digest: bytes, step: VmsaUpdate) -> Iterator[bytes]:
    """Yield the launch digest after the VMSA of each vCPU of `step`, in order."""
    rest = sha384(step.page).digest() + _tail(PageType.VMSA) + step.gpa.to_bytes(8, "little")
    for _ in step.vcpus:
        digest = sha384(digest + rest).digest()
        yield digest


def _chain_equal(digest: bytes, middle: bytes, gpas: Iterable[int]) -> bytes:
    """Chain pages of equal contents: `middle` is CONTENTS to VMPL3_PERMS."""
    for gpa in gpas:
        digest = sha384(digest + middle + gpa.to_bytes(8, "little")).digest()
    return digest


def _chain_pages(digest: bytes, view: memoryview, tail: bytes, gpas: range) -> bytes:
    """Chain pages with contents, one at a time; comparing with zeros costs less than hashing."""
    zeros = ZERO_PAGE_DIGEST + tail
    for gpa, (page,) in zip(gpas, ONE_PAGE.iter_unpack(view), strict=True):
        middle = zeros if page == ZERO_PAGE else sha384(page).digest() + tail
        digest = sha384(digest + middle + GPA.pack(gpa)).digest()
    return digest
