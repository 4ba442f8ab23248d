"""Event logs of TDs: read, held against their own data, replayed into the four registers."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from struct import pack
from typing import Any, Final

import pytest

from cvmplan import documents
from cvmplan.core.blob import Blob
from cvmplan.core.errors import CvmplanError
from cvmplan.eventlog import ccel, forms
from cvmplan.eventlog import describe as what
from cvmplan.eventlog.event import Event, EventLog
from cvmplan.eventlog.rtmr import compare, describe, fit, replay, replayed
from cvmplan.eventlog.search import MOST_TRIED
from tests.build import eventlog as build
from tests.build.eventlog import SHA256, SHA384, Log, LogEvent, runtime, variable
from tests.oracles import shared
from tests.run import Result, assert_refused, run

PUBLISHED: Final = Path(__file__).parent / "published" / "near-cvm-runner.events.json"
"""
The event log of a dstack guest, and RTMR0 to RTMR3 of the quote that its hardware signed.

Source: think-in-universe/near-tee-rng 3c44bdf, contracts/tee-rng/src/collateral.rs, test():
`event_log`, and bytes 376 to 568 of `quote_hex`, a quote of version 4.
"""
RTMRS: Final = (
    "79207fa707c5bbf697d579bbd44c2ba14f8565d528aff0de407c58fd34815b67a35cfbb0a0d996b1c7b911a2c8ae806c",
    "154e08f5c1f7b1fce4cbfe1c14f3ba67b70044ede2751487279cd1f2e4239dee99a6d45e24ebde6b6a6f5ae49878e0e6",
    "9edcd363660e85b71c318324996dda756c372d9f6960edbfa863b1e684822eb48dd95e218ae2b78e51ef97f3b8f5c9dc",
    "f8c92cc9f4baa0da85825e28316673657be77219687b83d68099caafac7d1d357d52011777d715869f7bbb08cd564584",
)
SEPARATOR_DIGEST: Final = (
    "394341b7182cd227c5c6b07ef8000cdfd86136c4292b8e57"
    "6573ad7ed9ae41019f5818b4b971c9effc60e1ad9f1289f0"
)
CCEL_HEADER: Final = b64decode("U3BlYyBJRCBFdmVudDAzAAAAAAAAAgACAQAAAAwAMAAA")
"""Data of the first event of a TD, as the documentation of CCNP's event log service prints it."""


def seen(log: bytes, *options: str) -> Result:
    return run("events", "-", *options, stdin=log)


def told(log: bytes, *options: str) -> dict[str, Any]:
    result = seen(log, "--format", "json", *options)
    assert result.code in (0, 1), result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def read(log: bytes) -> EventLog:
    return forms.read(Blob("log", memoryview(log)))


def one(event: LogEvent) -> Event:
    return read(Log([event]).build()).events[0]


def dstack(*events: Any) -> bytes:
    return json.dumps(events).encode()


def published() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(PUBLISHED.read_text())
    return found


# --- replay -------------------------------------------------------------------------------------


def test_a_published_log_leads_to_the_registers_of_its_quote() -> None:
    options = [part for n, value in enumerate(RTMRS) for part in (f"--rtmr{n}", value)]
    result = run("events", str(PUBLISHED), "--format", "json", *options)
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert [r["value"] for r in document["registers"]] == list(RTMRS)
    assert [r["events"] for r in document["registers"]] == [13, 5, 2, 5]
    assert all(c["equal"] for c in document["compared"])


def test_the_same_events_in_a_binary_log_lead_to_the_same_registers() -> None:
    events = [
        LogEvent(
            bytes.fromhex(e["event_payload"]),
            e["event_type"],
            e["imr"] + 1,
            digests=[(SHA384, bytes.fromhex(e["digest"]))],
        )
        for e in published()
    ]
    assert tuple(v.hex() for v in replay(read(Log(events).build()).events)) == RTMRS


def test_two_extends_of_rtmr1_have_the_value_that_another_implementation_pins() -> None:
    """A Rust test pins it: `test_rtmr1_chain_golden_value`, zeros, the action, a separator."""
    action = b"Calling EFI Application from Boot Option"
    events = [LogEvent(action, build.EFI_ACTION, 2), LogEvent(index=2)]
    found = told(Log(events).build())["registers"]
    assert found[1]["value"] == (
        "70bc457e087464760a8927d6312248dc117663410914ff8b1e42fd5dc91e16f5"
        "fe3f15ca64372d3e47af8b4c53b01df9"
    )
    assert [r["value"] for r in found if r["register"] != "RTMR1"] == ["00" * 48] * 3


def test_replay_is_a_fold_of_sha384() -> None:
    value = bytes(48)
    for event in published():
        if event["imr"] == 3:
            value = hashlib.sha384(value + bytes.fromhex(event["digest"])).digest()
    assert replay(read(PUBLISHED.read_bytes()).events)[3] == value


@pytest.mark.parametrize("event", [LogEvent(index=0), LogEvent(type=build.NO_ACTION)])
def test_events_for_mrtd_and_no_action_extend_nothing(event: LogEvent) -> None:
    found = told(Log([event]).build())
    assert [r["value"] for r in found["registers"]] == ["00" * 48] * 4
    assert found["events"][0]["check"] == "not-extended"


@pytest.mark.parametrize("index", range(1, 5))
def test_index_n_is_rtmr_n_minus_1(index: int) -> None:
    """UEFI 2.10, 38.4.1."""
    found = told(Log([LogEvent(index=index)]).build())
    assert [r["events"] for r in found["registers"]] == [int(i == index - 1) for i in range(4)]


# --- digests and their data ---------------------------------------------------------------------

KNOWN: Final[dict[str, tuple[LogEvent, str]]] = {
    "separator": (LogEvent(), SEPARATOR_DIGEST),
    "EV_EFI_ACTION Calling EFI Application from Boot Option": (
        LogEvent(b"Calling EFI Application from Boot Option", build.EFI_ACTION),
        "77a0dab2312b4e1e57a84d865a21e5b2ee8d677a21012ada819d0a98988078d3d740f6346bfe0abaa938ca20439a8d71",
    ),
    "Exit Boot Services Invocation": (
        LogEvent(b"Exit Boot Services Invocation", build.EFI_ACTION),
        "214b0bef1379756011344877743fdc2a5382bac6e70362d624ccf3f654407c1b4badf7d8f9295dd3dabdef65b27677e0",
    ),
    "Exit Boot Services Returned with Success": (
        LogEvent(b"Exit Boot Services Returned with Success", build.EFI_ACTION),
        "0a2e01c85deae718a530ad8c6d20a84009babe6c8989269e950d8cf440c6e997695e64d455c4174a652cd080f6230b74",
    ),
    "BootOrder 0000 (value only)": (
        LogEvent(variable("BootOrder", bytes(2)), build.BOOT),
        "1dd6f7b457ad880d840d41c961283bab688e94e4b59359ea45686581e90feccea3c624b1226113f824f315eb60ae0a7c",
    ),
    "Boot0000 = UiApp": (
        LogEvent(
            variable(
                "Boot0000",
                bytes.fromhex(
                    "090100002c0055006900410070007000000004071400c9bdb87cebf8344faaea3ee4af6516a1"
                    "0406140021aa2c4614760345836e8ab6f46623317fff0400"
                ),
            ),
            build.BOOT,
        ),
        "23ada07f5261f12f34a0bd8e46760962d6b4d576a416f1fea1c64bc656b1d28eacf7047ae6e967c58fd2a98bfa74c298",
    ),
    "empty variable SecureBoot": (
        LogEvent(variable("SecureBoot"), build.DRIVER_CONFIG),
        "9dc3a1f80bcec915391dcda5ffbb15e7419f77eab462bbf72b42166fb70d50325e37b36f93537a863769bcf9bedae6fb",
    ),
    "empty variable PK": (
        LogEvent(variable("PK"), build.DRIVER_CONFIG),
        "6f2e3cbc14f9def86980f5f66fd85e99d63e69a73014ed8a5633ce56eca5b64b692108c56110e22acadcef58c3250f1b",
    ),
    "empty variable KEK": (
        LogEvent(variable("KEK"), build.DRIVER_CONFIG),
        "d607c0efb41c0d757d69bca0615c3a9ac0b1db06c557d992e906c6b7dee40e0e031640c7bfd7bcd35844ef9edeadc6f9",
    ),
    "empty variable db": (
        LogEvent(
            variable("db", guid=bytes.fromhex("cbb219d73a3d9645a3bcdad00e67656f")),
            build.DRIVER_CONFIG,
        ),
        "08a74f8963b337acb6c93682f934496373679dd26af1089cb4eaf0c30cf260a12e814856385ab8843e56a9acea19e127",
    ),
    "empty variable dbx": (
        LogEvent(
            variable("dbx", guid=bytes.fromhex("cbb219d73a3d9645a3bcdad00e67656f")),
            build.DRIVER_CONFIG,
        ),
        "18cc6e01f0c6ea99aa23f8a280423e94ad81d96d0aeb5180504fc0f7a40cb3619dd39bd6a95ec1680a86ed6ab0f9828d",
    ),
}
"""What hardware logged: the rest of a name "event digest …" of vectors.json, event, digest."""


def with_digest(event: LogEvent, digest: str) -> LogEvent:
    return LogEvent(event.data, event.type, event.index, digests=[(SHA384, bytes.fromhex(digest))])


@pytest.mark.parametrize("name", KNOWN)
def test_a_digest_that_hardware_logged_fits_its_data(name: str) -> None:
    event, digest = KNOWN[name]
    found = one(with_digest(event, digest))
    assert fit(found).verdict == "fits"
    assert not fit(found).differs


def test_the_known_digests_are_all_those_of_the_vectors() -> None:
    answers = json.loads(shared("vectors/tdx/vectors.json").read_text("utf-8"))
    wanted = {
        a["name"].removeprefix("event digest "): a["expected_hex"]
        for a in answers
        if a["name"].startswith("event digest ")
    }
    assert {name: digest for name, (_, digest) in KNOWN.items()} == wanted


@pytest.mark.parametrize("name", KNOWN)
def test_a_digest_of_something_else_is_called_out(name: str) -> None:
    event, digest = KNOWN[name]
    spoiled = f"{int(digest[:2], 16) ^ 1:02x}{digest[2:]}"
    result = seen(Log([LogEvent(), with_digest(event, spoiled)]).build())
    assert result.code == 1
    assert "DIFFERS" in result.out
    second = 32 + 33 + 70  # bytes of the header, of what follows it, of the first event
    assert f"event 2 (-+{second:#x}): the digest is not the SHA-384 of the data" in result.out


def test_a_boot_variable_may_be_hashed_whole_or_by_its_value_and_it_is_said_which() -> None:
    data = variable("BootOrder", bytes(2))
    value, whole = (one(LogEvent(data, build.BOOT, hashed=h)) for h in (bytes(2), data))
    assert (fit(value).verdict, fit(value).why) == ("fits", "SHA-384 of the variable's value")
    assert (fit(whole).verdict, fit(whole).why) == ("fits", "SHA-384 of the data")
    other = one(LogEvent(data, build.BOOT, hashed=b"\1\0"))
    assert fit(other).differs
    assert fit(other).why == "not the SHA-384 of the data nor the variable's value"


@pytest.mark.parametrize("kind", [build.DRIVER_CONFIG, build.BOOT2, build.AUTHORITY])
def test_other_variables_are_hashed_whole(kind: int) -> None:
    assert fit(one(LogEvent(variable("PK", b"key"), kind, hashed=b"key"))).differs
    assert not fit(one(LogEvent(variable("PK", b"key"), kind))).differs


def test_sbat_level_of_a_published_log_fits() -> None:
    """An Alibaba Cloud guest: EV_EFI_VARIABLE_AUTHORITY, digest f143e294…."""
    guid = bytes.fromhex("50ab5d6046e00043abb63dd810dd8b23")
    data = variable("SbatLevel", b"sbat,1,2021030218\n", guid)
    digest = (
        "f143e2948d63fcd3442e841bb36a7e180871f0a894654196"
        "1fe9d12e70d0727874600956264dba531e2edd8729c5eb38"
    )
    assert fit(one(with_digest(LogEvent(data, build.AUTHORITY), digest))).verdict == "fits"


def test_a_grub_command_fits_without_its_prefix_and_nul() -> None:
    """coreos/grub d6ca0a9, grub-core/commands/tpm.c, grub_tpm_verify_string."""
    data = b"grub_cmd: set pager=1\0"
    assert fit(one(LogEvent(data, build.IPL, hashed=b"set pager=1"))).verdict == "fits"
    assert fit(one(LogEvent(data, build.IPL, hashed=b"set pager=2"))).differs


def test_a_grub_command_of_a_published_log_fits() -> None:
    """An Alibaba Cloud guest: the text without a colon, its NUL and one byte more."""
    digest = (
        "541610ba1bed91de4f8c36d97ec689d7497ef6c243187c3f"
        "3fd1e1ba6add24654dd4dd768419b04e4ef354607d4f78a7"
    )
    event = with_digest(LogEvent(b"grub_cmd set pager=1\0\0", build.IPL), digest)
    assert fit(one(event)).verdict == "fits"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (build.TABLES2, b"\x08TdxTable" + pack("<Q", 0)),
        (build.BLOB2, b"\x02Fv" + pack("<QQ", 0xFFC00000, 0x84000)),
        (build.APPLICATION, pack("<QQQQ", 0, 1, 2, 0)),
        (build.IPL, b"MokList\0"),
        (build.TAG, pack("<II", 0x8F3B22EC, 13) + b"Linux initrd\0"),
        (10, b"ACPI DATA"),
        (0xCAFE, b"what"),
    ],
)
def test_where_the_log_only_describes_nothing_is_claimed(kind: int, data: bytes) -> None:
    found = fit(one(LogEvent(data, kind, hashed=b"something else")))
    assert found.verdict == "not-checkable"


def test_an_error_separator_is_named_and_fits() -> None:
    found = one(LogEvent(b"\1\0\0\0firmware says", hashed=b"\1\0\0\0"))
    assert (fit(found).verdict, describe(found)) == ("fits", "separator: an error")


# --- what is told of an event -------------------------------------------------------------------

TOLD: Final = {
    "TdxTable": LogEvent(b"\x08TdxTable" + pack("<Q", 0), build.TABLES2),
    "Fv(X), 0x84000 bytes at 0xffc00000": LogEvent(
        b"\x05Fv(X)" + pack("<QQ", 0xFFC00000, 0x84000), build.BLOB2
    ),
    "separator": LogEvent(b"\xff" * 4),
    "SecureBoot = 01 (8be4df61-93ca-11d2-aa0d-00e098032b8c)": LogEvent(
        variable("SecureBoot", b"\1"), build.DRIVER_CONFIG
    ),
    "BootOrder = 0000 0001 (8be4df61-93ca-11d2-aa0d-00e098032b8c)": LogEvent(
        variable("BootOrder", b"\0\0\1\0"), build.BOOT
    ),
    'Boot0001 = "UiApp" (8be4df61-93ca-11d2-aa0d-00e098032b8c)': LogEvent(
        variable("Boot0001", pack("<IH", 1, 4) + "UiApp\0".encode("utf-16-le")), build.BOOT
    ),
    "\\EFI\\BOOT\\BOOTX64.EFI, 0x20 bytes at 0x10": LogEvent(
        pack("<QQQQBBH", 0x10, 0x20, 0, 50, 4, 4, 46)
        + "\\EFI\\BOOT\\BOOTX64.EFI".encode("utf-16-le")
        + bytes.fromhex("7fff0400"),
        build.APPLICATION,
    ),
    "QEMU FW CFG etc/e820": LogEvent(b"QEMU FW CFG\0etc/e820" + bytes(48), 10),
    "td_hob": LogEvent(b"td_hob\0", 10),
    "Linux initrd (tag 0x8f3b22ec)": LogEvent(
        pack("<II", 0x8F3B22EC, 13) + b"Linux initrd\0", build.TAG
    ),
    "kernel_cmdline: quiet": LogEvent(b"kernel_cmdline: quiet\0", build.IPL, hashed=b"quiet"),
    "console=ttyS0": LogEvent("console=ttyS0\0".encode("utf-16-le"), build.IPL),
    "compose-hash: 00ff": LogEvent(b"\1\0\0\x08:compose-hash:\0\xff", build.RUNTIME, 4),
    "StartupLocality": LogEvent(b"StartupLocality\0\3", build.NO_ACTION),
    "no data": LogEvent(b"", 10),
    "deadbeef": LogEvent(bytes.fromhex("deadbeef"), 0x12345),
}


@pytest.mark.parametrize("text", TOLD)
def test_an_event_is_named_for_people(text: str) -> None:
    assert describe(one(TOLD[text])) == text


@pytest.mark.parametrize("kind", sorted(what.DESCRIBED))
def test_data_of_another_form_are_no_error(kind: int) -> None:
    whole = {e.type: e.data for e in TOLD.values()}.get(kind, bytes(range(40)))
    for end in range(len(whole)):
        assert describe(one(LogEvent(whole[:end], kind)))
    for at in range(len(whole)):
        spoiled = bytearray(whole)
        spoiled[at] ^= 0xFF
        assert describe(one(LogEvent(bytes(spoiled), kind)))


def test_what_a_terminal_would_act_on_is_escaped() -> None:
    result = seen(Log([LogEvent(b"\x1b[2Jaction", build.EFI_ACTION)]).build())
    assert result.code == 0
    assert "\x1b" not in result.out


def test_an_unknown_type_is_shown_in_hex() -> None:
    result = seen(Log([LogEvent(b"abc", 0x8000BEEF)]).build())
    assert result.code == 0
    assert "0x8000beef" in result.out


# --- comparing ----------------------------------------------------------------------------------


def value_after(*digests: str) -> str:
    value = bytes(48)
    for digest in digests:
        value = hashlib.sha384(value + bytes.fromhex(digest)).digest()
    return value.hex()


def digests_of(register: int) -> list[tuple[int, str]]:
    found = enumerate(published(), 1)
    return [(number, e["digest"]) for number, e in found if e["imr"] == register]


def compared(register: int, value: str) -> tuple[int, dict[str, Any]]:
    options = (f"--rtmr{register}", value, "--format", "json")
    result = run("events", str(PUBLISHED), *options)
    document = json.loads(result.out)
    documents.model("events").model_validate(document)
    return result.code, document["compared"][0]


def test_a_value_that_an_earlier_event_reached_is_named() -> None:
    digests = [d for _, d in digests_of(0)]
    code, found = compared(0, value_after(*digests[:8]))
    assert (code, found["equal"], found["equal_after"]) == (1, False, 8)
    assert found["why"] == "equal after event 8; 5 more follow"
    code, found = compared(0, value_after(*digests[:-1]))
    assert found["why"] == "equal after event 13; 1 more follows"


def test_an_event_too_many_is_named() -> None:
    for number, _ in digests_of(0)[:-1]:
        kept = [d for n, d in digests_of(0) if n != number]
        code, found = compared(0, value_after(*kept))
        assert (code, found["left_out"]) == (1, number)
        assert found["why"] == f"equal without event {number}"


def test_a_register_that_was_never_extended_is_named() -> None:
    code, found = compared(2, "00" * 48)
    assert (code, found["why"]) == (1, "equal before the first event; 2 more follow")


def test_another_value_is_said_to_be_reached_nowhere() -> None:
    code, found = compared(1, RTMRS[0])
    assert (code, found["left_out"], found["equal_after"]) == (1, None, None)
    assert (
        found["why"]
        == "no prefix of the log, and no single removed, added or moved event, gives this value"
    )


def test_text_says_which_register_differs_and_where() -> None:
    value = value_after(*[d for _, d in digests_of(1)][:3])
    result = run("events", str(PUBLISHED), "--rtmr1", f"0x{value}", "--rtmr2", RTMRS[2])
    assert result.code == 1
    assert f"RTMR1 differs: expected {value}; equal after event 16; 2 more follow\n" in result.out
    assert "RTMR2 matches\n" in result.out


def test_leaving_one_out_is_tried_for_so_many_events_and_not_for_more() -> None:
    many = read(Log([LogEvent() for _ in range(MOST_TRIED + 1)]).build())
    (found,) = compare(many, {0: b"\1" * 48})
    assert "no single change was tried" in found.why
    assert found.left_out is None


@pytest.mark.parametrize("value", ["", "00", "zz" * 48, "00" * 47, "00" * 49, "é"])
def test_a_register_that_is_not_48_bytes_is_refused(value: str) -> None:
    result = run("events", str(PUBLISHED), "--rtmr3", value)
    assert_refused(result, {2})
    assert result.err.startswith("error: --rtmr3: ")


# --- the binary form ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "size"),
    [
        (ccel.PcrEvent, 32), (ccel.SpecIdEvent, 28), (ccel.AlgorithmSize, 4),
        (ccel.PcrEvent2, 12),
        (what.VariableData, 32), (what.LoadOption, 6),
        (what.ImageLoadEvent, 32), (what.PathNode, 4),
        (what.FirmwareBlob, 16), (what.TaggedEvent, 8),
    ],
)  # fmt: skip
def test_layouts_have_the_sizes_of_the_specification(record: Any, size: int) -> None:
    assert record.LAYOUT.size == size


def test_the_header_of_a_td_is_read() -> None:
    head = pack("<II20sI", 1, 3, bytes(20), len(CCEL_HEADER)) + CCEL_HEADER
    found = told(head + LogEvent().build() + b"\xff" * 100)
    assert found["header"] == {
        "mr_index": 1,
        "platform_class": 0,
        "spec_errata": 0,
        "uintn_size": 2,
        "algorithms": [{"algorithm": "sha384", "size": 48}],
        "vendor_info": "",
    }
    assert found["fill"] == {"byte": "0xff", "size": 100}
    assert found["events"][0]["digest"] == SEPARATOR_DIGEST


def test_the_builder_writes_the_header_of_a_td() -> None:
    made = Log(errata=0, events=[], fill=b"").build()
    assert made == pack("<II20sI", 1, 3, bytes(20), 33) + CCEL_HEADER


def test_a_tpm_log_without_sha384_is_not_supported() -> None:
    """The header is that of canonical/tcglog-parser's event tests: SHA-1 and SHA-256."""
    log = bytes.fromhex(
        "000000000300000000000000000000000000000000000000000000002500000053706563204944204576656e"
        "74303300000000000002000202000000040014000b00200000"
    )
    result = seen(log)
    assert_refused(result, {4})
    assert "the log has no SHA-384 digests" in result.err


def test_digests_of_further_algorithms_are_kept() -> None:
    both = [(SHA256, b"\2" * 32), (SHA384, hashlib.sha384(bytes(4)).digest())]
    log = Log([LogEvent(digests=both)], algorithms=[(SHA256, 32), (SHA384, 48)])
    found = told(log.build())["events"][0]
    assert found["others"] == [{"algorithm": "sha256", "digest": "02" * 32}]
    assert found["digest"] == SEPARATOR_DIGEST


@pytest.mark.parametrize("fill", [b"", b"\xff", b"\xff" * 5000, b"\0", b"\0" * 11, b"\0" * 5000])
def test_the_area_may_end_in_ff_or_00(fill: bytes) -> None:
    found = told(Log(fill=fill).build())
    assert len(found["events"]) == 1
    assert (found["fill"] or {"size": 0})["size"] == len(fill)


def test_a_log_without_events_leaves_the_registers_as_they_began() -> None:
    for log in (Log([]).build(), b"[]"):
        assert [r["value"] for r in told(log)["registers"]] == ["00" * 48] * 4


GOOD: Final = [(SHA384, bytes(48))]
BAD: Final[dict[str, tuple[Log, set[int], str]]] = {
    "an index past RTMR3": (Log([LogEvent(index=5)]), {3}, "register index 0x5"),
    "no digest": (Log([LogEvent(digests=[])]), {3}, "0 digests"),
    "more digests than algorithms": (Log([LogEvent(digests=GOOD * 2)]), {3}, "2 digests"),
    "a digest twice": (
        Log([LogEvent(digests=GOOD * 2)], algorithms=[(SHA384, 48), (SHA256, 32)]), {3}, "twice",
    ),
    "an algorithm that the header has not": (
        Log([LogEvent(digests=[(SHA256, bytes(32))])]), {3}, "not declared by the log",
    ),
    "no SHA-384 beside another": (
        Log([LogEvent(digests=[(SHA256, bytes(32))])], algorithms=[(SHA384, 48), (SHA256, 32)]),
        {3}, "no SHA-384",
    ),
    "data longer than the file": (Log([LogEvent(size=5)], fill=b""), {3}, "are outside"),
    "data of 4 GiB": (Log([LogEvent(size=0xFFFFFFFF)]), {3}, "are outside"),
    "data shorter than they are": (Log([LogEvent(b"abcdefgh", size=4)]), {3}, ""),
    "more behind the filling": (Log(fill=b"\xff" * 32 + b"\1"), {3}, "after the end"),
    "more behind zeros": (Log(fill=bytes(32) + b"\1"), {3}, "after the end"),
    "two fillings": (Log(fill=b"\xff" * 16 + bytes(16)), {3}, "after the end"),
    "another header": (Log(type=4), {4}, "not an event log"),
    "a header with a digest": (Log(digest=b"\1" + bytes(19)), {4}, "not an event log"),
    "a header of another register": (Log(index=9), {4}, "not an event log"),
    "another signature": (Log(signature=b"Spec ID Event02\0"), {4}, "Spec ID Event02"),
    "another version": (Log(version=(1, 2)), {4}, "specification 2.1"),
    "UINTN of 3 words": (Log(uintn=3), {4}, "UINTN of 3"),
    "no algorithms": (Log(algorithms=[]), {3}, "0 algorithms"),
    "too many algorithms": (Log(count=0xFFFFFFFF), {3}, "algorithms"),
    "an algorithm twice": (Log(algorithms=[(SHA384, 48)] * 2), {3}, "twice"),
    "another digest size": (Log(algorithms=[(SHA384, 32)]), {3}, "expected 48"),
    "an unknown algorithm": (Log(algorithms=[(SHA384, 48), (0x77, 32)]), {4}, "0x77"),
    "vendor information too long": (Log(vendor_size=1), {3}, "are outside"),
    "bytes behind the vendor information": (Log(behind=b"\0"), {3}, "after the vendor"),
}  # fmt: skip


@pytest.mark.parametrize(("log", "codes", "text"), BAD.values(), ids=BAD)
def test_a_binary_log_with_one_thing_wrong_is_refused(log: Log, codes: set[int], text: str) -> None:
    result = seen(log.build())
    assert_refused(result, codes)
    assert text in result.err
    assert result.err.startswith("error: -+0x")


def several() -> Log:
    """A log that has all kinds of event."""
    events = [TOLD[text] for text in TOLD]
    return Log([LogEvent(index=0), *events], vendor=b"me")


def answer(log: bytes) -> str | None:
    """What is printed of a log, None where it is refused; anything else fails the test."""
    from cvmplan.emit import json_events

    try:
        return "".join(json_events.events(replayed(read(log), {})))
    except CvmplanError:
        return None


def test_a_log_cut_short_is_refused_or_has_fewer_events() -> None:
    log = several()
    used, whole = log.used(), log.build()
    starts = {len(Log(log.events[:n], vendor=b"me").used()) for n in range(len(log.events))}
    for end in range(len(used)):
        if end in starts:
            assert len(read(used[:end]).events) < len(log.events)
        else:
            found = answer(used[:end])
            assert found is None or found != answer(whole)


def test_every_spoiled_byte_is_refused_or_seen() -> None:
    log = several().build()
    good = answer(log)
    assert good is not None
    for at in range(len(log)):
        for bits in (0x01, 0x80, 0xFF):
            spoiled = bytearray(log)
            spoiled[at] ^= bits
            assert answer(bytes(spoiled)) != good, at


def test_more_events_than_65536_are_refused() -> None:
    event = LogEvent(b"").build()
    log = Log([], fill=b"").build() + event * 65537
    result = seen(log)
    assert_refused(result, {3})
    assert "more than 65536 events" in result.err


def test_a_log_of_more_than_64_mib_is_refused() -> None:
    result = seen(Log(fill=b"\xff" * (64 << 20)).build())
    assert_refused(result, {3})
    assert "more than 64 MiB" in result.err


@pytest.mark.parametrize("kind", [4, 5, 6, 10, 13, build.BOOT, build.APPLICATION, build.TABLES2])
@pytest.mark.parametrize("byte", [b"\0", b"a", b"a\0", b"\0a", b"\xff"])
def test_large_data_are_named_in_few_words(kind: int, byte: bytes) -> None:
    data = byte * (4 << 20)
    for made in (data, variable("Boot0001", data), variable("BootOrder", data)):
        assert len(describe(one(LogEvent(made, kind)))) <= what.MOST_SHOWN


@pytest.mark.parametrize("log", [b"", b"\0", b"hello, world", b"\x7fELF" + bytes(99), bytes(99)])
def test_other_files_are_refused(log: bytes) -> None:
    assert_refused(seen(log), {3, 4})


def test_a_file_that_is_absent_is_refused() -> None:
    assert_refused(run("events", "/absent"), {3})


# --- the JSON form ------------------------------------------------------------------------------


def test_a_runtime_event_is_the_hash_of_type_name_and_payload() -> None:
    found = told(dstack(runtime()))["events"][0]
    assert (found["check"], found["register"]) == ("fits", "RTMR3")
    assert found["description"] == "app-id: 17285b1c7797e193c3e876621e9755cc0c07ee31"


@pytest.mark.parametrize(
    "changes",
    [{"event": "app-ID"}, {"event_payload": "17"}, {"event_payload": ""}, {"version": 2}],
)
def test_a_runtime_event_with_another_name_or_payload_differs(changes: dict[str, Any]) -> None:
    log = dstack(runtime(**changes))
    assert told(log)["events"][0]["check"] == "differs"
    assert seen(log).code == 1


def test_a_runtime_event_of_version_2_is_the_hash_of_canonical_json() -> None:
    """Digest and text are those of dstack 312dc60, v2_digest_is_canonical_json_hash."""
    text = b'{"name":"compose-hash","payload":"abcd","type":134217729}'
    digest = (
        "9dde1673f544faa94b921825209593ddde08d0baf9cd6990175dffaf3081f1bb"
        "10311d56de189491feb33842a050ad7b"
    )
    assert hashlib.sha384(text).hexdigest() == digest
    changes = {"event": "compose-hash", "event_payload": "abcd", "version": 2, "digest": digest}
    for key in ("preimage", "hash_input"):  # today's name, and the one before
        found = told(dstack(runtime(**changes, **{key: text.hex()})))
        assert found["events"][0]["check"] == "fits"
        assert found["registers"][3]["value"] == (
            "6b5684141bb1f141c6af192d97d0bae1ef1b2245e3bec30d7b24b07650a09446"
            "e3782019784af02abd6e1bdf202c98b8"
        )
    special = 'event"with\\special\nchars'
    text = rb'{"name":"event\"with\\special\nchars","payload":"ff","type":134217729}'
    changes |= {"event": special, "event_payload": "ff"}
    changes["digest"] = hashlib.sha384(text).hexdigest()
    assert told(dstack(runtime(**changes)))["events"][0]["check"] == "fits"


@pytest.mark.parametrize("absent", ["", ...])
def test_a_digest_that_the_log_leaves_out_is_computed_and_said_to_be(absent: Any) -> None:
    found = told(dstack(runtime(digest=absent)))["events"][0]
    assert found["digest"] == runtime()["digest"]
    assert (found["computed"], found["check"]) == (True, "not-checkable")


def test_a_boot_event_without_its_data_is_not_checkable() -> None:
    event = {**published()[7], "event_payload": ""}
    assert told(dstack(event))["events"][0]["check"] == "not-checkable"


def test_a_stripped_log_leads_to_the_registers_of_the_quote() -> None:
    """dstack 1988d17, tdx.rs, stripped: boot events without payload, others without digest."""
    log = [{**e, "digest" if e["imr"] == 3 else "event_payload": ""} for e in published()]
    assert [r["value"] for r in told(dstack(*log))["registers"]] == list(RTMRS)


def spoiled(key: str, value: Any) -> bytes:
    return dstack(runtime(), runtime(**{key: value}))


BAD_JSON: Final[dict[str, tuple[bytes, set[int], str]]] = {
    "a register that is none": (spoiled("imr", 4), {3}, "-: [1].imr: "),
    "a negative register": (spoiled("imr", -1), {3}, "-: [1].imr: "),
    "a register as text": (spoiled("imr", "3"), {3}, "-: [1].imr: "),
    "a register as truth": (spoiled("imr", True), {3}, "-: [1].imr: "),
    "a type past 32 bits": (spoiled("event_type", 1 << 32), {3}, "-: [1].event_type: "),
    "a type as a float": (spoiled("event_type", 4.0), {3}, "-: [1].event_type: "),
    "a short digest": (spoiled("digest", "00" * 47), {3}, "-: [1].digest: "),
    "a digest that is not hex": (spoiled("digest", "zz" * 48), {3}, "-: [1].digest: "),
    "a digest with spaces": (spoiled("digest", "00 " * 48), {3}, "-: [1].digest: "),
    "a null digest": (spoiled("digest", None), {3}, "-: [1].digest: "),
    "a payload that is not hex": (spoiled("event_payload", "0"), {3}, "-: [1].event_payload: "),
    "a payload as a number": (spoiled("event_payload", 0), {3}, "-: [1].event_payload: "),
    "a name that is a number": (spoiled("event", 1), {3}, "-: [1].event: "),
    "half a surrogate": (spoiled("event", "\ud800"), {3}, "-: [1].event: "),
    "another version": (spoiled("version", 3), {3}, "-: [1].version: "),
    "another hash input": (spoiled("hash_input", "00"), {3}, "-: [1].hash_input: "),
    "an unknown key": (spoiled("when", 1), {3}, "-: [1]: unknown key 'when'"),
    "no register": (spoiled("imr", ...), {3}, "-: [1]: has no imr"),
    "no type": (spoiled("event_type", ...), {3}, "-: [1]: has no event_type"),
    "no name": (spoiled("event", ...), {3}, "-: [1]: has no event"),
    "no payload": (spoiled("event_payload", ...), {3}, "-: [1]: has no event_payload"),
    "a boot event without digest": (
        dstack(runtime(event_type=4, digest="")), {3}, "-: [0].digest: 0 bytes",
    ),
    "a hash input of a boot event": (
        dstack(runtime(event_type=4, hash_input="00")), {3}, "-: [0].hash_input: ",
    ),
    "a number in place of an event": (b"[1]", {3}, "-: [0]: not an object"),
    "an object around it": (b'{"event_log": []}', {4}, "expected an array"),
    "a key twice": (b'[{"imr": 0, "imr": 1}]', {3}, "a duplicate key"),
    "nothing behind the bracket": (b"[", {3}, "-:1: not JSON"),
    "text behind the array": (b"[]\nx", {3}, "-:2: not JSON"),
    "infinity": (b"[Infinity]", {3}, "Infinity is not JSON"),
    "a number without end": (b"[" + b"9" * 10000 + b"]", {3}, ""),
    "a deep array": (b"[" * 200_000, {3}, "nested too deep"),
    "not UTF-8": (b'["\xff"]', {3}, "-+0x2: not UTF-8 text"),
    "too many": (b"[" + b"1," * 65536 + b"1]", {3}, "more than 65536 events"),
}  # fmt: skip


@pytest.mark.parametrize(("log", "codes", "text"), BAD_JSON.values(), ids=BAD_JSON)
def test_json_with_one_thing_wrong_is_refused(log: bytes, codes: set[int], text: str) -> None:
    result = seen(log)
    assert_refused(result, codes)
    assert text in result.err


def test_json_cut_short_is_refused() -> None:
    log = dstack(runtime(), runtime())
    for end in range(len(log)):
        with pytest.raises(CvmplanError):
            read(log[:end])


def test_every_spoiled_byte_of_json_is_refused_or_seen() -> None:
    log = dstack(runtime())
    good = answer(log)
    for at in range(len(log)):
        spoilt = bytearray(log)
        spoilt[at] ^= 0x80
        assert answer(bytes(spoilt)) != good, at


# --- the verb -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [several().build, PUBLISHED.read_bytes], ids=["ccel", "dstack"])
def test_what_is_printed_fits_its_model(make: Callable[[], bytes]) -> None:
    documents.model("events").model_validate(told(make(), "--rtmr0", RTMRS[0]))


def test_an_answer_goes_into_a_file_and_nothing_to_standard_output(tmp_path: Path) -> None:
    out = tmp_path / "events.txt"
    result = run("events", str(PUBLISHED), "-o", str(out))
    assert (result.code, result.out) == (0, "")
    assert f"RTMR3  {RTMRS[3]}\n" in out.read_text()


def test_another_format_is_refused() -> None:
    assert_refused(run("events", str(PUBLISHED), "--format", "svg"), {2})
