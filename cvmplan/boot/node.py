"""Events that are predicted: known or not, and what they depend on; and what registers become."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha384
from typing import Final

from cvmplan.core.records import Frozen, record

REGISTERS: Final = 4
PREDICTED, TEMPLATE = "predicted", "template"

CONFIG, TAG, IPL, SEPARATOR, RUNTIME = 0xA, 0x6, 0xD, 0x4, 0x08000001
DRIVER_CONFIG, VARIABLE_BOOT, APPLICATION = 0x80000001, 0x80000002, 0x80000003
GPT, ACTION, HANDOFF, BLOB2 = 0x80000006, 0x80000007, 0x80000009, 0x8000000A
HANDOFF2, AUTHORITY = 0x8000000B, 0x800000E0


@record
class Node(Frozen):
    """
    One event of register `register` (0 to 3), of the TCG type `type`.

    `digest`: 48 bytes, None where it is not known; then `needs` says what would settle it.
    `key` names the event among those of its type, as a log does.  `data` is what a log has
    beside the digest.  `depends`: the inputs; `condition`: what has to hold besides; `source`:
    where the rule is from; `origin`: predicted, or taken from a template.
    """

    register: int
    type: int
    key: str
    what: str
    digest: bytes | None
    data: bytes = b""
    needs: str = ""
    depends: tuple[str, ...] = ()
    condition: str = ""
    source: str = ""
    origin: str = PREDICTED


@record
class Register(Frozen):
    """
    A register after its events: `value` is None where one of them, `unknown`, is not known.

    `independent`: no event of it was taken from a template.
    """

    number: int
    events: int
    value: bytes | None
    unknown: Node | None
    independent: bool
    conditions: tuple[str, ...]


def fold(digests: Iterable[bytes]) -> bytes:
    """Return a register that was extended by `digests`, from zero."""
    value = bytes(48)
    for digest in digests:
        value = sha384(value + digest).digest()
    return value


def registers(nodes: Iterable[Node]) -> tuple[Register, ...]:
    """Return RTMR0 to RTMR3; one with an event that is not known has no value."""
    return tuple(_registers(tuple(nodes)))


def _registers(nodes: tuple[Node, ...]) -> Iterator[Register]:
    for number in range(REGISTERS):
        mine = [node for node in nodes if node.register == number]
        unknown = next((node for node in mine if node.digest is None), None)
        known = [node.digest for node in mine if node.digest is not None]
        value = fold(known) if unknown is None else None
        independent = all(node.origin == PREDICTED for node in mine)
        conditions = dict.fromkeys(node.condition for node in mine if node.condition)
        yield Register(number, len(mine), value, unknown, independent, tuple(conditions))
