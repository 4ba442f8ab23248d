"""
Recorded calls, and which of them is the rest of which.

A kernel that adds a part of a range answers 0 and writes the rest back; a recording may lack it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from cvmplan.kvm.recorded import Taken
from cvmplan.simulator.call import Call

POLICY: Final = 1 << 17  # where none was recorded: the bit that must be one


@dataclass(frozen=True, slots=True)
class Attempt(Call):
    """
    One recorded call, on line `seq`.

    `returned` is "" for success, the name of an errno, or None where it was not recorded;
    `residual` the (gpa, size) that the kernel left over; `note` what the VMM said about it;
    not `placed` is an add of which the guest address was not recorded.  `taken` are contents
    that the call took, `asks` a call that asks for a length and has no effect.  Of a call that is
    not `shown` it is known that it was made, and no more.
    """

    policy: int | None = POLICY
    returned: str | None = None
    fw_error: int | None = None
    residual: tuple[int, int] | None = None
    note: str = ""
    placed: bool = True
    taken: Taken | None = None
    asks: bool = False
    shown: bool = True


def errno_name(ret: int) -> str:
    """Return what a call returned as `Attempt.returned`: "" for 0 and more, else an errno."""
    return errno.errorcode.get(-ret, f"errno {-ret}") if ret < 0 else ""


def with_rests(attempts: Sequence[Attempt]) -> Iterator[Attempt]:
    """Yield recorded calls, with the rest of those that went on in the next call."""
    for one, following in pairwise(attempts):
        lacks_rest = not one.returned and one.residual is None
        if lacks_rest and is_rest(one, following):
            yield replace(one, residual=(following.gpa, following.size))
        else:
            yield one
    yield from attempts[-1:]


def is_same(one: Attempt, other: Attempt) -> bool:
    """Whether two calls add the same range."""
    return goes_on(one, other) and one.gpa == other.gpa


def is_rest(one: Attempt, other: Attempt) -> bool:
    """
    Whether `other` goes on where `one` stopped: its source has moved on as well.

    Without sources it does on SNP where a result is known: the kernel takes no page twice.
    """
    if not (goes_on(one, other) and other.gpa > one.gpa):
        return False
    unknown = None in (one.src, other.src)
    taken = one.op == "snp-launch-update" and other.returned is not None
    return source_moved(one, other) or (unknown and taken)


def source_moved(one: Attempt, other: Attempt) -> bool:
    """Whether the sources show that `other` is what `one` left over."""
    return None not in (one.src, other.src) and other.src == (one.src or 0) + other.gpa - one.gpa


def goes_on(one: Attempt, other: Attempt) -> bool:
    """Whether `other` is the rest of `one`: the same kind of call, up to the same end."""
    moved = other.gpa - one.gpa
    sources = one.src is None or other.src is None or other.src in (0, one.src, one.src + moved)
    alike = (one.op, one.page_type, one.measured) == (other.op, other.page_type, other.measured)
    return alike and one.gpa <= other.gpa and one.end == other.end and sources
