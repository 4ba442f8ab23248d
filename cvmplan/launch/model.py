"""
One launch, with everything decided that its operations depend on.

`Image` is what a firmware file declares for one platform, `Guest` the settings of the
virtual machine, `Launch` both together with the VMM's profile and the kernel's interface.
Planners take a Launch and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, NamedTuple, Protocol

from cvmplan.core.blob import Blob
from cvmplan.core.findings import Finding
from cvmplan.core.platform import Platform
from cvmplan.core.records import Frozen, record
from cvmplan.kvm.interface import Abi
from cvmplan.launch.given import Given
from cvmplan.launch.guest import Guest
from cvmplan.memory.gpamap import Limits, Memory
from cvmplan.memory.regions import Region
from cvmplan.profiles import Profile


class Opener(Protocol):
    """
    Opens an input of a role; `beside` is the document that names it, if one does.

    `searched`: the path is of another machine, and the file is looked for here.
    """

    def __call__(
        self, path: str, role: str, beside: str | None = None, *, searched: bool = False
    ) -> Blob:
        """Return the bytes of `path`; InputError, ConfigError."""


class Image(NamedTuple):
    """
    What a firmware file declares for one platform.

    `regions` in the order of its tables; `reset_eip` is where application processors
    start, `hash_table` the (gpa, size) of the SEV hash table, None where the file has none;
    `sections` are all TDX sections, those that take no memory included;
    `legacy_pointer`: they were found without a GUID table.
    An IGVM file also has `states` of vCPUs, `registers` of VBS (VTL, and name and 16-byte
    value of each), guest `policies`, ID blocks, (gpa, size, origin) of memory that it
    requires, and the `names` of its other headers, each with the first one's place;
    `all_names` are those of other platforms as well.
    """

    blob: Blob
    regions: tuple[Region, ...]
    findings: tuple[Finding, ...] = ()
    reset_eip: int | None = None
    hash_table: tuple[int, int] | None = None
    sections: tuple[TdxSection, ...] = ()
    legacy_pointer: bool = False
    format: str = ""
    states: tuple[VpState, ...] = ()
    registers: tuple[tuple[int, tuple[tuple[int, bytes], ...]], ...] = ()
    policies: tuple[int, ...] = ()
    id_blocks: tuple[IdBlock, ...] = ()
    required: tuple[tuple[int, int, str], ...] = ()
    names: Mapping[str, str] = {}
    all_names: Mapping[str, str] = {}


class VpState(NamedTuple):
    """The initial state of one vCPU: a VMSA of 4096 bytes, and the address that it gives."""

    vp_index: int
    gpa: int
    page: bytes
    at: str


class IdBlock(NamedTuple):
    """The ID block of an IGVM file: the digest that it promises, 48 bytes, and all fields."""

    ld: bytes
    at: str
    fields: Mapping[str, Any] = {}


class TdxSection(NamedTuple):
    """What loaders look at in a TDX section: `raw_size` bytes at `data_offset` of the file."""

    number: int
    type: int
    data_offset: int
    raw_size: int
    at: str


class Declared(NamedTuple):
    """
    What a document says; `settings` by their names.

    `firmware` is the file, None where there is none.  Of a launch description `places` says where
    it has each setting, `reads` which options it was read with, and `uncovered` what it says beside
    the measurement.
    """

    settings: Given
    regions: tuple[Region, ...] = ()
    memory: Memory = Memory()
    firmware: Blob | None = None
    findings: tuple[Finding, ...] = ()
    places: Mapping[str, str] = {}
    reads: tuple[str, ...] = ()
    uncovered: tuple[str, ...] = ()


@record
class Launch(Frozen):
    """
    Everything that decides the operations of one launch.

    `name` is the image's, for messages.  `regions` are in launch order, page types not yet
    decided; `hash_table` are the bytes of the SEV hash table when a kernel is booted directly.
    `places` says where a launch description has what is given.
    """

    platform: Platform
    name: str
    profile: Profile
    abi: Abi
    guest: Guest
    regions: tuple[Region, ...]
    image: Image | None = None
    hash_table: bytes | None = None
    memory: Memory = field(default_factory=Memory)
    findings: tuple[Finding, ...] = ()
    given: Given = field(default_factory=Given)
    assumed: Given = field(default_factory=Given)
    places: Mapping[str, str] = field(default_factory=dict)


class Layout(NamedTuple):
    """What a planner makes of a launch before anything is compared: typed regions and findings."""

    regions: tuple[Region, ...]
    limits: Limits
    findings: tuple[Finding, ...] = ()
