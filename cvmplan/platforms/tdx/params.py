"""
TD_PARAMS: what a VMM hands to TDH.MNG.INIT, and the module's rules about it.

Source: Intel TDX Module ABI specification (348551), "TD_PARAMS"; intel/tdx-module 1e63698
include/tdx_api_defs.h (td_params_t), src/vmm_dispatcher/api_calls/tdh_mng_init.c
(read_and_set_td_configurations, read_and_set_cpuid_configurations), src/common/helpers/helpers.c
(verify_td_attributes, verify_td_config_flags, check_xfam, verify_and_set_td_eptp_controls).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from struct import Struct
from struct import error as StructError  # noqa: N812 it is a class
from typing import Any, ClassVar, Final, NamedTuple

from cvmplan.core.blob import Blob, offsets, pack
from cvmplan.core.errors import ConfigError, MalformedError
from cvmplan.core.field import names
from cvmplan.core.findings import Finding, has_errors
from cvmplan.core.inputs import Input
from cvmplan.core.records import Frozen, record
from cvmplan.platforms.tdx import bits
from cvmplan.platforms.tdx.modules import MODULES, Module

SIZE: Final = 1024
ENTRY: Final = 16  # bytes of a CPUID configuration: EAX, EBX, ECX, EDX
MOST_ENTRIES: Final = 48  # that 768 bytes hold
TSC_UNIT: Final = 25_000  # kHz
TSC: Final = (4, 400)  # VIRT_TSC_FREQUENCY_MIN and _MAX, in units of 25 MHz
WRITE_BACK: Final = 6  # EPT memory type
NO_RBP_MOD: Final = 1 << 2
GPAW: Final = 1 << 0
ARCH_CAP: Final = 1 << 0
WALKS: Final = {48: 3, 52: 4}  # guest address width to EPT page-walk length - 1


@record
class TdParams(Frozen):
    """
    TD_PARAMS, 1024 bytes.

    `tsc_frequency` in units of 25 MHz; identities are 48 bytes; `cpuid_config` are 768 bytes:
    as many entries as the module has, then what must be zero.
    """

    LAYOUT: ClassVar = Struct("<QQHBB4sQQH38s48s48s48sQ24s768s")
    attributes: int
    xfam: int
    max_vcpus: int
    num_l2_vms: int
    msr_config_ctls: int
    reserved_0: bytes
    eptp_controls: int
    config_flags: int
    tsc_frequency: int
    reserved_1: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    ia32_arch_capabilities_config: int
    reserved_2: bytes
    cpuid_config: bytes

    def __post_init__(self) -> None:
        given = tuple(getattr(self, name) for name in self._names)
        try:
            held = self.LAYOUT.unpack(self.LAYOUT.pack(*given))
        except StructError:
            held = ()
        if held != given:
            raise ConfigError("a value does not fit its field", at="TD_PARAMS")


OFFSETS: Final = offsets(TdParams)


class Cpuid(NamedTuple):
    """One CPUID configuration; TD_PARAMS holds the four values, its place means the leaf."""

    leaf: int
    subleaf: int
    values: tuple[int, int, int, int]


class Described(NamedTuple):
    """TD_PARAMS with the module that it is for, what was given and assumed, and the findings."""

    params: TdParams
    module: Module
    given: Mapping[str, Any]
    assumed: Mapping[str, Any]
    cpuids: tuple[Cpuid, ...]
    findings: tuple[Finding, ...]
    inputs: tuple[Input, ...] = ()

    @property
    def data(self) -> bytes | None:
        """The 1024 bytes, None where the module refuses them."""
        return None if has_errors(self.findings) else pack(self.params)

    @property
    def entries(self) -> list[tuple[int, int, int, int]]:
        """EAX, EBX, ECX and EDX of each CPUID configuration."""
        return [*entries(self.params)]


def made(settings: Mapping[str, Any], cpuids: Iterable[Cpuid] = ()) -> TdParams:
    """
    Return TD_PARAMS with the fields of `settings`, zero where one is not named.

    `settings` by the fields of TdParams, and "gpaw" (48 or 52), which gives eptp_controls and
    bit 0 of config_flags where they are not named.  `cpuids` in the order of the module's
    CPUID_CONFIG list.  ConfigError for a value that its field cannot hold.
    """
    values = {**settings}
    width = values.pop("gpaw", 48)
    values.setdefault("eptp_controls", WALKS[width] << 3 | WRITE_BACK)
    values["config_flags"] = values.get("config_flags", 0) | (GPAW if width == 52 else 0)
    table = b"".join(Struct("<4I").pack(*one.values) for one in cpuids)
    if len(table) > ENTRY * MOST_ENTRIES:
        raise ConfigError(f"TD_PARAMS has room for {MOST_ENTRIES} entries", at="--cpuid")
    empty = TdParams(*TdParams.LAYOUT.unpack(bytes(SIZE)))
    fields = {name: values.get(name, getattr(empty, name)) for name in OFFSETS}
    fields["cpuid_config"] = table.ljust(ENTRY * MOST_ENTRIES, b"\0")
    return TdParams(**fields)


def read(blob: Blob) -> TdParams:
    """Return the TD_PARAMS that `blob` is, not checked; MalformedError for another size."""
    if len(blob) != SIZE:
        raise MalformedError(f"{len(blob)} bytes, TD_PARAMS have {SIZE}", at=blob.name)
    return blob.take(TdParams, 0)


def entries(params: TdParams) -> list[tuple[int, int, int, int]]:
    """Return the 48 places for CPUID configurations: EAX, EBX, ECX, EDX of each."""
    return [*Struct("<4I").iter_unpack(params.cpuid_config)]


# --- rules -------------------------------------------------------------------------------------

Place = Callable[[str], str]


def findings(params: TdParams, module: Module, place: Place | None = None) -> Iterator[Finding]:
    """
    Yield what `module` refuses in TDH.MNG.INIT, and what is doubtful.

    `place(field)` names the place of a field.  What depends on the machine (which extended
    states, LASS, 5-level EPT it has, which CPUID bits may be set) is not checked.
    """
    at = place or (lambda name: f"TD_PARAMS+{OFFSETS[name]:#x}")
    yield from attribute_findings(params.attributes, module, at("attributes"))
    yield from xfam_findings(params.xfam, module, at("xfam"))
    yield from _limits(params, module, at)
    yield from _flags(params, module, at("config_flags"))
    yield from _eptp(params, at("eptp_controls"))
    yield from _cpuids(params, module, at("cpuid_config"))
    for name in ("reserved_0", "reserved_1", "reserved_2"):
        if any(getattr(params, name)):
            yield Finding("td-params-reserved", f"{name} is not zero", at=at(name))
    if params.msr_config_ctls & ~ARCH_CAP:
        problem = f"msr_config_ctls {params.msr_config_ctls:#x} has bits that are reserved"
        yield Finding("td-params-reserved", problem, at=at("msr_config_ctls"))
    unused = params.ia32_arch_capabilities_config and not params.msr_config_ctls & ARCH_CAP
    if unused:
        problem = "ia32_arch_capabilities_config is set, and msr_config_ctls bit 0 is not"
        yield Finding("td-arch-capabilities", problem, at=at("ia32_arch_capabilities_config"))


def attribute_findings(attributes: int, module: Module, at: str) -> Iterator[Finding]:
    """Yield what `module` refuses of ATTRIBUTES (verify_td_attributes), and DEBUG."""
    rule = "td-attributes"
    yield from _fixed(rule, attributes, module.attributes_fixed0, module.attributes_fixed1, at)
    yield from _exclusive(rule, attributes, module.exclusive, bits.ATTRIBUTES, at)
    if attributes & 1:
        yield Finding("policy-debug", f"attributes {attributes:#x} allow debugging", at=at)


def xfam_findings(xfam: int, module: Module, at: str) -> Iterator[Finding]:
    """Yield what `module` refuses of XFAM (check_xfam), on a processor that has all states."""
    yield from _fixed("td-xfam", xfam, module.xfam_fixed0, module.xfam_fixed1, at)
    for together in ((5, 6, 7), (11, 12), (17, 18)):
        mask = bits.mask_of(*together)
        if xfam & mask not in (0, mask):
            group = names(mask, bits.XFAM)
            problem = f"xfam {xfam:#x} sets only some of {group}; set all or none"
            yield Finding("td-xfam", problem, at=at)
    if xfam & 1 << 5 and not xfam & 1 << 2:
        yield Finding("td-xfam", f"xfam {xfam:#x} has AVX-512 without AVX", at=at)


def launch_findings(attributes: int, xfam: int, vcpus: int, at: str) -> Iterator[Finding]:
    """
    Yield what the modules that are known refuse of a TD whose module is not known.

    Errors where every module refuses, in the words of the newest; where only some take the
    launch a note that names them.
    """
    found = {
        module.name: (
            *attribute_findings(attributes, module, at),
            *xfam_findings(xfam, module, at),
            *vcpus_findings(vcpus, module, at),
        )
        for module in MODULES.values()
    }
    newest = [*found.values()][-1]
    taking = [name for name, mine in found.items() if not has_errors(mine)]
    if not taking:
        yield from newest
        return
    yield from (f for f in newest if f.severity != "error")
    for mine in reversed(found.values()):
        for one in (f for f in mine if f.severity == "error"):
            problem = f"{one.message}; of the TDX modules that are known, {', '.join(taking)} take "
            yield replace(one, message=f"{problem}it", severity="note")
        if has_errors(mine):
            return


def _fixed(rule: str, mask: int, fixed0: int, fixed1: int, at: str) -> Iterator[Finding]:
    name = rule.removeprefix("td-")
    table = bits.XFAM if name == "xfam" else bits.ATTRIBUTES
    if mask & ~fixed0:
        refused = names(mask & ~fixed0, table)
        yield Finding(rule, f"{name} {mask:#x} has bits that must be 0: {refused}", at=at)
    if ~mask & fixed1:
        wanted = names(~mask & fixed1, table)
        yield Finding(rule, f"{name} {mask:#x} lacks bits that must be 1: {wanted}", at=at)


def _exclusive(
    rule: str, mask: int, pairs: Iterable[tuple[int, int]], table: Mapping[int, str], at: str
) -> Iterator[Finding]:
    for a, b in pairs:
        if mask >> a & 1 and mask >> b & 1:
            problem = f"{rule.removeprefix('td-')} {mask:#x}: {table[a]} excludes {table[b]}"
            yield Finding(rule, problem, at=at)


def vcpus_findings(count: int, module: Module, at: str) -> Iterator[Finding]:
    """Yield an error where a TD of `module` cannot have `count` vCPUs."""
    if not 1 <= count <= module.most_vcpus:
        problem = f"max_vcpus {count} is not between 1 and {module.most_vcpus}"
        yield Finding("td-max-vcpus", problem, at=at)


def _limits(params: TdParams, module: Module, at: Place) -> Iterator[Finding]:
    yield from vcpus_findings(params.max_vcpus, module, at("max_vcpus"))
    if params.num_l2_vms > module.most_l2_vms:
        problem = f"num_l2_vms {params.num_l2_vms} is more than {module.most_l2_vms}"
        yield Finding("td-l2-vms", problem, at=at("num_l2_vms"))
    low, high = TSC
    if not low <= params.tsc_frequency <= high:
        problem = f"tsc_frequency {params.tsc_frequency} is not between {low} and {high} (25 MHz)"
        yield Finding("td-tsc-frequency", problem, at=at("tsc_frequency"))


def _flags(params: TdParams, module: Module, at: str) -> Iterator[Finding]:
    flags = params.config_flags
    if flags & ~module.config_flags:
        unknown = names(flags & ~module.config_flags, bits.CONFIG_FLAGS)
        problem = f"config_flags {flags:#x} has bits that module {module.name} lacks: {unknown}"
        yield Finding("td-config-flags", problem, at=at)
    pairs = module.config_exclusive
    table = {n: name.lower() for n, name in bits.CONFIG_FLAGS.items()}
    yield from _exclusive("td-config-flags", flags, pairs, table, at)


def _eptp(params: TdParams, at: str) -> Iterator[Finding]:
    controls = params.eptp_controls
    walk = controls >> 3 & 7
    problems = []
    if controls & 7 != WRITE_BACK:
        problems.append(f"memory type {controls & 7} is not write-back ({WRITE_BACK})")
    if walk not in WALKS.values():
        problems.append(f"page-walk length {walk + 1} is neither 4 nor 5")
    if controls >> 6:
        problems.append("bits above 5 are not zero")
    if params.config_flags & GPAW and walk < WALKS[52]:
        problems.append("a guest address width of 52 needs a 5-level walk")
    for problem in problems:
        yield Finding("td-eptp-controls", f"eptp_controls {controls:#x}: {problem}", at=at)


def _cpuids(params: TdParams, module: Module, at: str) -> Iterator[Finding]:
    used = [n for n, values in enumerate(entries(params)) if any(values)]
    if used and used[-1] >= module.cpuid_configs:
        problem = f"cpuid_config entry {used[-1]} is set, module {module.name} has "
        problem += f"{module.cpuid_configs} entries, and zeros after them"
        yield Finding("td-cpuid-config", problem, at=at)
