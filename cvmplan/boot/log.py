"""
Predicted events written as the log that firmware would leave, in the binary form of TCG.

Addresses that firmware chooses are not known: the data of such events are their names.

Source: as `eventlog`; edk2 c5aa7e7, TdTcg2Dxe.c, SetupCcEventLog and CreateCcEventLogHob.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import pack

from cvmplan.boot.node import Node
from cvmplan.core.errors import ConfigError

_SHA384 = 0xC
_SIGNATURE = b"Spec ID Event03\0"


def ccel(nodes: Iterable[Node]) -> bytes:
    """Return the log; ConfigError where an event is not known: a log has no room for doubt."""
    spec = _SIGNATURE + pack("<IBBBBIHHB", 0, 0, 2, 0, 2, 1, _SHA384, 48, 0)
    log = [pack("<II20sI", 1, 3, bytes(20), len(spec)) + spec]
    for node in nodes:
        if node.digest is None:
            problem = f"{node.what} is not known"
            raise ConfigError(problem, at="--format ccel", hint=f"needs {node.needs}")
        head = pack("<IIIH48s", node.register + 1, node.type, 1, _SHA384, node.digest)
        log.append(head + pack("<I", len(node.data)) + node.data)
    return b"".join(log)
