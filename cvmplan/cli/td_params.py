"""cvmplan td-params."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, Shared, option, with_options, write, write_bytes
from cvmplan.cli.typed import Typed
from cvmplan.core import values
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, PlanError
from cvmplan.core.files import Files
from cvmplan.core.findings import Finding, has_errors
from cvmplan.core.values import Json
from cvmplan.emit import FORMATS, TD_PARAMS
from cvmplan.launch.settings import IDENTITIES
from cvmplan.planning.read import read_value

if TYPE_CHECKING:
    from cvmplan.platforms.tdx.modules import Module

app = make_app()
ENCODINGS: Final = ("raw", "base64", "hex")
Format = Annotated[
    str, typer.Option("--format", metavar="text|json|raw|base64|hex", help="Output format.")
]
MODULE: Final = "Version of the TDX module whose rules apply: 1.5 or 2.0.  [assumed: 1.5]"
CPUID: Final = (
    "One CPUID configuration in hex (repeatable).  TD_PARAMS contain values without leaves: give "
    "them in the order of the module's CPUID_CONFIG list, with zeros for entries that are left "
    "out."
)
READ: Final = "Check these TD_PARAMS (1024 bytes) instead of creating them."


class Field(NamedTuple):
    """An option: the field that it sets, how it is written, what is assumed, and its help."""

    field: str
    read: Callable[[Json], int | bytes | str]
    assumed: Any
    metavar: str
    help: str
    hex: bool = True


_MASK = values.integer
FIELDS: Final[dict[str, Field]] = {
    "vcpus": Field(
        "max_vcpus",
        values.within(0, 0xFFFF),
        1,
        "N",
        "Maximum number of vCPUs.  [assumed: 1]",
        hex=False,
    ),
    "attributes": Field(
        "attributes",
        _MASK,
        0x10000000,  # what launches assume too: profiles.firmware.QEMU, td_attributes
        "MASK",
        "TD ATTRIBUTES.  [assumed: 0x10000000, SEPT_VE_DISABLE, as QEMU sets it]",
    ),
    "xfam": Field("xfam", _MASK, 3, "MASK", "TD XFAM.  [assumed: 0x3, the required bits]"),
    "gpaw": Field(
        "gpaw",
        lambda written: int(values.one_of("48", "52")(written)),
        48,
        "48|52",
        "Guest address width, with a secure EPT of 4 or 5 levels.  [assumed: 48]",
        hex=False,
    ),
    "tsc_khz": Field(
        "tsc_frequency",
        values.within(0, 0xFFFF * 25_000),
        1_000_000,
        "KHZ",
        "TSC frequency, in steps of 25000; KVM takes the host's.  [assumed: 1000000]",
        hex=False,
    ),
    **{
        name: Field(
            name,
            values.octets_or_file(48),
            bytes(48),
            "HEX|file:PATH",
            f"{name.upper()}: 48 bytes, hex or base64; or the SHA-384 of a file.  [assumed: zeros]",
        )
        for name in IDENTITIES
    },
    "l2_vms": Field(
        "num_l2_vms", values.within(0, 0xFF), 0, "N", "Nested VMs.  [assumed: 0]", hex=False
    ),
    "msr_config": Field(
        "msr_config_ctls",
        values.within(0, 0xFF),
        0,
        "MASK",
        "MSR_CONFIG_CTLS: bit 0 says that --arch-capabilities counts.  [assumed: 0]",
    ),
    "config_flags": Field(
        "config_flags",
        _MASK,
        4,
        "MASK",
        "CONFIG_FLAGS; --gpaw 52 adds bit 0.  [assumed: 0x4, NO_RBP_MOD, as KVM sets it]",
    ),
    "arch_capabilities": Field(
        "ia32_arch_capabilities_config",
        _MASK,
        0,
        "MASK",
        "IA32_ARCH_CAPABILITIES_CONFIG.  [assumed: 0]",
    ),
}
"""Option to what it sets."""


class Asked(NamedTuple):
    """What was typed: fields by their options, CPUID configurations, the module, a file."""

    fields: Mapping[str, str]
    cpuids: tuple[str, ...]
    module: str | None
    path: str | None


def _shared() -> Shared:
    text = Optional[str]
    shared: Shared = {
        name: (option(text, name, one.metavar, one.help), None) for name, one in FIELDS.items()
    }
    metavar = "LEAF[:SUBLEAF]=EAX,EBX,ECX,EDX"
    shared["cpuid"] = (option(Optional[list[str]], "cpuid", metavar, CPUID), None)
    shared["module"] = (option(text, "module", "VERSION", MODULE), None)
    shared["read"] = (option(text, "read", "FILE", READ), None)
    return shared


def _asked(typed: Typed) -> Asked:
    fields = {name: text for name in FIELDS if (text := typed.text(name)) is not None}
    cpuids = tuple(typed.texts("cpuid"))
    asked = Asked(fields, cpuids, typed.text("module"), typed.text("read"))
    given = [*fields, *(["cpuid"] if asked.cpuids else [])]
    if asked.path is not None and given:
        at = f"--{given[0].replace('_', '-')}"
        raise ConfigError("cannot be combined with --read", at=at)
    return asked


@app.command()
@partial(with_options, shared=_shared(), make=_asked)
def td_params(asked: Asked, format: Format = "text", output: Output = None) -> None:
    """
    Create TD_PARAMS, the input of TDH.MNG.INIT, and check them by the rules of a TDX module.

    Exit 1 if the module refuses them; raw, base64 and hex then print nothing.
    """
    from cvmplan.core.blob import pack
    from cvmplan.platforms.tdx.params import Described, findings, read

    if asked.path is not None:
        files = Files()
        blob = files.open(asked.path, "TD_PARAMS")
        module, given, assumed = _module(asked)
        params = read(blob)
        found = tuple(findings(params, module, partial(_place, blob)))
        told = tuple(files.inputs.values())
        answer = Described(params, module, given, assumed, (), found, told)
    else:
        answer = _made(asked)

    def printed(name: str) -> str:
        return TD_PARAMS.printer(name).td_params(answer)

    answer_in(format, output, printed, pack(answer.params), answer.findings)


def _place(blob: Blob, field: str) -> str:
    from cvmplan.platforms.tdx.params import OFFSETS

    return blob.where(OFFSETS[field])


def _module(asked: Asked) -> tuple[Module, dict[str, Any], dict[str, Any]]:
    """Return the module, and its name among what was given or what was assumed."""
    from cvmplan.platforms.tdx.modules import DEFAULT, find

    module = find(DEFAULT if asked.module is None else asked.module)
    name = {"module": module.name}
    return (module, name, {}) if asked.module is not None else (module, {}, name)


def _made(asked: Asked) -> Any:
    """Return the TD_PARAMS that the options describe; ConfigError names the one that is wrong."""
    from cvmplan.planning.read import hash_identity
    from cvmplan.platforms.tdx.params import TSC_UNIT, Described, findings, made

    module, given, assumed = _module(asked)
    files = Files()
    settings: dict[str, Any] = {}
    for name, one in FIELDS.items():
        typed = name in asked.fields
        value = _value(name, one, asked.fields[name]) if typed else one.assumed
        if name in IDENTITIES:
            value = hash_identity(value, name, files.open)
        (given if typed else assumed)[name] = _shown(value, one)
        settings[one.field] = value
    settings["tsc_frequency"], rest = divmod(settings["tsc_frequency"], TSC_UNIT)
    if rest:
        raise ConfigError(f"is not a multiple of {TSC_UNIT} (25 MHz)", at="--tsc-khz")
    wide = settings["config_flags"] & 1
    if wide and "gpaw" in given and settings["gpaw"] == 48:
        raise ConfigError("bit 0 needs a guest address width of 52", at="--config-flags")
    if wide and "gpaw" in assumed:
        settings["gpaw"] = assumed["gpaw"] = 52
    cpuids = tuple(map(_cpuid, asked.cpuids))
    if len({one[:2] for one in cpuids}) != len(cpuids):
        raise ConfigError("a leaf is given twice", at="--cpuid")
    params = made(settings, cpuids)
    found = (*_too_many(len(cpuids), module), *findings(params, module, _option_of))
    told = tuple(files.inputs.values())
    return Described(params, module, given, assumed, cpuids, tuple(found), told)


def _too_many(count: int, module: Module) -> tuple[Finding, ...]:
    """Return a finding for entries past the module's, where they are zero and seen nowhere."""
    if count <= module.cpuid_configs:
        return ()
    problem = f"{count} entries, module {module.name} has {module.cpuid_configs}"
    return (Finding("td-cpuid-config", problem, at="--cpuid"),)


def _option_of(field: str) -> str:
    names = {one.field: f"--{name.replace('_', '-')}" for name, one in FIELDS.items()}
    return {**names, "eptp_controls": "--gpaw", "cpuid_config": "--cpuid"}.get(field, field)


def _value(name: str, one: Field, written: str) -> Any:
    return read_value(one.read, written, f"--{name.replace('_', '-')}")


def _shown(value: int | bytes, one: Field) -> int | str:
    if isinstance(value, bytes):
        return value.hex()
    return hex(value) if one.hex else value


def _cpuid(written: str) -> Any:
    """Return one CPUID configuration; ConfigError."""
    from cvmplan.platforms.tdx.params import Cpuid

    register = values.within(0, 0xFFFFFFFF)
    place, _, four = written.partition("=")
    leaf, colon, subleaf = place.partition(":")
    try:
        row = [register(_hexed(one)) for one in four.split(",")]
        key = register(_hexed(leaf)), register(_hexed(subleaf)) if colon else 0
    except ValueError as error:
        raise ConfigError(str(error), at="--cpuid") from None
    if len(row) != 4:
        hint = "LEAF[:SUBLEAF]=EAX,EBX,ECX,EDX, such as 0x7:0x0=0,0x1,0,0"
        raise ConfigError(f"{written[:60]!r} has {len(row)} values, not 4", at="--cpuid", hint=hint)
    return Cpuid(*key, (row[0], row[1], row[2], row[3]))


def _hexed(written: str) -> str:
    """Return a number as `values` reads it: these are hex, with 0x or without."""
    return written if written.startswith("0x") else f"0x{written}"


def answer_in(
    format: str,
    output: str | None,
    printed: Callable[[str], str],
    data: bytes,
    found: tuple[Finding, ...],
) -> None:
    """
    Print what `printed` makes of a format, or the bytes `data` raw or encoded.

    Exit 1 after an answer, PlanError in place of bytes, where a finding is an error.
    """
    if format not in ENCODINGS:
        if format not in FORMATS:
            hint = f"as text, json, {', '.join(ENCODINGS)}"
            raise ConfigError(f"unknown format {format!r}", at="--format", hint=hint)
        write(printed(format), output)
        if has_errors(found):
            raise typer.Exit(1)
        return
    for one in found:
        if one.severity == "error":
            raise PlanError(one.text, at=one.at, hint="--format text prints all findings")
    if format == "raw":
        write_bytes((data,), output)
    else:
        encoded = data.hex() if format == "hex" else b64encode(data).decode()
        write(f"{encoded}\n", output)
