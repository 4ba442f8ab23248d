"""ID blocks in the forms that those take them in who launch guests."""

from __future__ import annotations

from base64 import b64encode
from struct import Struct
from typing import Final

from cvmplan.emit.configs import kata, libvirt, qemu
from cvmplan.evidence.idblock import Shown
from cvmplan.launch.configuration import Protection
from cvmplan.platforms.snp.idblock import IdAuth, IdBlock, has_author

DIRECTIVE: Final = 0x30B  # igvm, igvm_defs/src/lib.rs, IGVM_VHT_SNP_ID_BLOCK
_DIRECTIVE: Final = Struct("<III B3x 48s16s16sIIII 144s I4x144s 144s I4x144s")


def files(shown: Shown, launch: Protection, mask: int) -> dict[str, bytes]:
    """
    Return the files of an identity, by name.

    `launch` is the guest that has it, whose object VMMs are told of as `cvmplan config` does.
    `mask` is the compatibility mask of the platform to which an IGVM file gives it.
    """
    first, second = (b64encode(data).decode() for data in (shown.block_bytes, shown.auth_bytes))
    guest = launch._replace(
        policy=shown.block.policy,
        id_block=shown.block_bytes,
        id_auth=shown.auth_bytes,
        author_key=shown.author_key_digest is not None,
    )
    return {
        "id-block.bin": shown.block_bytes,
        "id-auth.bin": shown.auth_bytes,
        "id-block.b64": f"{first}\n".encode(),
        "id-auth.b64": f"{second}\n".encode(),
        "qemu.txt": f"{qemu.guest_object(guest)}\n".encode(),
        "libvirt.xml": libvirt.launch_security(guest).encode(),
        **_kata(guest),
        "igvm-id-block.bin": directive(shown.block, shown.auth, mask),
    }


def _kata(guest: Protection) -> dict[str, bytes]:
    """Return Kata's settings; none with an author key, of which Kata can say nothing."""
    if guest.author_key:
        return {}
    lines = ("[hypervisor.qemu]", "confidential_guest = true", *kata.identity(guest))
    return {"kata.toml": "".join(f"{line}\n" for line in lines).encode()}


def directive(block: IdBlock, auth: IdAuth, mask: int) -> bytes:
    """Return the variable header SNP_ID_BLOCK of an IGVM file, 704 bytes: type, length, fields."""

    def key(data: bytes) -> tuple[int, bytes]:
        return int.from_bytes(data[:4], "little"), data[4:148]

    fields = (
        mask, has_author(auth), block.ld, block.family_id, block.image_id, block.version,
        block.guest_svn, auth.id_key_algo, auth.auth_key_algo, auth.id_block_sig[:144],
        *key(auth.id_key), auth.id_key_sig[:144], *key(auth.author_key),
    )  # fmt: skip
    return _DIRECTIVE.pack(DIRECTIVE, _DIRECTIVE.size - 8, *fields)
