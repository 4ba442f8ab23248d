"""
How up to date a platform, its TDX module and its quoting enclave are, by Intel's collateral.

The rules are those of Intel's quote verification library (QVL), as Phala-Network/dcap-qvl 0.7.0
states them: levels from the highest SVNs down, the first that the platform reaches; a module with
a version of its own is judged by its identity, bytes 0 and 1 of TEE_TCB_SVN then not by the
platform's level; a component that is out of date or revoked makes the platform so; a TD whose
current TCB is better than that of its launch is to be started again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cvmplan.core.errors import MalformedError
from cvmplan.evidence.pck import Platform
from cvmplan.platforms.tdx.described import module as module_of
from cvmplan.platforms.tdx.enclave import EnclaveReport
from cvmplan.platforms.tdx.quote import Td

UP_TO_DATE, OUT_OF_DATE, REVOKED = "UpToDate", "OutOfDate", "Revoked"
_HARDENING, _CONFIGURATION = "SWHardeningNeeded", "ConfigurationNeeded"
_BOTH, _OLD_CONFIGURATION = "ConfigurationAndSWHardeningNeeded", "OutOfDateConfigurationNeeded"
_RELAUNCH, _RELAUNCH_CONFIGURATION = "TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"
OF_MODULE: Final = (UP_TO_DATE, OUT_OF_DATE, REVOKED)
OF_QE: Final = (*OF_MODULE, _CONFIGURATION, _OLD_CONFIGURATION)
OF_PLATFORM: Final = (*OF_QE, _HARDENING, _BOTH)
STATUSES: Final = (*OF_PLATFORM, _RELAUNCH, _RELAUNCH_CONFIGURATION)


class Level(NamedTuple):
    """The status of a level, its day, and the advisories that it names."""

    status: str
    date: str
    advisories: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = f", {self.date[:10]}" if self.date else ""
        return f"{self.status}{told}{''.join(f', {one}' for one in self.advisories)}"


class NoLevelError(Exception):
    """No level of the collateral is reached, or the collateral is not about this; says which."""


def member(document: Any, name: str, kind: type, at: str) -> Any:
    """Return a member of signed JSON that has to be there; MalformedError names it."""
    value = document.get(name) if isinstance(document, Mapping) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise MalformedError(f"{name} is missing or is not of its kind", at=at)
    return value


def platform_level(info: Any, at: str, platform: Platform, svn: bytes) -> Level:
    """
    Return the level of a platform for a TEE_TCB_SVN of 16 bytes, the module apart.

    `info` is the TCB info, `at` its place.  NoLevelError; MalformedError for other documents.
    """
    levels = [_components(one, at) for one in member(info, "tcbLevels", list, at)]
    levels.sort(key=lambda one: one[:3], reverse=True)
    first = 2 if svn[1] else 0
    for sgx, pce_svn, tdx, level in levels:
        if (
            platform.pce_svn >= pce_svn
            and all(a >= b for a, b in zip(platform.components, sgx, strict=True))
            and all(a >= b for a, b in zip(svn[first:], tdx[first:], strict=True))
        ):
            return _allowed(level, OF_PLATFORM)
    raise NoLevelError("no TCB level is as low as this platform")


def _components(one: Any, at: str) -> tuple[list[int], int, list[int], Level]:
    tcb = member(one, "tcb", dict, at)
    found = []
    for name in ("sgxtcbcomponents", "tdxtcbcomponents"):
        svns = [member(part, "svn", int, at) for part in member(tcb, name, list, at)]
        if len(svns) != 16:
            raise MalformedError(f"{name} has {len(svns)} parts, expected 16", at=at)
        found.append(svns)
    return found[0], member(tcb, "pcesvn", int, at), found[1], _level(one, at)


def _level(one: Any, at: str) -> Level:
    advisories = one.get("advisoryIDs", []) if isinstance(one, Mapping) else []
    if not isinstance(advisories, list) or not all(isinstance(a, str) for a in advisories):
        raise MalformedError("advisoryIDs is not a list of names", at=at)
    status, date = member(one, "tcbStatus", str, at), member(one, "tcbDate", str, at)
    return Level(status, date, tuple(advisories))


def _allowed(level: Level, statuses: Sequence[str]) -> Level:
    if level.status not in statuses:
        raise NoLevelError(f"the status {level.status!r} is not known")
    return level


def _by_svn(levels: Iterable[Any], at: str, svn: int, statuses: Sequence[str], who: str) -> Level:
    """Return the first level whose `isvsvn` is at most `svn`; NoLevelError."""
    for one in levels:
        if member(member(one, "tcb", dict, at), "isvsvn", int, at) <= svn:
            return _allowed(_level(one, at), statuses)
    raise NoLevelError(f"no level of the {who} is as low as SVN {svn}")


def identity_of(info: Any, at: str, svn: bytes) -> Any:
    """Return what the TCB info says of the module of a TEE_TCB_SVN; NoLevelError."""
    if not svn[1]:
        return member(info, "tdxModule", dict, at)
    wanted = module_of(svn).lower()
    for one in member(info, "tdxModuleIdentities", list, at):
        if member(one, "id", str, at).lower() == wanted:
            return one
    raise NoLevelError(f"no identity of module {module_of(svn)}")


def module_level(info: Any, at: str, svn: bytes) -> Level | None:
    """Return the level of a TDX module, None for the first, which the platform's level covers."""
    identity = identity_of(info, at, svn)
    if not svn[1]:
        return None
    return _by_svn(member(identity, "tcbLevels", list, at), at, svn[0], OF_MODULE, "TDX module")


def wrong_module(info: Any, at: str, td: Td) -> Iterator[str]:
    """Yield what of a TD's module is not as the TCB info says; NoLevelError."""
    identity = identity_of(info, at, td.tee_tcb_svn)
    if _hex(identity, "mrsigner", 48, at) != td.mrsignerseam:
        yield "MRSIGNERSEAM"
    wanted, mask = (_hex(identity, n, 8, at) for n in ("attributes", "attributesMask"))
    found = td.seam_attributes.to_bytes(8, "little")
    if any(f & m != w & m or f & ~m for f, w, m in zip(found, wanted, mask, strict=True)):
        yield "SEAMATTRIBUTES"


def wrong_enclave(identity: Any, at: str, qe: EnclaveReport) -> Iterator[str]:
    """Yield what of a quoting enclave is not as its identity says."""
    if _hex(identity, "mrsigner", 32, at) != qe.mrsigner:
        yield "MRSIGNER"
    if member(identity, "isvprodid", int, at) != qe.isv_prod_id:
        yield "ISVPRODID"
    found = {
        "miscselect": qe.misc_select.to_bytes(4, "little"),
        "attributes": qe.flags.to_bytes(8, "little") + qe.xfrm.to_bytes(8, "little"),
    }
    for name, value in found.items():
        wanted, mask = (_hex(identity, n, len(value), at) for n in (name, f"{name}Mask"))
        if any(f & m != w & m for f, w, m in zip(value, wanted, mask, strict=True)):
            yield name.upper()


def enclave_level(identity: Any, at: str, qe: EnclaveReport) -> Level:
    """Return the level of a quoting enclave; NoLevelError."""
    levels = member(identity, "tcbLevels", list, at)
    return _by_svn(levels, at, qe.isv_svn, OF_QE, "quoting enclave")


def _hex(document: Any, name: str, length: int, at: str) -> bytes:
    try:
        value = bytes.fromhex(member(document, name, str, at))
    except ValueError:
        value = b""
    if len(value) != length:
        raise MalformedError(f"{name} is not {length} bytes in hex", at=at)
    return value


def converged(platform: str, component: str) -> str:
    """
    Return the status of a platform one of whose components has a status of its own, "" for none.

    A component that is not up to date is out of date, whatever its status is called.  Source:
    intel/SGX-TDX-DCAP-QuoteVerificationLibrary, EnclaveReportVerifier.cpp.
    """
    if REVOKED in (component, platform):
        return REVOKED
    if component in ("", UP_TO_DATE):
        return platform
    if platform in (UP_TO_DATE, _HARDENING):
        return OUT_OF_DATE
    return _OLD_CONFIGURATION if platform in (_CONFIGURATION, _BOTH) else platform


def relaunched(launch: str, current: str) -> str:
    """Return the status of a TD by that of its launch and that of its module of today."""
    if REVOKED in (launch, current):
        return REVOKED
    if launch not in (OUT_OF_DATE, _OLD_CONFIGURATION) or current in (
        OUT_OF_DATE,
        _OLD_CONFIGURATION,
    ):
        return launch
    needs = launch == _OLD_CONFIGURATION or current in (_CONFIGURATION, _BOTH)
    return _RELAUNCH_CONFIGURATION if needs else _RELAUNCH
