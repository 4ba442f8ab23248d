"""
Where a VMM's machine has its memory, as data: RAM around 4 GiB, firmware, and what lies over RAM.

A profile names its machine (`Profile.machine`).  Without one, or without a size of RAM, a plan
has the minimal layout: the fewest memslots that hold its pages.

Sources: qemu hw/i386/pc_q35.c pc_q35_init, hw/i386/pc.c pc_memory_init, hw/i386/x86-common.c
x86_bios_rom_init, accel/kvm/kvm-all.c kvm_set_phys_mem; calls of QEMU 10.0.13 and 11.1.3
recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from cvmplan.core.errors import ConfigError, UnsupportedError
from cvmplan.core.platform import SEV, SEV_ES, SNP, TDX, Platform
from cvmplan.memory.machine import MachineMemory, Shown

GIB4: Final = 1 << 32
MINIMAL: Final = "minimal"
"""What the layout of a plan is called whose memory is not that of a machine."""
_RAM, _FIRMWARE = 0, 1  # blocks of memory
_UNITS: Final = "a number without a unit is bytes: 536870912 or 512M, 5G"


class Window(NamedTuple):
    """
    [start, end) where other memory lies over RAM when the guest runs.

    It is the end of the firmware once more, or where it is no `firmware` memory of its own.
    """

    start: int
    end: int
    firmware: bool = False


class Machine(NamedTuple):
    """
    A machine, and where it has its memory.

    low              RAM below 4 GiB at most, where all of it is there
    low_beside_high  RAM below 4 GiB where the rest is above
    most             address at which RAM above 4 GiB ends at the latest
    granule          of which the size of RAM is a multiple
    windows          platform to what lies over RAM; others are not known
    again            platforms on which the pages of an add are made private once more
    """

    name: str
    low: int
    low_beside_high: int
    most: int
    granule: int
    windows: Mapping[Platform, tuple[Window, ...]]
    again: tuple[Platform, ...] = ()

    def ram(self, size: int) -> tuple[tuple[int, int], ...]:
        """Return (address, bytes) of RAM, the lower first; UnsupportedError for too much of it."""
        low = min(size, self.low_beside_high if size >= self.low else self.low)
        if size - low > self.most - GIB4:
            hint = "AMD's hole below 1 TiB moves it"
            raise UnsupportedError(f"{size:#x} bytes of RAM", at="--memory", hint=hint)
        return ((0, low), (GIB4, size - low)) if size > low else ((0, low),)

    def memory(
        self, platform: Platform, size: int, firmware: int, *, readonly: bool
    ) -> MachineMemory:
        """
        Return the memory of a guest with `size` bytes of RAM; ConfigError, UnsupportedError.

        `firmware`: bytes of the file that ends at 4 GiB, 0 where there is none; `readonly`: the
        VM can have memslots that it may not write.
        """
        self._check(size)
        slots, at = [], 0
        for gpa, length in self.ram(size):
            slots.append(Shown(gpa, length, _RAM, at))
            at += length
        blocks = [size, firmware] if firmware else [size]
        if firmware:
            slots.append(Shown(GIB4 - firmware, firmware, _FIRMWARE))
        windows = [w for w in self.windows[platform] if firmware or not w.firmware]
        split: list[Shown] = []
        if windows:
            split += _pieces(slots[0].size, windows, blocks, readonly=readonly)
        blocks += [w.end - w.start for w in windows if not w.firmware]
        return MachineMemory(tuple(blocks), tuple(slots), tuple(split), platform in self.again)

    def _check(self, size: int) -> None:
        least = max((w.end for held in self.windows.values() for w in held), default=0)
        if size % self.granule:
            problem = f"{size:#x} bytes are not a multiple of {self.granule >> 10} KiB"
            raise ConfigError(problem, at="--memory", hint=_UNITS)
        if size <= least:
            problem = f"{size:#x} bytes: a {self.name} has more than {least:#x}"
            raise ConfigError(problem, at="--memory", hint=_UNITS)


def _pieces(
    low: int, windows: Iterable[Window], blocks: Sequence[int], *, readonly: bool
) -> Iterator[Shown]:
    """Yield RAM of `low` bytes with windows in it; a window other than firmware adds a block."""
    at, block = 0, len(blocks)
    for window in windows:
        size = window.end - window.start
        if window.firmware:
            size = min(size, blocks[_FIRMWARE])
        start = window.end - size
        if at < start:
            yield Shown(at, start - at, _RAM, at)
        if window.firmware:
            yield Shown(start, size, _FIRMWARE, blocks[_FIRMWARE] - size)
        else:
            yield Shown(start, size, block, readonly=readonly)
            block += 1
        at = window.end
    yield Shown(at, low - at, _RAM, at)


_ROM: Final = Window(0xC0000, 0xE0000)
_BIOS: Final = Window(0xE0000, 0x100000, firmware=True)
Q35: Final = Machine(
    name="q35",
    low=0xB0000000,
    low_beside_high=0x80000000,
    most=1 << 40,
    granule=0x2000,
    windows={SNP: (_ROM,), TDX: (), SEV: (_ROM, _BIOS), SEV_ES: (_ROM, _BIOS)},
    again=(SNP,),
)
MACHINES: Final = {machine.name: machine for machine in (Q35,)}
