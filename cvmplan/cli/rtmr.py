"""cvmplan rtmr."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Format, Output, option, read_value, write, write_bytes
from cvmplan.errors import ConfigError, MismatchError

app = make_app()
UNKNOWN, NOT_INDEPENDENT = 5, 6  # exit codes
Firmware = Annotated[
    Optional[str], typer.Argument(metavar="[IMAGE]", help="TDX firmware (OVMF); - for stdin.")
]
Text = Optional[str]
Many = Optional[list[str]]
Memory = option(Text, "memory", "SIZE", "RAM of the TD.")
Kernel = option(Text, "kernel", "FILE", "What -kernel names.")
Initrd = option(Text, "initrd", "FILE", "What -initrd names.")
Append = option(Text, "append", "TEXT", "What -append says, blanks included.")
Uki = option(Text, "uki", "FILE", "Boot this UKI from disk.")
Loader = option(Text, "loader", "FILE", "The systemd-boot that starts the UKI.  [assumed: none]")
Esp = option(Text, "esp", "FILE", "Image of the disk that is booted: its partition table.")
SecureBoot = option(Text, "secure_boot", "absent|off|on", "The variable SecureBoot.")
Qemu = option(Text, "qemu", "VERSION|patched|unpatched", "Whether QEMU writes the kernel's header.")
Separator = option(
    Text, "separator", "rtmr0|rtmr1", "Which the second one extends; where firmware doesn't tell."
)
Acpi = option(Text, "acpi_tables", "FILE", "etc/acpi/tables, as a guest sees it.")
Smbios = option(Text, "smbios", "FILE", "SMBIOS as in a guest: /sys/firmware/dmi/tables/DMI.")
FwCfg = option(Many, "fw_cfg", "NAME=FILE", "A fw_cfg item that firmware measures.")
BootVar = option(Many, "boot_var", "NAME=FILE", "The value of BootOrder or Boot0000 ….")
Extend = option(
    Many, "extend", "DIGEST|EVENT", "RTMR3: hex, dstack:NAME:HEX, dstack2:NAME:HEX, aael:TEXT."
)
Template = option(Text, "template", "LOG", "A log of such a boot: what inputs don't decide.")
Quote = option(Text, "quote", "QUOTE", "The template's quote: its replay must lead to it.")
Expects = option(Many, "expect", "RTMRn=HEX", "Exit with 1 unless this is the register.")


@app.command()
def rtmr(
    path: Firmware = None,
    memory: Memory = None,
    kernel: Kernel = None,
    initrd: Initrd = None,
    append: Append = None,
    uki: Uki = None,
    loader: Loader = None,
    esp: Esp = None,
    secure_boot: SecureBoot = None,
    qemu: Qemu = None,
    separator: Separator = None,
    acpi_tables: Acpi = None,
    smbios: Smbios = None,
    fw_cfg: FwCfg = None,
    boot_var: BootVar = None,
    extend: Extend = None,
    template: Template = None,
    quote: Quote = None,
    expect: Expects = None,
    format: Format = "text",
    output: Output = None,
) -> None:
    """
    Predict RTMR0 to RTMR3 of a TD, event by event.

    A register has a value only where all its events follow from what was given; else the first
    one that does not is named, with the input that would settle it: exit 5.  With a template,
    a log of the same kind of boot, other events are taken from it: exit 6.  Exit 1 when a
    register is not what --expect says.  --format ccel writes the events as a log.
    """
    from cvmplan.boot.node import registers
    from cvmplan.boot.template import nodes_of

    typed = {
        "memory": memory, "kernel": kernel, "initrd": initrd, "append": append, "uki": uki,
        "loader": loader, "disk": esp, "secure_boot": secure_boot, "qemu": qemu,
        "separator": separator, "acpi_tables": acpi_tables, "smbios": smbios,
        "fw_cfg": fw_cfg, "boot_vars": boot_var, "extends": extend,
    }  # fmt: skip
    wanted = _expected(expect or [])
    matches = _matches(path, typed, template, quote)
    found = registers(nodes_of(matches))
    _print(matches, found, format, output)
    for one in found:
        value = wanted.get(one.number)
        if value is not None and one.value is not None and value != one.value:
            problem = f"RTMR{one.number} is {one.value.hex()}, want {value.hex()}"
            raise MismatchError(problem, at="--expect")
    asked = [one for one in found if not wanted or one.number in wanted]
    if any(one.value is None for one in asked):
        raise typer.Exit(UNKNOWN)
    if not all(one.independent for one in asked):
        raise typer.Exit(NOT_INDEPENDENT)


def _print(matches: Any, found: Any, format: str, output: str | None) -> None:
    from cvmplan.boot.log import ccel
    from cvmplan.boot.template import nodes_of
    from cvmplan.emit import emitter

    if format == "ccel":
        write_bytes(ccel(nodes_of(matches)), output)
    else:
        write(emitter(format, "rtmr").rtmr(matches, found), output)


def _matches(
    path: str | None, typed: dict[str, Any], template: str | None, quote: str | None
) -> Any:
    from cvmplan.boot.inputs import UNPATCHED
    from cvmplan.boot.predict import changed, header_rule, predict
    from cvmplan.boot.template import TAG, check_replay, combine, key_of, predicted
    from cvmplan.files import Files
    from cvmplan.tdx.eventlog import read

    files = Files()
    inputs = _inputs(files, path, typed)
    if template is None:
        if quote is not None:
            raise ConfigError("a quote of what", at="--quote", hint="give --template too")
        return predicted(predict(inputs))
    log = read(files.open(template, "template"))
    if quote is not None:
        from cvmplan.tdx.quote import read_quote

        td = read_quote(files.open(quote, "quote")).td
        check_replay(log, td.rtmrs, template)
    tags = [key_of(event) for event in log.events if event.type == TAG]
    nodes = changed(inputs, has_initrd=hex(0x8F3B22EC) in tags)
    return combine(log, nodes, as_is=header_rule(inputs) == UNPATCHED)


def _inputs(files: Any, path: str | None, typed: dict[str, Any]) -> Any:
    """Return what was typed, files opened and values read; ConfigError, InputError."""
    from cvmplan import values
    from cvmplan.boot.extend import parse
    from cvmplan.boot.inputs import Inputs
    from cvmplan.boot.predict import check_qemu

    made: dict[str, Any] = dict.fromkeys(typed)
    for name in ("kernel", "initrd", "uki", "loader", "disk", "acpi_tables", "smbios"):
        if typed[name] is not None:
            made[name] = files.open(typed[name], name)
    made["append"] = typed["append"] or ""
    if typed["memory"] is not None:
        made["memory"] = read_value(values.size, typed["memory"], "--memory")
    for name, choices in (
        ("secure_boot", ("absent", "off", "on")),
        ("separator", ("rtmr0", "rtmr1")),
    ):
        if typed[name] is not None:
            flag = f"--{name.replace('_', '-')}"
            made[name] = read_value(values.one_of(*choices), typed[name], flag)
    if made["separator"] is not None:
        made["separator"] = int(made["separator"][-1])
    if typed["qemu"] is not None:
        made["qemu"] = check_qemu(typed["qemu"])
    for name in ("fw_cfg", "boot_vars"):
        made[name] = _named(files, typed[name] or [], name)
    made["extends"] = tuple(map(parse, typed["extends"] or []))
    made["firmware"] = None if path is None else _firmware(files, path)
    return Inputs(**made)


def _firmware(files: Any, path: str) -> Any:
    from cvmplan import readers
    from cvmplan.boot.firmware import read

    blob = files.open(path, "image")
    name, reader = readers.recognise(blob)
    if name not in ("ovmf", "tdvf"):
        raise ConfigError(f"{name} has no RTMRs", at=path, hint="give TDX firmware")
    return read(reader.read(blob, "tdx"))


def _named(files: Any, written: list[str], what: str) -> dict[str, Any]:
    """Return NAME=FILE options as files by name; ConfigError."""
    from cvmplan.boot.machine import FW_CFG_ITEMS, is_boot_variable

    flag = "--fw-cfg" if what == "fw_cfg" else "--boot-var"
    found: dict[str, Any] = {}
    for text in written:
        name, equals, path = text.partition("=")
        known = name in FW_CFG_ITEMS if what == "fw_cfg" else is_boot_variable(name)
        if not equals or not known or name in found:
            hint = ", ".join(FW_CFG_ITEMS) if what == "fw_cfg" else "BootOrder, Boot0000 …"
            raise ConfigError(f"{text!r} is no NAME=FILE, or stands twice", at=flag, hint=hint)
        found[name] = files.open(path, name)
    return found


def _expected(written: list[str]) -> dict[int, bytes]:
    from cvmplan.values import octets

    found = {}
    for text in written:
        name, _, value = text.partition("=")
        if name.lower() not in ("rtmr0", "rtmr1", "rtmr2", "rtmr3"):
            raise ConfigError(f"{text!r} is not RTMRn=HEX", at="--expect")
        number = int(name[-1])
        found[number] = read_value(octets(48), value.removeprefix("0x"), f"--expect {name}")
    return found
