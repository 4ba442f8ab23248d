"""
Certificates in what people have them in, and in the order in which they are checked.

Read: PEM (newlines escaped too), DER, several in DER one after the other, base64, base64url and
hex of any of these, the certificate table of the GHCB, and JSON that has them in its strings, as
Azure's THIM does.  What cannot be read is named and left out: others may still make a chain.

Sources: RFC 7468 (PEM); RFC 4648; ITU-T X.690, 8.1.3 (lengths in DER); AMD 56421 (table); Azure
THIM, /metadata/THIM/amd/certification (vcekCert, certificateChain).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding

from cvmplan.core.blob import Blob
from cvmplan.core.errors import CvmplanError, InputError, MalformedError
from cvmplan.documents.text import parse
from cvmplan.evidence import guid_table
from cvmplan.evidence.chains import Certificate, common_name, is_authority, parse_der, signs
from cvmplan.evidence.wrappers.texts import decoded

MOST: Final = 64  # certificates of one file
LARGEST: Final = 1 << 20  # bytes of one file
_DEEPEST: Final = 4  # encodings nested
_BEGIN: Final = b"-----BEGIN "
_FIRST: Final = b"-----BEGIN CERTIFICATE-----"
_LAST: Final = b"-----END CERTIFICATE-----"
_WANTED: Final = "PEM, DER, base64, a GHCB table or JSON of these"


class Found(NamedTuple):
    """The certificates that could be read, and a line for each that could not."""

    certificates: tuple[Certificate, ...]
    unread: tuple[str, ...]


def read(blob: Blob) -> Found:
    """Return the certificates of a file; MalformedError where it is too large for some."""
    if len(blob) > LARGEST:
        raise MalformedError(f"{len(blob)} bytes are not certificates", at=blob.name)
    found: list[Certificate] = []
    unread: list[str] = []
    for one in _pieces(blob, 0):
        if len(found) + len(unread) >= MOST:
            unread.append(f"{blob.name}: more than {MOST} certificates, the others are not read")
            break
        if isinstance(one, str):
            unread.append(one)
            continue
        try:
            found.append(parse_der(bytes(one.data), one.name))
        except MalformedError as error:
            unread.append(_first_line(error))
    return Found(tuple(found), tuple(unread))


def read_all(blobs: Iterable[Blob]) -> Found:
    """Return the certificates of several places; one that cannot be read is a line."""
    found: list[Certificate] = []
    unread: list[str] = []
    for blob in blobs:
        try:
            one = read(blob)
        except MalformedError as error:
            one = Found((), (_first_line(error),))
        found += one.certificates
        unread += one.unread
    return Found(tuple(found), tuple(unread))


def read_given(blobs: Iterable[Blob]) -> Found:
    """Return the certificates of files of which each has to have one; MalformedError."""
    made = []
    for blob in blobs:
        found = read(blob)
        if not found.certificates:
            raise MalformedError("is not a PEM or DER certificate", at=blob.name)
        made.append(found)
    every = tuple(one for found in made for one in found.certificates)
    return Found(every, tuple(one for found in made for one in found.unread))


def order(found: Sequence[Certificate], name: str) -> list[Certificate]:
    """
    Return the chain from the signer's certificate upwards, as far as there are issuers.

    The signer's is the first one of a common name of `name` that is not of an authority, or else
    the first that is not.  Certificates that do not belong to the chain are left out.
    """
    distinct = list(
        {one.parsed.public_bytes(Encoding.DER): one for one in reversed(found)}.values()
    )
    distinct.reverse()
    ends = [one for one in distinct if not is_authority(one)] or distinct
    if not ends:
        return []
    chain = [next((one for one in ends if common_name(one) == name), ends[0])]
    while chain[-1].subject != chain[-1].issuer:
        last = chain[-1]
        issuers = [one for one in distinct if one.subject == last.issuer and one not in chain]
        if not issuers:
            break
        chain.append(next((one for one in issuers if signs(one, last)), issuers[0]))
    return chain


def _first_line(error: CvmplanError) -> str:
    return str(error).splitlines()[0]


def _pieces(blob: Blob, depth: int) -> Iterator[Blob | str]:
    """Yield certificates in DER, and what could not be read as a line."""
    data = bytes(blob.data).strip(b" \t\r\n\0")
    if depth > _DEEPEST:
        yield f"{blob.name}: more than {_DEEPEST} encodings nested"
    elif guid_table.is_table(blob):
        for name, row in guid_table.entries(blob):
            try:
                part = blob.slice(row.offset, row.offset + row.length)
                yield from _pieces(Blob(f"{blob.name}: {name}", part.data), depth + 1)
            except InputError as error:
                yield _first_line(error)
    elif _BEGIN in data:
        yield from _in_pem(blob.name, data)
    elif data[:1] == b"\x30":
        yield from _in_der(blob.name, bytes(blob.data).rstrip(b"\0"), len(blob))
    elif data[:1] == b"{":
        yield from _in_json(blob, depth)
    elif data and (text := decoded(data)) is not None:
        yield from _pieces(Blob(blob.name, memoryview(text[1])), depth + 1)
    else:
        yield f"{blob.name}: not a certificate; expected {_WANTED}"


def _in_pem(name: str, data: bytes) -> Iterator[Blob | str]:
    """Yield what is between the lines of PEM, each from its first line to the next last line."""
    data = data.replace(b"\\r", b"").replace(b"\\n", b"\n")
    blocks: list[bytes] = []
    start = data.find(_FIRST)
    while start >= 0 and len(blocks) <= MOST:
        start += len(_FIRST)
        end = data.find(_LAST, start)
        if end < 0:
            break
        blocks.append(data[start:end])
        start = data.find(_FIRST, end)
    for number, block in enumerate(blocks, 1):
        place = f"{name}, certificate {number}" if len(blocks) > 1 else name
        text = decoded(block)
        if text is None or text[0] != "base64":
            yield f"{place}: not base64 between the lines of PEM"
        else:
            yield Blob(place, memoryview(text[1]))
    others = data.count(_BEGIN) - len(blocks)
    if others > 0:
        yield f"{name}: {others} parts in PEM that are not whole certificates"


def _in_der(name: str, data: bytes, size: int) -> Iterator[Blob | str]:
    """Yield the values of DER that follow each other, `data` being without zeros at its end."""
    padded, at, number = data.ljust(size, b"\0"), 0, 1
    while at < len(data) and number <= MOST + 1:
        length = der_length(padded, at)
        place = f"{name}, certificate {number}" if at else name
        if length is None or at + length > size:
            yield f"{place}: not a PEM or DER certificate"
            return
        yield Blob(place, memoryview(padded[at : at + length]))
        at, number = at + length, number + 1


def der_length(data: bytes, at: int) -> int | None:
    """Return the bytes of the SEQUENCE at `at`, None where there is none."""
    head = data[at : at + 6]
    if len(head) < 2 or head[0] != 0x30:
        return None
    if head[1] < 0x80:
        return 2 + head[1]
    count = head[1] & 0x7F
    if not 1 <= count <= 4 or len(head) < 2 + count:
        return None
    return 2 + count + int.from_bytes(head[2 : 2 + count], "big")


def _in_json(blob: Blob, depth: int) -> Iterator[Blob | str]:
    """Yield the certificates in the strings of JSON; short strings are other members."""
    try:
        level: deque[tuple[str, Any]] = deque([(blob.name, parse(blob))])
    except CvmplanError as error:
        yield _first_line(error)
        return
    count = 0
    while level:
        place, value = level.popleft()
        if isinstance(value, dict):
            level += [(f"{place}: {key}", one) for key, one in value.items()]
        elif isinstance(value, list) and not all(type(one) is int for one in value):
            level += [(f"{place}[{n}]", one) for n, one in enumerate(value)]
        elif isinstance(value, str) and len(value) >= 256:
            count += 1
            yield from _pieces(Blob(place, memoryview(value.encode())), depth + 1)
    if not count:
        yield f"{blob.name}: JSON without certificates"
