"""
What a systemd stub measures of the UKI that it is part of, and what the kernel then does.

Source: systemd 257.13, src/boot/stub.c, measure.c, cpio.c, linux.c and secure-boot.c; equal to
logs of boots with it.  Other versions measure other sections: they are not predicted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cvmplan.boot import direct, event_data
from cvmplan.boot.inputs import Inputs
from cvmplan.boot.linux import INITRD, LOAD_OPTIONS, tagged
from cvmplan.boot.node import APPLICATION, IPL, TAG, Node
from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.images import pe

MOST_BYTES: Final = 1 << 30  # of a section in memory
SHOWN: Final = "257"
SECTIONS: Final = (
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat",
    ".pcrpkey", ".profile", ".dtbauto", ".hwids",
)  # fmt: skip
"""The sections that are measured, in this order."""
_MAGIC: Final = ".sdmagic"
_MARK: Final = b"#### LoaderInfo: systemd-stub "
_PLAIN: Final = frozenset({".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat", ".ucode"})
"""Sections whose effect on the initrd was shown."""
ALONE: Final = "if no addons, credentials or extension images are next to the UKI"
_SOURCE: Final = "systemd 257.13, src/boot/stub.c"


def is_uki(image: pe.Pe) -> bool:
    """Whether an image carries a kernel."""
    return any(pe.name_of(s) == ".linux" for s in image.sections)


def sections(image: pe.Pe) -> dict[str, bytes]:
    """
    Return the sections that a stub looks at, as they stand in memory, by name.

    UnsupportedError: several of one name (profiles), or no UKI; MalformedError: too large.
    """
    found: dict[str, bytes] = {}
    for section in image.sections:
        name = pe.name_of(section)
        if name not in (*SECTIONS, _MAGIC, ".pcrsig"):
            continue
        if name in found or name in (".profile", ".dtbauto", ".hwids"):
            problem = f"section {name}: profiles and device trees by hardware are not predicted"
            raise UnsupportedError(problem, at=image.blob.name, hint="use --template")
        if section.virtual_size > MOST_BYTES:
            raise MalformedError(f"section {name} of more than 1 GiB", at=image.blob.name)
        found[name] = image.contents(section)
    if ".linux" not in found:
        raise UnsupportedError("not a UKI: no section .linux", at=image.blob.name)
    return found


def version(found: dict[str, bytes]) -> str:
    """Return the version of the stub, "" where it does not say."""
    text = found.get(_MAGIC, b"")
    start = text.find(_MARK)
    return text[start + len(_MARK) :].split(b" ")[0].decode("latin-1") if start >= 0 else ""


def events(inputs: Inputs, image: pe.Pe) -> Iterator[Node]:
    """Yield the events of stub and kernel behind the UKI's own: RTMR1 and RTMR2."""
    found = sections(image)
    told = version(found)
    if told.partition(".")[0] != SHOWN:
        needs = f"a stub of systemd {SHOWN}: this one is {told or 'a different one'}"
        yield Node(1, APPLICATION, "application", "what the stub starts", None, needs=needs)
        yield Node(2, IPL, "", "what the stub measures", None, needs=needs)
        return
    yield from _inner(inputs, found)
    for name in SECTIONS:
        if name in found:
            yield _section(name, "name", name.encode() + b"\0")
            yield _section(name, "contents", found[name])
    yield from _kernel(found)


def _section(name: str, part: str, data: bytes) -> Node:
    told = name.encode("utf-16-le") + b"\0\0"
    digest = event_data.digest(data)
    what = f"section {name}, {part}"
    return Node(2, IPL, name, what, digest, told, depends=("uki",), source=_SOURCE)


def _inner(inputs: Inputs, found: dict[str, bytes]) -> Iterator[Node]:
    """Yield the kernel that the stub starts: measured again unless Secure Boot is on."""
    word = inputs.secure_boot
    firmware = inputs.firmware
    if word is None and firmware is not None and not firmware.secure_boot:
        word = "absent"
    if word is None:
        needs = "--secure-boot absent|off|on"
        yield Node(1, APPLICATION, "application", "kernel of the UKI", None, needs=needs)
    elif word != "on":
        image = pe.read(Blob("section .linux", memoryview(found[".linux"])))
        digest = pe.authenticode(image)
        what = "kernel of the UKI"
        yield Node(
            1, APPLICATION, "application", what, digest, what.encode(), depends=("uki",),
            source="systemd 257.13, src/boot/linux.c",
        )  # fmt: skip


def _kernel(found: dict[str, bytes]) -> Iterator[Node]:
    """Yield what the stub of the kernel itself measures."""
    kernel = Blob("section .linux", memoryview(found[".linux"]))
    if not direct.is_linux(kernel):
        needs = "a UKI with a kernel of Linux, or --template"
        yield Node(2, TAG, "", "what the kernel measures", None, needs=needs)
        return
    if not direct.has_cc_stub(kernel):
        return
    told = _command_line(found.get(".cmdline"))
    if told is None:
        needs = "a UKI with a plain ASCII .cmdline"
        yield Node(2, TAG, f"{LOAD_OPTIONS:#x}", "load options", None, needs=needs)
    else:
        text = b"LOADED_IMAGE::LoadOptions\0"
        yield tagged(LOAD_OPTIONS, text, told, "load options", ("uki",))
    archive = _initrd(found)
    if archive is None:
        names = ", ".join(sorted(set(found) - _PLAIN - {_MAGIC}))
        needs = f"--template: what the stub adds to the initrd for {names}"
        yield Node(2, TAG, f"{INITRD:#x}", "initrd", None, needs=needs)
    elif archive:
        one = tagged(INITRD, b"Linux initrd\0", archive, "initrd of the UKI", ("uki",))
        condition = f"{one.condition}, and {ALONE}"
        yield Node(
            2, one.type, one.key, one.what, one.digest, one.data, depends=one.depends,
            condition=condition, source=_SOURCE,
        )  # fmt: skip


def _command_line(raw: bytes | None) -> bytes | None:
    """Return the load options that the stub passes on, None where that is not sure."""
    if raw is None or b"\0" in raw.rstrip(b"\0") or not raw.isascii():
        return None
    text = raw.rstrip(b"\0").decode("ascii")
    text = "".join(" " if ord(letter) < 32 else letter for letter in text).strip(" ")
    if not text or "noinitrd" in text or "efi=" in text:
        return None
    return event_data.options_text(text)


def _initrd(found: dict[str, bytes]) -> bytes | None:
    """Return the initrd that the kernel is given, None where that is not sure."""
    if set(found) - _PLAIN - {_MAGIC} - {".splash", ".dtb"}:
        return None
    parts = [found[name] for name in (".ucode", ".initrd") if found.get(name)]
    if ".osrel" in found:
        parts.append(event_data.cpio(".extra/os-release", found[".osrel"]))
    if len(parts) == 1:
        return parts[0]
    return b"".join(event_data.padded(part) for part in parts)
