"""What was asked for: an image, the settings that were given for it, and the files they name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from cvmplan import profiles
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, CvmplanError
from cvmplan.core.files import Files
from cvmplan.core.platform import Platform
from cvmplan.launch.given import Given, Value
from cvmplan.launch.model import Launch, Opener
from cvmplan.launch.settings import TOP, Settings
from cvmplan.operations.plan import Plan
from cvmplan.planning.build import launch, launch_source, plan
from cvmplan.planning.read import Written, option, read_name, read_options
from cvmplan.planning.source import open_source
from cvmplan.profiles import Profile
from cvmplan.readers import recognise

R = TypeVar("R", bound="Request")
PROFILE_FILES = (".json", ".toml", ".yaml", ".yml")
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")
Image: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Blob


@dataclass(frozen=True, slots=True)
class Request:
    """An image, the settings that were given for it, and the files that it names."""

    image: Blob
    options: Given
    files: Files

    def launch(self) -> Launch:
        """Return the launch of the image; errors as `planning.build.launch`."""
        return launch(self.image, self.options, self.files.open)

    def plan(self) -> Plan:
        """
        Return the plan of the image, or the plan that the file itself holds.

        A plan takes no settings: ConfigError.  Other errors as `planning.build.plan`.
        """
        name, reader = recognised = recognise(self.image, self.options.text("platform"))
        if name == "plan":
            for setting in self.options:
                raise ConfigError("a plan takes no settings", at=option(setting))
            held: Plan = reader.read(self.image, self.files.find)
            return held
        source = open_source(self.image, self.files.open, self.options, recognised)
        for what in source.declared.uncovered:
            self.files.tell(f"not measured: {what}")
        found = launch_source(source, self.options, self.files.open)
        return plan(found, tuple(self.files.inputs.values()))


def make_request(image: Image, settings: Settings) -> Request:
    """Return what a program asks for; ConfigError, InputError (see `naming_parameters`)."""
    files = Files(allow_outside=settings.get("allow_outside", False))
    options = read_parameters(settings, files.open)
    return Request(open_image(image, files), options, files)


def path_of(image: Image) -> str | None:
    """Return the path by which an image is given, None for bytes."""
    if isinstance(image, Blob | bytes | bytearray | memoryview):
        return None
    return os.fspath(image)


def open_image(image: Image, files: Files, role: str = "image") -> Blob:
    """Return the bytes of a file by its path, or bytes as they are; InputError."""
    if isinstance(image, Blob | bytes | bytearray | memoryview):
        given = image if isinstance(image, Blob) else Blob(role, memoryview(image))
        return files.keep(given, role)
    return files.open(os.fspath(image), role)


def assume_platform(made: R, platform: Platform) -> R:
    """Return a request for `platform` where nothing says another: neither option nor document."""
    if "platform" in made.options or recognise(made.image)[0] in ("plan", "manifest"):
        return made
    return replace(made, options=made.options | {"platform": platform})


def read_parameters(settings: Settings, open_file: Opener) -> Given:
    """Return what was given by parameters; ConfigError, InputError for the file of a profile."""
    top: dict[str, Value] = {}
    written: dict[str, Written] = {}
    for name, value in settings.items():
        if name == "allow_outside":
            continue
        if name in TOP and isinstance(value, str | Profile):
            top[name] = read_name(name, value) if isinstance(value, str) else value
        elif name not in TOP and isinstance(value, os.PathLike):
            written[name] = os.fspath(value)
        elif name not in TOP and (value is None or isinstance(value, int | str | list)):
            written[name] = value
        elif value is not None:
            raise ConfigError(f"{str(value)[:60]!r} has the wrong type", at=name)
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
