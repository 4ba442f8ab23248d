"""
The digest that firmware computes over what was recorded, by hashlib alone.

Nothing of the package is used: pages are those of the recorded calls, the VMSAs those of
virtee/sev-snp-measure.  Sources: AMD 56860, PAGE_INFO; AMD 55766, LAUNCH_MEASURE; Intel 348551,
TDH.MEM.PAGE.ADD and TDH.MR.EXTEND.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import sha256, sha384
from typing import Any, Final

from sevsnpmeasure import guest, vcpu_types
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vmm_types import VMMType

PAGE: Final = 4096
VMSA_GPA: Final = 0xFFFFFFFFF000
NORMAL, VMSA, ZERO = 1, 2, 3
SNP_UPDATE, SEV_UPDATE, TDX_REGION = 101, 3, 3
FPU: Final = ((0x408, 4), (0x410, 2))  # MXCSR and FCW, which KVM_SEV_ES_INIT leaves 0
Line = dict[str, Any]


def added(
    lines: tuple[Line, ...], command: int, on: str, image: bytes
) -> Iterator[tuple[bytes, bytes, Line]]:
    """Yield (struct, contents, line) of the adds that took effect, whole or in part."""
    for line in lines:
        if line["on"] != on or line["req"] != "0xc008aeba" or line.get("cmd") != command:
            continue
        done = bytes.fromhex(line["data"])
        if "source" in line:
            yield done, taken(line["source"], image), line
        elif not line["ret"]:  # ZERO pages have no source
            yield done, bytes(int.from_bytes(done[16:24], "little")), line


def taken(source: Line, image: bytes) -> bytes:
    """Return the bytes with a recorded SHA-256: zeros, kept ones, or pages of the image."""
    size = source["size"]
    if source["zeros"] or "hex" in source:
        return bytes.fromhex(source.get("hex", "")).ljust(size, b"\0")
    parts = (image[at : at + size] for at in range(0, len(image) - size + 1, PAGE))
    return next(part for part in parts if sha256(part).hexdigest() == source["sha256"])


def snp(lines: tuple[Line, ...], image: bytes, vmsas: list[bytes]) -> str:
    """Return the launch digest of SNP."""
    digest = bytes(48)

    def fold(kind: int, gpa: int, contents: bytes) -> bytes:
        return sha384(digest + contents + struct.pack("<HBBIQ", 0x70, kind, 0, 0, gpa)).digest()

    for data, contents, _ in added(lines, SNP_UPDATE, "vm", image):
        gfn, kind = int.from_bytes(data[:8], "little"), data[24]
        for at in range(0, len(contents), PAGE):
            page = contents[at : at + PAGE]
            hashed = sha384(page).digest() if kind == NORMAL else bytes(48)
            digest = fold(kind, gfn * PAGE + at, hashed)
    for page in vmsas:
        digest = fold(VMSA, VMSA_GPA, sha384(page).digest())
    return digest.hex()


def flat(lines: tuple[Line, ...], image: bytes, vmsas: list[bytes]) -> str:
    """Return the launch digest of SEV or SEV-ES."""
    digest = sha256()
    for _, contents, _ in added(lines, SEV_UPDATE, "vm", image):
        digest.update(contents)
    for page in vmsas:
        digest.update(page)
    return digest.hexdigest()


def tdx(lines: tuple[Line, ...], image: bytes) -> str:
    """Return MRTD."""
    digest = sha384()
    for data, contents, line in added(lines, TDX_REGION, "vcpu", image):
        gpa = int.from_bytes(data[8:16], "little")
        for at in range(0, len(contents), PAGE):
            digest.update(struct.pack("<16sQ104x", b"MEM.PAGE.ADD", gpa + at))
            for chunk in range(at, at + PAGE, 256) if line["flags"] & 1 else ():
                digest.update(struct.pack("<16sQ104x", b"MR.EXTEND", gpa + chunk))
                digest.update(contents[chunk : chunk + 256])
    return digest.hexdigest()


def vmsas(image: str, vcpus: int, cpu: str, *, snp_active: bool, fpu: bool) -> list[bytes]:
    """Return the VMSAs of a launch under QEMU, by sev-snp-measure; `image` is a file."""
    mode = SevMode.SEV_SNP if snp_active else SevMode.SEV_ES
    eip = guest.OVMF(image).sev_es_reset_eip()
    made = guest.VMSA(mode, eip, vcpu_types.CPU_SIGS[cpu], int(snp_active), VMMType.QEMU)
    pages = [bytearray(page) for page in made.pages(vcpus)]
    for page in pages:
        for at, size in () if fpu else FPU:
            page[at : at + size] = bytes(size)
    return [bytes(page) for page in pages]
