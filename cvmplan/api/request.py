"""
The public functions, for programs: an image and its settings in, a record out.

An image is a path, or bytes (bytes, bytearray, memoryview, Blob).  `settings` are those of
`launch.settings.Settings`, and errors name parameters (`page_order`).  Each function gives the
verdict of the verb that has its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias, Unpack

from cvmplan.api import answers
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError
from cvmplan.core.files import Files
from cvmplan.core.findings import Findings
from cvmplan.core.platform import find
from cvmplan.core.values import PAGE, digest
from cvmplan.launch.given import Given
from cvmplan.launch.model import Declared
from cvmplan.launch.settings import Settings
from cvmplan.memory.contents import Contents, Filled, Zeros
from cvmplan.memory.regions import Region, Role
from cvmplan.operations.measure import Measurement, measure
from cvmplan.operations.plan import Plan
from cvmplan.planning import build
from cvmplan.planning.read import read_value
from cvmplan.planning.request import (
    Image,
    Request,
    make_request,
    naming_parameters,
    open_image,
    read_parameters,
)
from cvmplan.planning.source import Source

if TYPE_CHECKING:
    from cvmplan.comparison.found import Comparison
    from cvmplan.comparison.sides import Side
    from cvmplan.evidence.verify import Verification
    from cvmplan.explanation.answer import Explanation
    from cvmplan.memory.owners import Owners
    from cvmplan.planning.report import Report
    from cvmplan.simulator.answers import Simulation

Page: TypeAlias = tuple[int, str, bytes | None]
"""Guest-physical address, page type, and contents: at most 4096 bytes, None for none."""


def plan_image(image: Image, /, **settings: Unpack[Settings]) -> Plan:
    """
    Return the plan of an image: a path, or its bytes, under `settings`.

    Raises ConfigError for an unknown setting or a wrong value, named as the parameter;
    InputError for a file that cannot be read or is malformed; UnsupportedError for a file that is
    not an image, or cannot be launched like this; MapError and PlanError if the launch is invalid.

    >>> plan = plan_image("example:snp", vcpus=4, cpu="EPYC-Milan")
    >>> plan
    <Plan platform=snp vmm=qemu abi=map-memory vcpus=4 operations=27>
    >>> plan.to_dict()["schema"]
    'cvmplan.plan/1'
    """
    with naming_parameters():
        return make_request(image, settings).plan()


def check(image: Image | Plan, /, **settings: Unpack[Settings]) -> Findings:
    """
    Return every finding about an image and its launch, or about a plan.

    No exception is raised for a map that is not valid: its errors are among the findings.
    PlanError where the operations are not a legal launch; other errors as `plan_image`.

    >>> found = check("example:tdx")
    >>> found.errors
    ()
    """
    with naming_parameters():
        return answers.check(asked(image, settings))


def map_image(image: Image, /, **settings: Unpack[Settings]) -> Owners:
    """
    Return who owns which guest pages in address order, the gaps, and the findings.

    The map is returned whether it is valid or not.  Errors as `plan_image`, MapError apart.

    >>> owners = map_image("example:snp")
    >>> hex(owners.rows[0].region.gpa), owners.rows[0].region.origin
    ('0x800000', 'example:snp: SEV metadata section 0 (sec-mem)')
    """
    with naming_parameters():
        return answers.guest_map(make_request(image, settings))


def report(
    image: Image, /, *, verification: Verification | None = None, **settings: Unpack[Settings]
) -> Report:
    """
    Return what a reviewer reads about a launch, valid or not; `to_html()` is the page.

    `verification` is what `verify` returned for evidence of this launch.  Errors as `plan_image`,
    but MapError and PlanError: the report says what is wrong.

    >>> found = report("example:snp")
    >>> found.is_valid, found.to_html()[:15]
    (True, '<!DOCTYPE html>')
    """
    from cvmplan.planning.report import make_report

    with naming_parameters():
        found = make_report(make_request(image, settings))
        return found._replace(verification=verification)


def measure_pages(pages: Iterable[Page], /, **settings: Unpack[Settings]) -> Measurement:
    """
    Return the measurement of pages of your own, added in the order in which they are given.

    Each page is (guest-physical address, page type, contents): at most 4096 bytes, filled with
    zeros; None for pages without contents of their own ("zero", "secrets", "cpuid").  Page
    types are those of manifests; `platform` has to be given.  vCPU states follow from the
    settings (`vcpus`, `cpu`, `reset_eip` …).  MapError where a page is given twice or is not
    aligned; ConfigError.

    >>> pages = [(0x1000, "normal", b"code"), (0x2000, "zero", None)]
    >>> measure_pages(pages, platform="snp").digest.hex()[:16]
    '72d33f77747b936e'
    """
    with naming_parameters():
        files = Files()
        options = read_parameters(settings, files.open)
        platform = options.text("platform")
        if platform is None:
            raise ConfigError("missing platform", at="platform")
        regions, blob = _regions(list(pages), platform)
        files.keep(blob, "image")
        source = Source(blob, Declared(Given(), regions), None, blob.name)
        launch = build.launch_source(source, options, files.open)
        return measure(build.plan(launch, tuple(files.inputs.values())))


def _regions(pages: Sequence[Page], platform: str) -> tuple[tuple[Region, ...], Blob]:
    """Return pages as regions, and all their contents behind each other."""
    types = find(platform).page_types
    data, spans = bytearray(), []
    for number, (_, kind, contents) in enumerate(pages):
        at = f"pages[{number}]"
        if kind not in types:
            known = ", ".join(types)
            raise ConfigError(f"unknown page type {kind!r}", at=at, hint=f"choose from {known}")
        if contents is not None and len(contents) > PAGE:
            raise ConfigError(f"{len(contents)} bytes do not fit into one page", at=at)
        spans.append((len(data), len(data) + len(contents or b"")))
        data += contents or b""
    blob = Blob("pages", memoryview(bytes(data)))
    made = []
    for number, ((gpa, kind, contents), span) in enumerate(zip(pages, spans, strict=True)):
        at = f"pages[{number}]"
        holds: Contents = Zeros() if contents is None else blob.slice(*span)
        if contents is None and kind in ("secrets", "cpuid"):
            holds = Filled(kind)
        made.append(Region(gpa, PAGE, Role.REGION, at, kind, holds, at))
    return tuple(made), blob


def simulate(
    plan: Image | Plan,
    /,
    *,
    image: Image | None = None,
    host_width: int = 52,
    **settings: Unpack[Settings],
) -> Simulation:
    """
    Return what a kernel answers to each call of a plan or of a recorded launch.

    `abi` is the kernel, by default the plan's own, or the newest released one for a recording.
    A recording's digest is known with `image`, whose launch the other settings describe; a
    plan takes no settings but `abi`.  `host_width` are the bits of the host's physical addresses.
    ConfigError, InputError, UnsupportedError.

    >>> outcome = simulate(plan_image("example:tdx", abi="kvm-6.16"), abi="kvm-7.0")
    >>> outcome.finalized, len(outcome.refused)
    (True, 0)
    """
    with naming_parameters():
        if isinstance(plan, Plan):
            others = [name for name in settings if name != "abi"]
            if image is not None or others:
                raise ConfigError("a plan takes no settings", at=(others or ["image"])[0])
            return answers.simulate_plan(plan, settings.get("abi"), host_width)
        request = make_request(plan, settings)
        if image is None:
            return answers.simulate(request, None, host_width)
        known = Request(open_image(image, request.files), request.options, request.files)
        return answers.simulate(request, known, host_width)


def diff(
    a: Image | Plan,
    b: Image | Plan,
    /,
    *,
    a_settings: Settings | None = None,
    b_settings: Settings | None = None,
    **settings: Unpack[Settings],
) -> Comparison:
    """
    Return where two launches differ first, and everything that differs between them.

    Each is an image under `settings` and its own (`a_settings`, `b_settings`), a plan, a trace
    or a recording; those take no settings of their own.  Errors as `plan_image`.

    >>> found = diff("example:snp", "example:snp", b_settings={"vcpus": 2})
    >>> found.differ, found.same_measurement
    (True, False)
    """

    def requested(one: Image | Plan, own: Settings | None, name: str) -> Plan | Request:
        if not isinstance(one, Plan):
            return make_request(one, {**settings, **(own or {})})
        if own:
            raise ConfigError("a plan takes no settings", at=name)
        return one

    def side(one: Plan | Request, other: Plan | Request, own: str) -> Side:
        from cvmplan.comparison.sides import of_plan

        if isinstance(one, Plan):
            return of_plan("plan", one)
        return answers.side(one, own, None if isinstance(other, Plan) else other.image)

    with naming_parameters():
        one = requested(a, a_settings, "a_settings")
        two = requested(b, b_settings, "b_settings")
        own = ("a_settings" if a_settings else "", "b_settings" if b_settings else "")
        return answers.compare_sides(side(one, two, own[0]), side(two, one, own[1]))


def explain(
    image: Image | None = None,
    /,
    *,
    expect: str | bytes | None = None,
    report: Image | None = None,
    tries: Iterable[Image] = (),
    lines: Iterable[str] = (),
    catalogues: Iterable[str] = (),
    budget: float = 60,
    **settings: Unpack[Settings],
) -> Explanation:
    """
    Return which settings have a measurement that was not expected.

    `expect` is the measurement (hex, base64 or bytes), or `report` the SNP report or TDX quote
    that has it.  `tries` are other images, kernels or initrds that it may be, `lines` other
    command lines; the search ends after `budget` seconds.  Without an image the firmware of the
    catalogue is tried, and of the files `catalogues`.  Errors as `plan_image`.

    >>> digest = measure(plan_image("example:snp", vcpus=2)).digest
    >>> explain("example:snp", expect=digest).changes[0].typed
    '--vcpus 2'
    """
    from cvmplan.catalogue.search import Beside
    from cvmplan.evidence import evidence
    from cvmplan.explanation.search import clock

    if (expect is None) == (report is None):
        raise ConfigError("missing expect or report (exactly one)", at="explain")
    with naming_parameters():
        files = Files(allow_outside=settings.get("allow_outside", False))
        options = read_parameters(settings, files.open)
        if report is not None:
            wanted = evidence.read(open_image(report, files, "report"))
            asked_for: bytes | evidence.Evidence = wanted
        else:
            asked_for = expect if isinstance(expect, bytes) else _digest(str(expect))
        others = [open_image(one, files) for one in tries]
        blob = None if image is None else open_image(image, files)
        beside = Beside(others, tuple(lines), tuple(catalogues))
        return answers.explanation(blob, options, files.open, asked_for, beside, clock(budget))


def _digest(written: str) -> bytes:
    return read_value(lambda text: digest(str(text)), written, "--expect")


def asked(image: Image | Plan, settings: Settings) -> Plan | Request:
    """Return a plan that is given in place of an image, which takes no settings; ConfigError."""
    if not isinstance(image, Plan):
        return make_request(image, settings)
    for name in settings:
        raise ConfigError("a plan takes no settings", at=name)
    return image
