"""
ID blocks for a plan: made, signed, and compared with it.

Errors have the names of the firmware's status codes (AMD 56860, SEV-SNP Firmware ABI,
SNP_LAUNCH_FINISH, "Status Codes"): BAD_MEASUREMENT, POLICY_FAILURE, BAD_SIGNATURE.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from cvmplan.core.blob import Blob, pack
from cvmplan.core.errors import ConfigError, MismatchError
from cvmplan.core.platform import WITH_PAGE_INFO
from cvmplan.evidence.keys import is_signed
from cvmplan.evidence.lines import Line, Status, compared, line
from cvmplan.operations.measure import Measurement
from cvmplan.operations.plan import Plan
from cvmplan.platforms.snp.idblock import (
    ECDSA_P384_SHA384,
    VERSION,
    IdAuth,
    IdBlock,
    Point,
    Signature,
    has_author,
    key_bytes,
    key_digest,
    key_digests,
    read_auth,
    read_block,
    read_key,
    read_signature,
    signature_bytes,
)
from cvmplan.platforms.snp.ops import SnpLaunchStart


class Signed(NamedTuple):
    """A public key, and its signature of what it vouches for."""

    key: Point
    signature: Signature


class Identity(NamedTuple):
    """An ID block and what authenticates it: 96 and 4096 bytes, from a file or an image."""

    block: Blob
    auth: Blob


class Shown(NamedTuple):
    """
    An ID block as it is printed: its records, their bytes, the digests of its keys.

    `author_key_digest` is None where there is no author key.  `files` were written, `checks`
    made; None where nothing was checked.
    """

    block: IdBlock
    auth: IdAuth
    block_bytes: bytes
    auth_bytes: bytes
    id_key_digest: bytes
    author_key_digest: bytes | None
    files: tuple[str, ...] = ()
    checks: tuple[Line, ...] | None = None


def shown(
    block: IdBlock,
    auth: IdAuth,
    files: Iterable[str] = (),
    checks: Iterable[Line] | None = None,
) -> Shown:
    """Return an ID block as it is printed."""
    id_key, author = key_digests(auth)
    checked = None if checks is None else tuple(checks)
    made = pack(block), pack(auth)
    return Shown(block, auth, *made, id_key, author or None, tuple(files), checked)


def policy_of(plan: Plan) -> int:
    """Return the guest policy with which an SNP plan is launched; ConfigError."""
    for op in plan.ops:
        if isinstance(op, SnpLaunchStart):
            return op.policy
    raise ConfigError(
        f"{plan.platform} launches have no ID block",
        at="--platform",
        hint=", ".join(WITH_PAGE_INFO),
    )


def block_for(
    plan: Plan, result: Measurement, family_id: bytes, image_id: bytes, guest_svn: int
) -> IdBlock:
    """Return the ID block of a planned launch (IDs of 16 bytes); ConfigError."""
    return IdBlock(result.digest, family_id, image_id, VERSION, guest_svn, policy_of(plan))


def authenticated(block: IdBlock, owner: Signed, author: Signed | None = None) -> IdAuth:
    """
    Return what authenticates `block`; MismatchError (BAD_SIGNATURE) where it would not.

    The owner signs the block's 96 bytes, the author the 1028 of the owner's key.
    """
    id_key = key_bytes(owner.key)
    _check(pack(block), owner, "the signature does not match this key and ID block")
    nobody = (0, b"", b"")
    algorithm, signature, key = nobody
    if author is not None:
        _check(id_key, author, "the author's signature does not match this key and the ID key")
        algorithm = ECDSA_P384_SHA384
        signature, key = signature_bytes(author.signature), key_bytes(author.key)
    return IdAuth(
        ECDSA_P384_SHA384, algorithm, b"", signature_bytes(owner.signature), id_key, b"",
        signature, key, b"",
    )  # fmt: skip


def _check(message: bytes, signed: Signed, problem: str) -> None:
    if not is_signed(message, signed.signature, signed.key):
        hint = "sign the bytes that --emit-tbs or --emit-author-tbs writes"
        raise MismatchError(f"BAD_SIGNATURE: {problem}", at="idblock", hint=hint)


def of_directive(fields: Mapping[str, Any], policy: int, at: str) -> Identity:
    """
    Return the identity that a loader makes of the SNP_ID_BLOCK of an IGVM file.

    The directive has no policy, and its keys four bytes that the signed ones have not.
    Source: igvm, igvm_defs/src/lib.rs, IGVM_VHS_SNP_ID_BLOCK; `spec`: shared/spec/igvm.md 1.3.
    """
    ids = (fields["ld"], fields["family_id"], fields["image_id"])
    block = IdBlock(*ids, fields["version"], fields["guest_svn"], policy)
    id_key, author = (fields[f"{who}_public_key"] for who in ("id", "author"))
    auth = IdAuth(
        fields["id_key_algorithm"],
        fields["author_key_algorithm"],
        b"",
        fields["id_key_signature"],
        id_key[:4] + id_key[8:],
        b"",
        fields["author_key_signature"],
        author[:4] + author[8:],
        b"",
    )
    return Identity(
        Blob(f"{at} as ID block", memoryview(pack(block))),
        Blob(f"{at} as ID authentication", memoryview(pack(auth))),
    )


def checks(plan: Plan, result: Measurement, identity: Identity, author: bool) -> Iterator[Line]:
    """
    Yield what the firmware compares when it finishes the launch with an ID block.

    `author`: the launch says that there is an author key.  MalformedError and
    UnsupportedError for an identity that the firmware could not read.
    """
    block, auth = read_block(identity.block), read_auth(identity.auth)
    yield compared("launch_digest", result.digest.hex(), block.ld.hex(), "BAD_MEASUREMENT")
    yield compared("policy", hex(policy_of(plan)), hex(block.policy), "POLICY_FAILURE")
    owner = identity.auth.slice(0x240, 0x644)
    signature = identity.auth.slice(0x40, 0x240)
    yield _signature("id_blocks_signature", bytes(identity.block.data), owner, signature)
    if has_author(auth):
        key, signature = identity.auth.slice(0x880, 0xC84), identity.auth.slice(0x680, 0x880)
        yield _signature("authors_signature", bytes(owner.data), key, signature)
    elif author:
        why = "BAD_SIGNATURE: the launch says that there is an author key"
        yield line("authors_signature", "by the author key", "no author key", Status.DIFFERS, why)


def _signature(which: str, message: bytes, key: Blob, signature: Blob) -> Line:
    point = read_key(key)
    by = f"by key {key_digest(bytes(key.data)).hex()}"
    if is_signed(message, read_signature(signature), point):
        return line(which, by, by, Status.OK)
    return line(
        which,
        by,
        "does not match: different data or a different key",
        Status.DIFFERS,
        "BAD_SIGNATURE",
    )
