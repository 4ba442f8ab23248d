"""
Findings, and the catalogue of rules: every check's name, severity and explanation.

A finding says that something in a launch is wrong, doubtful or worth knowing.  Rule names
are stable; what prints them ('cvmplan rules') reads this table.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, Final, NamedTuple

from cvmplan.core.documented import as_document, summary
from cvmplan.core.records import Frozen, record
from cvmplan.core.values import PAGE, write_span


class Rule(NamedTuple):
    """How grave a finding is ("error", "warning", "note"), and what it means."""

    severity: str
    explanation: str


RULES: Final[dict[str, Rule]] = {
    "gpa-mapped-twice": Rule(
        "error", "Two regions map the same 4 KiB page; firmware adds each page only once."
    ),
    "gpa-unaligned": Rule("error", "The start of a region is not aligned to 4 KiB."),
    "size-unaligned": Rule("error", "The size of a region is not a multiple of 4 KiB."),
    "gpa-wraps": Rule("error", "A region ends beyond its address space."),
    "gpa-out-of-range": Rule(
        "error",
        "A page is outside the guest-physical addresses that the platform can make private: "
        "TDX: GPAW, with the shared bit clear; SNP: the 52-bit physical width, with the C-bit "
        "clear if its position is given.",
    ),
    "gpa-reserved": Rule(
        "error",
        "A region contains 0xfffffffff000, the address at which KVM measures the VMSA of every "
        "vCPU.",
    ),
    "outside-memory": Rule("error", "A page is mapped outside the guest memory."),
    "required-not-mapped": Rule(
        "error", "A page that must be mapped before the launch is not mapped."
    ),
    "empty-region": Rule("error", "A region has no pages."),
    "partial-page": Rule("error", "Contents do not fill whole pages, and no padding is given."),
    "metadata-count": Rule(
        "error",
        "The number of metadata sections is 0, more than 64, or does not match their length.",
    ),
    "metadata-past-end": Rule("error", "A metadata table extends beyond the end of the file."),
    "unknown-section": Rule(
        "error", "A metadata section has a type that its specification does not define."
    ),
    "hash-table-outside-page": Rule(
        "error",
        "The kernel-hashes table does not fit into the page that the metadata reserves for it, "
        "so a direct boot cannot be verified.",
    ),
    "secrets-not-one-page": Rule("error", "An SNP launch needs exactly one SECRETS page."),
    "cpuid-not-one-page": Rule("error", "An SNP launch needs exactly one CPUID page."),
    "ap-without-entry": Rule(
        "error", "The image does not define where application processors start."
    ),
    "raw-below-memory": Rule(
        "error",
        "A measured TDX section has fewer bytes in the file than in memory; VMMs disagree "
        "about the rest (zeros, or the file's next bytes).",
    ),
    "loader-refuses": Rule("error", "The VMM refuses to load this image."),
    "pflash": Rule("note", "The VMM cannot start this launch with its firmware as pflash."),
    "vmsa-count": Rule("warning", "The VMSA count does not match the vCPU count."),
    "pure-map-before-finalize": Rule(
        "error",
        "A page of a confidential VM is mapped before the guest is finalized, which released "
        "kernels refuse (EOPNOTSUPP); as a note: the kernel maps inside the call that adds.",
    ),
    "digest-differs": Rule(
        "error", "The calls produce a different measurement than their document states."
    ),
    "not-finalized": Rule(
        "error", "A recorded launch ends before it is finalized, so the guest never ran."
    ),
    "added-twice": Rule("error", "A recorded launch adds a page twice."),
    "maybe-added-twice": Rule(
        "warning",
        "A recorded launch repeats an add without the result of the first attempt.",
    ),
    "not-in-trace": Rule(
        "warning", "The form of a recorded launch does not show all that its calls asked for."
    ),
    "contents-differ": Rule(
        "error", "A recorded launch added other contents than the image has at that address."
    ),
    "state-differs": Rule(
        "error",
        "The registers of a vCPU at the end of a recording are not those that its calls have set.",
    ),
    "slot-crossed": Rule(
        "warning",
        "A range continues beyond the end of its memslot, where kernels stop without an error; "
        "the rest needs a separate call.",
    ),
    "page-backs-two-gpas": Rule(
        "error", "One page of a guest_memfd is bound at two guest-physical addresses."
    ),
    "mask-undeclared": Rule(
        "warning", "An IGVM header names platforms that its file does not declare."
    ),
    "reserved-flags": Rule("warning", "An IGVM page header sets reserved flag bits."),
    "non-zero-padding": Rule("warning", "Reserved bytes are not zero."),
    "no-file-data": Rule("warning", "An IGVM file has no data: all pages are empty."),
    "relocatable": Rule("note", "An IGVM region may be loaded at a different address."),
    "host-cpu": Rule(
        "error",
        "The CPU model is that of the host, or none is named; its signature is measured.",
    ),
    "kernel-hashes-off": Rule("warning", "A kernel is given, and its hashes are not measured."),
    "nr-cpus": Rule(
        "warning", "The command line has nr_cpus= with a different number than there are vCPUs."
    ),
    "trailing-blank": Rule("warning", "The command line ends in white space, which is measured."),
    "unquoted-line": Rule(
        "warning", "A command line is read from words without quotes, so its parts are not certain."
    ),
    "required-memory": Rule("note", "Memory that an IGVM file requires."),
    "id-block-mismatch": Rule(
        "error",
        "The ID block is for a different launch digest or policy, so firmware refuses the launch.",
    ),
    "large-page": Rule("error", "The loader adds only the first 4 KiB of a 2 MiB page."),
    "portable": Rule("note", "Whether all loaders compute the same digest for this IGVM file."),
    "policy-mask": Rule(
        "error",
        "The guest policy has bits that firmware or kernel refuse, or lacks one that must be set; "
        "as a note: it has a bit that only some firmware takes.",
    ),
    "id-block-incomplete": Rule(
        "error",
        "An ID block without its ID authentication, or the reverse: neither starts; as a warning: "
        "an author key is enabled without an ID block, which has no effect.",
    ),
    "no-vcpu-state": Rule(
        "error", "The image has no initial vCPU state, and the loader does not provide one."
    ),
    "no-reset-vector": Rule(
        "warning",
        "No page is added at 0xfffff000, where the vCPUs of a TD start, so it never runs.",
    ),
    "kernel-not-hashed": Rule(
        "error",
        "The VMM does not hash this kernel format, and exits if kernel hashes are required.",
    ),
    "kernel-hashes-not-measured": Rule(
        "warning",
        "The VMM writes the kernel hashes into guest memory, and the firmware's metadata has no "
        "section for them: they are not added, so the measurement does not cover the kernel.",
    ),
    "not-checked": Rule("note", "The interface may refuse this; it is not modelled."),
    "sev-features": Rule(
        "warning",
        "SEV_FEATURES that no kernel sets: SNP active (bit 0) belongs to SNP guests, all of them "
        "and no others; an error where the kernel interface refuses them, a note where only some "
        "hosts offer them.",
    ),
    "policy-debug": Rule("warning", "The guest policy lets the host read the guest's memory."),
    "firmware-for-other-platform": Rule(
        "warning",
        "The firmware contains metadata of this platform but was built for a different one.",
    ),
    "order-differs": Rule(
        "note",
        "VMM generations add and extend TDX pages in different orders, and each order has "
        "its own MRTD; nothing in firmware or quote tells which was used.",
    ),
    "unmeasured-contents": Rule(
        "note", "The host chooses the contents of these pages; only address and type are measured."
    ),
    "two-megabyte-neighbour": Rule(
        "note",
        "Planned pages share a 2 MiB block with a page that is mapped before them: a kernel "
        "that mapped the block at once would have covered them too early.",
    ),
    "td-attributes": Rule(
        "error",
        "The kernel or the TDX module refuses these ATTRIBUTES: bits that it lacks, or that "
        "exclude each other; as a note: only some modules take them.",
    ),
    "td-xfam": Rule(
        "error",
        "The kernel or the TDX module refuses this XFAM: X87 and SSE are always set, and AVX-512, "
        "CET and AMX each go as a whole; as a note: only some hosts have these states.",
    ),
    "td-max-vcpus": Rule(
        "error",
        "TD_PARAMS request no vCPU, or more than the module supports; as a note: only some "
        "modules support this many.",
    ),
    "platform-chosen": Rule(
        "note",
        "The image supports several platforms, and the launch has errors on all but one of them.",
    ),
    "td-l2-vms": Rule("error", "TD_PARAMS request more nested VMs than the TDX module supports."),
    "td-eptp-controls": Rule(
        "error",
        "The secure EPT is write-back, with a page walk of 4 or 5 levels; a guest address width "
        "of 52 needs 5.",
    ),
    "td-config-flags": Rule(
        "error", "CONFIG_FLAGS that the TDX module lacks, or that exclude each other."
    ),
    "td-tsc-frequency": Rule("error", "A TD's TSC runs at 100 MHz to 10 GHz."),
    "td-cpuid-config": Rule(
        "error", "TD_PARAMS have more CPUID configurations than the module's CPUID_CONFIG list."
    ),
    "td-params-reserved": Rule("error", "Bytes of TD_PARAMS that must be zero are not."),
    "td-arch-capabilities": Rule(
        "warning",
        "IA32_ARCH_CAPABILITIES_CONFIG counts only where MSR_CONFIG_CTLS bit 0 is set.",
    ),
    "measurement-differs": Rule(
        "error", "The launch does not have the measurement that a file of expectations states."
    ),
    "hash-differs": Rule("error", "A file does not have the hash that its document states."),
    "not-a-launch": Rule("error", "The operations of the launch are not a legal launch."),
    "wrong-setting": Rule(
        "error", "A setting is wrong or missing, so the launch is not known (exit code 2)."
    ),
    "not-readable": Rule("error", "A file cannot be read, or is malformed (exit code 3)."),
    "not-supported": Rule(
        "error", "A file is not recognised, or it needs what is not supported (exit code 4)."
    ),
    "host-differs": Rule(
        "error", "The kernel of this machine answers a call differently from the simulator."
    ),
    "host-agrees": Rule(
        "note",
        "The mapping calls of the plan were executed on this machine's /dev/kvm, and each answer "
        "matches the simulator; vendor calls are not included.",
    ),
    "host-not-checked": Rule(
        "note", "Some or all mapping calls could not be executed on this machine."
    ),
}


@record
class Finding(Frozen):
    """
    One result of a check.

    `first` and `last` are the addresses of the first and last page concerned; for a
    conflict the first two `origins` are the owners.  `at` is the place in an input.
    """

    rule: str
    message: str
    first: int | None = None
    last: int | None = None
    origins: tuple[str, ...] = ()
    at: str = ""
    hint: str = ""
    severity: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.severity:
            object.__setattr__(self, "severity", RULES[self.rule].severity)

    @property
    def text(self) -> str:
        """The rule, the message and the pages, in one line."""
        if self.first is None or self.last is None:
            return f"{self.rule}: {self.message}"
        size = self.last - self.first + PAGE
        pages = f"page {self.first:#x}"
        if self.last != self.first:
            pages = f"{size // PAGE} pages, {write_span(self.first, size)}"
        return f"{self.rule}: {self.message} ({pages})"


class Findings(tuple[Finding, ...]):
    """All findings about a launch, errors first to last as they were found."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document that the verb prints, without file and place of each."""
        return as_document(self)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that forbid the launch."""
        return tuple(f for f in self if f.severity == "error")

    def __repr__(self) -> str:
        rules = ", ".join(dict.fromkeys(f.rule for f in self.errors)) or "none"
        return summary("Findings", count=len(self), errors=rules[:120])


def has_errors(findings: tuple[Finding, ...]) -> bool:
    """Tell whether any finding forbids the launch."""
    return any(f.severity == "error" for f in findings)
