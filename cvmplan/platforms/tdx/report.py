"""
TDINFO as a launch leads to it, and TEE_INFO_HASH: what a TDREPORT will say about the TD.

Source: Intel TDX Module ABI specification (348551), "TDINFO_STRUCT"; intel/tdx-module 1e63698
include/tdx_api_defs.h (td_info_t), src/common/helpers/helpers.c (get_tdinfo_and_teeinfohash,
calculate_servtd_hash), src/vmm_dispatcher/api_calls/tdh_mr_finalize.c (servtd_hash_buff_t).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha384
from struct import Struct
from typing import Any, Final, NamedTuple

from cvmplan.core.blob import pack
from cvmplan.core.errors import UnsupportedError
from cvmplan.core.findings import Finding, has_errors
from cvmplan.operations.plan import Plan
from cvmplan.platforms.tdx.modules import Module
from cvmplan.platforms.tdx.ops import TdxInitVm
from cvmplan.platforms.tdx.params import attribute_findings, xfam_findings
from cvmplan.platforms.tdx.quote import TdInfo

RTMRS: Final = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
ZERO: Final = bytes(48)


class ServiceTd(NamedTuple):
    """A bound service TD: SERVTD_INFO_HASH (48 bytes), SERVTD_TYPE and SERVTD_ATTR."""

    info_hash: bytes
    type: int
    attributes: int


class Identity(NamedTuple):
    """
    TDINFO of a planned TD; `extended` are the RTMRs that were given, the others are zero.

    `asked` are the masks of the plan, to which what the module wants set was added.
    """

    plan: Plan
    info: TdInfo
    asked: Mapping[str, int]
    extended: tuple[str, ...]
    service_td: ServiceTd | None
    module: Module
    findings: tuple[Finding, ...]
    module_given: bool = False

    @property
    def given(self) -> dict[str, Any]:
        """What was given: the plan's settings, the module."""
        return {**self.plan.given, **({"module": self.module.name} if self.module_given else {})}

    @property
    def assumed(self) -> dict[str, Any]:
        """What was assumed: the plan's settings, the masks that nobody gave, the module."""
        masks = {"attributes": hex(self.info.attributes), "xfam": hex(self.info.xfam)}
        told = {n: v for n, v in masks.items() if n not in self.plan.given and not self.asked[n]}
        module = {} if self.module_given else {"module": self.module.name}
        return {**self.plan.assumed, **told, **module}

    @property
    def data(self) -> bytes | None:
        """The 512 bytes of TDINFO, None where the module refuses what is in them."""
        return None if has_errors(self.findings) else pack(self.info)

    @property
    def tee_info_hash(self) -> bytes:
        """TEE_INFO_HASH, 48 bytes."""
        return tee_info_hash(self.info)


def servtd_hash(bound: Iterable[ServiceTd]) -> bytes:
    """
    Return SERVTD_HASH as TDH.MR.FINALIZE sets it: 48 bytes, zero without a service TD.

    The entries of 58 bytes are sorted by type, then by hash; the modules that are known bind
    no more than one.
    """
    rows = sorted(bound, key=lambda one: (one.type, one.info_hash))
    if not rows:
        return ZERO
    return sha384(b"".join(Struct("<48sHQ").pack(*row) for row in rows)).digest()


def identity(
    plan: Plan,
    mrtd: bytes,
    module: Module,
    rtmrs: Mapping[str, bytes] | None = None,
    service_td: ServiceTd | None = None,
) -> Identity:
    """
    Return the TDINFO of the TD that `plan` builds, whose measurement is `mrtd` (48 bytes).

    `rtmrs` by the names of RTMRS, zero where one is not given: a TD's at TDH.MR.FINALIZE.
    Bits that the module wants set (FIXED1) are set, as KVM does (Linux 7.0
    arch/x86/kvm/vmx/tdx.c, setup_tdparams).  UnsupportedError where the plan builds no TD.
    """
    init = check_platform(plan)
    given = dict(rtmrs or {})
    attributes = init.attributes | module.attributes_fixed1
    xfam = init.xfam | module.xfam_fixed1
    info = TdInfo(
        attributes=attributes,
        xfam=xfam,
        mrtd=mrtd,
        mrconfigid=init.mrconfigid or ZERO,
        mrowner=init.mrowner or ZERO,
        mrownerconfig=init.mrownerconfig or ZERO,
        **{name: given.get(name, ZERO) for name in RTMRS},
        servtd_hash=servtd_hash([service_td] if service_td else []),
        reserved=bytes(64),
    )
    found = (
        *attribute_findings(attributes, module, "attributes"),
        *xfam_findings(xfam, module, "xfam"),
    )
    asked = {"attributes": init.attributes, "xfam": init.xfam}
    extended = tuple(name for name in RTMRS if name in given)
    return Identity(plan, info, asked, extended, service_td, module, found)


def check_platform(plan: Plan, name: str = "") -> TdxInitVm:
    """Return the call that makes the TD; UnsupportedError at `name` where there is none."""
    init = next((op for op in plan.ops if isinstance(op, TdxInitVm)), None)
    if not plan.platform.secure_ept or init is None:
        problem = f"TDINFO is about a TDX guest, this is a launch for {plan.platform}"
        raise UnsupportedError(problem, at=name, hint="--platform tdx")
    return init


def tee_info_hash(info: TdInfo) -> bytes:
    """Return TEE_INFO_HASH: SHA-384 of TDINFO's 512 bytes."""
    return sha384(pack(info)).digest()
