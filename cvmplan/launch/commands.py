"""The command line that does a launch again, or that finds the reason of a difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from cvmplan.core.inputs import Input
from cvmplan.core.platform import Platform
from cvmplan.core.values import Json
from cvmplan.launch.settings import SETTINGS, TOP


class Settled(Protocol):
    """A launch whose settings are known: its plan, or a report about it."""

    @property
    def platform(self) -> Platform:
        """What it is launched on."""

    @property
    def inputs(self) -> Sequence[Input]:
        """The files that it depends on."""

    @property
    def given(self) -> Mapping[str, Any]:
        """The settings that were given, as documents have them."""

    @property
    def assumed(self) -> Mapping[str, Any]:
        """The settings that were assumed."""

    @property
    def places(self) -> Mapping[str, str]:
        """Where a document has a setting."""


def explain_command(plan: Settled, base: str | None = None) -> Iterator[str]:
    """Yield the words of the `explain` command, up to the digest that it is to find."""
    return launch_command("explain", plan, base)


def launch_command(verb: str, plan: Settled, base: str | None = None) -> Iterator[str]:
    """
    Yield the words of the command `verb` for the launch of a plan.

    What a launch description says is not repeated; `base` is where its files lie.
    """
    image = next((i for i in plan.inputs if i.role in ("image", "firmware")), None)
    path = (image.path or "-") if image else "-"
    yield from ("cvmplan", verb, f"./{path}" if path.startswith("-") and path != "-" else path)
    yield from ("--platform", plan.platform)
    yield from [f"--base={base}"] if base is not None else []
    usual = {name: value for name, value in plan.assumed.items() if name in plan.places}
    told = {**usual, **plan.given}
    for name, value in told.items():
        if _described(name, plan):
            continue
        if name not in (*TOP, *SETTINGS, "cpu_signature"):
            continue  # a document cannot bring options of its own into a command
        hashed = name.removesuffix("_hash")
        if name in ("platform", "cpu") or (hashed != name and hashed in told):
            continue
        option = "cpu" if name == "cpu_signature" else name
        yield from _typed(f"--{option.replace('_', '-')}", value)


def _described(name: str, plan: Settled) -> bool:
    """Whether a launch description has a setting that is given, or what it is made of."""
    written = "cpu" if name == "cpu_signature" else name.removesuffix("_hash")
    return written in plan.places and written in plan.given


def _typed(flag: str, value: Json) -> Iterator[str]:
    """Yield an option as it is typed."""
    if isinstance(value, list):
        for one in value:
            yield from _typed(flag, one)
    elif value is True:
        yield flag
    elif value is not False:
        yield f"{flag}={value}"
