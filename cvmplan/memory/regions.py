"""Regions of guest memory: what an image says about them; valid only once a map holds them."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from cvmplan.core.blob import Blob
from cvmplan.core.places import Place
from cvmplan.core.records import Frozen, record
from cvmplan.core.values import PAGE
from cvmplan.memory.contents import Contents

NOT_ADDED = frozenset(
    {"augmented", "shared", "inaccessible"}
)  # page types that are not added before the start

# Flags of an IGVM file's pages, in Region.kind.  Source: microsoft/igvm e6c3ff1, IgvmPageDataFlags.
IS_2MB, UNMEASURED, SHARED = 1, 2, 4


class Role(StrEnum):
    """What an image says that a region is for; the VMM profile decides what follows."""

    FIRMWARE = "firmware"
    SEC_MEM = "sec-mem"
    SECRETS = "secrets"
    CPUID = "cpuid"
    SVSM_CAA = "svsm-caa"
    KERNEL_HASHES = "kernel-hashes"
    VARIABLES = "variables"
    SVSM = "svsm"
    BFV = "bfv"
    CFV = "cfv"
    TD_HOB = "td-hob"
    TEMP_MEM = "temp-mem"
    PERM_MEM = "perm-mem"
    PAYLOAD = "payload"
    PAYLOAD_PARAM = "payload-param"
    PAGE = "page"  # these are an IGVM file's
    EMPTY_PAGE = "empty-page"
    UNMEASURED = "unmeasured"
    CPUID_XF = "cpuid-xf"
    INSERT = "insert"
    ERROR_RANGE = "error-range"
    VP_CONTEXT = "vp-context"
    OTHER_CONTEXT = "other-context"  # of another platform of the file
    REGION = "region"  # a manifest names the page type itself
    VMSA = "vmsa"  # the pages that KVM adds for the vCPUs, all at one address
    UNKNOWN = "unknown"


class Rows(NamedTuple):
    """The headers that declare a region: the first one's number and offset, bytes a page."""

    file: str
    name: str
    number: int
    offset: int
    each: int

    def at(self, page: int) -> Place:
        """Name the header of page number `page` of the region."""
        number = self.number + (page if self.each else 0)
        offset = self.offset + page * self.each
        text = f"{self.file}: header {number} {self.name} (+{offset:#x})"
        return Place(text, self.file, offset=offset, length=self.each or None)


@record
class Region(Frozen):
    """
    Guest-physical bytes [gpa, gpa + size) as an image declares them.

    `page_type` is set where the image names it, else the VMM profile decides by `role`;
    `origin` names the owner in messages ("OVMF.fd: SEV metadata section 3"); `at` is the
    place of the declaration in its file.  `rows` are the headers where each page may have
    its own, `kind` (mask, flags, data type) what else makes them alike; `added` are the
    bytes that are added where that is less than the whole.
    """

    gpa: int
    size: int
    role: Role
    origin: str
    page_type: str | None = None
    contents: Contents | None = None
    at: str = ""
    rows: Rows | None = None
    kind: tuple[int, ...] = ()
    added: int | None = None

    @property
    def added_size(self) -> int:
        """The bytes that are added."""
        return self.size if self.added is None else self.added

    def owner(self, page: int) -> str:
        """Name the owner of the page at address `page`, a Place where its declaration has one."""
        if self.rows:
            return self.rows.at((page - self.gpa) // PAGE)
        if isinstance(self.at, Place):
            return self.at.named(self.origin)
        if isinstance(self.contents, Blob):  # the file itself
            where = self.contents.where(0, len(self.contents))
            return where.named(self.origin)
        return self.origin

    @property
    def end(self) -> int:
        """The address after the last byte."""
        return self.gpa + self.size

    @property
    def first_page(self) -> int:
        """The address of the page that holds the first byte."""
        return self.gpa - self.gpa % PAGE

    @property
    def end_page(self) -> int:
        """The address after the page that holds the last byte."""
        return -(-self.end // PAGE) * PAGE

    @property
    def is_mapped(self) -> bool:
        """Whether the pages exist in the guest when it is finalized."""
        return self.page_type not in NOT_ADDED
