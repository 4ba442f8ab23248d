"""
Event logs as people have them: other forms, changes that explain a register, two logs compared.

The cases are those of ../shared/cases/events; what they are to show stands in their README.
"""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha384
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError
from cvmplan.eventlog.event import SEPARATOR, Event, EventLog
from cvmplan.eventlog.forms import read, recognises
from cvmplan.eventlog.rtmr import fit
from cvmplan.eventlog.search import MOST_TRIED, compare
from tests.run import run
from tests.test_bounds import in_time

SHARED: Final = Path("../shared")
CASES: Final = SHARED / "cases/events"


def case(name: str) -> Path:
    path = CASES / name
    if not path.exists():
        pytest.skip("../shared is absent: the cases are not at hand")
    return path


def blob(data: bytes) -> Blob:
    return Blob("log", memoryview(data))


# --- the cases -----------------------------------------------------------------------------------


def test_a_register_without_events_was_extended_at_run_time() -> None:
    """The TD of the quote has RTMR3 5d65d032…, and its log no event of it."""
    folder = case("rtmr3-extended-at-run-time")
    rtmr3 = (folder / "quote.dat").read_bytes()[520:568].hex()
    told = run("events", str(folder / "CCEL"), "--rtmr3", rtmr3)
    assert told.code == 1
    assert "the log has no event of RTMR3: it was extended at run time" in " ".join(
        told.out.split()
    )


def test_of_two_logs_only_the_initrd_differs() -> None:
    folder = case("two-logs")
    a, b = str(folder / "a.ccel"), str(folder / "b.ccel")
    told = run("diff", a, b, "--format", "json")
    (found,) = json.loads(told.out)["differences"]
    assert (told.code, found["register"], found["more"]) == (1, "RTMR2", 0)
    assert (found["a"]["number"], found["b"]["number"]) == (18, 18)
    assert found["a"]["digest"].startswith("47f68b63")
    assert found["b"]["digest"].startswith("b88ab090")
    assert "Linux initrd" in found["a"]["description"]
    assert "Linux initrd" in run("diff", a, b).out
    same = run("diff", a, a)
    assert (same.code, same.out) == (0, "the logs lead to the same registers\n")
    refused = run("diff", a, b, "--vcpus", "2")
    assert (refused.code, refused.out) == (2, "")


def test_an_event_of_another_register_explains_both() -> None:
    folder = case("event-in-another-register")
    rtmr0, rtmr1 = (folder / "regs.txt").read_text().split()
    options = ("--rtmr0", rtmr0, "--rtmr1", rtmr1, "--format", "json")
    found = json.loads(run("events", str(folder / "CCEL"), *options).out)["compared"]
    assert found[0]["equal_after"] == 14  # event 16, the last of RTMR0, is one too many
    assert found[1]["added"] == 16


def test_tables_of_td_shim_are_checked() -> None:
    log = read(blob((case("td-shim") / "CCEL").read_bytes()))
    assert [fit(one).verdict for one in log.events[:1] + log.events[4:5]] == ["fits", "fits"]
    told = run("events", str(CASES / "td-shim" / "CCEL")).out
    assert "td_hob, 5248" in " ".join(told.split())


def test_names_of_sections_are_checked_and_their_contents_are_not() -> None:
    log = read(blob((case("uki-section-names") / "CCEL").read_bytes()))
    verdicts = [fit(one).verdict for one in log.events[20:32]]
    assert verdicts == ["fits", "not-checkable"] * 6


def test_what_trustee_prints_leads_to_the_digests_that_it_says() -> None:
    path = case("pasted-text") / "trustee_out.json"
    log = read(blob(path.read_bytes()))
    held = json.loads(path.read_text())["uefi_event_logs"]
    assert (log.form, len(log.events)) == ("trustee", len(held))
    for event, told in zip(log.events, held, strict=True):
        assert event.digest.hex() == told["digests"][0]["digest"]
        if told["digest_matches_event"]:
            assert fit(event).verdict == "fits"


def test_what_the_tool_prints_is_read() -> None:
    log = read(blob((case("pasted-text") / "tdeventlog.txt").read_bytes()))
    (event,) = log.events
    assert (log.form, event.register, event.type_name) == ("pasted", "RTMR1", "EV_EFI_ACTION")
    assert event.digest.hex().startswith("0a2e01c85dea")
    assert (event.number, log.complete) == (20, False)
    told = run("events", str(CASES / "pasted-text/tdeventlog.txt")).out
    assert "events are missing: the registers below follow from the listed" in told


def test_the_log_inside_evidence_is_compared_with_its_quote() -> None:
    path = SHARED / "vectors/rtmr/dstack-quote-report.json"
    if not path.exists():
        pytest.skip("../shared is absent")
    told = run("events", str(path), "--format", "json")
    held = json.loads(told.out)
    quote = bytes.fromhex(json.loads(path.read_text())["quote"])
    assert [one["register"] for one in held["compared"]] == ["RTMR0", "RTMR1", "RTMR2", "RTMR3"]
    for number, one in enumerate(held["compared"]):
        assert one["expected"] == quote[376 + 48 * number :][:48].hex()
        assert one["equal"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"CCEL" + bytes(52), "the ACPI table CCEL, which only says where the log is"),
        (b"\0\0\0\0\x08" + bytes(60), "a canonical event log (CEL)"),
    ],
)
def test_what_is_taken_for_a_log_is_named(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "CCEL"
    path.write_bytes(data)
    told = run("events", str(path))
    assert (told.code, told.out) == (4, "")
    assert said in told.err


# --- forms that are made here --------------------------------------------------------------------

ACTION: Final = b"Exit Boot Services Invocation"
ENTRY: Final = {
    "index": 2, "type_name": "EV_EFI_ACTION", "event": b64encode(ACTION).decode(),
    "digests": [{"alg": "SHA-384", "digest": sha384(ACTION).hexdigest()}],
}  # fmt: skip


def trustee(*entries: Any) -> bytes:
    return json.dumps({"uefi_event_logs": entries}).encode()


def test_an_entry_of_trustee_is_an_event() -> None:
    (event,) = read(blob(trustee(ENTRY))).events
    assert (event.register, event.data, fit(event).verdict) == ("RTMR1", ACTION, "fits")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"index": 5}, ".index"), ({"index": "1"}, ".index"), ({"type_name": "EV_X"}, ".type_name"),
        ({"event": "%"}, ".event"), ({"digests": []}, ".digests"),
        ({"digests": [{"alg": "SHA-384", "digest": "zz"}]}, ".digests"),
        ({"digests": [{"alg": "SHA-256", "digest": "00" * 32}]}, ".digests"),
    ],
)  # fmt: skip
def test_a_wrong_entry_of_trustee_is_named(change: dict[str, Any], place: str) -> None:
    with pytest.raises(MalformedError) as told:
        read(blob(trustee({**ENTRY, **change})))
    assert str(told.value.at).endswith(f"[0]{place}")


def dump(data: bytes) -> str:
    rows = (data[at : at + 16] for at in range(0, len(data), 16))
    return "".join(
        f"{n * 16:08X}  {row.hex(' ').upper()}  {'.' * 16}\n" for n, row in enumerate(rows)
    )


def pasted(digest: str, *, data: bytes = b"", register: str = "1") -> bytes:
    head = bytes(12) + b"\x0c\0" + bytes(48) + len(data).to_bytes(4, "little")
    return (
        "==== TDX Event Log Entry - 1 [0x7FBEF000] ====\n"
        f"RTMR              : {register}\nType              : 0x80000007 (EV_EFI_ACTION)\n"
        f"Digest[0] : {digest}\nRAW DATA: ---\n{dump(head + data) if data else ''}RAW DATA: ---\n"
    ).encode()


def test_the_dump_of_an_event_has_its_data() -> None:
    (event,) = read(blob(pasted(sha384(ACTION).hexdigest(), data=ACTION))).events
    assert (event.data, fit(event).verdict) == (ACTION, "fits")
    assert read(blob(pasted(sha384(ACTION).hexdigest(), data=ACTION))).complete


@pytest.mark.parametrize(
    "text", [pasted("00" * 47), pasted("zz" * 48), pasted("00" * 48, register="4")]
)
def test_a_wrong_text_is_refused_with_its_line(text: bytes) -> None:
    assert recognises(blob(text))
    with pytest.raises(MalformedError) as told:
        read(blob(b"\n\n" + text))
    assert told.value.at == "log:3"


def test_a_plan_and_firmware_are_no_logs() -> None:
    assert not recognises(blob(b'{"schema": "cvmplan.plan/1"}'))
    assert not recognises(blob(bytes(4096)))


# --- changes that explain a register -------------------------------------------------------------


def log(*registers: int, separators: tuple[int, ...] = ()) -> EventLog:
    events = (
        Event(n, "x", index, SEPARATOR if n in separators else 5, sha384(b"%d" % n).digest(), b"")
        for n, index in enumerate(registers, 1)
    )
    return EventLog("ccel", tuple(events))


def value(*numbers: int) -> bytes:
    """RTMR = SHA-384(RTMR || digest), from 48 zeros."""
    found = bytes(48)
    for n in numbers:
        found = sha384(found + sha384(b"%d" % n).digest()).digest()
    return found


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ((1, 2, 3, 5), {}),
        ((1, 3, 5), {"left_out": 2}),
        ((1, 3, 2, 5), {"swapped": 2}),
        ((1, 2, 3, 4, 5), {"added": 4}),
        ((3, 1, 2, 5), {"separator": 3, "after": 0}),
        ((1, 2, 5, 3), {"swapped": 3}),
        ((1, 2), {"earlier": 2}),
    ],
)
def test_the_one_change_is_found(wanted: tuple[int, ...], said: dict[str, int]) -> None:
    (found,) = compare(log(1, 1, 1, 2, 1, separators=(3,)), {0: value(*wanted)})
    names = ("earlier", "left_out", "swapped", "added", "separator", "after")
    assert {n: told for n in names if (told := getattr(found, n)) is not None} == said
    assert found.differs == (said != {})


def test_a_separator_may_come_later() -> None:
    (found,) = compare(log(1, 1, 1, 1, separators=(1,)), {0: value(2, 3, 4, 1)})
    assert (found.separator, found.after) == (1, 4)
    assert found.why == "equal where event 1, a separator, comes after event 4"


def test_a_value_that_no_change_gives_is_said() -> None:
    (found,) = compare(log(1, 1), {0: value(9)})
    assert found.why.startswith("no prefix of the log")


def test_a_log_of_separators_alone_takes_no_time() -> None:
    """Each place of each would be 512 to the third; the limit is CPU time, as in test_bounds."""
    numbers = tuple(range(1, MOST_TRIED + 1))
    with in_time():
        (found,) = compare(log(*[1] * MOST_TRIED, separators=numbers), {0: value(9)})
    assert found.why.startswith("no prefix of the log")
