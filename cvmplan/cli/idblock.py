"""cvmplan idblock."""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.folder import Contents, write_folder
from cvmplan.cli.options import (
    Shared,
    format_of,
    launch_options,
    option,
    request,
    with_options,
    write,
    write_bytes,
)
from cvmplan.cli.progress import watch_for
from cvmplan.cli.request import Request
from cvmplan.cli.secrets import passphrase_of
from cvmplan.cli.typed import Typed
from cvmplan.core import platform as platforms
from cvmplan.core import values
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError
from cvmplan.emit import IDENTITY
from cvmplan.planning.read import read_value
from cvmplan.planning.request import assume_platform

if TYPE_CHECKING:
    from cvmplan.emit.protocols import IdentityPrinter
    from cvmplan.evidence.idblock import Identity, Signed
    from cvmplan.operations.measure import Measurement
    from cvmplan.operations.plan import Plan
    from cvmplan.platforms.snp.idblock import Point

app = make_app()
Format = Annotated[str, format_of(IDENTITY)]
_TEXT = Optional[str]
_FILES = {
    "id_key": ("PEM", "Private key (ECDSA P-384) that signs the ID block."),
    "author_key": ("PEM", "Private key that signs the ID key."),
    "passphrase_file": (
        "FILE",
        "File whose first line is the passphrase of encrypted keys.  [assumed: prompt]",
    ),
    "family_id": ("HEX", "16 bytes, hex or base64.  [assumed: zeros]"),
    "image_id": ("HEX", "16 bytes, hex or base64.  [assumed: zeros]"),
    "guest_svn": ("N", "Security version of the guest.  [assumed: 0]"),
    "emit_tbs": ("FILE", "Write the 96 bytes that the ID key must sign, then exit."),
    "id_public_key": ("PEM", "Public ID key, if it signs elsewhere."),
    "signature": ("DER", "Signature of the --emit-tbs bytes: ECDSA with SHA-384, DER."),
    "emit_author_tbs": ("FILE", "Write the 1028 bytes that the author key must sign, then exit."),
    "author_public_key": ("PEM", "Public author key, if it signs elsewhere."),
    "author_signature": ("DER", "Signature of the --emit-author-tbs bytes."),
    "block": ("FILE", "ID block to check: 96 bytes, raw or base64."),
    "auth": ("FILE", "ID authentication to check: 4096 bytes, raw or base64."),
    "igvm_mask": ("MASK", "Compatibility mask for the IGVM output.  [assumed: 0x1]"),
}
_VERIFY = "Check the ID block of the launch (--id-block, manifest, IGVM), or --block."
_FOLDER = "Output directory (created if missing)."
_MAKING = [name for name in _FILES if name not in ("block", "auth")]
OWN: Shared = {
    **{name: (option(_TEXT, name, *told), None) for name, told in _FILES.items()},
    "verify": (option(bool, "verify", "", _VERIFY), False),
    "format": (Format, "text"),
    "output": (option(_TEXT, "output", "DIR", _FOLDER, "-o"), None),
}


class Signer(NamedTuple):
    """Who signs: a private key, or a public one and a signature that was made elsewhere."""

    name: str
    private: str | None
    public: str | None
    signature: str | None


class Asked(NamedTuple):
    """A launch, and the verb's own options by their names."""

    request: Request
    own: Typed

    def signer(self, name: str, signature: str) -> Signer:
        """Return who signs as `name`."""
        keys = (self.own.text(f"{name}_key"), self.own.text(f"{name}_public_key"))
        return Signer(name, *keys, self.own.text(signature))


def _asked(typed: Typed) -> Asked:
    made = request(typed.without(*OWN))
    return Asked(assume_platform(made, platforms.SNP), typed.only(*OWN))


@app.command()
@partial(with_options, shared=launch_options() | OWN, make=_asked)
def idblock(asked: Asked) -> None:
    """
    Create and sign the ID block of an SNP launch, or check one; exit 1 if it does not match.

    The block contains the planned launch digest and policy.  The private key can stay
    elsewhere: --emit-tbs writes the bytes to sign, --signature and --id-public-key take the
    result.  With -o, write raw files, base64, and the forms for
    QEMU, libvirt, Kata and IGVM.
    """
    own = asked.own
    printer = IDENTITY.printer(own.text("format") or "text")
    _check_emitted(own)
    if own.given("verify", "block", "auth"):
        _verify(asked, printer)
    elif own.text("emit_author_tbs"):
        from cvmplan.platforms.snp.idblock import key_bytes

        key = _Keys(asked).point(asked.signer("id", "signature"))
        write_bytes((key_bytes(key),), own.text("emit_author_tbs"))
    else:
        _make(asked, printer)


def _check_emitted(own: Typed) -> None:
    """Raise ConfigError for options that would be ignored where bytes to sign are written."""
    emitted = own.given("emit_tbs", "emit_author_tbs")
    unused = ["signature", "author_key", "author_signature", "output"]
    unused += ["id_key"] if "emit_tbs" in emitted else []
    ignored = [*emitted[1:], *(name for name in own.given(*unused) if emitted)]
    if ignored:
        raise ConfigError(f"cannot be combined with {_flag(emitted[0])}", at=_flag(ignored[0]))


def _make(asked: Asked, printer: IdentityPrinter) -> None:
    """Write what is to be signed, or the ID block that is signed."""
    from cvmplan.core.blob import pack
    from cvmplan.emit import identity
    from cvmplan.evidence.idblock import authenticated, block_for, shown
    from cvmplan.launch.configuration import protection
    from cvmplan.platforms.snp.idblock import key_bytes

    own = asked.own
    family, image = (_sixteen(own.text(n), _flag(n)) for n in ("family_id", "image_id"))
    svn = read_value(values.within(0, 0xFFFFFFFF), own.text("guest_svn") or 0, "--guest-svn")
    mask = read_value(values.within(1, 0xFFFFFFFF), own.text("igvm_mask") or 1, "--igvm-mask")
    plan, result = _measured(asked.request)
    made = block_for(plan, result, family, image, svn)
    if own.text("emit_tbs"):
        write_bytes((pack(made),), own.text("emit_tbs"))
        return
    keys, author = _Keys(asked), asked.signer("author", "author_signature")
    signed = keys.signed(asked.signer("id", "signature"), pack(made))
    by_author = keys.signed(author, key_bytes(signed.key)) if any(author[1:]) else None
    proof = authenticated(made, signed, by_author)
    folder = own.text("output")
    answer = shown(made, proof)
    if folder:
        names = _written(folder, identity.files(answer, protection(plan), mask))
        answer = answer._replace(files=tuple(names))
    write(printer.identity(answer), None)


def _written(folder: str, files: Mapping[str, bytes]) -> list[str]:
    """Write files into a folder, over those of an earlier run; return their paths."""
    contents = {name: Contents(data) for name, data in files.items()}
    write_folder(folder, contents, force=True)
    return [os.path.join(folder, name) for name in files]


class _Keys:
    """The keys of a run, each read once."""

    def __init__(self, asked: Asked) -> None:
        self._open = asked.request.files.open
        self._passphrase = asked.own.text("passphrase_file")
        self._loaded: dict[str, Any] = {}

    def point(self, signer: Signer) -> Point:
        """Return the public key of a signer."""
        from cvmplan.evidence import keys
        from cvmplan.platforms.snp.idblock import Point

        if (signer.private is None) == (signer.public is None):
            name = signer.name
            problem = f"missing --{name}-key, or --{name}-public-key and its signature"
            raise ConfigError(problem, at="idblock")
        if signer.private is not None:
            return Point(*keys.point(self._private(signer.private)))
        return Point(*keys.point(keys.public_key(self._open(signer.public or "", "public key"))))

    def signed(self, signer: Signer, message: bytes) -> Signed:
        """Return the key of a signer, with its signature of `message`."""
        from cvmplan.evidence import keys
        from cvmplan.evidence.idblock import Signed
        from cvmplan.platforms.snp.idblock import Signature

        point = self.point(signer)
        if signer.private is None:
            if signer.signature is None:
                which = "signature" if signer.name == "id" else "author-signature"
                raise ConfigError(f"missing --{which}", at=f"--{signer.name}-public-key")
            return Signed(point, Signature(*keys.read_der(self._open(signer.signature, "DER"))))
        if signer.signature is not None:
            raise ConfigError("cannot be combined with a signature", at=f"--{signer.name}-key")
        return Signed(point, Signature(*keys.sign(self._private(signer.private), message)))

    def _private(self, path: str) -> Any:
        from cvmplan.evidence import keys

        if path not in self._loaded:
            file = self._open(self._passphrase, "passphrase") if self._passphrase else None
            blob = self._open(path, "private key")
            self._loaded[path] = keys.private_key(blob, passphrase_of(path, file))
        return self._loaded[path]


def _measured(request: Request) -> tuple[Plan, Measurement]:
    from cvmplan.evidence.idblock import policy_of
    from cvmplan.operations.measure import measure

    plan = request.plan()
    policy_of(plan)
    return plan, measure(plan, watch_for(plan, quiet=request.quiet))


def _verify(asked: Asked, printer: IdentityPrinter) -> None:
    """Print what the firmware would say to an ID block of the launch."""
    for name in asked.own.given(*_MAKING, "output"):
        raise ConfigError("cannot be combined with --verify", at=_flag(name))
    from cvmplan.evidence.idblock import checks, shown
    from cvmplan.evidence.lines import all_hold
    from cvmplan.platforms.snp.idblock import read_auth, read_block

    plan, result = _measured(asked.request)
    identity, author = _identity(asked, plan)
    lines = [*checks(plan, result, identity, author)]
    read = read_block(identity.block), read_auth(identity.auth)
    write(printer.identity(shown(*read, checks=lines)), None)
    if not all_hold(lines):
        raise typer.Exit(1)


def _identity(asked: Asked, plan: Plan) -> tuple[Identity, bool]:
    """Return the ID block that is to be checked, and whether the launch wants an author key."""
    from cvmplan.evidence.idblock import Identity, of_directive, policy_of
    from cvmplan.platforms.snp.ops import ImportComplete, SnpLaunchFinish

    finish = next(op for op in plan.ops if isinstance(op, SnpLaunchFinish | ImportComplete))
    wanted = bool(getattr(finish, "author_key_enabled", False))
    request, block, auth = asked.request, asked.own.text("block"), asked.own.text("auth")
    if block or auth:
        if not (block and auth):
            raise ConfigError("--block needs --auth, and the reverse", at="idblock")
        first, second = (request.files.open(path, "identity") for path in (block, auth))
        return Identity(_octets(first, 96), _octets(second, 4096)), wanted
    if finish.id_block and finish.id_auth:
        at = f"op {len(plan.ops) - 1}"
        blobs = (Blob(at, memoryview(part)) for part in (finish.id_block, finish.id_auth))
        return Identity(*blobs), wanted
    image = replace(request, marks=True).launch().image if plan.promised else None
    for found in image.id_blocks if image else ():
        enabled = bool(found.fields["author_key_enabled"])
        return of_directive(found.fields, policy_of(plan), found.at), enabled
    hint = (
        "give --block FILE --auth FILE, --id-block and --id-auth, or an IGVM file with an ID block"
    )
    raise ConfigError("the launch has no ID block", at="--verify", hint=hint)


def _octets(blob: Blob, size: int) -> Blob:
    """Return a blob of raw bytes, or of their base64."""
    if len(blob) != size and len(blob) < 2 * size:
        try:
            return Blob(
                blob.name, memoryview(b64decode(b"".join(bytes(blob.data).split()), validate=True))
            )
        except ValueError:
            pass
    return blob


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _sixteen(written: str | None, name: str) -> bytes:
    return read_value(values.octets(16), written, name) if written else bytes(16)
