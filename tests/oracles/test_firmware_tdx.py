"""The model of the TDX module against measurements made by others, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.oracles import vector
from tests.oracles.firmware import CHUNK, PAGE, FakeTdxModule, Refused

BLANK = bytes(PAGE)


def td(*gpas: int, gpaw: int = 48) -> FakeTdxModule:
    """A TD with a vCPU and the tables for these pages."""
    fake = FakeTdxModule(gpaw)
    fake.mng_init()
    fake.vp_init()
    levels = (3, 2, 1) if gpaw == 48 else (4, 3, 2, 1)
    for level in levels:
        region = 1 << (12 + 9 * level)
        for start in sorted({gpa - gpa % region for gpa in gpas}):
            fake.mem_sept_add(level, start)
    return fake


def extend_page(fake: FakeTdxModule, gpa: int) -> None:
    """Measure the sixteen chunks of one page."""
    for chunk in range(gpa, gpa + PAGE, CHUNK):
        fake.mr_extend(chunk)


def final(fake: FakeTdxModule) -> str:
    """The measurement."""
    fake.mr_finalize()
    return fake.digest.hex()


# Zero pages: what is done to which, and the measurement.
TDX_ANSWERS = {
    "nothing": (
        (),
        (
            "38b060a751ac96384cd9327eb1b1e36a21fdb71114be0743"
            "4c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b"
        ),
    ),
    "page_0_added": (
        (("add", 0),),
        (
            "8f3e9a8aca6784eab874f7aa4dda5d49104a88047f1f8669"
            "5ef2a88f5691a90e34aac48ce45ffa1f5a23c7d62980d570"
        ),
    ),
    "last_page_below_4_gib_added": (
        (("add", 0xFFFFF000),),
        (
            "8d411e4377a0da03b249acbe9a7939b44b4483b5a6c81341"
            "f00d60c1f417257f9a5c1c03f2f223c59f010f4933f238b8"
        ),
    ),
    "page_1_added_and_extended": (
        (("add", 0x1000), ("extend", 0x1000)),
        (
            "ca76d5541328afef8bc9364261c515aebef90412ebc56ca0"
            "c2260ec531a14462cfc0c11de61d84292ddf8ca871da1ff1"
        ),
    ),
    "two_pages_one_by_one": (
        (("add", 0x1000), ("extend", 0x1000), ("add", 0x2000), ("extend", 0x2000)),
        (
            "508b70bad4fd50c40215289f26c3d63d5fd8eb0da77af6fc"
            "ea87c02ad69921a748b8e85ac4443cd21140a60d5c564ca8"
        ),
    ),
    "two_pages_added_before_either_is_extended": (
        (("add", 0x1000), ("add", 0x2000), ("extend", 0x1000), ("extend", 0x2000)),
        (
            "ced6957785815eb8ae20f66a11e0ddb16795e0d4d5157f3d"
            "6da65c7b82edca5fcce42687ce81097f31e8a02e93334485"
        ),
    ),
}


@pytest.mark.parametrize("gpaw", [48, 52])
@pytest.mark.parametrize(("ops", "digest"), TDX_ANSWERS.values(), ids=TDX_ANSWERS)
def test_zero_pages(ops: tuple[tuple[str, int], ...], digest: str, gpaw: int) -> None:
    fake = td(*(gpa for _, gpa in ops), gpaw=gpaw)
    for op, gpa in ops:
        if op == "add":
            fake.mem_page_add(gpa, BLANK)
        else:
            extend_page(fake, gpa)
    assert final(fake) == digest


def test_pages_of_igvmfilegen() -> None:
    reset = vector("tdx/igvmfilegen-reset_page.bin").ljust(PAGE, b"\0")
    numbered = bytes([0, 5]).ljust(PAGE, b"\0")
    pages = {0: numbered} | dict.fromkeys(range(1, 10), BLANK) | {10: numbered, 0xFFFFF: reset}
    fake = td(*(number * PAGE for number in pages))
    for number, page in pages.items():
        fake.mem_page_add(number * PAGE, page)
        if number not in range(5, 10):
            extend_page(fake, number * PAGE)
    assert final(fake) == (
        "c8892e2858dae7075ae77df712f3299e2051311ea8a3dc1d"
        "d83497a4ff195800f63e938c22c946592220efb64da960eb"
    )


def test_sections_of_a_firmware_page_by_page() -> None:
    image = vector("tdx/mini-guid.fd")
    fake = td(0xFFFFC000, 0x800000)
    for gpa, offset, end in ((0xFFFFD000, 0x1000, 0x4000), (0xFFFFC000, 0, 0x1000)):
        for page in range(0, end - offset, PAGE):
            fake.mem_page_add(gpa + page, image[offset + page : offset + page + PAGE])
            if offset == 0x1000:
                extend_page(fake, gpa + page)
    for gpa in (0x810000, 0x811000, 0x809000):
        fake.mem_page_add(gpa, BLANK)
    assert final(fake) == (
        "911cef10c4df517531891c7877a9cb2b7570cb304e679817"
        "09483ebf3986da66de3dbd577134185099bcc49a1c6f9162"
    )


TDX_REFUSED: dict[str, Callable[[FakeTdxModule], None]] = {
    "page_added_twice": lambda m: m.mem_page_add(0x1000, BLANK),
    "page_added_without_its_table": lambda m: m.mem_page_add(0x200000, BLANK),
    "page_added_at_the_shared_bit": lambda m: m.mem_page_add(1 << 47, BLANK),
    "page_added_unaligned": lambda m: m.mem_page_add(0x2800, BLANK),
    "page_short": lambda m: m.mem_page_add(0x2000, BLANK[1:]),
    "extended_before_added": lambda m: m.mr_extend(0x2000),
    "extended_at_half_a_chunk": lambda m: m.mr_extend(0x1080),
    "table_added_twice": lambda m: m.mem_sept_add(1, 0),
    "table_added_without_its_parent": lambda m: m.mem_sept_add(1, 1 << 30),
    "table_added_unaligned": lambda m: m.mem_sept_add(1, 0x1000),
    "table_of_level_0": lambda m: m.mem_sept_add(0, 0x1000),
    "table_of_level_4_in_four_levels": lambda m: m.mem_sept_add(4, 0),
    "table_added_at_the_shared_bit": lambda m: m.mem_sept_add(3, 1 << 47),
    "initialised_twice": lambda m: m.mng_init(),
}


@pytest.mark.parametrize("command", TDX_REFUSED.values(), ids=TDX_REFUSED)
def test_tdx_module_refuses(command: Callable[[FakeTdxModule], None]) -> None:
    fake = td(0)
    fake.mem_page_add(0x1000, BLANK)
    with pytest.raises(Refused):
        command(fake)


def test_tdx_module_refuses_commands_out_of_order() -> None:
    fake = FakeTdxModule()
    early: list[Callable[[], None]] = [
        fake.vp_init,
        fake.mr_finalize,
        lambda: fake.mem_sept_add(3, 0),
        lambda: fake.mem_page_add(0, BLANK),
        lambda: fake.mr_extend(0),
    ]
    for command in early:
        with pytest.raises(Refused):
            command()
    fake.mng_init()
    with pytest.raises(Refused):
        fake.mr_finalize()  # no vCPU
    fake = td(0)
    fake.mem_page_add(0, BLANK)
    fake.mr_finalize()
    late: list[Callable[[], None]] = [
        fake.vp_init,
        fake.mr_finalize,
        lambda: fake.mem_page_add(0x1000, BLANK),
        lambda: fake.mr_extend(0),
    ]
    for command in late:
        with pytest.raises(Refused):
            command()


def test_a_chunk_extended_again_is_measured_again() -> None:
    fake, once = td(0), td(0)
    for module in (fake, once):
        module.mem_page_add(0, BLANK)
        module.mr_extend(0)
    fake.mr_extend(0)
    assert final(fake) != final(once)
