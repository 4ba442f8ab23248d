"""
An image opened: its format, what it declares, and what a platform makes of that.

A `Source` is read once and launched as often as wanted; what it declares for a platform is
the same object each time, so that launches which begin alike can share their beginning.
"""

from __future__ import annotations

from dataclasses import field, replace
from types import ModuleType
from typing import Any

from cvmplan.core import platform as platforms
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, UnsupportedError
from cvmplan.core.places import in_document
from cvmplan.core.platform import Platform
from cvmplan.core.records import Frozen, record
from cvmplan.core.values import PAGE
from cvmplan.launch.given import Given
from cvmplan.launch.model import Declared, Image, Opener
from cvmplan.memory.regions import Region, Role
from cvmplan.planning.read import Place
from cvmplan.planning.usual import usual_platform
from cvmplan.profiles import Profile
from cvmplan.readers import DOCUMENTS, recognise


@record
class Source(Frozen):
    """The firmware, and what a manifest `name` adds to it; `format` is the firmware's."""

    image: Blob
    declared: Declared
    reader: Any = None
    name: str = ""
    format: str = ""
    _read: dict[tuple[Platform, str], Image] = field(default_factory=dict)

    def platform(self, options: Given) -> Platform:
        """Return what is launched: as `options` say, or as the image allows; ConfigError."""
        allowed = self.allowed(options)
        if len(allowed) == 1:
            return allowed[0]
        raise ConfigError(
            f"the image supports {' and '.join(allowed)}",
            at=self.declared.firmware.name if self.declared.firmware else self.name,
            hint="choose one with --platform",
        )

    def allowed(self, options: Given) -> tuple[Platform, ...]:
        """Return what may be launched, one where that is decided; ConfigError for nothing."""
        given = (self.declared.settings | options).text("platform")
        if given is not None:
            return (platforms.find(given),)
        usual = usual_platform(options)
        if self.reader is None or self.declared.firmware is None:
            if usual is not None:
                return (usual,)
            raise ConfigError(
                "the manifest does not name a platform", at=self.name, hint="--platform NAME"
            )
        allowed = tuple(map(platforms.find, self.reader.platforms(self.declared.firmware)))
        if usual is not None and (usual in allowed or not allowed):
            return (usual,)
        if not allowed:
            raise ConfigError(
                "the firmware has no SEV-SNP or TDX metadata; name the platform",
                at=self.declared.firmware.name,
                hint="--platform sev, sev-es, default or sw-protected",
            )
        return allowed

    def firmware(
        self,
        platform: Platform,
        settings: Given,
        profile: Profile,
        place: Place,
    ) -> Image | None:
        """Return what the firmware declares, with the SVSM below it where the profile has one."""
        blob = self.declared.firmware
        if profile.svsm != ("svsm" in settings):
            verb = "needs" if profile.svsm else "does not support"
            raise ConfigError(f"profile {profile.name} {verb} an SVSM binary", at=place("svsm"))
        if "vars_size" in settings and not profile.svsm:
            raise ConfigError("needs an SVSM binary", at=place("vars_size"))
        if blob is None:
            for name, needs in (("firmware_size", "firmware_digest"), ("pad", "")):
                told = settings.value(name)
                if told is not None and told != "refuse" and needs not in settings:
                    raise ConfigError("needs firmware", at=place(name))
            if profile.svsm:
                raise ConfigError("needs a firmware file", at=place("svsm"))
            return None
        if profile.svsm:
            return _with_svsm(blob, settings, place)
        image = self._image(blob, platform, settings.text("pad") or "refuse")
        return image._replace(regions=_whole(image.regions, settings, place))

    def _image(self, blob: Blob, platform: Platform, pad: str) -> Image:
        if (platform, pad) not in self._read:
            self._read[platform, pad] = self.reader.read(blob, platform, pad)
        return self._read[platform, pad]

    def unseen_firmware(self, size: int, place: Place) -> Region:
        """Return the region of firmware of which only the digest is known; ConfigError."""
        if not 0 < size <= 1 << 32 or size % PAGE:
            problem = f"{size:#x} bytes are not whole pages below 4 GiB"
            raise ConfigError(problem, at=place("firmware_size"))
        origin = f"{self.name}: firmware"
        return Region((1 << 32) - size, size, Role.FIRMWARE, origin, at=origin)


def open_source(
    image: Blob,
    open_file: Opener,
    options: Given | None = None,
    recognised: tuple[str, ModuleType] | None = None,
) -> Source:
    """
    Return what `image` is; InputError, UnsupportedError, ConfigError.

    `options` of the launch: how an image is read may depend on them.  What `recognise` answers may
    be given as `recognised`.
    """
    options = Given() if options is None else options
    platform = options.text("platform")
    name, reader = recognised or recognise(image, platform)
    if name == "plan":
        raise UnsupportedError("a plan is not an image", at=image.name)
    if name not in DOCUMENTS:
        return Source(image, Declared(Given(), firmware=image), reader, format=name)
    read = (image, open_file, options) if name == "description" else (image, open_file)
    declared: Declared = reader.read(*read)
    if declared.firmware is None:
        return Source(image, declared, None, image.name)
    chosen = platform or declared.settings.text("platform")
    name, reader = recognise(declared.firmware, chosen)
    if name in DOCUMENTS:
        raise ConfigError("is not a firmware image", at=in_document(image.name, "firmware", "file"))
    return Source(image, declared, reader, image.name, name)


def _with_svsm(blob: Blob, settings: Given, place: Place) -> Image:
    """Return the SVSM's declarations, the firmware first, its variable store below it."""
    size, binary = settings.number("vars_size"), settings.file("svsm")
    if size is None or binary is None:
        raise ConfigError("required to place the SVSM", at=place("vars_size"))
    from cvmplan.images import ovmf

    firmware = ovmf.read(blob, platforms.DEFAULT)
    (rom,) = _whole(firmware.regions, settings, place)
    variables = Region(
        rom.gpa - size, size, Role.VARIABLES, f"{blob.name}: variable store", "shared"
    )
    svsm = ovmf.read_svsm(binary, variables.gpa)
    store = (variables,) if size else ()
    return svsm._replace(
        regions=(rom, *store, *svsm.regions),
        findings=(*firmware.findings, *svsm.findings),
    )


def _whole(regions: tuple[Region, ...], settings: Given, place: Place) -> tuple[Region, ...]:
    """Return `regions` with the firmware as large as the whole file that it is the end of."""
    size = settings.number("firmware_size")
    if size is None or not regions or size == regions[0].size:
        return regions
    if "firmware_digest" not in settings:
        raise ConfigError("needs a firmware digest", at=place("firmware_size"))
    rom = regions[0]
    if size < rom.size or size > rom.end or size % PAGE:
        raise ConfigError(
            f"{size:#x} is not the size of a firmware that ends with these {rom.size:#x} bytes",
            at=place("firmware_size"),
        )
    return (replace(rom, gpa=rom.end - size, size=size), *regions[1:])
