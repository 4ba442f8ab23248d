"""ID blocks in the forms that those take them in who launch guests."""

from __future__ import annotations

from base64 import b64encode
from struct import Struct
from typing import Final

from cvmplan.evidence.idblock import Shown
from cvmplan.platforms.snp.idblock import IdAuth, IdBlock, has_author

DIRECTIVE: Final = 0x30B  # igvm, igvm_defs/src/lib.rs, IGVM_VHT_SNP_ID_BLOCK
_DIRECTIVE: Final = Struct("<III B3x 48s16s16sIIII 144s I4x144s 144s I4x144s")


def files(shown: Shown, mask: int) -> dict[str, bytes]:
    """
    Return the files of an identity, by name.

    `mask` is the compatibility mask of the platform to which an IGVM file gives it.
    """
    first, second = _base64(shown)
    return {
        "id-block.bin": shown.block_bytes,
        "id-auth.bin": shown.auth_bytes,
        "id-block.b64": f"{first}\n".encode(),
        "id-auth.b64": f"{second}\n".encode(),
        "qemu.txt": f"{qemu(shown)}\n".encode(),
        "libvirt.xml": libvirt(shown).encode(),
        "igvm-id-block.bin": directive(shown.block, shown.auth, mask),
    }


def _base64(shown: Shown) -> tuple[str, str]:
    return b64encode(shown.block_bytes).decode(), b64encode(shown.auth_bytes).decode()


def qemu(shown: Shown) -> str:
    """Return the properties of QEMU's object (qapi/qom.json, SevSnpGuestProperties)."""
    first, second = _base64(shown)
    author = ",author-key-enabled=on" if shown.author_key_digest else ""
    return f"sev-snp-guest,policy={shown.block.policy:#x},id-block={first},id-auth={second}{author}"


def libvirt(shown: Shown) -> str:
    """Return the element of libvirt's domain XML (docs/formatdomain.rst, "Launch Security")."""
    first, second = _base64(shown)
    author = " authorKey='yes'" if shown.author_key_digest else ""
    return (
        f"<launchSecurity type='sev-snp'{author}>\n"
        f"  <policy>{shown.block.policy:#010x}</policy>\n"
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
