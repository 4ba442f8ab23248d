"""
The first two stages of a plan: settings are read, and those of a manifest and of options merged.

Files become hashes or contents, CPU models become signatures.  Errors name the option, or the
path in the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import sha256, sha384
from typing import Final, TypeAlias, TypeVar

from cvmplan.core import values
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MalformedError
from cvmplan.core.names import spelled
from cvmplan.core.places import in_document
from cvmplan.core.platform import Platform
from cvmplan.core.values import Json
from cvmplan.kvm.abi import ABIS
from cvmplan.launch.given import Given, Value
from cvmplan.launch.model import Opener
from cvmplan.launch.settings import IDENTITIES, SETTINGS, TOP
from cvmplan.profiles import PROFILES, cpus

T = TypeVar("T")
BOOT: Final = ("kernel", "initrd", "append")
IN_RTMRS: Final = (
    "a TD measures the kernel into RTMR1, its command line and initrd into RTMR2: 'cvmplan rtmr' "
    "predicts them"
)
Place: TypeAlias = Callable[[str], str]
"""What names the place of a setting."""
Written: TypeAlias = int | str | bool | list[str] | None
"""What stands behind an option, or for a parameter."""


def option(name: str) -> str:
    """Name the option of a setting."""
    return f"--{name.replace('_', '-')}"


NAMED: Final[Mapping[str, Iterable[str]]] = {
    "platform": Platform, "vmm": PROFILES, "abi": ABIS, "cpu": cpus.SIGNATURES,
}  # fmt: skip
"""The names that a setting can have, though perhaps other values too."""


def read_name(name: str, written: str) -> str:
    """Return the name of a platform, VMM or interface as we spell it; others stay as they are."""
    return spelled(written, NAMED[name])


def read_value(reader: Callable[[Json], T], written: Json, at: str) -> T:
    """Return what is written for the option `at`; ConfigError names it."""
    try:
        return reader(written)
    except ValueError as error:
        raise ConfigError(str(error), at=at) from None


def read_options(options: Mapping[str, Written]) -> Given:
    """Return the values of options that were given; ConfigError names the one that is wrong."""
    given: dict[str, Value] = {}
    for name, written in options.items():
        if written is None or written is False or written == []:
            continue
        if name not in SETTINGS:
            raise ConfigError("unknown setting", at=name)
        try:
            given[name] = SETTINGS[name].read(written)
        except ValueError as error:
            raise ConfigError(str(error), at=option(name)) from None
    return Given(given)


def name_places(
    manifest: str, options: Collection[str], places: Mapping[str, str] | None = None
) -> Place:
    """
    Return what names the place of a setting: its option, or its path in the manifest.

    `places` are those of a launch description, by the names of settings.
    """
    known = places or {}

    def place(name: str) -> str:
        if name in known and name not in options:
            return f"{manifest}: {known[name]}"
        if name in (*TOP, "backing", "prefault") and manifest and name not in options:
            return in_document(manifest, name)
        if not manifest or name in options:
            return option(name)
        if name.startswith("firmware_"):
            return in_document(manifest, *name.split("_"))
        group = "boot" if name.removesuffix("_hash") in BOOT else "guest"
        return in_document(manifest, group, name)

    return place


def check_platform(given: Given, platform: Platform, place: Place) -> None:
    """Raise ConfigError at `place(name)` for a setting that means nothing on `platform`."""
    for name in given:
        known = SETTINGS[name].platforms if name in SETTINGS else None
        if known is not None and platform not in known and given.value(name) != "":
            problem = f"is not supported on {platform}, only on {', '.join(known)}"
            in_rtmrs = platform.secure_ept and name.removesuffix("_hash") in BOOT
            raise ConfigError(problem, at=place(name), hint=IN_RTMRS if in_rtmrs else "")


def open_files(settings: Given, open_file: Opener, place: Place) -> Given:
    """Return `settings` with CPU models as signatures, and files as hashes or contents."""
    signature = cpu_signature(settings, place)
    given = dict(settings.without("family", "model", "stepping").items())
    if signature is not None:
        given["cpu_signature"] = signature
    if given.get("uki_sections"):
        _unpack(given, open_file, place)
    elif "uki_profile" in given:
        raise ConfigError("needs --uki-sections", at=place("uki_profile"))
    for name in BOOT:
        _hash_of(given, name, open_file, place)
    svsm = given.get("svsm")
    if isinstance(svsm, str):
        given["svsm"] = open_file(svsm, "svsm")
    for name in IDENTITIES:
        value = given.get(name)
        if isinstance(value, bytes | str | Blob):
            given[name] = hash_identity(value, name, open_file)
    return Given(given)


def hash_identity(value: bytes | str | Blob, name: str, open_file: Opener) -> bytes:
    """Return 48 bytes as they are, or the SHA-384 of a file, file:PATH or opened; InputError."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        value = open_file(value.removeprefix(values.FILE), name)
    return sha384(value.data).digest()


def _unpack(given: dict[str, Value], open_file: Opener, place: Place) -> None:
    """Replace a kernel that is a UKI by its parts; what is given beside it counts instead."""
    from cvmplan.images import uki

    kernel, profile = given.get("kernel"), given.get("uki_profile")
    if not isinstance(kernel, str | Blob):
        raise ConfigError("needs a kernel", at=place("uki_sections"))
    blob = open_file(kernel, "kernel") if isinstance(kernel, str) else kernel
    found = uki.parts(blob, profile if isinstance(profile, str) else None)
    given["kernel"] = Blob(blob.name, memoryview(found[".linux"]))
    if ".initrd" in found and "initrd" not in given and "initrd_hash" not in given:
        given["initrd"] = Blob(f"{blob.name} .initrd", memoryview(found[".initrd"]))
    if ".cmdline" in found and "append" not in given and "append_hash" not in given:
        try:
            given["append"] = found[".cmdline"].rstrip(b"\0").decode()
        except UnicodeDecodeError:
            raise MalformedError("section .cmdline is not UTF-8 text", at=blob.name) from None


def _hash_of(given: dict[str, Value], name: str, open_file: Opener, place: Place) -> None:
    """Replace the file or text `name` by its hash; ConfigError where both are given."""
    value = given.get(name)
    if not isinstance(value, str | Blob):
        return
    if f"{name}_hash" in given:
        raise ConfigError("cannot be combined with its hash", at=place(name))
    if name == "append" and isinstance(value, str):
        given["append_hash"] = sha256(_line(value, place) + b"\0").digest()
        return
    blob = open_file(value, name) if isinstance(value, str) else value
    given[f"{name}_hash"] = sha256(blob.data).digest()
    given[name] = blob.name


def _line(text: str, place: Place) -> bytes:
    """Return the bytes of a command line; ConfigError where it has none, or a NUL."""
    try:
        line = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ConfigError("is not text", at=place("append")) from None
    if b"\0" in line:
        raise ConfigError("a command line cannot contain NUL", at=place("append"))
    return line


def merge_settings(manifest: Given, options: Given) -> Given:
    """Return the settings of both, where an option beats the manifest, its source included."""
    gone = []
    for name in (*BOOT, "cpu"):
        value = "cpu_signature" if name == "cpu" else f"{name}_hash"
        if value in options and name not in options:
            gone.append(name)
    return (manifest | options).without(*gone)


def cpu_signature(given: Given, place: Place) -> int | None:
    """Return the signature that `cpu`, or family, model and stepping, name; None for neither."""
    numbers = [given.number(name) for name in ("family", "model", "stepping")]
    told = [number for number in numbers if number is not None]
    if told:
        if len(told) != len(numbers) or "cpu" in given:
            problem = "family, model and stepping must be given together, and without --cpu"
            raise ConfigError(problem, at=place("family"))
        try:
            return cpus.signature(*told)
        except ConfigError as error:
            raise ConfigError(str(error), at=place("family"), hint=error.hint) from None
    name = given.text("cpu")
    return None if name is None else signature_of(name, place("cpu"))


def signature_of(cpu: str, at: str) -> int:
    """Return the signature of a model, or that is written 0x…; ConfigError at `at`."""
    if not cpu[:1].isdigit():
        try:
            return cpus.find(cpu)
        except ConfigError as error:
            raise ConfigError(str(error.args[0]), at=at, hint=error.hint) from None
    try:
        return values.within(0, 0xFFFFFFFF)(cpu)
    except ValueError as error:
        raise ConfigError(str(error), at=at) from None
