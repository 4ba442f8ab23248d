"""
libvirt's domain XML.

Sources: libvirt 12.8 src/conf/schemas/domaincommon.rng, src/conf/domain_conf.c; docs/
formatdomain.rst, "Launch Security".  `policy` is hexadecimal there, with or without 0x.  The host's
C-bit and reduced physical bits are filled in by libvirt.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from cvmplan.core.errors import UnsupportedError
from cvmplan.launch.configuration import Configuration, Protection

KIB: Final = 1 << 10
_MANY: Final = {"\r": "&#13;"}  # a reader of XML makes a newline of it


def config(made: Configuration) -> str:
    """Return the domain; UnsupportedError for text that XML has no form for."""
    return "".join(f"{line}\n" for line in _domain(made))


def _domain(made: Configuration) -> Iterator[str]:
    yield "<domain type='kvm'>"
    yield from (f"  <!-- {line} -->" for line in made.heading)
    yield "  <name>cvm</name>"
    yield f"  <memory unit='KiB'>{made.memory // KIB}</memory>"
    yield f"  <vcpu placement='static'>{made.vcpus}</vcpu>"
    yield "  <os>"
    yield "    <type arch='x86_64' machine='q35'>hvm</type>"
    yield f"    <loader type='rom'>{_text(made.firmware)}</loader>"
    for name, value in (("kernel", made.kernel), ("initrd", made.initrd), ("cmdline", made.append)):
        if value:
            yield f"    <{name}>{_text(value)}</{name}>"
    yield "  </os>"
    if made.cpu == "host":
        yield "  <cpu mode='host-passthrough'/>"
    else:
        yield "  <cpu mode='custom' match='exact'>"
        yield f"    <model fallback='forbid'>{made.cpu}</model>"
        yield "  </cpu>"
    yield from (f"  {line}" for line in launch_security(made.guest).splitlines())
    yield "</domain>"


def launch_security(guest: Protection) -> str:
    """Return the element that describes the protection of the guest."""
    return "".join(f"{line}\n" for line in (_snp if guest.platform.page_info else _tdx)(guest))


def _snp(guest: Protection) -> Iterator[str]:
    flags = {
        "kernelHashes": "yes" if guest.kernel_hashes else "",
        "authorKey": "yes" if guest.author_key else "",
        "vcek": "no" if guest.vcek_disabled else "",
    }
    told = "".join(f" {name}='{value}'" for name, value in flags.items() if value)
    yield f"<launchSecurity type='sev-snp'{told}>"
    if guest.c_bit is not None:
        yield f"  <cbitpos>{guest.c_bit}</cbitpos>"
    yield f"  <policy>{guest.policy:#010x}</policy>"
    yield from _octets(
        guestVisibleWorkarounds=guest.gosvw,
        idBlock=guest.id_block,
        idAuth=guest.id_auth,
        hostData=guest.host_data,
    )
    yield "</launchSecurity>"


def _tdx(guest: Protection) -> Iterator[str]:
    yield "<launchSecurity type='tdx'>"
    yield f"  <policy>{guest.attributes:#x}</policy>"
    yield from _octets(
        mrConfigId=guest.mrconfigid, mrOwner=guest.mrowner, mrOwnerConfig=guest.mrownerconfig
    )
    yield "</launchSecurity>"


def _octets(**elements: bytes | None) -> Iterator[str]:
    """Yield an element of base64 for each value that was given."""
    for name, value in elements.items():
        if value is not None:
            yield f"  <{name}>{b64encode(value).decode()}</{name}>"


def _text(value: str) -> str:
    """Return text as the contents of an element; UnsupportedError (XML 1.0, 2.2)."""
    if any((one < " " and one not in "\t\n\r") or one in "\ufffe\uffff" for one in value):
        raise UnsupportedError("control characters have no form in XML", at="--to")
    return escape(value, _MANY)
