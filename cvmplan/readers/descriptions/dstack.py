"""
dstack's files as the launches that they describe: VmConfig, metadata.json, sev_snp_measurement.

A trap: `qemu_single_pass_add_pages` true means two passes in dstack's own verifier.

Source: dstack 312dc60 dstack-types/src/lib.rs, dstack-mr/src/{main,machine,tdvf,sev}.rs,
verifier/src/verification.rs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import UnsupportedError
from cvmplan.core.platform import SNP, TDX
from cvmplan.core.values import hex_string, integer
from cvmplan.launch.given import Given
from cvmplan.launch.model import Opener
from cvmplan.readers.descriptions.described import Description, Said, json_object, wrong
from cvmplan.readers.firmware import SevFirmware

HEAD: Final = 1 << 16
MEASUREMENT_KEYS: Final = frozenset(
    {
        "base_cmdline", "ovmf_hash", "kernel_hash", "initrd_hash", "sev_hashes_table_gpa",
        "sev_es_reset_eip", "vcpus", "vcpu_type", "guest_features", "ovmf_sections",
    }
)  # fmt: skip
SECTION_KEYS: Final = frozenset({"gpa", "size", "section_type"})
MOST_VCPUS, MOST_SECTIONS = 512, 64
HASH_TABLE: Final = 0x400  # bytes that the firmware reserves for the kernel hashes
SINGLE_PASS, TWO_PASS = "single-pass", "two-pass"
METADATA: Final = "dstack metadata.json"
VM_CONFIG: Final = "dstack VmConfig"
MEASUREMENT: Final = "dstack sev_snp_measurement"
USED: Final = ("qemu_single_pass_add_pages", "qemu_version", "image", "cpu_count", "memory_size")
VERSION: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,4}){1,2}")
NEWEST: Final = "9.1.0"  # qemu_version where none is given
_KEYS: Final = re.compile(
    rb'"(?:sev_snp_measurement|ovmf_hash|os_image_hash|qemu_single_pass_add_pages|ovmf_variant|'
    rb'rootfs)"\s*:'
)


def recognises(blob: Blob) -> bool:
    """Whether the text is a JSON object with a key that only dstack has."""
    head = bytes(blob.data[:HEAD])
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{" and _KEYS.search(head) is not None


def describe(blob: Blob, open_file: Opener | None, options: Given) -> Description:
    """Return what the file describes; MalformedError with the place, InputError for metadata."""
    held = json_object(blob)
    inner = held.get("sev_snp_measurement", held if "ovmf_sections" in held else None)
    if inner is not None:
        return _measurement(blob, inner)
    if options.text("platform") not in (None, TDX):
        problem = "a document of dstack for TDX"
        hint = "on SNP dstack measures its sev_snp_measurement: give that document"
        raise UnsupportedError(problem, at=blob.name, hint=hint)
    if "bios" in held:
        said, boot = _of_image(blob, held, ""), _boot(blob, held, "")
        return Description(METADATA, said, uncovered=_uncovered(held, "bios"), boot=boot)
    return _vm_config(blob, held, open_file)


def _vm_config(blob: Blob, held: Mapping[str, Any], open_file: Opener | None) -> Description:
    """Return the launch of a VmConfig; the image that it names has the firmware."""
    said = {"vcpus": Said(_whole(blob, held, "cpu_count"), "cpu_count")}
    if "memory_size" in held:
        said["memory"] = Said(_whole(blob, held, "memory_size"), "memory_size")
    said["page_order"] = _page_order(blob, held)
    image, boot = held.get("image"), {}
    if open_file is not None:
        if not isinstance(image, str) or not image:
            problem = "missing: it names the folder of the image"
            raise wrong(blob, "image", problem)
        metadata = open_file(f"{image}/metadata.json", "metadata", blob.name, searched=True)
        told = json_object(metadata)
        said = _of_image(blob, told, f"{image}/") | said
        boot = _boot(blob, told, f"{image}/")
    return Description(VM_CONFIG, said, uncovered=_uncovered(held, *USED), boot=boot)


def _boot(blob: Blob, metadata: Mapping[str, Any], folder: str) -> dict[str, Said]:
    """Return what the metadata of an image says is booted."""
    said = {}
    for name in ("kernel", "initrd", "cmdline"):
        value = metadata.get(name)
        if value is not None and not isinstance(value, str):
            raise wrong(blob, name, "is not text")
        if value and name != "cmdline":
            said[name] = Said(f"{folder}{value}", name)
    if "kernel" not in said:
        return {}
    return said | {"append": Said(metadata.get("cmdline") or "", "cmdline")}


def _of_image(blob: Blob, metadata: Mapping[str, Any], folder: str) -> dict[str, Said]:
    """Return what the metadata of an image says."""
    bios = metadata.get("bios")
    if not isinstance(bios, str) or not bios:
        raise wrong(blob, "bios", "missing in the metadata of the image")
    return {
        "platform": Said(TDX, "bios"),
        "vmm": Said("qemu", "bios"),
        "firmware": Said(f"{folder}{bios}", "bios"),
    }


def _page_order(blob: Blob, held: Mapping[str, Any]) -> Said:
    told = held.get("qemu_single_pass_add_pages")
    if told not in (None, True, False):
        raise wrong(blob, "qemu_single_pass_add_pages", "is not true or false")
    if told is not None:
        return Said(TWO_PASS if told else SINGLE_PASS, "qemu_single_pass_add_pages")
    version = held.get("qemu_version") or NEWEST
    if not isinstance(version, str) or not VERSION.fullmatch(version):
        raise wrong(blob, "qemu_version", f"{version!r} is not a version")
    return Said(TWO_PASS if version.startswith("8.") else SINGLE_PASS, "qemu_version")


def _uncovered(held: Mapping[str, Any], *used: str) -> tuple[str, ...]:
    return tuple(str(name) for name in held if name not in used)


def _whole(blob: Blob, held: Mapping[str, Any], name: str) -> int:
    try:
        return integer(held[name])
    except KeyError:
        raise wrong(blob, name, "missing") from None
    except ValueError as error:
        raise wrong(blob, name, str(error)) from None


# --- what dstack measures on SNP -----------------------------------------------------------------


def _measurement(blob: Blob, held: Any) -> Description:
    """Return the launch of a sev_snp_measurement, firmware known by its digest."""
    if isinstance(held, str):
        held = json_object(Blob(blob.name, memoryview(held.encode())))
    if not isinstance(held, dict):
        raise wrong(blob, "sev_snp_measurement", "is not an object")
    _only(blob, held, MEASUREMENT_KEYS, "")
    sections = held["ovmf_sections"]
    if not isinstance(sections, list) or len(sections) > MOST_SECTIONS:
        raise wrong(blob, "ovmf_sections", f"is not a list of at most {MOST_SECTIONS} sections")
    vcpus = _whole(blob, held, "vcpus")
    if not 1 <= vcpus <= MOST_VCPUS:
        raise wrong(blob, "vcpus", f"{vcpus} is not between 1 and {MOST_VCPUS}")
    said = {
        "platform": Said(SNP, "ovmf_hash"),
        "vmm": Said("qemu", "ovmf_hash"),
        "vcpus": Said(vcpus, "vcpus"),
        "cpu": Said(held["vcpu_type"], "vcpu_type"),
        "sev_features": Said(held["guest_features"], "guest_features"),
        "kernel_hash": Said(held["kernel_hash"], "kernel_hash"),
        "append": Said(_text(blob, held, "base_cmdline").strip(), "base_cmdline"),
    }
    if held["initrd_hash"]:
        said["initrd_hash"] = Said(held["initrd_hash"], "initrd_hash")
    tables = SevFirmware(
        _digest(blob, held, "ovmf_hash"),
        tuple(_section(blob, n, one) for n, one in enumerate(sections)),
        (_whole(blob, held, "sev_hashes_table_gpa"), HASH_TABLE),
        _whole(blob, held, "sev_es_reset_eip"),
    )
    return Description(MEASUREMENT, said, tables=tables)


def _section(blob: Blob, number: int, held: Any) -> tuple[int, int, int]:
    place = f"ovmf_sections[{number}]"
    if not isinstance(held, dict):
        raise wrong(blob, place, "is not an object")
    _only(blob, held, SECTION_KEYS, f"{place}.")
    gpa, size, kind = (_whole(blob, held, name) for name in ("gpa", "size", "section_type"))
    for name, value in (("gpa", gpa), ("size", size), ("section_type", kind)):
        if value >= 1 << 32:
            raise wrong(blob, f"{place}.{name}", f"{value} does not fit into 32 bits")
    return gpa, size, kind


def _only(blob: Blob, held: Mapping[str, Any], known: frozenset[str], before: str) -> None:
    """Raise MalformedError for a key that is not known, or that is missing."""
    for name in (*sorted(set(held) - known), *sorted(known - set(held))):
        raise wrong(blob, f"{before}{name}", "unknown key" if name in held else "missing")


def _text(blob: Blob, held: Mapping[str, Any], name: str) -> str:
    value = held[name]
    if not isinstance(value, str):
        raise wrong(blob, name, "is not text")
    return value


def _digest(blob: Blob, held: Mapping[str, Any], name: str) -> bytes:
    try:
        value = hex_string(held[name])
    except ValueError as error:
        raise wrong(blob, name, str(error)) from None
    if len(value) != 48:
        raise wrong(blob, name, f"{len(value)} bytes, expected 48")
    return value
