"""What `td-params` and `td-info` answer, as JSON documents."""

from __future__ import annotations

from cvmplan.core.field import listed
from cvmplan.core.values import Json
from cvmplan.emit.documents import finding
from cvmplan.emit.json import dumps, inputs_of
from cvmplan.emit.text_td import INFO_OFFSETS, MASKS
from cvmplan.platforms.tdx.params import OFFSETS, Described
from cvmplan.platforms.tdx.report import Identity

REGISTERS = ("eax", "ebx", "ecx", "edx")
COUNTS = ("max_vcpus", "num_l2_vms", "tsc_frequency")


def td_params(answer: Described) -> str:
    """Return cvmplan.td-params/1; no bytes where the module refuses them."""
    params = answer.params
    fields = {n: _value(n, getattr(params, n)) for n in OFFSETS if n != "cpuid_config"}
    data = answer.data
    return dumps(
        {
            "schema": "cvmplan.td-params/1",
            "module": {
                name: getattr(answer.module, name) for name in ("name", "source", "confidence")
            },
            "inputs": inputs_of(answer.inputs),
            "given": dict(answer.given),
            "assumed": dict(answer.assumed),
            "td_params": {**fields, "cpuid_config": _cpuids(answer)},
            "names": {n: listed(getattr(params, n), table) for n, table in MASKS.items()},
            "hex": None if data is None else data.hex(),
            "findings": [finding(f) for f in answer.findings],
        }
    )


def td_info(answer: Identity) -> str:
    """Return cvmplan.td-info/1."""
    plan, info = answer.plan, answer.info
    bound, data = answer.service_td, answer.data
    return dumps(
        {
            "schema": "cvmplan.td-info/1",
            "platform": plan.platform,
            "vmm": plan.vmm,
            "abi": plan.abi,
            "inputs": inputs_of(plan.inputs),
            "given": answer.given,
            "assumed": answer.assumed,
            "tdinfo": {name: _value(name, getattr(info, name)) for name in INFO_OFFSETS},
            "names": {n: listed(getattr(info, n), MASKS[n]) for n in ("attributes", "xfam")},
            "rtmrs_given": list(answer.extended),
            "service_td": None
            if bound is None
            else {
                "info_hash": bound.info_hash.hex(),
                "type": bound.type,
                "attributes": hex(bound.attributes),
            },
            "hex": None if data is None else data.hex(),
            "tee_info_hash": answer.tee_info_hash.hex(),
            "findings": [finding(f) for f in (*plan.findings, *answer.findings)],
        }
    )


def _value(name: str, value: int | bytes) -> Json:
    if isinstance(value, bytes):
        return value.hex()
    return value if name in COUNTS else hex(value)


def _cpuids(answer: Described) -> list[dict[str, Json]]:
    """Return the entries up to the last one that is given or set."""
    rows = answer.entries
    used = [n + 1 for n, values in enumerate(rows) if any(values)]
    count = max([len(answer.cpuids), *used])
    found: list[dict[str, Json]] = []
    for number, values in enumerate(rows[:count]):
        row: dict[str, Json] = dict(
            zip(("eax", "ebx", "ecx", "edx"), map(hex, values), strict=True)
        )
        if number < len(answer.cpuids):
            named = answer.cpuids[number]
            row = {"leaf": hex(named.leaf), "subleaf": hex(named.subleaf), **row}
        found.append(row)
    return found
