"""
What a sweep computes: tasks, each one launch with several numbers of vCPUs.

Such launches share their pages, so that each further vCPU costs one step of the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

from cvmplan.core.blob import Blob
from cvmplan.core.errors import CvmplanError
from cvmplan.core.files import Files
from cvmplan.core.inputs import Input
from cvmplan.core.mapped import confirm
from cvmplan.launch import igvm_loader
from cvmplan.launch.command_line import is_template
from cvmplan.launch.given import Given
from cvmplan.operations.measure import Measurement
from cvmplan.planning.build import launch_source, plan
from cvmplan.planning.source import open_source
from cvmplan.platforms.snp.digest import Chains
from cvmplan.sweep import rows
from cvmplan.sweep.matrix import Product
from cvmplan.sweep.rows import Result, Row
from cvmplan.sweep.vcpus import by_vcpus, measure_shared

PARCEL: Final = 2048  # results that a process computes at a time


class Inputs(NamedTuple):
    """
    What a process needs to open an image: path to (role, contents) of its files.

    `base` is where those of a launch description lie, `reading` the settings that it is read with.
    """

    files: dict[str, tuple[str, bytes]]
    base: str | None = None
    reading: Given | None = None


class Image:
    """An image, the files that it names, and SVSM binaries to launch with it: opened once."""

    def __init__(
        self, path: str, files: Files, svsms: Sequence[str] = (), reading: Given | None = None
    ) -> None:
        self.path, self.files, self.chains = path, files, Chains()
        self.reading = Given() if reading is None else reading
        self.source = open_source(files.open(path, "image"), files.open, self.reading)
        self._named = [n for n in files.inputs if n != path]
        for name in svsms:
            files.open(name, "svsm")

    @classmethod
    def of(cls, path: str, inputs: Inputs) -> Image:
        """Return an image whose bytes came from another process."""
        files = Files(allow_outside=True, base=inputs.base)
        for name, (role, data) in inputs.files.items():
            files.inputs[name] = Input(role, name, Blob(name, memoryview(data)))
        return cls(path, files, reading=inputs.reading)

    def inputs(self) -> Inputs:
        """Return the bytes of all files, for another process."""
        files = {n: (i.role, bytes(i.blob.data)) for n, i in self.files.inputs.items()}
        return Inputs(files, self.files.base, self.reading)

    def confirm(self) -> None:
        """Raise InputError where one of the files has changed since it was opened."""
        confirm(*(entry.blob.data for entry in self.files.inputs.values()))

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Path to SHA-256 of all files."""
        return {name: entry.sha256 for name, entry in self.files.inputs.items()}

    @cached_property
    def key(self) -> str:
        """What stands for the image: a hash of its files' paths and hashes, and of its reading."""
        told = (sorted(self.hashes.items()), self.files.base, self.reading)
        return sha256(repr(told).encode()).hexdigest()

    def row(self, settings: Given) -> Row:
        """Return the row of a launch of this image, without vCPUs and result; ConfigError."""
        settings = self.reading | settings
        try:
            row = rows.of_launch(launch_source(self.source, settings, self.files.open))
        except CvmplanError:  # said again, and told, when it is measured
            self.source.platform(settings)
            row = rows.of_settings(settings)
        row["image"], row["image_sha256"] = rows.text(self.path), self.hashes[self.path]
        svsm = settings.text("svsm")
        row["svsm"] = "" if svsm is None else self.hashes[svsm]
        row["files"] = " ".join(self.hashes[name] for name in self._named)
        return row


class Task(NamedTuple):
    """A launch with each of `vcpus`, or where there are none with as many as are assumed."""

    settings: Given
    vcpus: tuple[int, ...]


def measured(image: Image, task: Task) -> list[Result]:
    """Return the results of a task, in order; a launch that fails is a result too."""
    found = _at_once(image, task) if len(task.vcpus) > 1 else []
    return found or [_alone(image, task, count) for count in task.vcpus or (None,)]


def _at_once(image: Image, task: Task) -> list[Result]:
    """Return the results of a task from one plan, that for most vCPUs; [] where none is."""
    most = max(task.vcpus)
    try:
        settings = image.reading | task.settings | {"vcpus": most}
        launch = launch_source(image.source, settings, image.files.open)
        if launch.abi.imports or igvm_loader.is_igvm(launch):
            return []
        found = [*islice(by_vcpus(plan(launch), image.chains), most)]
    except CvmplanError:  # with fewer vCPUs it may be a launch
        return []
    return [_result(count, found[count - 1]) for count in task.vcpus]


def _alone(image: Image, task: Task, count: int | None) -> Result:
    settings = image.reading | task.settings
    settings = settings if count is None else settings | {"vcpus": count}
    try:
        launch = launch_source(image.source, settings, image.files.open)
        vcpus = launch.guest.vcpus
        return _result(vcpus, measure_shared(plan(launch), vcpus, image.chains))
    except CvmplanError as error:
        return Result(count or 0, error=str(error))


def _result(vcpus: int, found: Measurement) -> Result:
    return Result(vcpus, found.register, found.algorithm, found.digest.hex(), found.pages)


@dataclass(slots=True)
class Parcel:
    """
    Tasks of one image that are computed together, each with the row that it fills in.

    `opened` has all images of the sweep by their paths.
    """

    number: int
    image: Image
    tasks: list[Task]
    rows: list[Row]
    opened: Mapping[str, Image]

    def filled(self, results: Iterable[Iterable[Result]]) -> list[Row]:
        """Return the rows with the results of each task; InputError where a file has changed."""
        filled = [
            rows.with_result(row, result)
            for row, found in zip(self.rows, results, strict=True)
            for result in found
        ]
        self.image.confirm()
        return filled


Finished: TypeAlias = tuple[int, list[Row]]
"""The number of a parcel, and its rows."""
Missing: TypeAlias = Callable[[Row, tuple[int, ...]], tuple[int, ...] | None]
"""Which numbers of vCPUs a row has no result for; None where it has all."""


def parcels(
    products: Sequence[Product],
    open_files: Callable[[], Files],
    missing: Missing,
    reading: Given | None = None,
) -> Iterator[Parcel]:
    """
    Yield what there is to compute, in order; `reading` are settings of launch descriptions.

    All files are opened before: InputError, UnsupportedError for what is no image.
    """
    opened: dict[str, Image] = {}
    hashed = _Hashed(open_files())
    for product in products:
        for path in product.images:
            if path not in opened:
                opened[path] = Image(path, open_files(), product.paths("svsm"), reading)
        for name in ("kernel", "initrd"):
            for path in product.paths(name):
                hashed.of(path, name)
    number = 0
    for product in products:
        for parcel in _of_product(product, opened, hashed, missing):
            parcel.number = number
            number += 1
            yield parcel


class _Hashed:
    """Kernels and initrds, each hashed once."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._found: dict[str, bytes] = {}

    def of(self, path: str, role: str) -> bytes:
        if path not in self._found:
            view = self._files.open(path, role).data
            self._found[path] = sha256(view).digest()
            confirm(view)
        return self._found[path]

    def settings(self, settings: Given) -> Given:
        """Return `settings` with hashes in place of kernel and initrd."""
        found = settings
        for name in ("kernel", "initrd"):
            path = settings.text(name)
            if path is not None:
                found = found.without(name) | {f"{name}_hash": self.of(path, name)}
        return found


def _of_product(
    product: Product, opened: dict[str, Image], hashed: _Hashed, missing: Missing
) -> Iterator[Parcel]:
    parcel: Parcel | None = None
    count = 0
    for path, settings in product.launches():
        image, known = opened[path], hashed.settings(settings)
        named = {n: settings.text(n) for n in rows.NAMES}
        for alike, vcpus in _alike(image, known, product.vcpus):
            told = {n: rows.text(v) for n, v in named.items() if v is not None and n != "append"}
            row = image.row(alike) | told
            wanted = missing(row, vcpus)
            if wanted is None:
                continue
            if parcel and (parcel.image is not image or count >= PARCEL):
                yield parcel
                parcel, count = None, 0
            parcel = parcel or Parcel(0, image, [], [], opened)
            parcel.tasks.append(Task(alike, wanted))
            parcel.rows.append(row)
            count += max(len(wanted), 1)
    if parcel:
        yield parcel


def _alike(
    image: Image, settings: Given, vcpus: tuple[int, ...]
) -> Iterator[tuple[Given, tuple[int, ...]]]:
    """Yield settings with the numbers of vCPUs that share them: a command line may have that."""
    if not is_template(image.source.declared.settings, settings):
        yield settings, vcpus
        return
    for count in vcpus or (None,):
        told = settings if count is None else settings | {"vcpus": count}
        yield told, () if count is None else (count,)


def serial(work: Iterable[Parcel]) -> Iterator[Finished]:
    """Yield (number, rows) of each parcel, in order, computed in this process."""
    for parcel in work:
        yield parcel.number, parcel.filled(measured(parcel.image, task) for task in parcel.tasks)
