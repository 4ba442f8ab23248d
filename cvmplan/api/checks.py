"""Several files checked: the findings about each, and whether it measures what is expected."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from cvmplan.api import answers
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, CvmplanError, MalformedError, MapError
from cvmplan.core.files import EXAMPLES, Files, is_same, is_there, map_file
from cvmplan.core.findings import Finding, has_errors
from cvmplan.core.values import FILE
from cvmplan.launch.given import Given
from cvmplan.launch.settings import IDENTITIES
from cvmplan.operations.checked import Checked, Compared, on_lines, paths_of
from cvmplan.operations.plan import Plan
from cvmplan.planning.request import Request, is_file, read_parameters
from cvmplan.readers.expect import Expected

BESIDE: Final = ".expect.json"
"""What is added to the name of an image for the file of its expectations."""
PATHS: Final = ("kernel", "initrd", "svsm", "pod")
"""Settings that name files, which lie beside the document."""


class Expectations(NamedTuple):
    """A document of expectations, and the launches in it."""

    blob: Blob
    launches: tuple[Expected, ...]

    def of(self, name: str) -> list[Expected]:
        """Return the launches that the image `name` must have; ConfigError."""
        files = Files(allow_outside=True)
        return [
            one
            for one in self.launches
            if one.image is None or is_same(files.inside(one.image, self.blob.name), name)
        ]


def read_expectations(path: str) -> Expectations:
    """Return the expectations in a file; InputError, MalformedError, UnsupportedError."""
    from cvmplan.readers import expect

    blob = map_file(path)
    return Expectations(blob, tuple(expect.read(blob)))


def images(names: Iterable[str]) -> list[str]:
    """Return what is to be checked: an image once, also where its expectations are named."""
    return [*dict.fromkeys(n.removesuffix(BESIDE) if len(n) > len(BESIDE) else n for n in names)]


class Check:
    """
    The check of one file after the other.

    `opened` returns what was asked for of a file; `expectations` replace those beside images;
    `beyond` finds more about a plan without errors.  `lines`: places in documents get lines.
    """

    def __init__(
        self,
        opened: Callable[[str], Request],
        expectations: Expectations | None = None,
        beyond: Callable[[Plan], Iterable[Finding]] = lambda _: (),
        *,
        lines: bool = True,
    ) -> None:
        self._opened = opened
        self._expectations = expectations
        self._beyond = beyond
        self._lines = lines

    def check(self, name: str) -> Checked:
        """Return what was found about a file, and what ended its check."""
        found: list[Finding] = []
        compared: list[Compared] = []
        documents: list[Blob] = []
        error = None
        try:
            expectations = self._expectations or _beside(name)
            launches = expectations.of(name) if expectations else []
            if expectations and not launches:
                raise ConfigError(f"expects nothing of {name}", at=expectations.blob.name)
            documents += [expectations.blob] if expectations else []
            request = self._opened(name)
            documents += [one.blob for one in request.files.inputs.values()]
            for wanted in launches or (None,):
                self._launch(request, wanted, found, compared)
        except CvmplanError as failed:
            error = failed
            found.append(Finding(failed.rule, str(failed.args[0]), at=failed.at, hint=failed.hint))
        return Checked(
            name, self._located([*dict.fromkeys(found)], documents), tuple(compared), error
        )

    def _launch(
        self,
        request: Request,
        wanted: Expected | None,
        found: list[Finding],
        compared: list[Compared],
    ) -> None:
        """Add what is found about one launch; other errors than MapError are the caller's."""
        if wanted is not None:
            request = replace(request, options=request.options | _settings(wanted, request))
        try:
            plan = request.plan()
        except MapError as error:
            found += error.findings
            return
        about = answers.check(plan)
        found += about
        if has_errors(about):
            return
        found += self._beyond(plan)
        if wanted is not None:
            for held in _compare(plan, wanted):
                compared.append(held)
                found += [] if held.same else [_differs(plan, held, request.files.base)]

    def _located(self, found: Sequence[Finding], documents: Iterable[Blob]) -> tuple[Finding, ...]:
        """Return findings with the line of each place in one of these documents."""
        for blob in documents if self._lines else ():
            if paths := paths_of(found, blob.name):
                from cvmplan.documents.plain import decode
                from cvmplan.documents.positions import positions

                found = on_lines(found, blob.name, positions(decode(blob), paths))
        return tuple(found)


def _beside(name: str) -> Expectations | None:
    """Return the expectations beside an image, None where there are none."""
    path = f"{name}{BESIDE}"
    if name == "-" or name in EXAMPLES or not is_there(path):
        return None
    return read_expectations(path)


def _settings(wanted: Expected, request: Request) -> Given:
    """Return the settings of an expected launch, its files beside the document; MalformedError."""
    given = Given()
    document = wanted.at.file
    for name, written in wanted.settings.items():
        at = wanted.at.below("settings", name)
        value = written
        if isinstance(value, str) and (name in PATHS or (name == "vmm" and is_file(value))):
            value = request.files.inside(value, document)
        elif isinstance(value, str) and name in IDENTITIES and value.startswith(FILE):
            value = FILE + request.files.inside(value.removeprefix(FILE), document)
        try:
            given |= read_parameters({name: value}, request.files.open)  # type: ignore[misc]  # names are checked there
        except ConfigError as error:
            raise MalformedError(str(error.args[0]), at=at, hint=error.hint) from None
    return given


def _compare(plan: Plan, wanted: Expected) -> Iterator[Compared]:
    """Yield each register beside what it must hold; MalformedError where the launch has it not."""
    from cvmplan.operations.measure import measure

    result = measure(plan)
    for register, expected in wanted.registers.items():
        at = wanted.at.below("registers", register)
        if register != result.register:
            raise MalformedError(f"the launch is measured into {result.register}", at=at)
        yield Compared(register, wanted.title, expected, result.digest, at)


def _differs(plan: Plan, held: Compared, base: str | None) -> Finding:
    from cvmplan.launch.commands import explain_command

    return Finding(
        "measurement-differs",
        f"{held.register} is {held.found.hex()}, expected {held.expected.hex()} ({held.settings})",
        at=held.at,
        hint=shlex.join([*explain_command(plan, base), "--expect", held.expected.hex()]),
    )
