"""The event log of a TD, replayed, as a JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cvmplan.emit.json import listed
from cvmplan.eventlog.event import Event, EventLog, Header
from cvmplan.eventlog.rtmr import Comparison, describe, fit, replay


def events(log: EventLog, compared: Sequence[Comparison]) -> str:
    """Return cvmplan.events/1."""
    return listed(
        {
            "schema": "cvmplan.events/1",
            "form": log.form,
            "header": None if log.header is None else _header(log.header),
            "fill": None if log.fill is None else _fill(*log.fill),
            "events": [event_document(event) for event in log.events],
            "registers": [
                {
                    "register": f"RTMR{number}",
                    "events": sum(e.extends and e.mr_index == number + 1 for e in log.events),
                    "value": value.hex(),
                }
                for number, value in enumerate(replay(log.events))
            ],
            "compared": [_compared(one) for one in compared],
        },
        "events",
    )


def _header(header: Header) -> dict[str, Any]:
    return {
        "mr_index": header.mr_index,
        "platform_class": header.platform_class,
        "spec_errata": header.spec_errata,
        "uintn_size": header.uintn_size,
        "algorithms": [{"algorithm": name, "size": size} for name, size in header.algorithms],
        "vendor_info": header.vendor_info.hex(),
    }


def _fill(byte: int, size: int) -> dict[str, Any]:
    return {"byte": hex(byte), "size": size}


def event_document(event: Event) -> dict[str, Any]:
    """Return one event."""
    found = fit(event)
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


def _compared(one: Comparison) -> dict[str, Any]:
    return {
        "register": f"RTMR{one.register}",
        "expected": one.expected.hex(),
        "equal": not one.differs,
        "equal_after": one.earlier,
        "left_out": one.left_out,
        "why": one.why,
    }
