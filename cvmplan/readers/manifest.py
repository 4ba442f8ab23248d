"""
Manifests (cvmplan.manifest/1): an image as a list of regions, with or without firmware.

The shape is checked by the document's model; what it complains of becomes one error with
file, line where known, and path.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, MismatchError
from cvmplan.core.findings import Finding
from cvmplan.core.places import Path, Place, in_document
from cvmplan.core.values import FILE, PAGE
from cvmplan.documents import text
from cvmplan.images.inspection import Inspection
from cvmplan.launch.given import Given, Value
from cvmplan.launch.model import Declared, Opener
from cvmplan.launch.settings import IDENTITIES
from cvmplan.memory.contents import Contents, Filled, Made, Zeros
from cvmplan.memory.gpamap import Memory
from cvmplan.memory.regions import Region, Role

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvmplan.documents.manifest import (
        BootDocument,
        FileReference,
        FirmwareDocument,
        Manifest,
        Range,
        RegionDocument,
    )

SCHEMA = "cvmplan.manifest/1"
_ZEROS = Zeros()
_HOST_FILLED = {"secrets", "cpuid"}
_NO_CONTENTS = {"zero", "augmented", *_HOST_FILLED}


def recognises(blob: Blob) -> bool:
    """Whether the text is a JSON object, or names the manifest's schema."""
    head = bytes(blob.data[: 1 << 16])
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{":
        return True
    return text.is_text(blob) and b"cvmplan.manifest/" in head


def read(blob: Blob, open_file: Opener) -> Declared:
    """Return what the manifest in `blob` declares, its files opened through `open_file`."""
    document = text.validate(blob, text.parse(blob), "manifest")
    guest = document.guest.model_dump(exclude_none=True, exclude={"svsm"})
    names = {"platform": document.platform, "vmm": document.vmm, "abi": document.abi}
    names |= {"backing": document.backing}
    given: dict[str, Value] = {k: v for k, v in names.items() if v is not None} | guest
    if document.prefault:
        given["prefault"] = tuple((r.gpa, r.size) for r in document.prefault)
    files = _Files(blob.name, open_file)
    svsm = document.guest.svsm
    if isinstance(svsm, str):
        given["svsm"] = files.open_unchecked(svsm, "svsm")
    elif svsm:
        given["svsm"] = files.open(svsm, "svsm", "guest", "svsm")
    for name in IDENTITIES:
        if isinstance(value := given.get(name), str):
            given[name] = files.open_unchecked(value.removeprefix(FILE), name)
    firmware = document.firmware
    if firmware and firmware.digest:
        given["firmware_digest"] = firmware.digest
    if firmware and firmware.size is not None:
        given["firmware_size"] = firmware.size
    if document.boot:
        given |= _boot(document.boot, files)
    regions, findings = _regions(blob.name, document.regions, files)
    return Declared(
        Given(given),
        tuple(regions),
        _memory(blob.name, document),
        files.open(firmware, "firmware", "firmware") if firmware and firmware.file else None,
        tuple(findings),
    )


class _Files:
    """Opens what the manifest names, and checks the hashes that it gives."""

    def __init__(self, manifest: str, open_file: Opener) -> None:
        self._manifest = manifest
        self._open = open_file
        self._hashes: dict[tuple[str, int, int], bytes] = {}

    def open(self, reference: FileReference | FirmwareDocument, role: str, *path: str) -> Blob:
        """Return the file that `reference` names; MismatchError for another hash."""
        blob = self.open_unchecked(reference.file or "", role)
        if reference.sha256 is not None:
            self.check(reference.sha256, path, blob)
        return blob

    def open_unchecked(self, path: str, role: str) -> Blob:
        """Return a file beside the manifest."""
        return self._open(path, role, self._manifest)

    def check(self, wanted: bytes, path: Path, *spans: Blob) -> None:
        """Raise MismatchError unless one of `spans` has the SHA-256 `wanted`."""
        if wanted not in [self._sha256(span) for span in spans]:
            found = self._sha256(spans[0]).hex()
            raise MismatchError(
                f"SHA-256 of the contents is {found}, expected {wanted.hex()}",
                at=in_document(self._manifest, *path, "sha256"),
            )

    def _sha256(self, span: Blob) -> bytes:
        key = (span.name, span.base, len(span))
        if key not in self._hashes:
            self._hashes[key] = sha256(span.data).digest()
        return self._hashes[key]


def _boot(boot: BootDocument, files: _Files) -> dict[str, Value]:
    given: dict[str, Value] = {}
    for name in ("kernel", "initrd"):
        reference = getattr(boot, name)
        if reference:
            given[name] = files.open(reference, name, "boot", name)
    for name in ("append", "kernel_hash", "initrd_hash", "append_hash"):
        if getattr(boot, name) is not None:
            given[name] = getattr(boot, name)
    return given


def _memory(name: str, document: Manifest) -> Memory:
    def spans(key: str, ranges: Iterable[Range]) -> tuple[tuple[int, int, str], ...]:
        return tuple((r.gpa, r.size, in_document(name, key, n)) for n, r in enumerate(ranges))

    ram = None if document.memory is None else spans("memory", document.memory)
    return Memory(ram, spans("required", document.required))


def _regions(
    name: str, declared: Iterable[RegionDocument], files: _Files
) -> tuple[list[Region], list[Finding]]:
    regions, findings = [], []
    for number, document in enumerate(declared):
        at = in_document(name, "regions", number)
        origin = f"{at} {document.name}" if document.name else at
        contents, length = _contents(document, files, at)
        size = document.size if document.size is not None else -(-(length or 0) // PAGE) * PAGE
        page_type = document.type
        if length is not None and length > size:
            raise MalformedError(
                f"{length:#x} bytes of contents do not fit into {size:#x} bytes", at=at
            )
        if length is not None and length != size and document.pad is None:
            problem = f"{origin} has {length:#x} bytes of contents for {size:#x} bytes of memory"
            findings.append(
                Finding(
                    "partial-page",
                    problem,
                    origins=(origin,),
                    at=at,
                    hint='add "pad": "zero" to fill the rest with zeros',
                )
            )
        regions.append(Region(document.gpa, size, Role.REGION, origin, page_type, contents, at))
    return regions, findings


def _contents(
    document: RegionDocument, files: _Files, at: Place
) -> tuple[Contents | None, int | None]:
    """Return a region's contents and how many bytes of them there are (None: any number)."""
    source = document.source
    if document.type in _NO_CONTENTS and source is not None and source.zeros is None:
        raise MalformedError(
            f"a {document.type} page cannot have contents",
            at=at.below("source"),
        )
    if source is None or source.zeros:
        if document.size is None:
            raise MalformedError("missing size (no contents give it)", at=at.below("size"))
        needs = document.type in ("normal", "measured", "vmsa")
        if source is None and needs:
            raise MalformedError(
                f"a {document.type} page needs a source",
                at=at.below("source"),
            )
        return (Filled(document.type) if document.type in _HOST_FILLED else _ZEROS), None
    path = (*at.path, "source")
    if source.hex is not None:
        if source.sha256 is not None:
            files.check(source.sha256, path, Blob(at, memoryview(source.hex)))
        return Made(source.hex), len(source.hex)
    blob = files.open_unchecked(source.file or "", "region")
    offset = source.offset or 0
    end = offset + source.length if source.length is not None else len(blob)
    part = blob.slice(offset, end)
    if source.sha256 is not None:  # of these bytes, or of the whole file
        files.check(source.sha256, path, part, blob)
    return part, len(part)


def inspect(blob: Blob) -> Inspection:
    """Return what the manifest declares, its files not opened (a JSON document)."""
    document = text.validate(blob, text.parse(blob), "manifest")
    rows = [
        {
            "region": number,
            "name": r.name or "",
            "gpa": hex(r.gpa),
            "size": "" if r.size is None else hex(r.size),
            "type": r.type,
            "source": (r.source.file or ("hex" if r.source.hex is not None else "zeros"))
            if r.source
            else "",
        }
        for number, r in enumerate(document.regions)
    ]
    return {
        "format": SCHEMA,
        "allows": [document.platform] if document.platform else [],
        "tables": [{"name": "regions", "rows": rows}],
        "findings": (),
    }
