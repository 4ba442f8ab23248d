"""
Known answers made by other implementations, one a file in `vectors/`, whose name is its claim.

A file is a JSON object with these keys:

source      who computed the answer
input       {"file": relative to the folder `shared` beside the repository, or "name": of firmware
            that is looked for by its hash, "sha256": …}; absent: the example image
platform    what the input is launched as
args        a launch: the other options of the command line; or
operations  a few adds and extends: {"add" or "extend": page type, "gpa", "size", "contents":
            hex or "input", zeros where absent; "contents_sha384": in place of contents}
read        a launch: what is compared, one of READINGS; "measurement" where absent
commands    how many of these firmware commands the launch has
expected    the answer, in hex
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha384
from pathlib import Path
from typing import Any, Final

import pytest

from cvmplan.core.blob import Blob
from cvmplan.core.platform import Platform
from cvmplan.memory.contents import Contents, Made, Zeros
from cvmplan.operations.measure import measure
from cvmplan.operations.plan import MapMemory, Op, Plan
from cvmplan.platforms.snp import digest as snp_digest
from cvmplan.platforms.snp.ops import SnpLaunchFinish, SnpLaunchStart, SnpLaunchUpdate
from cvmplan.platforms.snp.steps import PageType
from cvmplan.platforms.tdx.ops import TdxAdd, TdxExtend, TdxFinalize, TdxInitVcpu, TdxInitVm
from tests.oracles import digest_of, firmware_image, shared
from tests.run import run

FOLDER: Final = Path(__file__).parent / "vectors"
FILES: Final = sorted(FOLDER.rglob("*.json"))
RDX: Final = 0x310  # in the VMSA: AMD 24593, APM volume 2, table B-4


@dataclass(frozen=True)
class Vector:
    """One file."""

    source: str
    platform: str
    expected: str
    input: dict[str, str] = field(default_factory=dict)
    args: tuple[str, ...] | None = None
    operations: tuple[dict[str, str], ...] | None = None
    read: str = "measurement"
    commands: dict[str, int] = field(default_factory=dict)

    def input_file(self) -> Path | None:
        """The input, None where it is the example image; skips where it is absent."""
        if not self.input:
            return None
        if "name" in self.input:
            return firmware_image(self.input["sha256"], self.input["name"])
        file = shared(self.input["file"])
        assert digest_of(file) == self.input["sha256"], f"{file} is another file"
        return file

    def command(self, verb: str, *more: str) -> str:
        """What `cvmplan verb` prints about the launch."""
        file = None if self.read == "vmsa" else self.input_file()
        image = [str(file)] if file else ["--example", "snp"]
        result = run(verb, *image, "--platform", self.platform, *(self.args or ()), *more)
        assert (result.code, result.err) == (0, "")
        return result.out

    def document(self) -> Any:
        """The plan of the launch."""
        return json.loads(self.command("plan", "--format", "json"))

    def plan(self) -> Plan:
        """The plan that consists of the operations."""
        file = self.input_file()
        data = file.read_bytes() if file else b""
        make = {"snp": snp_operations, "tdx": tdx_operations}[self.platform]
        return Plan(
            Platform(self.platform), "", "map-memory", tuple(make(self.operations or (), data))
        )


def read_vector(file: Path) -> Vector:
    """A file; TypeError where it has a key that there is not."""
    document = json.loads(file.read_text("utf-8"))
    for name in ("args", "operations"):
        if name in document:
            document[name] = tuple(document[name])
    return Vector(**document)


# --- launches ----------------------------------------------------------------------------------


def measurement(vector: Vector) -> str:
    """The launch digest, MRTD, or digest of SEV."""
    return vector.command("measure", "--bare")


def digest_after_firmware(vector: Vector) -> str:
    """The SNP launch digest when no more than the firmware was added."""
    adds = [op for op in vector.document()["ops"] if op["op"] == "snp-launch-update"]
    assert adds[0]["source"]["length"] == int(adds[0]["size"], 0)
    return str(adds[0]["digest_after"])


def boot_vmsa(vector: Vector) -> bytes:
    """The VMSA of vCPU 0."""
    finish = vector.document()["ops"][-1]
    assert finish["vmsas"][0]["vcpus"] == "0"
    return bytes.fromhex(finish["vmsas"][0]["hex"]).ljust(0x1000, b"\0")


def vmsa(vector: Vector) -> str:
    """The hash of the VMSA of vCPU 0, whose bytes are the input's."""
    page = boot_vmsa(vector)
    file = vector.input_file()
    assert file is None or page == file.read_bytes()
    return sha384(page).hexdigest()


def rdx(vector: Vector) -> str:
    """What vCPU 0 has in RDX, where KVM puts the CPU's signature."""
    return f"{int.from_bytes(boot_vmsa(vector)[RDX : RDX + 8], 'little'):x}"


READINGS: Final[dict[str, Callable[[Vector], str]]] = {
    "measurement": measurement,
    "digest after firmware": digest_after_firmware,
    "vmsa": vmsa,
    "rdx": rdx,
}


# --- a few operations --------------------------------------------------------------------------


def contents_of(operation: dict[str, str], data: bytes) -> Contents:
    """What the pages of one operation hold, `data` being the input."""
    written = operation.get("contents")
    if written is None:
        return Zeros()
    if written == "input":
        return Blob("input", memoryview(data))
    return Made(bytes.fromhex(written))


def range_of(operation: dict[str, str]) -> tuple[int, int]:
    """Address and size."""
    return int(operation["gpa"], 0), int(operation["size"], 0)


def snp_operations(operations: tuple[dict[str, str], ...], data: bytes) -> Iterator[Op]:
    """A launch without vCPUs."""
    yield SnpLaunchStart(0x30000)
    for operation in operations:
        page_type = PageType[operation["add"].upper()]
        yield SnpLaunchUpdate(*range_of(operation), page_type, contents_of(operation, data))
    yield SnpLaunchFinish(())


def tdx_operations(operations: tuple[dict[str, str], ...], data: bytes) -> Iterator[Op]:
    """A TD with one vCPU, each page mapped just before it is added."""
    yield TdxInitVm(0, 0)
    yield TdxInitVcpu(1, 0)
    for operation in operations:
        gpa, size = range_of(operation)
        contents = contents_of(operation, data)
        if "extend" in operation:
            yield TdxExtend(gpa, size)
        else:
            yield MapMemory(gpa, size)
            yield TdxAdd(gpa, size, operation["add"] == "measured", contents)
    yield TdxFinalize()


def of_operations(vector: Vector) -> str:
    """The measurement of the operations; of one page known only by the hash of its contents."""
    assert vector.operations is not None
    for operation in vector.operations:
        if "contents_sha384" in operation:
            contents = bytes.fromhex(operation["contents_sha384"])
            middle = contents + snp_digest._tail(PageType.NORMAL)
            gpa, _ = range_of(operation)
            return snp_digest._chain_equal(snp_digest.NO_CONTENTS, middle, [gpa]).hex()
    return measure(vector.plan()).digest.hex()


# --- tests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=[str(f.relative_to(FOLDER))[:-5] for f in FILES])
def test_known_answer(file: Path) -> None:
    vector = read_vector(file)
    assert (vector.args is None) != (vector.operations is None)
    if vector.operations is not None:
        assert of_operations(vector) == vector.expected
    else:
        assert READINGS[vector.read](vector) == vector.expected


COUNTED: Final = [f for f in FILES if '"commands"' in f.read_text("utf-8")]


@pytest.mark.parametrize("file", COUNTED, ids=[str(f.relative_to(FOLDER))[:-5] for f in COUNTED])
def test_launch_has_the_known_number_of_commands(file: Path) -> None:
    vector = read_vector(file)
    if vector.operations is not None:
        steps = [c for step in vector.plan().trace() for c in step.commands()]
        found = Counter(step.command for step in steps)
    else:
        lines = vector.command("trace", "--format", "jsonl").splitlines()
        found = Counter(json.loads(line)["command"] for line in lines)
    assert {name: found[name] for name in vector.commands} == vector.commands


# Answers that are no launch measurement, and the tests that have them.
ELSEWHERE: Final = {
    "idblock/": "test_idblock.py", "sev/launch_measure_hmac": "test_session.py",
    "event digest ": "test_events.py", "quote fields ": "test_evidence.py",
}  # fmt: skip
NOT_YET: Final = ("[global2]", "RTMR0 ")  # what is not planned: registers that firmware extends


@pytest.mark.parametrize("platform", ["snp", "tdx"])
def test_every_answer_of_the_peers_that_is_in_scope_has_a_file(platform: str) -> None:
    answers = json.loads(shared(f"vectors/{platform}/vectors.json").read_text("utf-8"))
    ours = {read_vector(file).expected for file in FILES}
    missing = [a["name"] for a in answers if a["expected_hex"] not in ours]
    assert [
        name for name in missing if not any(part in name for part in (*ELSEWHERE, *NOT_YET))
    ] == []
