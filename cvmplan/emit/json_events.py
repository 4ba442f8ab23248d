"""The event log of a TD, replayed, as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cvmplan.core.values import Json
from cvmplan.emit.json import dumps, streamed
from cvmplan.eventlog.difference import LogDifference
from cvmplan.eventlog.event import Event, Header
from cvmplan.eventlog.rtmr import Comparison, Fit, Replay, describe


def events(replay: Replay) -> Iterator[str]:
    """Yield cvmplan.events/1."""
    log = replay.log
    yield from streamed(
        {
            "schema": "cvmplan.events/1",
            "form": log.form,
            "complete": log.complete,
            "header": None if log.header is None else _header(log.header),
            "fill": None if log.fill is None else _fill(*log.fill),
            "events": [],
            "registers": [
                {
                    "register": f"RTMR{number}",
                    "events": sum(e.extends and e.mr_index == number + 1 for e in log.events),
                    "value": value.hex(),
                }
                for number, value in enumerate(replay.registers)
            ],
            "compared": [_compared(one) for one in replay.compared],
        },
        "events",
        event_documents(replay),
    )


def _header(header: Header) -> dict[str, Json]:
    return {
        "mr_index": header.mr_index,
        "platform_class": header.platform_class,
        "spec_errata": header.spec_errata,
        "uintn_size": header.uintn_size,
        "algorithms": [{"algorithm": name, "size": size} for name, size in header.algorithms],
        "vendor_info": header.vendor_info.hex(),
    }


def _fill(byte: int, size: int) -> dict[str, Json]:
    return {"byte": hex(byte), "size": size}


def event_documents(replay: Replay) -> Iterator[Json]:
    """Yield the events."""
    for both in zip(replay.log.events, replay.fits, strict=True):
        yield _event(*both)


def _event(event: Event, found: Fit) -> dict[str, Json]:
    return {
        "number": event.number,
        "at": event.at,
        "register": event.register,
        "type": hex(event.type),
        "type_name": event.type_name,
        "digest": event.digest.hex(),
        "computed": event.computed,
        "others": [{"algorithm": name, "digest": d.hex()} for name, d in event.others],
        "data": event.data.hex(),
        "name": event.name,
        "version": event.version,
        "description": describe(event),
        "check": found.verdict,
        "why": found.why,
    }


def _compared(one: Comparison) -> dict[str, Json]:
    return {
        "register": f"RTMR{one.register}",
        "expected": one.expected.hex(),
        "equal": not one.differs,
        "equal_after": one.earlier,
        "left_out": one.left_out,
        "added": one.added,
        "swapped": one.swapped,
        "separator": one.separator,
        "after": one.after,
        "why": one.why,
    }


def log_differences(found: Sequence[LogDifference]) -> str:
    """Return cvmplan.log-diff/1."""
    rows: list[Json] = [
        {
            "register": f"RTMR{one.register}", "a": _side(one.a), "b": _side(one.b),
            "more": one.more,
        }
        for one in found
    ]  # fmt: skip
    return dumps({"schema": "cvmplan.log-diff/1", "equal": not found, "differences": rows})


def _side(event: Event | None) -> Json:
    if event is None:
        return None
    return {
        "number": event.number, "type": hex(event.type), "type_name": event.type_name,
        "digest": event.digest.hex(), "description": describe(event),
    }  # fmt: skip
