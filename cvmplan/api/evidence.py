"""Evidence, judged: what `verify` does on the command line and in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from cvmplan.api.request import asked
from cvmplan.core import values
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError
from cvmplan.core.files import Files
from cvmplan.core.platform import Platform
from cvmplan.launch.given import Given
from cvmplan.launch.settings import Settings
from cvmplan.operations.measure import Measurement, measure
from cvmplan.operations.plan import Plan
from cvmplan.planning.read import option, read_value
from cvmplan.planning.request import (
    Image,
    assume_platform,
    make_request,
    naming_parameters,
    open_image,
    path_of,
)

if TYPE_CHECKING:
    from cvmplan.eventlog.event import EventLog
    from cvmplan.evidence.evidence import Evidence
    from cvmplan.evidence.trust import Trust
    from cvmplan.evidence.verify import Launched, Verification


class Judging(NamedTuple):
    """
    What evidence is judged with beside a plan: files that were opened, and what was written.

    `beside` are the files of a folder, in which others than certificates may be.
    `keys` are SHA-256 of public keys in place of the vendor's; `at` None: now.  `pins` are
    as they were written, by the names of `evidence.pins.PINS`; `policy` is a file of them.
    Without a plan and without a pinned measurement, firmware of the `catalogues` that makes the
    measurement is searched for, for `budget` seconds.
    """

    certificates: Sequence[Blob] = ()
    beside: Sequence[Blob] = ()
    keys: Sequence[str] = ()
    at: str | datetime | None = None
    crls: Sequence[Blob] = ()
    collateral: Sequence[Blob] = ()
    pins: Mapping[str, Any] = {}
    policy: Blob | None = None
    provisional: bool = False
    accept: Sequence[str] = ()
    no_signature: bool = False
    event_log: Blob | None = None
    catalogues: Sequence[str] = ()
    budget: float = 0


def judge(
    evidence: Evidence,
    judging: Judging,
    launched: Callable[[], tuple[Plan, Measurement]] | None,
    path: str | None,
    place: Callable[[str], str] = option,
) -> Verification:
    """
    Return what holds of evidence; `launched` makes the plan that it is compared with, and
    measures it, once all other input is read.  ConfigError, InputError, UnsupportedError,
    MismatchError.
    """
    from cvmplan.evidence import policy
    from cvmplan.evidence import verify as stage

    pins: Mapping[str, Any] = {}
    how: Mapping[str, Any] = {}
    if judging.policy is not None:
        pins, how = policy.from_file(evidence.platform, judging.policy)
    pins = {**pins, **policy.read(evidence.platform, judging.pins, place)}
    if "policy_mask" in pins and "policy" not in pins and launched is None:
        raise ConfigError("needs --policy", at=place("policy_mask"))
    accept = tuple(judging.accept or how.get("accept", ()))
    accepted = policy.accepted(accept, "--accept")
    if accept and evidence.quote is None:
        raise ConfigError("is about TDX quotes", at=place("accept"))
    if accept and not judging.collateral:
        hint = "the status of a TCB is Intel's word, in what it publishes"
        by_file = judging.policy is not None and not judging.accept
        where = f"{judging.policy.name}: accept" if by_file and judging.policy else place("accept")
        raise ConfigError("needs --collateral", at=where, hint=hint)
    made = trust(evidence, judging)._replace(
        provisional=judging.provisional or how.get("provisional", False),
        accepted=accepted,
    )
    log = event_log(evidence, judging.event_log)
    against = None if launched is None else launched()
    unsigned = judging.no_signature
    found = stage.verify(against, evidence, made, pins, log, path, unsigned_holds=unsigned)
    searches = judging.budget and launched is None and found.verdict != "differs"
    if not searches or any(name in pins for name in stage.MEASUREMENTS):
        return found
    return found._replace(launched=_search(evidence, judging))


def _search(evidence: Evidence, judging: Judging) -> Launched:
    """Return which firmware of the catalogues makes the measurement of evidence."""
    from cvmplan.catalogue.known import load
    from cvmplan.catalogue.search import search
    from cvmplan.core.files import Files
    from cvmplan.evidence.verify import Launched
    from cvmplan.explanation.search import clock

    known = load(judging.catalogues)
    found = search(known, evidence, Given(), Files().open, tick=clock(judging.budget))
    firmware = found.firmware
    if firmware is None:
        return Launched("", "", "", (), found.complete)
    return Launched(
        firmware.name, firmware.version, firmware.sha256.hex(), tuple(found.command), found.complete
    )


def trust(evidence: Evidence, judging: Judging) -> Trust:
    """Return the chain that is checked, the keys at which it may end, and the time; ConfigError."""
    from cvmplan.evidence import certificates, collateral, revocation
    from cvmplan.evidence.anchors import PINNED
    from cvmplan.evidence.certificates import Found
    from cvmplan.evidence.signatures import certificates_in
    from cvmplan.evidence.trust import Trust
    from cvmplan.evidence.verify import chain_of

    named = certificates.read_given(judging.certificates)
    found = certificates.read_all(judging.beside)
    given = Found((*named.certificates, *found.certificates), (*named.unread, *found.unread))
    kind = evidence.platform.evidence
    known: Mapping[str, str] = PINNED[kind]
    if judging.keys:
        read = values.octets(32)
        known = {read_value(read, key, "--pin").hex(): f"--pin {key}" for key in judging.keys}
    if given.certificates and evidence.mac is not None:
        raise ConfigError("cannot sign a TDREPORT, which has a MAC", at="--certs")
    if judging.collateral and evidence.quote is None:
        raise ConfigError("is about TDX quotes", at="--collateral")
    inside = certificates_in(evidence)
    chain = chain_of(evidence, inside.certificates, given.certificates)
    if judging.keys and not chain:
        raise ConfigError("needs certificates", at="--pin", hint="--certs FILE")
    published = collateral.read(judging.collateral) if judging.collateral else None
    notes = (*given.unread, *inside.unread, *(published.notes if published else ()))
    lists = tuple(revocation.read(one) for one in judging.crls)
    return Trust(chain, known, time_of(judging.at), notes, lists, published)


def time_of(written: str | datetime | None) -> datetime:
    """Return a time in UTC, now for None; ConfigError for text that is none."""
    if written is None:
        return datetime.now(UTC)
    try:
        time = datetime.fromisoformat(written) if isinstance(written, str) else written
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        hint = "2026-01-31, or 2026-01-31T12:00:00Z"
        raise ConfigError(f"{written!r} is not a time", at="--at", hint=hint) from None


def event_log(evidence: Evidence, log: Blob | None) -> EventLog | None:
    """Return the event log that is given, or comes with evidence; ConfigError for SNP."""
    if log is not None and evidence.td is None:
        raise ConfigError("needs the evidence of a TD", at="--event-log")
    blob = evidence.source.event_log if log is None else log
    if blob is None:
        return None
    from cvmplan.eventlog.forms import read

    return read(blob)


def verify(
    evidence: Image,
    image: Image | Plan | None = None,
    /,
    *,
    certs: Iterable[Image] = (),
    pin: Iterable[str] = (),
    at: str | datetime | None = None,
    crls: Iterable[Image] = (),
    collateral: Iterable[Image] = (),
    pins: Mapping[str, Any] | None = None,
    policy_file: Image | None = None,
    provisional: bool = False,
    accept: Iterable[str] = (),
    no_signature: bool = False,
    ignore_trailing: bool = False,
    select: str | None = None,
    event_log: Image | None = None,
    **settings: Unpack[Settings],
) -> Verification:
    """
    Return what holds of an SNP report, a TDX quote or a TDREPORT, alone or under a plan.

    Parameters are the options of the verb: certificates, SHA-256 of public keys (`pin`) instead
    of the vendor's, the time at which they have to be valid (`at`, now), `crls`, `collateral`;
    what the evidence must say, as `pins` by the names of options ("mrtd", "min_tcb") or in a
    `policy_file`; what is accepted; an `event_log` for the RTMRs.  Nothing is fetched.  `holds`
    is True only where nothing differs and hardware signed it; `not_checked` says what was not
    looked at.  InputError, UnsupportedError, MismatchError for evidence of another platform;
    ConfigError.

    >>> verify("report.bin", "example:snp")
    Traceback (most recent call last):
    cvmplan.core.errors.InputError: report.bin: cannot open: No such file or directory
    """
    from cvmplan.evidence import evidence as reader

    with naming_parameters():
        own = make_request(evidence, {})
        found = reader.read(own.image, trailing=ignore_trailing, select=select)
        opened = partial(_opened, own.files)
        judging = Judging(
            opened("certificate", certs), (), list(pin), at, opened("CRL", crls),
            opened("collateral", collateral), _known(pins or {}),
            next(iter(opened("policy", [policy_file])), None), provisional, list(accept),
            no_signature, next(iter(opened("event log", [event_log])), None),
        )  # fmt: skip
        launched = _launched(image, settings, found.platform)
        return judge(found, judging, launched, path_of(evidence))


def _opened(files: Files, role: str, some: Iterable[Image | None]) -> list[Blob]:
    return [open_image(one, files, role) for one in some if one is not None]


def _known(pins: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return pins that exist and have values; ConfigError names another one."""
    from cvmplan.evidence.pins import PINS
    from cvmplan.evidence.policy import check_values

    check_values(pins, lambda name: name)
    for name in pins:
        if name not in PINS:
            raise ConfigError("unknown pin", at=name)
    return pins


def _launched(
    image: Image | Plan | None, settings: Settings, platform: Platform
) -> Callable[[], tuple[Plan, Measurement]] | None:
    """Return what makes and measures a plan, None without an image; ConfigError."""
    if image is None:
        if settings:
            raise ConfigError("needs an image", at=next(iter(settings)))
        return None
    launch = asked(image, settings)

    def launched() -> tuple[Plan, Measurement]:
        made = launch
        if not isinstance(made, Plan):
            made = assume_platform(made, platform).plan()
        return made, measure(made)

    return launched
