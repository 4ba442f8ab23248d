"""
The catalogue that ships in the package: Debian's OVMF of each suite, and the built-in examples.

    python -m tests.build.catalogue [FOLDER]

The packages are taken from Debian's archive with apt-get (FOLDER keeps them, by default a folder
in ~/.cache/cvmplan) and unpacked with dpkg-deb; nothing is installed.  A version that the archive
has no longer stays in the catalogue as it is.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from cvmplan.catalogue.known import SHIPPED
from cvmplan.catalogue.made import Names, make
from cvmplan.core.errors import UnsupportedError
from cvmplan.core.files import Files
from cvmplan.readers.firmware import Firmware, document_of, read_all

CACHE: Final = Path.home() / ".cache" / "cvmplan" / "catalogue"
KEY: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
ARCHIVES: Final[Mapping[str, tuple[str, ...]]] = {
    "debian": ("sid", "forky", "trixie", "trixie-backports", "bookworm", "bookworm-backports"),
    "debian-security": ("trixie-security", "bookworm-security"),
}
PACKAGES: Final = ("ovmf", "ovmf-generic", "ovmf-legacy", "ovmf-amdsev", "ovmf-inteltdx")
EXAMPLES: Final = ("snp", "tdx")
_MADISON: Final = re.compile(r" *([\w-]+) \| ([\w.+~-]+) \| \S+ (\S+)/main ")


class Apt:
    """apt-get with lists and settings of its own, below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (folder / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        sources = [
            f"deb [signed-by={KEY} arch=amd64] http://deb.debian.org/{archive} {suite} main\n"
            for archive, suites in ARCHIVES.items()
            for suite in suites
        ]
        (folder / "sources.list").write_text("".join(sources))
        (folder / "none").write_text("")
        settings = {
            "Dir::Etc::SourceList": folder / "sources.list",
            "Dir::Etc::SourceParts": "/nonexistent",
            "Dir::State::Lists": folder / "lists",
            "Dir::State::status": folder / "none",
            "Dir::Cache": folder,
            "Acquire::Languages": "none",
            "Acquire::Check-Valid-Until": "false",
            "APT::Sandbox::User": "root",
        }
        lines = [f'{name} "{value}";\n' for name, value in settings.items()]
        (folder / "apt.conf").write_text("".join(lines))
        self.run("apt-get", "-q", "update")

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run a program of apt and return what it prints."""
        environment = {**os.environ, "APT_CONFIG": str(self.folder / "apt.conf")}
        done = subprocess.run(
            command, env=environment, cwd=cwd, check=True, capture_output=True, text=True
        )
        return done.stdout

    def versions(self) -> dict[tuple[str, str], list[str]]:
        """Return (package, version) to the suites that have it, the newest suite first."""
        found: dict[tuple[str, str], list[str]] = {}
        for line in self.run("apt-cache", "madison", *PACKAGES).splitlines():
            match = _MADISON.match(line)
            if match:
                suites = found.setdefault((match[1], match[2]), [])
                suites += [match[3]] if match[3] not in suites else []
        return found

    def unpacked(self, package: str, version: str) -> Path:
        """Return the folder with the files of a package."""
        target = self.folder / "unpacked" / f"{package}_{version}"
        if not target.exists():
            archives = self.folder / "archives"
            target.parent.mkdir(exist_ok=True)
            self.run("apt-get", "-q", "download", f"{package}={version}", cwd=archives)
            (deb,) = archives.glob(f"{package}_{version.replace(':', '%3a')}_*.deb")
            self.run("dpkg-deb", "-x", str(deb), str(target))
        return target


def debian(folder: Path) -> Iterator[Firmware]:
    """Yield the firmware of Debian's packages that has tables of SEV or TDX."""
    apt = Apt(folder)
    for (package, version), suites in apt.versions().items():
        root = apt.unpacked(package, version)
        for path in sorted(root.rglob("*.fd")):
            if path.is_symlink():
                continue
            where = path.relative_to(root)
            short = path.stem.removeprefix("OVMF").lstrip("._") or "ovmf"
            name = f"debian-{version}-{re.sub('[._]', '-', short).lower()}"
            source = f"Debian {', '.join(suites)}: package {package}, /{where}"
            try:
                yield entry(str(path), name, version, source)
            except UnsupportedError:
                continue  # variables, and firmware without tables


def entry(path: str, name: str, version: str, source: str) -> Firmware:
    """Return the entry of a file."""
    files = Files()
    return make(files.open(path, "image"), files.open, Names(name, version, source)).firmware


def examples() -> Iterator[Firmware]:
    """Yield the examples of the package."""
    for name in EXAMPLES:
        source = f"cvmplan, --example {name}"
        yield entry(f"example:{name}", f"example-{name}", "1", source)._replace(
            file=f"example:{name}"
        )


def shipped() -> dict[str, Firmware]:
    """Return what the catalogue has, by name."""
    path = Path(SHIPPED)
    if not path.exists():
        return {}
    return {one.name: one for one in read_all(Files().open(str(path), "catalogue"))}


def main(argv: list[str]) -> None:
    """Write the catalogue."""
    packaged = [*debian(Path(argv[0]) if argv else CACHE)]
    packaged.sort(key=lambda one: one.version, reverse=True)
    found = {one.name: one for one in (*packaged, *examples())}
    order = found | {name: one for name, one in shipped().items() if name not in found}
    Path(SHIPPED).write_text(json.dumps(document_of([*order.values()]), indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
