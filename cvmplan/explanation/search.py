"""
The search: candidates by how many settings differ from those given, the fewest first.

Each candidate is a launch with one choice of some axes; its pages are folded once, then all
vCPU states are tried on them.  What matches is launched and measured as a whole before it is
believed, so that no launch is named which could not be made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from time import monotonic
from typing import Final, NamedTuple, TypeAlias

from cvmplan.core.errors import CvmplanError
from cvmplan.core.platform import Platform, find
from cvmplan.core.values import MOST_VCPUS
from cvmplan.explanation.axes import Asked, Axis, Candidate, Choice
from cvmplan.explanation.rules import RULES, with_rules
from cvmplan.explanation.states import FEATURES, Match, Pages
from cvmplan.launch.given import Given, Value
from cvmplan.launch.model import Launch
from cvmplan.launch.settings import SETTINGS, TOP
from cvmplan.operations.measure import measure
from cvmplan.planning.build import launch_source, plan
from cvmplan.planning.decide import choose_profile
from cvmplan.planning.read import option
from cvmplan.platforms.snp.digest import Chains
from cvmplan.profiles import Profile, cpus

Choices: TypeAlias = tuple[Choice, ...]


class Tier(NamedTuple):
    """How many axes may differ, how many SEV_FEATURES are tried, and up to how many vCPUs."""

    axes: int
    features: int | None
    vcpus: int


_FEW: Final = len(FEATURES) + 1
TIERS: Final = (
    Tier(0, _FEW, 256), Tier(1, _FEW, 256), Tier(0, None, 512), Tier(2, _FEW, 64),
    Tier(0, _FEW, MOST_VCPUS), Tier(1, None, 64), Tier(1, _FEW, MOST_VCPUS), Tier(3, _FEW, 64),
)  # fmt: skip
"""The order of the search; then all of it, with one axis after the other."""


class Found(NamedTuple):
    """Choices and settings that lead to the digest: the image, and all of its options."""

    choices: Choices
    image: Candidate
    options: Given
    launch: Launch


class OverBudgetError(Exception):
    """The time is over; not an error of the user's."""


def clock(budget: float, advance: Callable[[float], None] = lambda _: None) -> Callable[[], None]:
    """Return what tells `advance` the seconds, and ends a search after `budget` of them."""
    begun = seen = monotonic()

    def tick() -> None:
        nonlocal seen
        now = monotonic()
        advance(now - seen)
        seen = now
        if now - begun > budget:
            raise OverBudgetError

    return tick


class Refused(NamedTuple):
    """What could not be launched, in words, and the reason."""

    what: str
    reason: str


AS_GIVEN: Final = "the launch as given"


class Search:
    """
    Looks for the launch that has the digest `want`.

    `signatures`: CPU signatures to try before the known ones.  `tick` is called often; it may
    raise OverBudgetError.  `candidates` counts the digests that were compared, `refused` has
    each choice that could not be launched, and the launch as given, with the reason.
    """

    def __init__(
        self,
        asked: Asked,
        axes: Sequence[Axis],
        want: bytes,
        signatures: tuple[int, ...] = (),
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._asked, self._axes, self._want, self._tick = asked, axes, want, tick
        self._signatures = signatures
        self._chains = Chains()
        self._pages: dict[tuple[int, ...], Pages | None] = {}  # by the identity of the choices
        self._tried: dict[tuple[int, ...], dict[int, int]] = {}  # SEV_FEATURES to most vCPUs
        self.candidates = 0
        self.complete = False
        self.done: list[Tier] = []
        self.refused: dict[str, Refused] = {}  # by the id of a choice, "" for what was given

    def run(self) -> Found | None:
        """Return the first launch that matches, None where none does or the time is over."""
        try:
            for tier in (*TIERS, *self._more()):
                for choices in self._choices(tier.axes):
                    found = self._try(choices, tier)
                    if found:
                        return found
                self.done.append(tier)
        except OverBudgetError:
            return None
        self.complete = True
        return None

    def given(self) -> Launch:
        """Return the launch as it was given; errors as `planning.build.launch`."""
        return self._launch((), Given())

    def _more(self) -> Iterator[Tier]:
        for features in (_FEW, None):
            for count in range(len(self._axes) + 1):
                yield Tier(count, features, MOST_VCPUS)

    def _choices(self, count: int) -> Iterator[Choices]:
        for axes in combinations(self._axes, count):
            if count > 1 and any(axis.alone for axis in axes):
                continue
            yield from product(*(axis.choices for axis in axes))

    def _try(self, choices: Choices, tier: Tier) -> Found | None:
        self._tick()
        key = tuple(map(id, choices))
        if key not in self._pages:
            self._pages[key] = self._folded(choices)
        pages = self._pages[key]
        if pages is None:
            return None
        if pages.measured is not None:
            if key in self._tried:
                return None
            self._tried[key] = {}
            self.candidates += 1
            return self._believed(choices, Given()) if pages.measured == self._want else None
        for match in self._states(key, pages, tier):
            found = self._believed(choices, self._as_options(choices, pages, match))
            if found:
                return found
        return None

    def _folded(self, choices: Choices) -> Pages | None:
        """Return the pages of a launch with as many vCPUs as there may be, or fewer; or None."""
        fewest = Given()
        most = Given({"vcpus": MOST_VCPUS})
        for vcpus in (most, fewest) if self._asked.platform.vmsa else (fewest,):
            try:
                launch = self._launch(choices, vcpus)
                return Pages(launch, plan(launch), self._chains)
            except CvmplanError as error:
                reason = str(error)
        if len(choices) < 2:
            which, what = (choices[0].id, choices[0].why) if choices else ("", AS_GIVEN)
            self.refused.setdefault(which, Refused(what, reason))
        return None

    def _launch(self, choices: Choices, states: Given) -> Launch:
        image, options = self.settings(choices, states)
        return launch_source(image.source, options, self._asked.open_file)

    def settings(self, choices: Choices, states: Given) -> tuple[Candidate, Given]:
        """Return the image and the options of a candidate."""
        changes = {n: v for choice in choices for n, v in choice.changes.items()}
        image, options = self._asked.image, self._asked.options
        for name, value in (*changes.items(), *states.items()):
            if isinstance(value, Candidate):
                image = value
            elif value is None:
                options = options.without(name).unusual(name, name.removesuffix("_hash"))
            else:
                options |= {name: value}
        if "cpu" in states:
            options = options.without("family", "model", "stepping")
        if "platform" not in options:
            options |= {"platform": self._asked.platform}
        if any(name in RULES for name in changes):
            options |= {"vmm": with_rules(self._profile(image, options), changes)}
        platform = find(options.text("platform") or "")
        return image, options.only(*(n for n in options if _known(n, platform)))

    def _states(self, key: tuple[int, ...], pages: Pages, tier: Tier) -> Iterator[Match]:
        """Yield the vCPU states of a tier that match; those of earlier tiers are not repeated."""
        tried = self._tried.setdefault(key, {})
        for mask in pages.features[: tier.features]:
            done = tried.get(mask, 0)
            if done >= tier.vcpus:
                continue
            tried[mask] = tier.vcpus
            for signature in dict.fromkeys((*pages.signatures[:1], *self._hints(pages))):
                self._tick()
                vcpus = pages.vcpus(self._want, signature, mask, tier.vcpus)
                self.candidates += tier.vcpus - done
                if vcpus:
                    yield Match(vcpus, signature, mask)

    def _hints(self, pages: Pages) -> tuple[int, ...]:
        if len(pages.signatures) == 1:
            return ()
        return (*self._signatures, *pages.signatures[1:])

    def _believed(self, choices: Choices, states: Given) -> Found | None:
        """Return the launch as a whole where it has the digest and could be made."""
        image, options = self.settings(choices, states)
        try:
            launch = launch_source(image.source, options, self._asked.open_file)
            measured = measure(plan(launch)).digest
        except CvmplanError:
            return None
        return Found(choices, image, options, launch) if measured == self._want else None

    def _profile(self, image: Candidate, options: Given) -> Profile:
        """Return the profile of a candidate."""
        settings = image.source.declared.settings | options
        return choose_profile(settings, image.source.format, option)

    def _as_options(self, choices: Choices, pages: Pages, match: Match) -> Given:
        """Return the options that make the states of a match of those that were given."""
        guest, abi = pages.launch.guest, pages.launch.abi
        states: dict[str, Value] = {}
        if abi.vmsa_scope == "all" and match.vcpus != self._launch(choices, Given()).guest.vcpus:
            states["vcpus"] = match.vcpus
        if match.cpu_signature != guest.cpu_signature:
            names = {value: name for name, value in reversed(cpus.SIGNATURES.items())}
            states["cpu"] = names.get(match.cpu_signature, hex(match.cpu_signature))
        if match.sev_features != guest.sev_features:
            states["sev_features"] = match.sev_features
        return Given(states)


def _known(name: str, platform: Platform) -> bool:
    """Whether `name` is a setting that means something on `platform`."""
    if name in TOP:
        return True
    if name not in SETTINGS:
        return False
    platforms = SETTINGS[name].platforms
    return platforms is None or platform in platforms
