"""Where the inputs of known boots lie: vectors that are shared, and Debian's packages."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cvmplan.core.blob import Blob

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared"
VECTORS = SHARED / "vectors" / "rtmr"
PACKAGES = Path(os.environ.get("CVMPLAN_BOOT") or Path.home() / ".cache/cvmplan/boot")
APPEND = "console=ttyS0 earlyprintk=ttyS0 foo"

needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason="../shared/vectors/rtmr: absent")


def blob(path: Path) -> Blob:
    return Blob(path.name, memoryview(path.read_bytes()))


def package(pattern: str) -> Path:
    """Return the file of a package that `.ci/boot` fetched; skip the test where there is none."""
    found = sorted(PACKAGES.glob(pattern)) if PACKAGES.is_dir() else []
    if not found:
        pytest.skip(f"{PACKAGES}/{pattern}: absent; .ci/boot fetches it")
    return found[0]


def kernel() -> Path:
    return package("linux-image-6.12.43*/boot/vmlinuz-*")


def ovmf(version: str) -> Path:
    folder = {"2022.11": "ovmf_2022.11*", "2025.02": "ovmf_2025.02*", "2026.08": "ovmf-generic*"}
    return package(f"{folder[version]}/usr/share/ovmf/OVMF.fd")


def uki(folder: Path) -> Path:
    """Return the UKI of the boots from disk, made again."""
    made = folder / "uki.efi"
    command = [
        str(package("ukify/bin/python")), str(package("systemd-ukify*/usr/lib/systemd/ukify")),
        "build", "--linux", str(kernel()), "--initrd", str(VECTORS / "made/initrd-300000.bin"),
        "--cmdline", "console=ttyS0 earlyprintk=ttyS0 uki", "--uname", "6.12.43",
        "--os-release", f"@{VECTORS / 'made/osrel'}", "--output", str(made),
        "--stub", str(package("systemd-boot-efi*/usr/lib/systemd/boot/efi/linuxx64.efi.stub")),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return made
