"""What `td-params` and `td-info` answer, as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from cvmplan.core.blob import offsets
from cvmplan.core.field import names
from cvmplan.core.inputs import Input
from cvmplan.core.values import Json
from cvmplan.emit import text
from cvmplan.emit.lines import aligned, joined
from cvmplan.platforms.tdx import bits
from cvmplan.platforms.tdx.params import OFFSETS, Described, TdParams
from cvmplan.platforms.tdx.quote import TdInfo
from cvmplan.platforms.tdx.report import RTMRS, Identity

MASKS = {
    "attributes": bits.ATTRIBUTES,
    "xfam": bits.XFAM,
    "config_flags": bits.CONFIG_FLAGS,
    "msr_config_ctls": bits.MSR_CONFIG_CTLS,
}
INFO_OFFSETS = {name: at for name, at in offsets(TdInfo).items() if name != "reserved"}


def td_params(answer: Described) -> str:
    """Return every field with its meaning, what was given and assumed, and the findings."""
    params = answer.params
    rows = [("offset", "field", "value", "meaning"), *_fields(params), *_cpuids(answer)]
    head = [
        *_head(answer.inputs, answer.given, answer.assumed),
        f"rules of TDX module {answer.module.name}: {answer.module.source}",
        f"({answer.module.confidence})",
        "",
        *aligned(rows),
        "",
    ]
    return joined(head) + text.findings(answer.findings)


def td_info(answer: Identity) -> str:
    """Return every field with its meaning, and TEE_INFO_HASH on the last line."""
    plan = answer.plan
    rows = [("offset", "field", "value", "meaning"), *_info(answer)]
    head = [*_head(plan.inputs, answer.given, answer.assumed), *aligned(rows), ""]
    if len(answer.extended) < len(RTMRS):
        missing = " ".join(n.upper() for n in RTMRS if n not in answer.extended)
        head.append(f"{missing}: not given, so zero as at TDH.MR.FINALIZE; a running TD has")
        head += ["different values and a different TEE_INFO_HASH", ""]
    found = [f for f in (*plan.findings, *answer.findings) if f.severity != "note"]
    told = text.findings(found) + "\n" if found else ""
    return joined(head) + told + joined([f"TEE_INFO_HASH (SHA-384)  {answer.tee_info_hash.hex()}"])


def _head(
    inputs: Iterable[Input], given: Mapping[str, Json], assumed: Mapping[str, Json]
) -> Iterator[str]:
    rows = [(k, _setting(v), "given") for k, v in given.items()]
    rows += [(k, _setting(v), "assumed") for k, v in assumed.items()]
    yield from text.input_lines(inputs)
    if rows:
        yield from aligned(rows)
        yield ""


def _setting(value: Json) -> str:
    return "48 zeros" if value == "0" * 96 else str(value)


def _value(value: int | bytes, name: str) -> str:
    if isinstance(value, bytes):
        return value.hex() if any(value) else f"{len(value)} zeros"
    return hex(value) if name in MASKS or name in HEX else str(value)


HEX = ("eptp_controls", "ia32_arch_capabilities_config")


def _fields(params: TdParams) -> Iterator[tuple[str, ...]]:
    for name, offset in OFFSETS.items():
        value = getattr(params, name)
        if name != "cpuid_config" and (not name.startswith("reserved") or any(value)):
            yield str(offset), name, _value(value, name), _meaning(name, value)


def _meaning(name: str, value: int | bytes) -> str:
    if isinstance(value, bytes):
        return ""
    if name in MASKS:
        return names(value, MASKS[name])
    if name == "eptp_controls":
        kind = "write-back" if value & 7 == 6 else f"memory type {value & 7}"
        return f"{kind}, {(value >> 3 & 7) + 1} levels"
    return f"{value * 25} MHz" if name == "tsc_frequency" else ""


def _cpuids(answer: Described) -> Iterator[tuple[str, ...]]:
    for number, values in enumerate(answer.entries):
        named = answer.cpuids[number] if number < len(answer.cpuids) else None
        if named or any(values):
            shown = " ".join(f"{value:#x}" for value in values)
            leaf = f"leaf {named.leaf:#x}, subleaf {named.subleaf:#x}, given" if named else ""
            yield str(OFFSETS["cpuid_config"] + 16 * number), f"cpuid_config[{number}]", shown, leaf


def _info(answer: Identity) -> Iterator[tuple[str, ...]]:
    info: TdInfo = answer.info
    for name, offset in INFO_OFFSETS.items():
        value = getattr(info, name)
        meaning = names(value, MASKS[name]) if name in MASKS else ""
        if name in answer.asked and value != answer.asked[name]:
            added = names(value & ~answer.asked[name], MASKS[name])
            meaning += f" (added because the module requires it: {added})"
        if name == "servtd_hash":
            bound = answer.service_td
            meaning = f"type {bound.type}, attributes {bound.attributes:#x}" if bound else "none"
        yield str(offset), name, _value(value, name), meaning
