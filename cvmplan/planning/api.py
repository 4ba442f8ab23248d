"""From a path or bytes to a plan, for programs; the command line begins here too."""

from __future__ import annotations

import os
from typing import Any, TypeAlias

from cvmplan import profiles
from cvmplan.core.blob import Blob
from cvmplan.core.files import Files
from cvmplan.launch.model import Opener
from cvmplan.launch.settings import TOP, read_options
from cvmplan.operations.plan import Plan
from cvmplan.planning.build import launch, plan
from cvmplan.profiles import Profile

PROFILE_FILES = (".json", ".toml", ".yaml", ".yml")


Image: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Blob


def plan_image(image: Image, /, **settings: object) -> Plan:
    """
    Return the plan of an image: a path, or its bytes.

    `settings` by the names of `settings.SETTINGS`, and `platform`, `vmm` (a name, a file or
    a Profile), `abi`, `allow_outside`.  Raises what `launch` and `plan` raise, ConfigError
    for a setting that does not exist, InputError for a file that cannot be read.
    """
    files = Files(allow_outside=bool(settings.pop("allow_outside", False)))
    options: dict[str, Any] = {n: settings.pop(n) for n in TOP if n in settings}
    options |= read_options(settings)
    if isinstance(image, Blob | bytes | bytearray | memoryview):
        given = image if isinstance(image, Blob) else Blob("image", memoryview(image))
        blob = files.keep(given, "image")
    else:
        blob = files.open(os.fspath(image), "image")
    if isinstance(options.get("vmm"), str):
        options["vmm"] = chosen_profile(options["vmm"], files.open)
    return plan(launch(blob, options, files.open), tuple(files.inputs.values()))


def chosen_profile(name: str, open_file: Opener) -> Profile:
    """Return the profile that is built in as `name`, or that the file `name` holds."""
    if not is_file(name):
        return profiles.find(name)
    from cvmplan.readers.profile import read

    return read(open_file(name, "profile"))


def is_file(name: str) -> bool:
    """Whether what is given as a profile is a file, and not the name of one that is built in."""
    return name not in profiles.PROFILES and ("/" in name or name.endswith(PROFILE_FILES))
