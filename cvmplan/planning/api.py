"""From a path or bytes to a plan, for programs; the command line begins here too."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias, Unpack

from cvmplan import profiles
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, CvmplanError
from cvmplan.core.files import Files
from cvmplan.launch.given import Given, Value
from cvmplan.launch.model import Opener
from cvmplan.launch.settings import TOP, Settings
from cvmplan.operations.plan import Plan
from cvmplan.planning.build import launch, launch_source, plan
from cvmplan.planning.read import Written, option, read_options
from cvmplan.planning.source import open_source
from cvmplan.profiles import Profile
from cvmplan.readers import recognise

PROFILE_FILES = (".json", ".toml", ".yaml", ".yml")
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")
Image: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Blob


def plan_image(image: Image, /, **settings: Unpack[Settings]) -> Plan:
    """
    Return the plan of an image: a path, or its bytes, under `settings` (see `Settings`).

    Raises ConfigError for a setting that does not exist or has no such value, named as the
    parameter; InputError for a file that cannot be read or is malformed; UnsupportedError for
    what is no image, or cannot be launched so; MapError and PlanError where it is no launch.
    """
    with naming_parameters():
        files = Files(allow_outside=settings.pop("allow_outside", False))
        options = read_parameters(settings, files.open)
        if isinstance(image, Blob | bytes | bytearray | memoryview):
            given = image if isinstance(image, Blob) else Blob("image", memoryview(image))
            blob = files.keep(given, "image")
        else:
            blob = files.open(os.fspath(image), "image")
        return plan(launch(blob, options, files.open), tuple(files.inputs.values()))


def make_plan(image: Blob, options: Given, files: Files) -> Plan:
    """
    Return the plan of an image, or the plan that the file itself holds; errors as `plan_image`.

    `options` are settings that were read; a plan takes none.
    """
    name, reader = recognised = recognise(image, options.text("platform"))
    if name == "plan":
        for setting in options:
            raise ConfigError("a plan takes no settings", at=option(setting))
        held: Plan = reader.read(image, files.find)
        return held
    source = open_source(image, files.open, options.text("platform"), recognised)
    found = launch_source(source, options, files.open)
    return plan(found, tuple(files.inputs.values()))


def read_parameters(settings: Settings, open_file: Opener) -> Given:
    """Return what was given by parameters; ConfigError, InputError for the file of a profile."""
    top: dict[str, Value] = {}
    written: dict[str, Written] = {}
    for name, value in settings.items():
        if name in TOP and isinstance(value, str | Profile):
            top[name] = value
        elif name not in TOP and (value is None or isinstance(value, int | str | list)):
            written[name] = value
        elif value is not None:
            raise ConfigError(f"{str(value)[:60]!r} is of another type", at=name)
    return choose_vmm(Given(top), open_file) | read_options(written)


def choose_vmm(given: Given, open_file: Opener) -> Given:
    """Return settings with the profile that is named, or that a file holds, in place."""
    name = given.text("vmm")
    return given if name is None else given | {"vmm": chosen_profile(name, open_file)}


@contextmanager
def naming_parameters() -> Iterator[None]:
    """Let errors name parameters (`page_order`) where the command line has options."""
    try:
        yield
    except CvmplanError as error:
        error.at = _OPTION.sub(_parameter, error.at)
        error.hint = _OPTION.sub(_parameter, error.hint)
        raise


def _parameter(option: re.Match[str]) -> str:
    return option[1].replace("-", "_")


def chosen_profile(name: str, open_file: Opener) -> Profile:
    """Return the profile that is built in as `name`, or that the file `name` holds."""
    if not is_file(name):
        return profiles.find(name)
    from cvmplan.readers.profile import read

    return read(open_file(name, "profile"))


def is_file(name: str) -> bool:
    """Whether what is given as a profile is a file, and not the name of one that is built in."""
    return name not in profiles.PROFILES and ("/" in name or name.endswith(PROFILE_FILES))
