"""
A libvirt domain as the launch that it starts.

Sources: libvirt 12.8 src/conf/schemas/domaincommon.rng, src/conf/domain_conf.c
(virDomainSecDefParseXML: policies are hexadecimal), docs/formatdomain.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from cvmplan.core.blob import Blob
from cvmplan.core.errors import MalformedError, UnsupportedError
from cvmplan.core.platform import DEFAULT, SEV, SEV_ES, SNP, TDX, Platform
from cvmplan.core.values import integer
from cvmplan.documents.plain import is_text
from cvmplan.launch.given import Given
from cvmplan.launch.model import Opener
from cvmplan.profiles import cpus
from cvmplan.readers.descriptions import qemu_words
from cvmplan.readers.descriptions.described import (
    Description,
    Said,
    host_cpu,
    no_hashes,
    sev_platform,
    whole_text,
    wrong,
)
from cvmplan.readers.descriptions.qemu_options import names_a_cpu

FORMAT: Final = "libvirt domain"
HEAD: Final = 1 << 16  # bytes in which the domain begins
DEEPEST: Final = 64
MOST_ELEMENTS: Final = 1 << 16
PLATFORMS: Final = {"sev-snp": SNP, "tdx": TDX, "sev": SEV}
HEX: Final = re.compile(r"(?:0[xX])?[0-9a-fA-F]{1,16}")
UNITS: Final = {
    "b": 1, "bytes": 1, "KB": 10**3, "k": 1 << 10, "KiB": 1 << 10, "MB": 10**6, "M": 1 << 20,
    "MiB": 1 << 20, "GB": 10**9, "G": 1 << 30, "GiB": 1 << 30, "TB": 10**12, "T": 1 << 40,
    "TiB": 1 << 40,
}  # fmt: skip
ELEMENTS: Final = {
    SNP: {
        "cbitpos": "c_bit", "guestVisibleWorkarounds": "gosvw", "idBlock": "id_block",
        "idAuth": "id_auth", "hostData": "host_data",
    },
    TDX: {"mrConfigId": "mrconfigid", "mrOwner": "mrowner", "mrOwnerConfig": "mrownerconfig"},
    SEV: {"cbitpos": "c_bit"},
    SEV_ES: {"cbitpos": "c_bit"},
}  # fmt: skip
"""Elements of launchSecurity, and the settings that they are."""
QEMU: Final = "http://libvirt.org/schemas/domain/qemu/1.0}"
CHANGED_BY: Final = frozenset({
    "accel", "append", "bios", "cpu", "global", "igvm", "initrd", "kernel", "m", "machine", "M",
    "object", "pflash", "readconfig", "set", "shim", "smp",
})  # fmt: skip
"""Arguments of qemu:commandline after which the rest of the domain does not say the launch."""
_DOMAIN: Final = re.compile(rb"<domain[\s>]")


def recognises(blob: Blob) -> bool:
    """Whether the text is XML with a domain."""
    head = bytes(blob.data[:HEAD])
    starts = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<"
    return starts and _DOMAIN.search(head) is not None and is_text(blob)


def describe(blob: Blob, open_file: Opener | None, options: Given) -> Description:
    """Return what the domain says; MalformedError with the place, UnsupportedError."""
    del open_file, options
    domain = _Domain(blob, _parse(blob))
    security = domain.root.find("launchSecurity")
    platform = domain.platform(security)
    said = {"platform": Said(platform, domain.at("launchSecurity")), "vmm": Said("qemu", "/domain")}
    said["vcpus"] = domain.vcpus()
    if security is not None:
        said |= domain.of_guest(platform, security)
    said["firmware"] = domain.firmware(platform)
    found = []
    hashes = security is not None and security.get("kernelHashes") == "yes"
    kernel = domain.kernel()
    if platform.policy is not None and hashes:
        said |= kernel
    elif platform.policy is not None and kernel:
        found.append(no_hashes(blob, "kernelHashes='yes' of /domain/launchSecurity"))
    if platform.vmsa:
        name = domain.cpu()
        taken = f"{cpus.DEFAULT} is assumed; QEMU would take {cpus.OF_QEMU}"
        found += host_cpu(blob, name, taken)
        said |= {} if name is None or name.value == "host" else {"cpu": name}
    said |= domain.memory()
    boot = kernel if platform.secure_ept else {}
    return Description(FORMAT, said, tuple(found), tuple(domain.rest(platform)), boot=boot)


class _Domain:
    """The elements of a domain."""

    def __init__(self, blob: Blob, root: Element) -> None:
        self._blob = blob
        self.root = root
        self._check_arguments([one.get("value", "") for one in root.iter(f"{QEMU}arg")])
        if root.find("os/igvm") is not None:
            problem = "an IGVM file, which this version of libvirt does not have"
            raise UnsupportedError(problem, at=f"{blob.name}: {self.at('os/igvm')}")

    def _check_arguments(self, words: list[str]) -> None:
        """Raise UnsupportedError for arguments to QEMU that change the launch."""
        told = [*qemu_words.options(self._blob, ["qemu", *words])]
        changed = [f"-{one.name}" for one in told if one.name in CHANGED_BY]
        changed += [one.value for one in told if one.name == "device" and names_a_cpu(one.value)]
        for what in changed[:1]:
            problem = f"{what[:60]} changes the launch"
            hint = "take the command line of the running process: /proc/PID/cmdline"
            at = f"{self._blob.name}: /domain/qemu:commandline"
            raise UnsupportedError(problem, at=at, hint=hint)

    def at(self, path: str) -> str:
        """Return the place of an element."""
        return f"/domain/{path}"

    def _wrong(self, path: str, problem: str) -> MalformedError:
        return wrong(self._blob, self.at(path), problem)

    def _text(self, path: str) -> Said | None:
        found = self.root.find(path)
        return None if found is None else Said(found.text or "", self.at(path))

    def _number(self, path: str, written: str) -> int:
        try:
            return integer(written.strip())
        except ValueError as error:
            raise self._wrong(path, str(error)) from None

    def platform(self, security: Element | None) -> Platform:
        """Return what the domain is launched as."""
        if security is None:
            return DEFAULT
        kind = security.get("type", "")
        if kind not in PLATFORMS:
            problem = f"type {kind!r}, expected {', '.join(PLATFORMS)}"
            raise self._wrong("launchSecurity", problem)
        if kind != "sev":
            return PLATFORMS[kind]
        policy = self._policy(security)
        if policy is None:
            raise self._wrong("launchSecurity/policy", "missing")
        return sev_platform(policy)

    def _policy(self, security: Element) -> int | None:
        found = security.find("policy")
        if found is None:
            return None
        written = (found.text or "").strip()
        if not HEX.fullmatch(written):
            problem = f"{written!r} is not a hexadecimal number"
            raise self._wrong("launchSecurity/policy", problem)
        return int(written, 16)

    def of_guest(self, platform: Platform, security: Element) -> dict[str, Said]:
        """Return the settings of launchSecurity."""
        path = "launchSecurity"
        said = {}
        policy = self._policy(security)
        if policy is None and platform is SNP:
            raise self._wrong(f"{path}/policy", "missing")
        if policy is not None:
            name = "attributes" if platform.secure_ept else "policy"
            said[name] = Said(policy, self.at(f"{path}/policy"))
        for element, setting in ELEMENTS[platform].items():
            found = self._text(f"{path}/{element}")
            if found is not None:
                said[setting] = found._replace(value=str(found.value).strip())
        if platform is SNP and security.get("authorKey") == "yes":
            said["author_key_enabled"] = Said(True, self.at(f"{path}/@authorKey"))
        if platform is SNP and security.get("vcek") == "no":
            said["vcek_disabled"] = Said(True, self.at(f"{path}/@vcek"))
        return said

    def vcpus(self) -> Said:
        """Return how many vCPUs are started."""
        found = self.root.find("vcpu")
        if found is None:
            return Said(1, self.at("vcpu"))
        most = self._number("vcpu", found.text or "")
        current = self._number("vcpu/@current", found.get("current", str(most)))
        if not 1 <= current <= most:
            raise self._wrong("vcpu", f"{current} of {most} vCPUs")
        return Said(current, self.at("vcpu/@current" if found.get("current") else "vcpu"))

    def cpu(self) -> Said | None:
        """Return the CPU model, "host" for the host's, None where none is named."""
        found = self.root.find("cpu")
        if found is None:
            return None
        if found.get("mode", "custom") != "custom":
            return Said("host", self.at("cpu/@mode"))
        model = self._text("cpu/model")
        return None if model is None else model._replace(value=str(model.value).strip())

    def firmware(self, platform: Platform) -> Said:
        """Return the path; UnsupportedError where libvirt chooses it, or QEMU refuses it."""
        found = self._text("os/loader")
        element = self.root.find("os/loader")
        if found is None or element is None or not str(found.value).strip():
            problem = "no loader is named, so that libvirt or QEMU chooses one"
            hint = "<loader type='rom'>FILE</loader>; of a running guest virsh dumpxml has it"
            raise UnsupportedError(problem, at=f"{self._blob.name}: /domain/os/loader", hint=hint)
        if element.get("type") == "pflash" and (platform.page_info or platform.secure_ept):
            problem = f"QEMU refuses flash for {platform}: the loader has to be of type rom"
            raise UnsupportedError(problem, at=f"{self._blob.name}: /domain/os/loader")
        return found._replace(value=str(found.value).strip())

    def kernel(self) -> dict[str, Said]:
        """Return kernel, initrd and command line, where a kernel is booted."""
        names = {"kernel": "kernel", "initrd": "initrd", "append": "cmdline"}
        found = {
            setting: said
            for setting, element in names.items()
            if (said := self._text(f"os/{element}")) is not None
        }
        return found if "kernel" in found else {}

    def memory(self) -> dict[str, Said]:
        """Return the RAM, where the machine is one whose layout is known."""
        machine, found = self.root.find("os/type"), self.root.find("memory")
        kind = "" if machine is None else machine.get("machine", "")
        if found is None or not kind.startswith(("q35", "pc-q35")):
            return {}
        unit = found.get("unit", "KiB")
        if unit not in UNITS:
            raise self._wrong("memory/@unit", f"unknown unit {unit!r}")
        size = self._number("memory", found.text or "") * UNITS[unit]
        return {"memory": Said(-(-size // 1024) * 1024, self.at("memory"))}

    def rest(self, platform: Platform) -> Iterator[str]:
        """Yield the elements that the measurement does not cover."""
        used = {"name", "os", "vcpu", "launchSecurity", *(["cpu"] if platform.vmsa else [])}
        used -= set() if platform.vmsa else {"vcpu"}
        for name in dict.fromkeys(str(element.tag) for element in self.root):
            if name not in used:
                yield f"/domain/{name}"


def _parse(blob: Blob) -> Element:
    """Return the element domain; MalformedError, for a document type with entities too."""
    builder = TreeBuilder()
    parser = expat.ParserCreate(namespace_separator="}")
    depth = elements = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, elements
        depth, elements = depth + 1, elements + 1
        if depth > DEEPEST or elements > MOST_ELEMENTS:
            raise wrong(blob, f"line {parser.CurrentLineNumber}", "too many elements")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: object) -> None:
        problem = "a document type, which a domain does not have"
        raise wrong(blob, f"line {parser.CurrentLineNumber}", problem)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(whole_text(blob).lstrip(), True)
    except expat.ExpatError as error:
        problem = f"not XML: {expat.errors.messages[error.code]}"
        raise wrong(blob, f"line {error.lineno}", problem) from None
    root = builder.close()
    domain = root if root.tag == "domain" else root.find("domain")
    if domain is None:
        raise wrong(blob, "", f"the root is {root.tag}, expected domain")
    return domain
