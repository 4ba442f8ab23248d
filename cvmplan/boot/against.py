"""
A log held against a prediction, event by event: what differs first in each register, and why.

The reasons are tried in this order: the second separator, the kernel's header, the place of the
option for the initrd, the size of RAM, a kernel that measures with a TPM alone.  A reason is
named only where it gives the logged digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cvmplan.boot import direct, event_data
from cvmplan.boot.event_data import digest
from cvmplan.boot.inputs import Inputs
from cvmplan.boot.linux import LOAD_OPTIONS
from cvmplan.boot.node import APPLICATION, HANDOFF2, IPL, RUNTIME, SEPARATOR, TAG, Node
from cvmplan.boot.template import key_of
from cvmplan.core.errors import CvmplanError
from cvmplan.core.records import Frozen, record
from cvmplan.eventlog.describe import describe
from cvmplan.eventlog.event import Event, EventLog
from cvmplan.images import pe
from cvmplan.platforms.tdx.hob import hob_list
from cvmplan.profiles.boot import FLAG, PATCHED, UNPATCHED
from cvmplan.profiles.machines import Q35

MOST_GIB: Final = 2048
_MIB: Final = 1 << 20


@record
class Difference(Frozen):
    """The first difference of a register: an event (None: it is missing), and why, if known."""

    register: int
    number: int | None
    what: str
    why: str


def differences(inputs: Inputs, nodes: tuple[Node, ...], log: EventLog) -> tuple[Difference, ...]:
    """Return the first difference of each register, of events that are known."""
    found = (_first(inputs, nodes, log, register) for register in range(4))
    return tuple(one for one in found if one is not None)


def _name(kind: int, key: str) -> tuple[int, str]:
    return kind, "" if kind in (RUNTIME, IPL) else key


def _first(
    inputs: Inputs, nodes: tuple[Node, ...], log: EventLog, register: int
) -> Difference | None:
    mine = [node for node in nodes if node.register == register]
    theirs = [e for e in log.events if e.extends and e.mr_index == register + 1]
    complete = all(node.digest is not None for node in mine)
    used: set[int] = set()
    for node in mine:
        event = _next(theirs, used, node)
        if node.digest is None:
            continue
        if event is None:
            return Difference(register, None, f"no event like {node.what!r}", _missing(node))
        if event.digest != node.digest:
            why = _why(inputs, node, event)
            return Difference(register, event.number, f"{node.what} differs", why)
    if complete:
        for at, event in enumerate(theirs):
            if at not in used:
                what = f"{describe(event)} is not predicted"
                return Difference(register, event.number, what, _surplus(event))
        told = [event.digest for event in theirs]
        if told != [node.digest for node in mine]:
            return Difference(register, None, "the events are in a different order", "")
    return None


def _next(theirs: list[Event], used: set[int], node: Node) -> Event | None:
    """Return the next event of the node's name, and keep in mind that it is taken."""
    for at, event in enumerate(theirs):
        if at not in used and _name(event.type, key_of(event)) == _name(node.type, node.key):
            used.add(at)
            return event
    return None


def _missing(node: Node) -> str:
    if node.type == SEPARATOR and node.register == 1:
        return "firmware before edk2-stable202411 extends RTMR0 by its second separator"
    if node.type == TAG:
        return "Linux measures with a TPM where the TD has one, and before 6.9 with nothing else"
    return ""


def _surplus(event: Event) -> str:
    if event.type == SEPARATOR and event.mr_index == 1:
        return "firmware before edk2-stable202411 extends RTMR0 by its second separator"
    if event.data == event_data.EXIT_FAILURE:
        return "the first ExitBootServices failed, which happens with some firmware"
    return ""


def _why(inputs: Inputs, node: Node, event: Event) -> str:
    """Return what would give the logged digest, "" where nothing that is tried does."""
    if node.type == APPLICATION and inputs.kernel is not None:
        return _header(inputs, event.digest)
    if node.type == TAG and node.key == f"{LOAD_OPTIONS:#x}":
        return _options(inputs, event.digest)
    if node.type == HANDOFF2:
        return _memory(inputs, event.digest)
    return ""


def _header(inputs: Inputs, wanted: bytes) -> str:
    kernel = inputs.kernel
    if kernel is None:
        return ""
    if pe.authenticode(pe.read(kernel)) == wanted:
        return f"equal with {FLAG} {UNPATCHED}"
    size = 0 if inputs.initrd is None else len(inputs.initrd)
    sizes = [inputs.memory] if inputs.memory else []
    for memory in (*sizes, *(gib << 30 for gib in (1, 2, 4))):
        try:
            written = direct.patched(kernel, memory, inputs.append, size)
        except CvmplanError:
            continue
        if pe.authenticode(pe.read(written)) == wanted:
            more = "" if memory == inputs.memory else f" and --memory {memory // _MIB}MiB"
            return f"equal with {FLAG} {PATCHED}{more}"
    return ""


def _options(inputs: Inputs, wanted: bytes) -> str:
    """Try the places of the option for the initrd, and what editors do to a line's end."""
    line = inputs.append
    for text, what in ((line, ""), (line.rstrip(), ", without the blanks at its end"),
                       (f"{line} ", ", with a blank at its end"),
                       (f"{line}\n", ", with a line feed at its end")):  # fmt: skip
        for initrd in (True, False):
            for first in (True, False):
                told = direct.load_options(text, initrd=initrd, initrd_first=first)
                if digest(told) == wanted:
                    place = "before" if first else "behind"
                    rest = f"initrd=initrd {place} the rest" if initrd else "no initrd=initrd"
                    return f"equal with {rest}{what}"
    return ""


def _memory(inputs: Inputs, wanted: bytes) -> str:
    if inputs.firmware is None:
        return ""
    for memory in _sizes():
        try:
            blocks = hob_list(inputs.firmware.sections, Q35.ram(memory))
        except CvmplanError:
            continue
        if digest(blocks) == wanted:
            return f"equal with --memory {memory // _MIB}MiB"
    return ""


def _sizes() -> Iterator[int]:
    """Yield sizes of RAM: by 128 MiB up to 64 GiB, then by 1 GiB."""
    yield from (n * 128 * _MIB for n in range(1, 513))
    yield from (n << 30 for n in range(65, MOST_GIB))
