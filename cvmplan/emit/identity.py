"""ID blocks in the forms that those take them in who launch guests."""

from __future__ import annotations

from base64 import b64encode
from struct import Struct
from typing import Final

from cvmplan.core.blob import pack
from cvmplan.platforms.snp.idblock import IdAuth, IdBlock, has_author

DIRECTIVE: Final = 0x30B  # igvm, igvm_defs/src/lib.rs, IGVM_VHT_SNP_ID_BLOCK
_DIRECTIVE: Final = Struct("<III B3x 48s16s16sIIII 144s I4x144s 144s I4x144s")


def files(block: IdBlock, auth: IdAuth, mask: int) -> dict[str, bytes]:
    """
    Return the files of an identity, by name.

    `mask` is the compatibility mask of the platform to which an IGVM file gives it.
    """
    first, second = (b64encode(pack(one)).decode() for one in (block, auth))
    return {
        "id-block.bin": pack(block),
        "id-auth.bin": pack(auth),
        "id-block.b64": f"{first}\n".encode(),
        "id-auth.b64": f"{second}\n".encode(),
        "qemu.txt": f"{qemu(block, auth)}\n".encode(),
        "libvirt.xml": libvirt(block, auth).encode(),
        "igvm-id-block.bin": directive(block, auth, mask),
    }


def qemu(block: IdBlock, auth: IdAuth) -> str:
    """Return the properties of QEMU's object (qapi/qom.json, SevSnpGuestProperties)."""
    first, second = (b64encode(pack(one)).decode() for one in (block, auth))
    author = ",author-key-enabled=on" if has_author(auth) else ""
    return f"sev-snp-guest,policy={block.policy:#x},id-block={first},id-auth={second}{author}"


def libvirt(block: IdBlock, auth: IdAuth) -> str:
    """Return the element of libvirt's domain XML (docs/formatdomain.rst, "Launch Security")."""
    first, second = (b64encode(pack(one)).decode() for one in (block, auth))
    author = " authorKey='yes'" if has_author(auth) else ""
    return (
        f"<launchSecurity type='sev-snp'{author}>\n"
        f"  <policy>{block.policy:#010x}</policy>\n"
        f"  <idBlock>{first}</idBlock>\n"
        f"  <idAuth>{second}</idAuth>\n"
        "</launchSecurity>\n"
    )


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
