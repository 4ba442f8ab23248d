"""
What is usual for a user: the file cvmplan.toml, and variables CVMPLAN_<OPTION>, which beat it.

The file is the nearest one from the current folder up to the root of its repository; without a
repository, that of the current folder.  Both can name settings of a launch and how a run shows
itself.  Neither can name what decides about trust: outputs, certificates, pins, expectations.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from cvmplan.cli.process import tell
from cvmplan.cli.words import Declared, Word
from cvmplan.core import platform as platforms
from cvmplan.core.errors import ConfigError, CvmplanError, InputError, MalformedError
from cvmplan.core.files import Files, map_file
from cvmplan.core.names import unknown
from cvmplan.core.values import FILE, Json, printable, within
from cvmplan.kvm import abi as abis
from cvmplan.launch.documented import Said
from cvmplan.launch.given import NOTHING_USUAL, Usual, Value
from cvmplan.launch.settings import IDENTITIES, SETTINGS, TOP, Kind
from cvmplan.planning.read import read_name, read_value
from cvmplan.planning.request import chosen_profile, is_file
from cvmplan.planning.usual import CAN_BE_USUAL

NAME: Final = "cvmplan.toml"
PREFIX: Final = "CVMPLAN_"
MOST: Final = 64 << 10  # bytes of the file
SYSTEM: Final = 0  # the user whom the system's files belong to
MOST_FOLDERS: Final = 256  # from the current one upwards
OF_THE_RUN: Final = ("jobs", "quiet", "verbose")
KNOWN: Final = (*CAN_BE_USUAL, *OF_THE_RUN)
FILES: Final = ("kernel", "initrd")
YES_NO: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Written(NamedTuple):
    """A setting as it was written, and where."""

    name: str
    value: Json
    place: str
    file: str = ""

    @property
    def at(self) -> str:
        """The place for an error."""
        return f"{self.place}: {self.name}" if self.file else self.place


def read(files: Files, *, ignored: bool = False) -> Usual:
    """
    Return the settings of a launch that are usual, none where those are `ignored`.

    ConfigError, InputError, MalformedError.
    """
    if ignored:
        return NOTHING_USUAL
    found = [one for one in _written().values() if one.name not in OF_THE_RUN]
    if not found:
        return NOTHING_USUAL
    values = {one.name: _value(one, files) for one in found}
    values = {name: value for name, value in values.items() if value is not False}
    return Usual(values, {one.name: one.place for one in found})


def words(known: Mapping[str, Declared], typed: list[Word]) -> Iterator[Word]:
    """
    Yield options of the run that are usual and were not typed, of those that a verb has.

    ConfigError for a variable that names an option which has no default.
    """
    keys = {option.key: name for name, option in known.items() if name.startswith("--")}
    for key, name in keys.items():
        variable = f"{PREFIX}{key.upper()}"
        if key not in KNOWN and key != "help" and variable in os.environ:
            raise _never(name, variable)
    given = {known[word.name].key for word in typed if word.name in known}
    for one in _written().values():
        if one.name in OF_THE_RUN and one.name in keys and one.name not in given:
            if one.name == "jobs":
                most = within(1, 64)
                yield Word(keys[one.name], str(read_value(most, one.value, one.at)))
            elif _flag(one):
                yield Word(keys[one.name])


def tell_of_launch(assumed: Mapping[str, Said], places: Mapping[str, str]) -> None:
    """Say which settings of a launch are usual, for an output that has no room for it."""
    for name, value in assumed.items():
        if name in places:
            tell(printable(f"{name} {value}: assumed ({places[name]})"))


def tell_of(usual: Usual) -> None:
    """Say which settings are usual, where launches may have them or not."""
    for name, place in usual.places.items():
        tell(printable(f"{name}: assumed where it is not given ({place})"))


def _never(option: str, at: str) -> ConfigError:
    return ConfigError("has no default", at=at, hint=f"give {option} on the command line")


def _written() -> dict[str, Written]:
    """Return what is written, by the names of settings; variables beat the file."""
    found = {one.name: one for one in _in_file()}
    for variable in sorted(os.environ):
        name = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and name in KNOWN:
            found[name] = Written(name, os.environ[variable], variable)
    return found


def _in_file() -> Iterator[Written]:
    """Yield what the nearest file says; errors name it and the key."""
    path = _nearest()
    if path is None or not _is_own(path):
        return
    from cvmplan.documents.text import parse_toml

    blob = map_file(path)
    if len(blob) > MOST:
        raise MalformedError(f"the file is larger than {MOST >> 10} KiB", at=path)
    seen: set[str] = set()
    for key, value in parse_toml(blob).items():
        name = key.replace("-", "_")
        at = f"{path}: {key[:60]}"
        if name not in KNOWN:
            raise _not_known(name, key, at)
        if name in seen:
            raise ConfigError("was given more than once", at=at)
        seen.add(name)
        if not isinstance(value, str | int | list):
            raise ConfigError("is not a text, a number, true or false", at=at)
        if isinstance(value, int) and name == "cpu" and not isinstance(value, bool):
            yield Written(name, hex(value), path, path)
        else:
            yield Written(name, value, path, path)


def _not_known(name: str, key: str, at: str) -> ConfigError:
    """Return the error for a key of the file: an option of any verb, or of none."""
    from cvmplan.cli import VERBS, command_of

    if any(param.name == name for verb in VERBS for param in command_of(verb).params):
        return _never(f"--{key}", at)
    known = [one.replace("_", "-") for one in KNOWN]
    return unknown("setting", key, known, at, "'cvmplan help settings' lists them")


def _nearest() -> str | None:
    """Return the file that counts, as a path from the current folder; None where there is none."""
    try:
        folder = os.getcwd()
    except OSError:  # it was removed
        return None
    path, found = "", None
    for _ in range(MOST_FOLDERS):
        here = os.path.join(folder, path)
        if found is None and os.path.isfile(os.path.join(here, NAME)):
            found = os.path.join(path, NAME)
        if os.path.exists(os.path.join(here, ".git")):
            return found
        if os.path.realpath(here) == os.path.sep:
            break
        path = os.path.join(path, os.path.pardir)
    return NAME if os.path.isfile(NAME) else None


def _is_own(path: str) -> bool:
    """Whether a file is of this user, or of the system's; that of somebody else is not read."""
    owner = os.stat(path).st_uid
    if owner in (os.geteuid(), SYSTEM):
        return True
    tell(f"warning: {path}: belongs to a different user, and is not read")
    return False


def _value(one: Written, files: Files) -> Value:
    """Return a setting of its kind, as options have it; ConfigError names its place."""
    name, value = one.name, one.value
    try:
        if name in TOP:
            return _top(name, read_name(name, str(value)), one, files)
        kind = SETTINGS[name].kind
        if kind is Kind.FLAG:
            return _flag(one)
        if kind is Kind.RANGES and isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        if isinstance(value, str) and one.file and name in FILES:
            value = files.inside(value, one.file)
        if isinstance(value, str) and one.file and name in IDENTITIES and value.startswith(FILE):
            value = FILE + files.inside(value.removeprefix(FILE), one.file)
        return SETTINGS[name].read(value)
    except ValueError as error:
        raise ConfigError(str(error), at=one.at) from None
    except (ConfigError, InputError) as error:
        raise _at(error, one.at) from None


def _top(name: str, value: str, one: Written, files: Files) -> Value:
    """Return a platform, an interface or a profile that exists; ConfigError."""
    if name == "platform":
        return platforms.find(value, one.at)
    if name == "abi":
        return abis.find(value, one.at).name
    path = files.inside(value, one.file) if one.file and is_file(value) else value
    return chosen_profile(path, files.open)


def _flag(one: Written) -> bool:
    """Return a flag; ConfigError."""
    found = YES_NO.get(str(one.value).lower())
    if found is None or (one.file and not isinstance(one.value, bool)):
        raise ConfigError(f"{str(one.value)[:60]!r} is not true or false", at=one.at)
    return found


def _at(error: CvmplanError, at: str) -> CvmplanError:
    """Return an error at a place of ours."""
    error.at = at
    return error
