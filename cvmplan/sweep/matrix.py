"""
What varies in a sweep: lists of images and of values for each setting, and their product.

The number of vCPUs varies fastest, since launches that differ in nothing else share all
their pages; then SEV_FEATURES, then the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Final, NamedTuple, TypeAlias

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MalformedError
from cvmplan.core.files import Files
from cvmplan.core.values import MOST_VCPUS, integer
from cvmplan.kvm import abi as abis
from cvmplan.launch.given import Given, Value
from cvmplan.launch.model import Opener
from cvmplan.launch.settings import SETTINGS, TOP
from cvmplan.planning.read import read_name, signature_of
from cvmplan.planning.request import chosen_profile, is_file
from cvmplan.profiles import Profile

ORDER: Final = (
    "platform", "vmm", "abi", "kernel", "kernel_hash", "initrd", "initrd_hash", "append",
    "append_hash", "firmware_digest", "firmware_size", "svsm", "vars_size", "reset_eip", "c_bit",
    "gpaw", "page_order", "pad", "es_init", "cpu", "sev_features",
)  # fmt: skip
"""The settings that may vary, from the slowest to the fastest; `vcpus` is faster still."""
COMMAS: Final = {
    "platform", "vmm", "abi", "es_init", "page_order", "gpaw", "pad", "cpu",
    "sev_features", "vcpus",
}  # fmt: skip
"""Settings whose values may also stand in one text, with commas between them."""

BOOT: Final = ("kernel", "initrd", "append")
MOST_LAUNCHES: Final = 1 << 32  # a thousand a second would take seven weeks
FILES: Final = {"kernel", "initrd", "svsm"}


Piece: TypeAlias = int | str | Profile
"""One value as it was written."""


class Product(NamedTuple):
    """Every image with every combination of values; no `vcpus`: as many as are assumed."""

    images: tuple[str, ...]
    settings: Mapping[str, tuple[Value, ...]]
    vcpus: tuple[int, ...] = ()

    def launches(self) -> Iterator[tuple[str, Given]]:
        """Yield (image, settings but for the number of vCPUs), in order."""
        names = [name for name in ORDER if name in self.settings]
        for image in self.images:
            for values in product(*(self.settings[name] for name in names)):
                yield image, Given(dict(zip(names, values, strict=True)))

    def paths(self, name: str) -> tuple[str, ...]:
        """Return the values of a setting that names files."""
        return tuple(v for v in self.settings.get(name, ()) if isinstance(v, str))

    @property
    def size(self) -> int:
        """How many launches these are."""
        count = len(self.images) * max(len(self.vcpus), 1)
        for values in self.settings.values():
            count *= len(values)
        return count


def read_matrix(blob: Blob, files: Files) -> list[Product]:
    """Return the sweeps of a matrix (cvmplan.matrix/1), its files beside it; MalformedError."""
    from cvmplan.readers import matrix

    products = []
    for at, images, written in matrix.read(blob):
        paths = {n: [files.inside(p, blob.name) for p in written[n]] for n in FILES & {*written}}
        vmms = [str(p) for v in written.get("vmm", ()) for p in _pieces("vmm", v)]
        if vmms:
            paths["vmm"] = [files.inside(v, blob.name) if is_file(v) else v for v in vmms]
        beside = [files.inside(path, blob.name) for path in images]
        products.append(read(beside, {**written, **paths}, files.open, at))
    return products


def read(
    images: Sequence[str], written: Mapping[str, Sequence[Piece]], open_file: Opener, at: str = ""
) -> Product:
    """
    Return the product of `images` and of the values that were `written` for each setting.

    ConfigError names the option that is wrong, MalformedError the key below `at`.
    """
    wrong = MalformedError if at else ConfigError
    settings: dict[str, tuple[Value, ...]] = {}
    for name in BOOT:
        if name in written and f"{name}_hash" in written:
            place = f"{at}.{name}" if at else f"--{name}"
            raise wrong("cannot be combined with its hash", at=place)
    vcpus: tuple[int, ...] = ()
    for name, several in written.items():
        place = f"{at}.{name}" if at else f"--{name.replace('_', '-')}"
        if name not in (*ORDER, "vcpus"):
            raise wrong("cannot vary", at=place)
        try:
            pieces = dict.fromkeys(p for value in several for p in _pieces(name, value))
            if name == "vcpus":
                vcpus = tuple(dict.fromkeys(n for piece in pieces for n in _counts(piece)))
            else:
                values = [_value(name, piece, open_file) for piece in pieces]
                settings[name] = _distinct(values)
        except ValueError as error:
            raise wrong(str(error), at=place) from None
    made = Product(tuple(dict.fromkeys(images)), settings, vcpus)
    if made.size > MOST_LAUNCHES:
        problem = f"{made.size} combinations, at most {MOST_LAUNCHES} are measured"
        raise wrong(problem, at=at)
    return made


def _distinct(several: Sequence[Value]) -> tuple[Value, ...]:
    """Return values without those that were there before; profiles have no hash."""
    try:
        return tuple(dict.fromkeys(several))
    except TypeError:
        return tuple({repr(one): one for one in several}.values())


def _pieces(name: str, value: Piece) -> list[Piece]:
    if name in COMMAS and isinstance(value, str):
        return [piece.strip() for piece in value.split(",")]
    return [value]


def _counts(piece: Piece) -> Sequence[int]:
    """Return the numbers of vCPUs of "4" or "1-512"; ValueError."""
    first, dash, last = str(piece).partition("-")
    low = integer(first)
    high = integer(last) if dash else low
    if not 1 <= low <= high <= MOST_VCPUS:
        raise ValueError(f"{piece!r} is not a number of vCPUs, or a range up to {MOST_VCPUS}")
    return range(low, high + 1)


def _value(name: str, piece: Piece, open_file: Opener) -> Value:
    if isinstance(piece, Profile):
        return piece
    if name in TOP:
        piece = read_name(name, str(piece))
    if name == "vmm":
        return chosen_profile(str(piece), open_file)
    if name == "abi":
        return abis.find(str(piece)).name
    if name not in SETTINGS:
        return str(piece)
    value = SETTINGS[name].read(piece)
    if name == "cpu":
        signature_of(str(value), "--cpu")
    return value
