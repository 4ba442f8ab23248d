"""
Which firmware, started how, has a measurement: the search where no image is at hand.

MRTD is looked up.  A launch digest of SNP depends on the guest too: each firmware is tried with
vCPU counts, CPU signatures, SEV_FEATURES and VMMs, as `explanation` does with an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from cvmplan.catalogue.known import Known
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError
from cvmplan.core.platform import WITH_PAGE_INFO, WITH_SECURE_EPT, Platform, find
from cvmplan.evidence.evidence import Evidence
from cvmplan.explanation import ask_candidate, explain_measurement
from cvmplan.explanation.answer import MOST_NAMED, Explanation, Omitted, Searched
from cvmplan.explanation.axes import Candidate
from cvmplan.images import ovmf
from cvmplan.launch.given import Given
from cvmplan.launch.model import Opener
from cvmplan.planning.source import Source
from cvmplan.readers.firmware import declared, tables

ANSWERED = (*WITH_PAGE_INFO, *WITH_SECURE_EPT)
_NOT_THERE = Omitted(
    "catalogue", "firmware that is not in the catalogue ('cvmplan catalogue add FILE')"
)


class Beside(NamedTuple):
    """
    What else may be tried: kernels and initrds, further command lines, catalogues by path.

    `base` is where the files of a launch description lie; the command of an answer has it.
    """

    tries: Sequence[Blob] = ()
    lines: Sequence[str] = ()
    catalogues: Sequence[str] = ()
    base: str | None = None


NOTHING: Final = Beside()


def search(
    known: Sequence[Known],
    wanted: bytes | Evidence,
    options: Given,
    open_file: Opener,
    beside: Beside = NOTHING,
    tick: Callable[[], None] = lambda: None,
) -> Explanation:
    """
    Return which firmware of `known` has the measurement `wanted`, and with which settings.

    `options` are where the search begins, and what it keeps of a kernel.  `firmware` of the
    answer is None where none has it.  `tick` is called often, and may raise OverBudgetError.
    ConfigError for a measurement of a platform that catalogues do not have.
    """
    digest = wanted.digest if isinstance(wanted, Evidence) else wanted
    platforms = _platforms(wanted, options, len(digest))
    evidence = wanted if isinstance(wanted, Evidence) else None
    images = [_candidate(one) for one in known if one.firmware.sev]
    if beside.tries and not any(p.page_info for p in platforms):
        raise ConfigError("needs an image", at="--try")
    answer = _looked_up(known, digest, platforms, evidence)
    if answer.explained or not images or not any(p.page_info for p in platforms):
        return answer
    first, others = images[0], images[1:]
    asked = ask_candidate(first, options, open_file, beside.tries, wanted, beside.lines, others)
    found = explain_measurement(asked, wanted, tick)
    looked_up = answer.searched if len(platforms) > 1 else ()
    return found._replace(searched=(*looked_up, *found.searched))


def _looked_up(
    known: Sequence[Known],
    digest: bytes,
    platforms: Sequence[Platform],
    evidence: Evidence | None,
) -> Explanation:
    """Return the firmware that has this MRTD, or that none has it."""
    orders = [
        (one.firmware, order, mrtd) for one in known for order, mrtd in one.firmware.mrtd.items()
    ]
    kind = f"{evidence.kind}; its signature was not looked at" if evidence else ""
    names = [*dict.fromkeys(firmware.name for firmware, _, _ in orders)]
    more = len(names) - MOST_NAMED
    names[MOST_NAMED:] = [f"and {more} more"] if more > 0 else []
    searched = (Searched("mrtd", "MRTD of the catalogue", "; ".join(names)),)
    answer = Explanation(
        digest.hex(), platforms[-1], (), (), len(orders), True, searched, (_NOT_THERE,), kind
    )
    for firmware, order, mrtd in orders:
        if mrtd == digest and platforms[-1].secure_ept:
            file = f"./{firmware.file}" if firmware.file.startswith("-") else firmware.file
            told = ("--platform", platforms[-1], "--page-order", order)
            return answer._replace(
                command=("cvmplan", "measure", file, *told),
                settings={"platform": platforms[-1], "page_order": order},
                firmware=firmware,
            )
    return answer


def _candidate(one: Known) -> Candidate:
    """Return a firmware as an image whose pages only the digest stands for."""
    page = tables(one.firmware, one.shown)
    source = Source(page, declared(one.firmware, page), ovmf, one.shown, "ovmf")
    return Candidate(source, one.shown, one.firmware)


def _platforms(wanted: bytes | Evidence, options: Given, size: int) -> tuple[Platform, ...]:
    """Return the platforms whose measurement it may be; ConfigError."""
    named = options.text("platform")
    if isinstance(wanted, Evidence):
        found: tuple[Platform, ...] = (wanted.platform,)
        if named not in (None, wanted.platform):
            raise ConfigError(f"the evidence is of {wanted.platform}", at="--platform")
    else:
        found = ANSWERED if named is None else (find(named),)
    fitting = tuple(p for p in found if p in ANSWERED and p.digest_size == size)
    if not fitting:
        names = " and ".join(ANSWERED)
        problem = f"the catalogue has measurements of {names} only, which have 48 bytes"
        raise ConfigError(problem, at="--expect", hint="name an image")
    return fitting
