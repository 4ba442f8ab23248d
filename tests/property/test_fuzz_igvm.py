"""
IGVM files nobody would make: read or refused, and never a bug.

Bytes behind a good magic, headers drawn from the types that there are, and good files with bytes
flipped, fields set to the ends of their ranges, parts cut off and parts of other files put in.
"""

from __future__ import annotations

import struct
from typing import Final

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cvmplan.core.blob import Blob
from cvmplan.core.errors import CvmplanError
from cvmplan.images import igvm as reader
from tests.build.igvm import (
    LAYOUTS,
    OPTIONAL,
    PAGE,
    PARAMETER_AREA,
    Igvm,
    good_cca,
    good_everything,
    good_multi,
    good_sev,
    good_sev_es,
    good_snp,
    good_tdx,
    good_v2_native,
    good_vbs,
    with_checksum,
)
from tests.run import run

CODES: Final = {0, 1, 2, 3, 4}
MAKERS: Final = (
    (good_snp, ("snp",)),
    (good_tdx, ("tdx",)),
    (good_vbs, ("vbs",)),
    (good_multi, ("snp", "tdx", "vbs")),
    (good_sev, ("sev",)),
    (good_sev_es, ("sev-es",)),
    (good_v2_native, ("snp", "tdx")),
    (good_cca, ("snp",)),  # for none that is launched
    (good_everything, ("snp", "tdx", "vbs")),
)
FILES: Final = tuple(made().build() for made, _ in MAKERS)
STARTS: Final = tuple(made().at(len(made().headers)) for made, _ in MAKERS)
VMMS: Final = {
    "snp": (
        "hyper-v",
        "qemu",
        "cloud-hypervisor",
        "cloud-hypervisor-mshv",
        "openvmm",
        "openvmm-mshv",
        "igvmmeasure",
        "igvmmeasure-native-zero",
    ),
    "tdx": ("hyper-v",),
    "vbs": ("hyper-v", "openvmm-mshv"),
    "sev": ("qemu",),
    "sev-es": ("qemu",),
}
SLOW: Final = range(1 << 28, (64 << 30) + 1)
"""Bytes of an area that may be imported, and take longer than this test has."""

EDGES: Final = (
    *(0, 1, 7, 8, 23, 24, 0x800, 0xFFF, 0x1000, 0x1001, 0x7FFFFFFF, 0x80000000),
    *(0xFFFFF000, 0xFFFFFFF0, 0xFFFFFFF8, 0xFFFFFFFF, 1 << 32, (1 << 47) - PAGE, 1 << 47),
    *((1 << 52) - PAGE, 1 << 52, 1 << 62, 1 << 63, 2**64 - PAGE, 2**64 - 1),
)
fields = st.sampled_from((("<B", 0xFF), ("<H", 0xFFFF), ("<I", 0xFFFFFFFF), ("<Q", 2**64 - 1)))
edges = st.sampled_from(EDGES) | st.integers(0, 2**64 - 1)
quick = settings(
    deadline=None,
    max_examples=600,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@st.composite
def framed(draw: st.DrawFn) -> bytes:
    """Headers of the types that there are, mostly of their lengths, with any payload."""
    file = Igvm(draw(st.sampled_from((1, 2))))
    known = sorted(LAYOUTS)
    kinds = draw(st.lists(st.sampled_from(known) | st.integers(0, 0x420), max_size=12))
    for kind in sorted(kinds) if draw(st.booleans()) else kinds:
        size = LAYOUTS[kind].size if kind in LAYOUTS else draw(st.integers(0, 40))
        payload = bytearray(draw(st.binary(min_size=size, max_size=size)))
        for _ in range(draw(st.integers(0, 3))):
            _set_field(draw, payload, 0, size)
        optional = OPTIONAL if draw(st.integers(0, 9)) == 0 else 0
        file.raw(kind | optional, bytes(payload))
    file.tail = draw(st.binary(max_size=2)) * draw(st.sampled_from((1, 2048)))
    blob = file.build()
    return with_checksum(_right_size(blob)) if draw(st.booleans()) else blob


@st.composite
def mutated(draw: st.DrawFn, which: int | None = None) -> bytes:
    """A good file after a few changes, most of them in its headers."""
    which = draw(st.integers(0, len(FILES) - 1)) if which is None else which
    made, start = bytearray(FILES[which]), STARTS[which]
    for _ in range(draw(st.integers(1, 3))):
        end = min(len(made), start if draw(st.integers(0, 9)) else len(made))
        match draw(st.sampled_from(("flip", "flip", "field", "field", "field", "cut", "splice"))):
            case "flip" if end:
                made[draw(st.integers(0, end - 1))] ^= 1 << draw(st.integers(0, 7))
            case "field":
                _set_field(draw, made, 24, end)
            case "cut":
                del made[draw(st.integers(0, len(made))) :]
            case "splice":
                _splice(draw, made, end)
    blob = bytes(made)
    if draw(st.integers(0, 3)):
        blob = _right_size(blob)
    return with_checksum(blob) if draw(st.integers(0, 5)) else blob


@st.composite
def set_anew(draw: st.DrawFn, which: int) -> bytes:
    """A good file with one or two fields of its headers set to anything, and one moved."""
    file = MAKERS[which][0]()
    for _ in range(draw(st.integers(1, 2))):
        header = file.headers[draw(st.integers(0, len(file.headers) - 1))]
        name, (_, form) = draw(st.sampled_from(sorted(LAYOUTS[header.type].fields.items())))
        size = struct.calcsize(f"<{form}")
        low = draw(edges) & ((1 << 8 * min(size, 8)) - 1)
        header.values[name] = low.to_bytes(size, "little") if form[-1] == "s" else low
    if draw(st.integers(0, 3)) == 0:
        numbers = st.integers(0, len(file.headers) - 1)
        file.move(draw(numbers), draw(numbers))
    return file.build()


@st.composite
def launches(draw: st.DrawFn) -> tuple[bytes, str, str]:
    """A file, and mostly a platform and a VMM that its like is launched by."""
    which = draw(st.integers(0, len(FILES) - 1))
    kinds = (mutated(which), set_anew(which), set_anew(which), framed())
    blob = draw(kinds[draw(st.integers(0, 15)) // 5])
    platform = draw(st.sampled_from(MAKERS[which][1]))
    if draw(st.integers(0, 9)) == 0:
        platform = draw(st.sampled_from(sorted(VMMS)))
    return blob, platform, draw(st.sampled_from(VMMS[platform]))


def _set_field(draw: st.DrawFn, made: bytearray, low: int, high: int) -> None:
    form, most = draw(fields)
    size = struct.calcsize(form)
    if high - low >= size:
        offset = draw(st.integers(low, high - size))
        if draw(st.integers(0, 4)):
            offset -= offset % size  # where fields are
        struct.pack_into(form, made, max(offset, low), draw(edges) & most)


def _splice(draw: st.DrawFn, made: bytearray, end: int) -> None:
    """Put in, or put in place of something, a part of another file."""
    other = draw(st.integers(0, len(FILES) - 1))
    start = draw(st.integers(0, STARTS[other] // 8)) * 8
    part = FILES[other][start : start + 8 * draw(st.integers(0, 16))]
    at = draw(st.integers(0, end))
    at -= at % 8
    made[at : at + (len(part) if draw(st.booleans()) else 0)] = part


def _right_size(blob: bytes) -> bytes:
    """The file with the total size that it has."""
    made = bytearray(blob)
    if len(made) >= 20:
        struct.pack_into("<I", made, 16, len(made))
    return bytes(made)


def _is_slow(blob: bytes) -> bool:
    """Whether a parameter area is so large that its import takes long, and not too large."""
    if len(blob) < 24:
        return False
    offset, size = struct.unpack_from("<II", blob, 8)
    end = min(offset + size, len(blob))
    while offset + 16 <= end:
        kind, length = struct.unpack_from("<II", blob, offset)
        (wide,) = struct.unpack_from("<Q", blob, offset + 8)
        if kind & ~OPTIONAL == PARAMETER_AREA and wide in SLOW:
            return True
        offset += 8 + length + -length % 8
    return False


def read(blob: bytes) -> None:
    """Read the file as a program would; what it is refused for says where."""
    made = Blob("fuzz.igvm", memoryview(blob))
    refused: CvmplanError | None = None
    try:
        if reader.recognises(made):
            reader.inspect(made)
    except CvmplanError as error:
        refused = error
    assert refused is None or (refused.at.startswith("fuzz.igvm") and str(refused))


def launched(verb: str, blob: bytes, platform: str, vmm: str) -> None:
    """Run a verb on the file as a user would."""
    result = run(verb, "-", "--platform", platform, "--vmm", vmm, stdin=blob)
    assert result.code in CODES, f"{result}"
    assert "Traceback" not in result.out + result.err
    if verb == "measure":
        assert (result.code == 0) == bool(result.out), f"{result}"
    assert result.out or result.err.startswith("error: "), f"{result}"


@quick
@given(rest=st.binary(max_size=200), version=st.sampled_from((0, 1, 2, 3)))
def test_any_bytes_behind_the_magic_are_read_or_refused(rest: bytes, version: int) -> None:
    read(b"IGVM" + rest)
    read(with_checksum(_right_size(b"IGVM" + struct.pack("<II", version, 24) + rest)))


@quick
@given(blob=framed())
def test_any_headers_are_read_or_refused(blob: bytes) -> None:
    read(blob)


@quick
@given(blob=mutated())
def test_any_change_of_a_good_file_is_read_or_refused(blob: bytes) -> None:
    read(blob)


@quick
@given(launch=launches())
def test_any_file_is_measured_or_refused(launch: tuple[bytes, str, str]) -> None:
    assume(not _is_slow(launch[0]))
    launched("measure", *launch)


@quick
@given(launch=launches())
def test_any_file_is_checked_or_refused(launch: tuple[bytes, str, str]) -> None:
    assume(not _is_slow(launch[0]))
    launched("check", *launch)
