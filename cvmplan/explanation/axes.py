"""
What may be otherwise than was thought: each axis with its choices, the likelier first.

Only settings that come before the vCPU states are here, each of which needs a plan of its
own; the states themselves (`states`) cost a step of the chain each.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple, TypeAlias

from cvmplan.core.blob import Blob
from cvmplan.core.errors import CvmplanError
from cvmplan.core.platform import Platform
from cvmplan.explanation.rules import RULES
from cvmplan.images import edk2_tables
from cvmplan.kvm import abi as abis
from cvmplan.launch.command_line import for_vcpus
from cvmplan.launch.given import Given, Value
from cvmplan.launch.model import Opener
from cvmplan.planning.source import Source, open_source
from cvmplan.platforms.snp.hashes import NO_INITRD
from cvmplan.profiles import DEFAULTS, PROFILES
from cvmplan.readers.firmware import Firmware

VARIABLE_STORES: Final = {0x84000: "4 MiB", 0x20000: "2 MiB"}
"""
Size of the variable store in front of the code to the size of the build.

Source: edk2 8139dec2, OvmfPkg/Include/Fdf/OvmfPkgDefines.fdf.inc.
"""


class Candidate(NamedTuple):
    """An image, and how its name is typed; `firmware` where it is one of a catalogue."""

    source: Source
    shown: str
    firmware: Firmware | None = None


Changes: TypeAlias = Mapping[str, "Value | Candidate | None"]
"""Settings, rules of loaders, or the image, and what they are instead; None: not given."""


class Choice(NamedTuple):
    """
    Settings that are other than was given (None: not given at all), and why that may be.

    `id` says to the program what `why` says in words: alike choices have the same.
    """

    id: str
    changes: Changes
    why: str


class Axis(NamedTuple):
    """
    Choices of which a launch has one, or none of them.

    `name` is for people, `id` for programs.  `alone`: the choices are many, and not tried
    together with those of other axes.
    """

    id: str
    name: str
    choices: tuple[Choice, ...]
    alone: bool = False


class Asked(NamedTuple):
    """
    What is to be explained: an image with settings as they were given, its platform, and files
    to try in place of those that were given; `lines` are further command lines to try.

    Kernel and initrd are given by hash; `named` has the path to the SHA-256 of each file.
    `others` are images as likely as the first: the rest of a catalogue.
    """

    image: Candidate
    options: Given
    platform: Platform
    tries: Sequence[Blob]
    named: Mapping[bytes, str]
    open_file: Opener
    lines: Sequence[str] = ()
    others: Sequence[Candidate] = ()

    @property
    def settings(self) -> Given:
        """All settings as they were given, by option or manifest."""
        return self.image.source.declared.settings | self.options

    def given(self, name: str) -> Value | None:
        """Return a setting as it was given; None where it was not."""
        return self.settings.value(name)


def axes(asked: Asked) -> list[Axis]:
    """Return what may be otherwise; an axis has one choice at least."""
    images, others = _sorted(asked)
    found = [
        Axis("catalogue", "firmware of the catalogue", tuple(map(_other, asked.others))),
        Axis("boot", "command line, kernel, initrd", tuple(_boot(asked, others))),
        Axis("coupled", "vCPUs with nr_cpus=", tuple(_coupled(asked)), alone=True),
        Axis("page-order", "page order", tuple(_page_orders(asked))),
        Axis("vmm", "VMM", tuple(_vmms(asked))),
        Axis("fpu", "FPU state of SEV-ES", tuple(_fpu_states(asked))),
        Axis("padding", "padding", tuple(_paddings(asked))),
        Axis("image", "image", tuple(_images(asked, images))),
        *_rules(asked),
        Axis("platform", "platform", tuple(_platforms(asked))),
    ]
    return [axis for axis in found if axis.choices]


def _other(image: Candidate) -> Choice:
    return Choice(f"image:{image.shown}", {"image": image}, image.shown)


def _sorted(asked: Asked) -> tuple[list[Candidate], list[Blob]]:
    """Return the files to try that are images, and those that are not."""
    images, others = [], []
    for blob in asked.tries:
        try:
            images.append(Candidate(open_source(blob, asked.open_file), blob.name))
        except CvmplanError:
            others.append(blob)
    return images, others


def _boot(asked: Asked, others: Sequence[Blob]) -> Iterator[Choice]:
    if asked.platform.policy is None:
        return
    line = asked.given("append")
    yield from _lines(asked)
    booted = asked.given("kernel") is not None or asked.given("kernel_hash") is not None
    for blob in others:
        digest = sha256(blob.data).digest()
        yield Choice(
            f"kernel:{blob.name}", {"kernel_hash": digest}, f"a different kernel, {blob.name}"
        )
        if booted:
            yield Choice(
                f"initrd:{blob.name}", {"initrd_hash": digest}, f"a different initrd, {blob.name}"
            )
    if not booted:
        return
    in_manifest = asked.image.source.declared.settings.names() & {"kernel", "kernel_hash"}
    if asked.given("initrd") is not None or asked.given("initrd_hash") is not None:
        gone = {"initrd_hash": NO_INITRD if in_manifest else None}
        yield Choice("no-initrd", gone, "no initrd is booted")
    if line is not None or asked.given("append_hash") is not None:
        gone_line = {"append": "" if in_manifest else None, "append_hash": None}
        yield Choice("no-line", gone_line, "the command line is empty")
    names = ("kernel_hash", "initrd_hash", "append", "append_hash")
    nothing: dict[str, Value | Candidate | None] = dict.fromkeys(names)
    if not in_manifest:
        yield Choice(
            "no-kernel", nothing, "no kernel is measured: kernel-hashes=off, or a boot from disk"
        )
    elif asked.options.names() & {*nothing}:
        yield Choice(
            "manifest", nothing, "kernel, initrd and command line are those of the manifest"
        )


def _lines(asked: Asked) -> Iterator[Choice]:
    """Yield variants of the command line that was given, and the others that may be it."""
    line = asked.given("append")
    if isinstance(line, str):
        yield from _command_lines(line)
    for other in asked.lines:
        changes = {"append": other, "append_hash": None}
        yield Choice("other-line", changes, "a different command line that was given")
        yield from _command_lines(other)


NR_CPUS: Final = re.compile(r"(?<!\S)nr_cpus=(\d{1,4})(?!\S)")
MOST_COUPLED: Final = 512  # vCPUs


def _coupled(asked: Asked) -> Iterator[Choice]:
    """Yield numbers of vCPUs and, as Kata up to 3.30 has it, the same number behind nr_cpus=."""
    (settled,) = for_vcpus(asked.settings)
    line = settled.text("append") or ""
    found = NR_CPUS.search(line)
    if found is None or asked.platform.policy is None:
        return
    for count in range(1, MOST_COUPLED + 1):
        if int(found[1]) != count:
            other = f"{line[: found.start(1)]}{count}{line[found.end(1) :]}"
            changes = {"append": other, "append_hash": None, "vcpus": count}
            why = f"{count} vCPUs, which the command line names too"
            yield Choice(f"coupled:{count}", changes, why)


def _command_lines(line: str) -> Iterator[Choice]:
    """Yield what people and tools make of a command line."""
    variants = {
        line + "\n": ("newline", "the command line ends with a newline (read from a file)"),
        line + "\r\n": ("dos-newline", "the command line ends with a newline of DOS"),
        line.strip(): ("trimmed", "the command line is trimmed, as some tools do"),
        line.rstrip("\n"): ("no-newline", "the command line does not end with a newline"),
        line + " ": ("space-behind", "the command line ends with a space"),
        " " + line: ("space-before", "the command line begins with a space"),
    }
    for other, (one, why) in variants.items():
        if other != line:
            yield Choice(one, {"append": other, "append_hash": None}, why)
    raw = line.encode("utf-8", "surrogateescape")
    for end, one, how in ((b"", "no-nul", "no NUL ends it"), (b"\0\0", "nuls", "two NULs end it")):
        changes = {"append": None, "append_hash": sha256(raw + end).digest()}
        yield Choice(one, changes, f"the command line as hashed: {how}")


def _vmms(asked: Asked) -> Iterator[Choice]:
    given = asked.given("vmm") or DEFAULTS.get(asked.image.source.format, DEFAULTS[""])
    igvm = asked.image.source.format == "igvm"
    for profile in PROFILES.values():
        takes = profile.loads_igvm if igvm else profile.page_types or not profile.loads_igvm
        svsm = asked.given("svsm") is not None
        if not takes or profile.svsm != svsm or asked.platform not in profile.platforms:
            continue
        if given not in (profile, profile.name):
            yield Choice(f"vmm:{profile.name}", {"vmm": profile}, profile.title)


def _page_orders(asked: Asked) -> Iterator[Choice]:
    if not asked.platform.secure_ept:
        return
    named = asked.settings.text("abi")
    extend = abis.find(named).tdx_extend if named else "either"
    for order, why in (
        ("two-pass", "the kernels of 2024 (Ubuntu 24.04) add a section, then extend it"),
        ("single-pass", "released kernels extend each page as they add it"),
    ):
        if order != asked.given("page_order"):
            kernel: dict[str, Value] = {} if extend == "either" else {"abi": _kernel(order)}
            yield Choice(f"page-order:{order}", {"page_order": order, **kernel}, why)


def _kernel(page_order: str) -> str:
    """Return the first kernel interface that adds TDX pages in this order."""
    wanted = "fused" if page_order == "single-pass" else "separate"
    able = [a.name for a in abis.ABIS.values() if a.plans and a.tdx_extend == wanted]
    return next(name for name in able if any(p.secure_ept for p in abis.ABIS[name].vm_types))


def _fpu_states(asked: Asked) -> Iterator[Choice]:
    if not (asked.platform.init_choice and asked.platform.vmsa):
        return
    for state, why in (
        ("init2", "KVM_SEV_INIT2 sets MXCSR and FCW"),
        ("legacy", "KVM_SEV_ES_INIT leaves the FPU state zero"),
    ):
        if state != asked.given("es_init"):
            yield Choice(f"fpu:{state}", {"es_init": state, "abi": None}, why)


def _paddings(asked: Asked) -> Iterator[Choice]:
    if not asked.platform.secure_ept or asked.image.source.format == "igvm":
        return
    for padding, why in (
        ("zero", "zeros follow the data of a section that is longer in memory"),
        ("file", "sections are continued with the bytes that follow them in the file"),
    ):
        if padding != asked.given("pad"):
            yield Choice(f"padding:{padding}", {"pad": padding}, why)


def _images(asked: Asked, tries: Sequence[Candidate]) -> Iterator[Choice]:
    for candidate in tries:
        yield Choice(
            f"image:{candidate.shown}",
            {"image": candidate},
            f"a different image, {candidate.shown}",
        )
    if "firmware_digest" in asked.options and asked.platform.page_info:
        yield from _section_tables(asked)
        return
    firmware = asked.image.source.declared.firmware
    plain = firmware is asked.image.source.image and not asked.image.firmware
    if firmware is None or not plain or asked.platform.policy is None:
        return
    name = asked.image.shown
    for size, build in VARIABLE_STORES.items():
        if len(firmware) > size:
            code = Blob(firmware.name, firmware.data[size:])
            why = f"only the code of a {build} build is launched, without its variable store"
            shown = f"<(tail -c +{size + 1} {shlex.quote(name)})"
            yield from _image(asked, code, shown, f"code:{size:#x}", why)
    for blob in asked.tries:
        if len(blob) not in VARIABLE_STORES:
            continue
        both = Blob(firmware.name, memoryview(bytes(blob.data) + bytes(firmware.data)))
        why = f"the combined file, {blob.name} in front of the code"
        shown = f"<(cat {shlex.quote(blob.name)} {shlex.quote(name)})"
        yield from _image(asked, both, shown, f"combined:{blob.name}", why)


def _section_tables(asked: Asked) -> Iterator[Choice]:
    for name, table in edk2_tables.TABLES.items():
        shown = edk2_tables.PREFIX + name
        if shown != asked.image.shown:
            source = open_source(asked.open_file(shown, "image"), asked.open_file)
            yield Choice(f"table:{name}", {"image": Candidate(source, shown)}, table.title)


def _image(asked: Asked, blob: Blob, shown: str, which: str, why: str) -> Iterator[Choice]:
    try:
        source = open_source(blob, asked.open_file)
        yield Choice(which, {"image": Candidate(source, shown)}, why)
    except CvmplanError:
        return


def _rules(asked: Asked) -> Iterator[Axis]:
    if asked.image.source.format != "igvm":
        return
    for name, rule in RULES.items():
        choices = (
            Choice(f"{name}:{value}", {name: value}, f"{rule.why}: {_said(value)}")
            for value in rule.values
        )
        yield Axis(name, rule.name, tuple(choices))


def _said(value: str | bool) -> str:
    if isinstance(value, str):
        return value
    return "yes" if value else "no"


def _platforms(asked: Asked) -> Iterator[Choice]:
    for platform in Platform:
        if platform != asked.platform and platform.digest_size == asked.platform.digest_size:
            yield Choice(
                f"platform:{platform}",
                {"platform": platform},
                f"it is the measurement of {platform}",
            )
