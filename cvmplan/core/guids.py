"""
Each GUID once, in its little-endian byte order, with its source.

edk2 = tianocore/edk2 c5aa7e7; the first seven are entries of the table at the end of an
OVMF image (OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.nasm.inc).
"""

from __future__ import annotations

from typing import Final

_FIRST_THREE = ((0, 8), (8, 12), (12, 16))  # hex digits of the fields that are little endian


def of(text: str) -> bytes:
    """Return the 16 bytes of a GUID; the uuid module would cost more than all readers."""
    digits = text.replace("-", "")
    fields = (bytes.fromhex(digits[start:end])[::-1] for start, end in _FIRST_THREE)
    return b"".join(fields) + bytes.fromhex(digits[16:])


TABLE_FOOTER: Final = of("96b582de-1fb2-45f7-baea-a366c55a082d")
SEV_HASH_TABLE: Final = of("7255371f-3a3b-4b04-927b-1da6efa8d454")
SEV_SECRET_BLOCK: Final = of("4c2eb361-7d9b-4cc3-8081-127c90d3d294")
SEV_ES_RESET_BLOCK: Final = of("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
SEV_METADATA: Final = of("dc886566-984a-4798-a75e-5585a7bf67cc")
TDX_METADATA: Final = of("e47a6535-984a-4798-865e-4685a7bf8ec2")
IGVM_METADATA: Final = of("784fa70e-3176-4677-8a20-04b68699e374")

# coconut-svsm/svsm f4bc4bc: in the same kind of table at the end of an SVSM binary.
SVSM_INFO: Final = of("a789a612-0597-4c4b-a49f-cbb1fe9d1ddd")

# The SEV hash table that holds the hashes of kernel, initrd and command line
# (edk2 OvmfPkg/AmdSev/BlobVerifierLibSevHashes/BlobVerifierSevHashes.c).
HASHES_HEADER: Final = of("9438d606-4f22-4cc9-b479-a793d411fd21")
HASHES_CMDLINE: Final = of("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
HASHES_INITRD: Final = of("44baf731-3a2f-4bd7-9af1-41e29169781d")
HASHES_KERNEL: Final = of("4de79437-abd2-427f-b835-d5b172d2045b")

NAMES: Final = {
    TABLE_FOOTER: "OVMF table footer",
    SEV_HASH_TABLE: "SEV hash table",
    SEV_SECRET_BLOCK: "SEV secret block",
    SEV_ES_RESET_BLOCK: "SEV-ES reset block",
    SEV_METADATA: "SEV metadata",
    TDX_METADATA: "TDX metadata",
    IGVM_METADATA: "IGVM metadata",
    SVSM_INFO: "SVSM info",
}
