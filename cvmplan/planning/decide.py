"""
The third stage of a plan: what nobody gave is decided by profile, kernel, platform and file.

Nothing is decided twice, and nothing that was given is changed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cvmplan import profiles
from cvmplan.core.errors import ConfigError
from cvmplan.core.platform import Platform
from cvmplan.images import edk2_tables
from cvmplan.kvm import abi as abis
from cvmplan.kvm.interface import Abi
from cvmplan.launch import igvm_loader
from cvmplan.launch.given import Given, Value
from cvmplan.launch.model import Image
from cvmplan.launch.settings import SETTINGS
from cvmplan.planning.memory import choose_layout
from cvmplan.planning.read import Place
from cvmplan.planning.source import Source
from cvmplan.platforms.snp.hashes import NO_CMDLINE, NO_INITRD, KernelHashes
from cvmplan.platforms.snp.vmsa import value_of
from cvmplan.profiles import Profile, cpus

FULL_FIRMWARE: Final = 4 << 20  # bytes assumed where only the firmware's digest is known


class Decided(NamedTuple):
    """Everything that a launch is built from: what was given, and what is assumed beside it."""

    platform: Platform
    profile: Profile
    abi: Abi
    given: Given
    assumed: Given
    firmware: Image | None
    usual: tuple[str, ...] = ()

    def assuming(self, *names: str) -> Decided:
        """Return this with settings assumed that are usual, and were not given."""
        told = self.given.only(*names)
        return self._replace(
            given=self.given.without(*names), assumed=self.assumed | told, usual=tuple(told)
        )

    @property
    def settings(self) -> Given:
        """All settings."""
        return self.assumed | self.given


def decide_settings(source: Source, platform: Platform, given: Given, place: Place) -> Decided:
    """Return all that a launch depends on; ConfigError, UnsupportedError where it cannot be."""
    if given.number("xfam") == 0:  # no TD has none: what reaches the module is assumed, and printed
        given = given.without("xfam")
    profile = choose_profile(given, source.format, place)
    profiles.for_platform(profile, platform, place("vmm"))
    if "vmm" in given:
        given |= {"vmm": profile.name}
    usual = profile.abis[0] if profile.abis else abis.DEFAULT
    abi = abis.find(given.text("abi") or usual, place("abi"))
    abis.for_plan(abi, platform, place("abi"))
    assumed = Given(assume_settings(platform, profile, given, abi)).without(*given)
    assumed |= choose_layout(source, platform, profile, abi, given, place)
    assumed |= _size_of_firmware(source, given)
    if source.format == "igvm":
        _refuse_firmware_settings(given, place)
    firmware = source.firmware(platform, assumed | given, profile, place)
    if firmware and firmware.format == "igvm":
        assumed = _with_file(assumed, firmware, platform, profile, given, place)
        if abi.es_fpu_state is None and "es_init" in assumed and _has_fpu_state(firmware):
            assumed |= {"es_init": "init2"}
    return Decided(platform, profile, abi, given, assumed, firmware)


def choose_profile(given: Given, image: str, place: Place) -> Profile:
    """Return the profile that is given, or assumed for an image of this format; ConfigError."""
    chosen = given.value("vmm")
    if isinstance(chosen, Profile):
        return chosen
    usual = profiles.DEFAULTS.get(image, profiles.DEFAULTS[""])
    return profiles.find(given.text("vmm") or usual, place("vmm"))


def assume_settings(
    platform: Platform, profile: Profile, given: Given, abi: Abi
) -> dict[str, Value]:
    """Return what the operations depend on where nobody says otherwise, in the order of plans."""
    assumed: dict[str, Value] = {"platform": platform, "vmm": profile.name, "abi": abi.name}
    assumed["vcpus"] = SETTINGS["vcpus"].default or 1
    assumed |= _of_interface(platform, profile, abi)
    if platform.policy is not None:
        assumed["policy"] = profile.policies.get(platform, platform.policy)
        assumed["kernel_hashes"] = "off"
    if platform.vmsa and profile.vmsa and profile.vmsa.boot:
        states = (*profile.vmsa.boot.values(), *profile.vmsa.others.values())
        if "cpu_signature" in states:
            assumed["cpu"] = cpus.DEFAULT
            assumed["cpu_signature"] = cpus.find(cpus.DEFAULT)
        features = profile.sev_features if platform.page_info else 0
        told = abi.default_sev_features
        assumed["sev_features"] = features if told is None else told
    if platform.secure_ept:
        separate = abi.tdx_extend == "separate"
        assumed["page_order"] = "two-pass" if separate else profile.page_order
        assumed |= {"gpaw": SETTINGS["gpaw"].default or 48, "pad": profile.padding}
        assumed |= {"attributes": profile.td_attributes, "xfam": profile.td_xfam}
        khz = profile.practice(platform).tsc_khz
        assumed |= {} if khz is None or separate else {"tsc_khz": khz}
    if "cpu_signature" in given:
        assumed.pop("cpu", None)
    if "kernel_hash" in given:
        assumed.pop("kernel_hashes", None)
        if "append_hash" not in given:
            assumed["append"] = ""
    return assumed


def _of_interface(platform: Platform, profile: Profile, abi: Abi) -> dict[str, Value]:
    """Return what the host kernel decides, or would."""
    if platform.page_info and abi.vmsa_scope != "all":
        return {"vmsa_scope": abi.vmsa_scope}
    if platform.init_choice:
        return {"es_init": (platform.vmsa and abi.es_fpu_state) or profile.sev_init}
    return {"backing": platform.backings[0]} if platform.shares_gmem else {}


def _size_of_firmware(source: Source, given: Given) -> Given:
    """Return the size of firmware of which only the digest is known; ConfigError."""
    file = source.declared.firmware
    tables_only = file is not None and file.name.startswith(edk2_tables.PREFIX)
    if tables_only and "firmware_digest" not in given:
        problem = "is the section table of a firmware whose contents are unknown"
        raise ConfigError(problem, at=source.image.name, hint="--firmware-digest HEX")
    if "firmware_digest" not in given or "firmware_size" in given:
        return Given()
    size = len(file) if file is not None and not tables_only else FULL_FIRMWARE
    return Given({"firmware_size": size})


def _refuse_firmware_settings(given: Given, place: Place) -> None:
    """Raise ConfigError for settings for which an IGVM file, the whole image, has no use."""
    for name in (n for n, s in SETTINGS.items() if s.firmware and n in given):
        shown = "kernel" if name == "kernel_hash" and "kernel" in given else name
        raise ConfigError("is not supported for IGVM files", at=place(shown))


def _has_fpu_state(image: Image) -> bool:
    """Whether a vCPU state of the file has FPU state, which only KVM_SEV_INIT2 measures."""
    return any(value_of(s.page, name) for s in image.states for name in ("mxcsr", "x87_fcw"))


def _with_file(
    assumed: Given, image: Image, platform: Platform, profile: Profile, given: Given, place: Place
) -> Given:
    """Return what is assumed, with the settings that an IGVM file says itself; ConfigError."""
    told = dict((assumed | {"vcpus": max(len(image.states), 1)}).items())
    told.pop("kernel_hashes", None)
    if image.policies and platform.policy is not None:
        told["policy"] = igvm_loader.guest_policy(profile, image.policies)
    if image.states:
        features = value_of(image.states[0].page, "sev_features")
        told["sev_features"] = features
        if given.value("sev_features") not in (None, features):
            problem = f"the vCPU states of the file contain {features:#x}"
            raise ConfigError(problem, at=place("sev_features"))
    vcpus = given.number("vcpus") or max(len(image.states), 1)
    if len(image.states) >= vcpus:
        if "cpu_signature" in given:
            raise ConfigError(
                "is not supported: the file contains all vCPU states", at=place("cpu")
            )
        told = {n: v for n, v in told.items() if n not in ("cpu", "cpu_signature")}
    return Given(told).without(*given)


def make_hash_table(settings: Given, place: Place) -> bytes | None:
    """Return the SEV hash table, None where no kernel is given; ConfigError for half a boot."""
    kernel = settings.data("kernel_hash")
    if kernel is None:
        for name in ("initrd_hash", "append_hash"):
            given = name.removesuffix("_hash")
            if name in settings and settings.value(given) != "":
                at = place(given if given in settings else name)
                raise ConfigError("needs a kernel", at=at)
        return None
    initrd = settings.data("initrd_hash") or NO_INITRD
    return KernelHashes(kernel, initrd, settings.data("append_hash") or NO_CMDLINE).table()
