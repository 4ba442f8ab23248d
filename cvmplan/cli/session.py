"""cvmplan session."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Annotated, Optional, TypeVar

import typer

from cvmplan.cli import make_app
from cvmplan.cli.folder import Contents, write_folder
from cvmplan.cli.options import format_of, write
from cvmplan.cli.secrets import passphrase_of
from cvmplan.core import values
from cvmplan.core.errors import ConfigError
from cvmplan.core.files import Files
from cvmplan.emit import SESSION
from cvmplan.planning.read import read_value

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

    from cvmplan.core.blob import Blob
    from cvmplan.sev_session.answers import SessionAnswer

app = make_app()
Format = Annotated[str, format_of(SESSION)]
T = TypeVar("T")
Pdh = Annotated[
    str,
    typer.Option(
        "--pdh",
        metavar="FILE",
        help="Public key of the platform (PDH): SEV certificate, PEM or DER.",
    ),
]
Key = Annotated[
    str,
    typer.Option(
        "--godh-key", metavar="FILE", help="Private key of the guest owner: P-384, PEM or DER."
    ),
]
Policy = Annotated[str, typer.Option("--policy", metavar="MASK", help="Guest policy, 32 bits.")]
Read = Annotated[
    Optional[str],
    typer.Option("--read", metavar="FILE", help="Verify this session instead of creating one."),
]
Tek = Annotated[
    Optional[str],
    typer.Option("--tek", metavar="FILE", help="TEK, 16 bytes.  [assumed: random]"),
]
Tik = Annotated[
    Optional[str],
    typer.Option("--tik", metavar="FILE", help="TIK, 16 bytes.  [assumed: random]"),
]
Nonce = Annotated[
    Optional[str],
    typer.Option("--nonce", metavar="HEX|BASE64", help="NONCE, 16 bytes.  [assumed: random]"),
]
Iv = Annotated[
    Optional[str],
    typer.Option("--iv", metavar="HEX|BASE64", help="WRAP_IV, 16 bytes.  [assumed: random]"),
]
Folder = Annotated[
    Optional[str],
    typer.Option(
        "--output", "-o", metavar="DIR", help="Output directory.  [assumed: the current one]"
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]


@app.command()
def session(
    pdh: Pdh,
    godh_key: Key,
    policy: Policy,
    read: Read = None,
    tek: Tek = None,
    tik: Tik = None,
    nonce: Nonce = None,
    iv: Iv = None,
    output: Folder = None,
    force: Force = False,
    format: Format = "text",
) -> None:
    """
    Create the guest owner's session with SEV firmware, or verify one.

    Writes session.bin and godh.cert for LAUNCH_START, both also in base64 (.b64), and the keys
    tek.bin and tik.bin with permissions for the owner only; either all files or none.  godh.cert
    is the unsigned certificate of --godh-key.  Signatures of --pdh are not verified: verify the
    platform's chain first.

    --read verifies the MACs of a session for the policy, from either side of the key agreement,
    and compares --tek and --tik if given; exit 1 if one does not match.
    """
    printer = SESSION.printer(format)
    mask = read_value(values.within(0, 0xFFFFFFFF), policy, "--policy")
    made = {
        name: None if written is None else read_value(values.octets(16), written, f"--{name}")
        for name, written in (("nonce", nonce), ("iv", iv))
    }
    if read is not None:
        for name, value in (*made.items(), ("output", output), ("force", force or None)):
            if value is not None:
                raise ConfigError("cannot be combined with --read", at=f"--{name}")
    files = Files()
    private, agreed = _agreed(files, godh_key, pdh)
    keys = {name: _key(files, path, name) for name, path in (("tek", tek), ("tik", tik))}
    if read is not None:
        answer = _verified(files.open(read, "session"), agreed, mask, keys)
    else:
        answer = _made(agreed, mask, {**keys, **made}, private, output or ".", force=force)
    write(printer.session(answer._replace(public=files.inputs[pdh])), None)


def _agreed(files: Files, own: str, other: str) -> tuple[EllipticCurvePrivateKey, bytes]:
    """Return one's own key, and the secret that it has in common with the other side's."""
    from cvmplan.evidence import keys
    from cvmplan.sev_session.crypto import shared_secret

    public = _public(files.open(other, "public key"))
    private = keys.private_key(files.open(own, "private key"), passphrase_of(own, None))
    return private, shared_secret(private, public, other)


def _public(blob: Blob) -> EllipticCurvePublicKey:
    """Return the key of an SEV certificate, or of a file with the key alone."""
    from cvmplan.evidence import keys
    from cvmplan.sev_session.crypto import point_key
    from cvmplan.sev_session.session import read_certificate

    if keys.is_key(blob):
        return keys.public_key(blob)
    return point_key(read_certificate(blob).point, blob.name)


def _key(files: Files, path: str | None, name: str) -> bytes | None:
    """Return the transport key that a file holds, None where none is named."""
    from cvmplan.sev_session.session import read_key

    return None if path is None else read_key(files.open(path, name.upper()))


def _verified(
    blob: Blob, agreed: bytes, policy: int, keys: dict[str, bytes | None]
) -> SessionAnswer:
    """Return what was verified of a session; MismatchError names what does not hold."""
    from cvmplan.sev_session.answers import SessionAnswer
    from cvmplan.sev_session.owner import confirmed, verify
    from cvmplan.sev_session.session import read_session

    found = read_session(blob)
    checks = verify(agreed, found, policy, keys["tek"], keys["tik"])
    return SessionAnswer(found, policy, checks=confirmed(checks, blob.name))


def _made(
    agreed: bytes,
    policy: int,
    given: dict[str, bytes | None],
    private: EllipticCurvePrivateKey,
    folder: str,
    *,
    force: bool,
) -> SessionAnswer:
    """Return a new session, its files written; what is not given is random."""
    from cvmplan.evidence.keys import point
    from cvmplan.sev_session.answers import SessionAnswer
    from cvmplan.sev_session.owner import fresh, seal
    from cvmplan.sev_session.session import SessionKeys, certificate

    used = {name: fresh() if value is None else value for name, value in given.items()}
    keys = SessionKeys(used["tek"], used["tik"])
    session = seal(agreed, keys, policy, used["nonce"], used["iv"])
    godh = certificate(*point(private)).pack()
    files = {
        "session.bin": Contents(session.pack()),
        "session.b64": Contents(b64encode(session.pack())),
        "godh.cert": Contents(godh),
        "godh.b64": Contents(b64encode(godh)),
        "tek.bin": Contents(keys.tek, secret=True),
        "tik.bin": Contents(keys.tik, secret=True),
    }
    write_folder(folder, files, force=force)
    random = tuple(name for name, value in given.items() if value is None)
    return SessionAnswer(session, policy, random=random, folder=folder, files=tuple(files))
