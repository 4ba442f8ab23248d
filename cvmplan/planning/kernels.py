"""Kernels for direct boot: their formats and command lines, and whether a VMM hashes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from cvmplan.core.findings import Finding
from cvmplan.launch.given import Given
from cvmplan.launch.model import Opener
from cvmplan.planning.read import Place
from cvmplan.profiles import Profile

MULTIBOOT: Final = 0x1BADB002.to_bytes(4, "little")
MULTIBOOT_SEARCH: Final = 8192  # bytes


def kernel_findings(
    manifest: Given, options: Given, profile: Profile, open_file: Opener
) -> Iterator[Finding]:
    """
    Yield an error for a kernel whose format the VMM starts without hashing it.

    A note where that cannot be known, since only the kernel's hash is given.
    """
    if not profile.unhashed_kernels:
        return
    settings = manifest | options
    hashed = "kernel_hash" in options
    path, blob = settings.text("kernel"), settings.file("kernel")
    if hashed or (path is None and blob is None):
        if "kernel_hash" in settings:
            formats = " and ".join(profile.unhashed_kernels)
            problem = "not checked: the format of the kernel, because only its hash is given; "
            yield Finding("not-checked", f"{problem}{profile.name} does not hash {formats} kernels")
        return
    kernel = blob if path is None else open_file(path, "kernel")
    if kernel is None:
        return
    found = kernel_format(bytes(kernel.data[:MULTIBOOT_SEARCH]))
    if found in profile.unhashed_kernels:
        problem = f"{profile.name} does not hash {found} kernels: a launch with hashes fails"
        yield Finding("kernel-not-hashed", problem, at=kernel.name)


def line_findings(settings: Given, place: Place) -> Iterator[Finding]:
    """Yield what is doubtful about a command line that is measured."""
    line = settings.text("append")
    if line is None or "kernel_hash" not in settings:
        return
    if line != line.rstrip():
        problem = "the command line ends in white space, which is measured"
        yield Finding("trailing-blank", problem, at=place("append"))
    vcpus = settings.number("vcpus")
    for counted in _NR_CPUS.findall(line):
        if vcpus is not None and int(counted) != vcpus:
            problem = f"the command line has nr_cpus={counted}, and the launch {vcpus} vCPUs"
            hint = "nr_cpus={vcpus} follows their number"
            yield Finding("nr-cpus", problem, at=place("append"), hint=hint)


_NR_CPUS: Final = re.compile(r"(?<!\S)nr_cpus=([0-9]{1,9})(?!\S)")


def kernel_format(head: bytes) -> str:
    """
    Return the format of a kernel by its first 8 KiB: "linux", "multiboot", "elf" or "".

    Sources: Linux Documentation/arch/x86/boot.rst (HdrS at 0x202); Multiboot Specification
    0.6.96, 3.1 (a header at a multiple of 4 in the first 8192 bytes); System V ABI, ELF header.
    """
    if head[0x202:0x206] == b"HdrS":
        return "linux"
    at = head.find(MULTIBOOT)
    while at >= 0:
        if at % 4 == 0 and at + 12 <= len(head):
            words = (int.from_bytes(head[at + n : at + n + 4], "little") for n in (0, 4, 8))
            if sum(words) % (1 << 32) == 0:
                return "multiboot"
        at = head.find(MULTIBOOT, at + 1)
    return "elf" if head[:4] == b"\x7fELF" else ""
