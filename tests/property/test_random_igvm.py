"""
Random IGVM files, under every loader against the model of `tests.oracles.igvm`.

A few in the suite; CVMPLAN_RANDOM=1000 makes as many as it says.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from random import Random
from typing import Final

from tests.build.igvm import (
    CPUID_DATA,
    KVM_VMSA,
    NORMAL,
    PAGE,
    SECRETS,
    SEV_ES,
    SEV_SNP,
    SHARED,
    UNMEASURED,
    Igvm,
    filling,
    vmsa,
)
from tests.oracles.igvm import CURRENT, KVM, LOADERS, Item, digest
from tests.run import run

COUNT: Final = int(os.environ.get("CVMPLAN_RANDOM", "40"))
ODD: Final = {"virtual_tom": 0x3C8, "xss": 0x140, "dr7": 0x160, "cr2": 0x240}


def state(random: Random) -> bytes:
    """Return a VMSA with random values in all that loaders set, some of them beyond that."""
    page = bytearray(vmsa())
    for offset in range(0, 0xA0, 0x10):
        if random.random() < 0.3:
            limit = random.getrandbits(16 if offset in (0x60, 0x80) else 32)
            attributes = random.getrandbits(12) if offset not in (0x60, 0x80) else 0
            selector = random.getrandbits(16) if offset not in (0x60, 0x80) else 0
            base = random.getrandbits(48)
            struct.pack_into("<HHIQ", page, offset, selector, attributes, limit, base)
    for offset in (0xD0, 0x148, 0x150, 0x158, 0x168, 0x170, 0x178, 0x1D8, 0x1F8, 0x268, 0x3E8,
                   *range(0x308, 0x320, 8), *range(0x328, 0x380, 8)):  # fmt: skip
        if random.random() < 0.5:
            struct.pack_into("<Q", page, offset, random.getrandbits(32))
    if random.random() < 0.5:
        struct.pack_into("<I4xH", page, 0x408, random.getrandbits(16), random.getrandbits(16))
    if random.random() < 0.2:
        struct.pack_into("<Q", page, random.choice(list(ODD.values())), 1)
    return bytes(page)


def drawn(random: Random) -> list[Item]:
    """Return the headers of a file: pages and inserts at free addresses, states anywhere."""
    items: list[Item] = []
    gpa = PAGE * random.randint(1, 64)
    cpuid = random.random() < 0.5
    for _ in range(random.randint(0, 12)):
        if random.random() < 0.2:
            pages = random.randint(1, 3)
            items.append(Item("insert", gpa, pages=pages))
        else:
            data = filling(f"{random.random()}") if random.random() < 0.7 else None
            flags = random.choice((0, 0, 0, UNMEASURED, SHARED))
            types = (NORMAL,) * 6 + (SECRETS, CPUID_DATA if cpuid else SECRETS)
            data_type = random.choice(types) if not flags else NORMAL
            items.append(Item("page", gpa, data, flags, data_type))
        gpa += PAGE * random.choice((3, 3, 4, 1 if items[-1].pages == 1 else 3))
    if random.random() < 0.4:
        random.shuffle(items)
    ends = random.random() < 0.8
    here = KVM_VMSA if ends else gpa
    if random.random() < 0.95:
        at = len(items) if random.random() < 0.8 else random.randint(0, len(items))
        items.insert(at, Item("state", here, state(random)))
    if random.random() < 0.2:
        items.append(Item("other", gpa + PAGE, vmsa(sev_features=0)))
    if random.random() < 0.3 and here == KVM_VMSA:
        items += [Item("state", here, state(random)) for _ in range(random.randint(0, 2))]
    return items


def built(items: list[Item]) -> bytes:
    """Return the file of these headers; each insert has an area of its own."""
    file = Igvm(version=2).platform(SEV_SNP, 1).platform(SEV_ES, 2).policy(0x30000, 1)
    inserts = [i for i in items if i.kind == "insert"]
    for number, item in enumerate(inserts):
        file = file.area(number, item.pages * PAGE)
    vcpu = 0
    for item in items:
        if item.kind == "insert":
            file = file.insert(item.gpa, inserts.index(item), 1)
        elif item.kind == "page":
            file = file.page(item.gpa, item.data, 1, flags=item.flags, data_type=item.data_type)
        elif item.kind == "other":
            file = file.vp_context(item.gpa, item.data, 2)
        else:
            file = file.vp_context(item.gpa, item.data, 1, vp_index=vcpu)
            vcpu += 1
    return file.build()


def import_repeats(items: list[Item]) -> bool:
    """Whether several states have one address: an import takes a page once, KVM does not ask."""
    return sum(i.kind == "state" for i in items) > 1


def test_random_igvm_files_measure_as_the_model_says(tmp_path: Path) -> None:
    path = tmp_path / "image.igvm"
    launched = 0
    for number in range(COUNT):
        random = Random(f"igvm {number}")  # noqa: S311 launches are drawn, no keys
        items = drawn(random)
        path.write_bytes(built(items))
        states = sum(i.kind == "state" for i in items)
        vcpus = max(states, 1) + random.choice((0, 0, 1, 3))
        measured: dict[str, str] = {}
        for loader in LOADERS:
            if loader not in KVM and import_repeats(items):
                continue
            abi = ("--abi", "kvm-7.3") if loader in KVM else ()
            options = ("--platform", "snp", "--vmm", loader, "--vcpus", str(vcpus), *abi)
            ours = run("measure", str(path), *options, "--bare")
            wanted = digest(loader, items, vcpus)
            assert (number, loader, ours.out) == (number, loader, wanted or ""), ours.err
            assert ours.code == (0 if wanted else 1)
            if wanted:
                measured[loader] = wanted
                launched += 1
        if measured and not import_repeats(items):
            assert_portable_groups(path, vcpus, measured)
    assert launched > 5 * COUNT


def assert_portable_groups(path: Path, vcpus: int, measured: dict[str, str]) -> None:
    """`check` groups the loaders of today as their digests do, and names those that refuse."""
    digests = {loader: value for loader, value in measured.items() if loader in CURRENT}
    options = ("--platform", "snp", "--vmm", "igvmmeasure", "--vcpus", str(vcpus))
    found = json.loads(run("check", str(path), *options, "--format", "json").out)["findings"]
    message = next(
        f["message"] for f in found if f["rule"] == "portable" and "loaders" in f["message"]
    )
    named = message.partition("measure alike: ")[2].partition(";")[0]
    groups = {frozenset(g.split(", ")) for g in named.split(" | ")} if named else set()
    wanted = {
        frozenset(name for name, value in digests.items() if value == each)
        for each in set(digests.values())
    }
    if len(wanted) > 1:
        assert groups == wanted, message
    else:
        assert not groups, message
    refusing = [loader for loader in CURRENT if loader not in digests]
    assert all(f"{loader}" in message.rpartition("; ")[2] for loader in refusing), message
    if not refusing and len(wanted) == 1:
        assert message == "all loaders compute one digest for this file"
