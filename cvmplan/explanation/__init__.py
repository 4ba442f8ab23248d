"""
Which settings reproduce a measurement that was not expected.

`axes` says what may be otherwise, `states` folds vCPU states, `search` goes through the
candidates, `answer` puts what was found into words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError
from cvmplan.core.platform import Platform
from cvmplan.evidence.evidence import Evidence
from cvmplan.explanation.answer import Explanation, explanation
from cvmplan.explanation.axes import Asked, Candidate, axes
from cvmplan.explanation.search import Search
from cvmplan.launch.given import Given
from cvmplan.launch.model import Opener
from cvmplan.planning.build import plan
from cvmplan.planning.source import Source, open_source
from cvmplan.planning.usual import usual_settings


def ask(
    image: Blob,
    options: Given,
    open_file: Opener,
    tries: Sequence[Blob],
    wanted: bytes | Evidence,
    lines: Sequence[str] = (),
) -> Asked:
    """
    Return what is to be explained: `image` under `options`, or with one of `tries` in place, or
    one of the command `lines`.

    Kernel and initrd are read once, here.  ConfigError where the measurement is no such
    platform's, InputError and UnsupportedError for what is no image.
    """
    source = _any_processor(open_source(image, open_file, options))
    shown = Candidate(source, image.name)
    return ask_candidate(shown, options, open_file, tries, wanted, lines)


def _any_processor(source: Source) -> Source:
    """Return what is opened without the finding for a processor that is not named: it is sought."""
    found = tuple(f for f in source.declared.findings if f.rule != "host-cpu")
    return replace(source, declared=source.declared._replace(findings=found))


def ask_candidate(
    image: Candidate,
    options: Given,
    open_file: Opener,
    tries: Sequence[Blob],
    wanted: bytes | Evidence,
    lines: Sequence[str] = (),
    others: Sequence[Candidate] = (),
) -> Asked:
    """Return what is to be explained of an open image, or one of `others`; as `ask`."""
    source = image.source
    size = len(wanted.digest if isinstance(wanted, Evidence) else wanted)
    if isinstance(wanted, Evidence):
        options = Given({"platform": wanted.platform}) | options
    platform = _platform(source, options, size)
    if platform.digest_size != size:
        problem = f"a digest of {size} bytes, {platform} has {platform.digest_size or 'none'}"
        raise ConfigError(problem, at="--expect")
    for name in ("kernel", "initrd", "append"):
        if name in options and f"{name}_hash" in options:
            raise ConfigError("cannot be combined with its hash", at=f"--{name}")
    chosen = source.declared.settings | options
    usual = usual_settings(options.usual, chosen, source.declared, platform, source.format)
    settings = options = usual.only("kernel", "initrd", "append") | options
    named = {sha256(blob.data).digest(): blob.name for blob in tries}
    for name in ("kernel", "initrd"):
        path = options.text(name)
        if path is not None:
            digest = sha256(open_file(path, name).data).digest()
            settings = settings.without(name) | {f"{name}_hash": digest}
            named[digest] = path
    return Asked(image, settings, platform, tries, named, open_file, lines, others)


def _platform(source: Source, options: Given, size: int) -> Platform:
    """Return the platform, of several that an image allows the one with such a measurement."""
    try:
        return source.platform(options)
    except ConfigError:
        allowed = source.reader.platforms(source.declared.firmware) if source.reader else ()
        fitting = [p for p in (Platform(name) for name in allowed) if p.digest_size == size]
        if not fitting:
            raise
        return fitting[0]


def explain_measurement(
    asked: Asked, wanted: bytes | Evidence, tick: Callable[[], None] = lambda: None
) -> Explanation:
    """
    Return which settings have the measurement `wanted`, or what was searched in vain.

    `tick` is called often, and may raise OverBudgetError to end the search.  Where no candidate
    can be launched, what was given says why: errors as `planning.build.plan`.
    """
    evidence = wanted if isinstance(wanted, Evidence) else None
    digest = wanted.digest if isinstance(wanted, Evidence) else wanted
    hint = (evidence.cpu_signature,) if evidence and evidence.cpu_signature is not None else ()
    several = axes(asked)
    search = Search(asked, several, digest, hint, tick)
    found = search.run()
    if not search.candidates:  # nothing that was given, or is near it, is a launch
        plan(search.given())
    return explanation(asked, several, digest, search, found, evidence)
