"""cvmplan rtmr."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final, Optional

import typer

from cvmplan.boot.against import Difference, differences
from cvmplan.boot.inputs import Inputs
from cvmplan.boot.node import Register, registers
from cvmplan.boot.template import Match, nodes_of
from cvmplan.cli import make_app
from cvmplan.cli.options import (
    Base,
    Output,
    Shared,
    format_of,
    option,
    with_options,
    write,
    write_bytes,
)
from cvmplan.cli.typed import Typed
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError, MismatchError
from cvmplan.core.files import Files
from cvmplan.emit import RTMR
from cvmplan.launch.settings import READ_WITH, SETTINGS
from cvmplan.planning.read import read_options, read_value

app = make_app()
Format = Annotated[str, format_of(RTMR)]
UNKNOWN, NOT_INDEPENDENT = 5, 6  # exit codes
OUTSIDE: Final = "Allow a launch description to name files outside its folder."
_FILES: Final = {
    "kernel": "Kernel of a direct boot (QEMU -kernel).",
    "initrd": "Initrd of a direct boot (QEMU -initrd).",
    "uki": "UKI that is booted from disk.",
    "loader": "systemd-boot binary that starts the UKI.  [assumed: none, the UKI is BOOTX64.EFI]",
    "esp": "Image of the boot disk; its partition table is measured.",
    "acpi_tables": "ACPI tables as a guest reads them (etc/acpi/tables).",
    "smbios": "SMBIOS tables as in the guest's /sys/firmware/dmi/tables/DMI.",
    "template": "Known good log; events that cannot be computed are taken from it.",
    "quote": "Quote that the template must replay to.",
    "log": "Log to compare: print the first event that differs, and exit 1.",
}
_TEXTS: Final = {
    "memory": ("SIZE", "Size of the TD's RAM."),
    "append": ("TEXT", "Kernel command line (QEMU -append), used byte for byte."),
    "secure_boot": ("absent|off|on", "State of the SecureBoot variable."),
    "qemu": (
        "VERSION|patched|unpatched",
        "QEMU version, or whether QEMU patches the kernel header.",
    ),
    "separator": (
        "rtmr0|rtmr1",
        "Register that the second separator extends.",
    ),
}
_LISTS: Final = {
    "fw_cfg": ("NAME=FILE", "fw_cfg item that the firmware measures."),
    "boot_var": ("NAME=FILE", "Value of BootOrder, Boot0000 …"),
    "extend": (
        "DIGEST|EVENT",
        "Event of RTMR3: hex, dstack:NAME:HEX, dstack2:NAME:HEX or aael:TEXT.",
    ),
    "expect": ("RTMRn=HEX", "Expected register; exit 1 if different."),
}


def _shared() -> Shared:
    """Return the argument and the options, all of them text."""
    image = typer.Argument(metavar="[IMAGE]", help="TDX firmware (OVMF), or a launch description.")
    shared: Shared = {"image": (Annotated[Optional[str], image], None)}
    for name, text in _FILES.items():
        shared[name] = (option(Optional[str], name, "FILE", text), None)
    for name, (metavar, text) in _TEXTS.items():
        shared[name] = (option(Optional[str], name, metavar, text), None)
    for name, (metavar, text) in _LISTS.items():
        shared[name] = (option(Optional[list[str]], name, metavar, text), None)
    for name in READ_WITH:
        shared[name] = (
            option(Optional[str], name, SETTINGS[name].metavar, SETTINGS[name].help),
            None,
        )
    shared["base"] = (Base, None)
    shared["allow_outside"] = (option(bool, "allow_outside", "", OUTSIDE), False)
    return shared


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked: the events, and what registers have to be."""

    matches: tuple[Match, ...]
    expected: dict[int, bytes]
    differences: tuple[Difference, ...] | None


def _wanted(typed: Typed) -> Wanted:
    expected = _expected(typed.texts("expect"))
    files = Files(allow_outside=typed.flag("allow_outside"), base=typed.text("base"))
    inputs = _inputs(files, typed)
    matches = _matches(files, inputs, typed)
    path = typed.text("log")
    if path is None:
        return Wanted(matches, expected, None)
    if path == typed.text("template"):
        hint = "a template must not be the log under test"
        raise ConfigError("the log and the template are the same", at="--log", hint=hint)
    from cvmplan.eventlog.forms import read

    log = read(files.open(path, "event log"))
    _check_other(files, path, typed.text("template"))
    return Wanted(matches, expected, differences(inputs, nodes_of(matches), log))


def _check_other(files: Files, log: str, template: str | None) -> None:
    """Refuse a template that is the log under test, whatever it is called; ConfigError."""
    if template is None:
        return
    if bytes(files.open(log, "log").data) == bytes(files.open(template, "template").data):
        hint = "a template must not be the log under test"
        raise ConfigError("the log and the template are the same", at="--log", hint=hint)


@app.command()
@partial(with_options, shared=_shared(), make=_wanted)
def rtmr(wanted: Wanted, format: Format = "text", output: Output = None) -> None:
    """
    Predict RTMR0 to RTMR3 of a TD, event by event.

    A register has a value only if all its events are known.  Otherwise the output names the
    first unknown event and the input that settles it, and the exit code is 5.  With --template,
    unknown events are taken from a known good log, and the exit code is 6.  Exit 1 if a register
    differs from --expect.  --format ccel writes the events as a log.
    """
    found = registers(nodes_of(wanted.matches))
    for one in found:
        value = wanted.expected.get(one.number)
        if value is not None and one.value is not None and value != one.value:
            problem = f"RTMR{one.number} is {one.value.hex()}, expected {value.hex()}"
            raise MismatchError(problem, at="--expect")
    _print(wanted, found, format, output)
    if wanted.differences:
        raise typer.Exit(1)
    asked = [one for one in found if not wanted.expected or one.number in wanted.expected]
    if any(one.value is None for one in asked):
        raise typer.Exit(UNKNOWN)
    if not all(one.independent for one in asked):
        raise typer.Exit(NOT_INDEPENDENT)


def _print(wanted: Wanted, found: Sequence[Register], format: str, output: str | None) -> None:
    from cvmplan.boot.log import ccel

    if format == "ccel":
        write_bytes((ccel(nodes_of(wanted.matches)),), output)
    else:
        told = RTMR.printer(format).rtmr(wanted.matches, found, wanted.differences)
        write(told, output)


def _matches(files: Files, inputs: Inputs, typed: Typed) -> tuple[Match, ...]:
    """Return the events that the options lead to, with a template or without."""
    from cvmplan.boot.predict import changed, header_rule, predict
    from cvmplan.boot.template import check_replay, combine, has_initrd, predicted
    from cvmplan.eventlog.forms import read
    from cvmplan.platforms.tdx.quote import read_quote
    from cvmplan.profiles.boot import UNPATCHED

    template, quote = typed.text("template"), typed.text("quote")
    if template is None:
        if quote is not None:
            raise ConfigError("--quote needs --template", at="--quote", hint="add --template FILE")
        return predicted(predict(inputs))
    log = read(files.open(template, "template"))
    if quote is not None:
        check_replay(log, read_quote(files.open(quote, "quote")).td.rtmrs, template)
    nodes = changed(inputs, has_initrd=has_initrd(log))
    return combine(log, nodes, as_is=header_rule(inputs) == UNPATCHED)


def _inputs(files: Files, typed: Typed) -> Inputs:
    """Return what was typed, files opened and values read; ConfigError, InputError."""
    from cvmplan.boot.extend import parse
    from cvmplan.core import values
    from cvmplan.profiles import boot

    opened = {
        name: None if (path := typed.text(name)) is None else files.open(path, name)
        for name in ("kernel", "initrd", "uki", "loader", "esp", "acpi_tables", "smbios")
    }
    memory, qemu = typed.text("memory"), typed.text("qemu")
    told = _described(files, typed)
    separator = _choice(typed, "separator", "rtmr0", "rtmr1")
    return Inputs(
        firmware=told.firmware,
        memory=told.memory if memory is None else read_value(values.memory, memory, "--memory"),
        append=told.append if typed.text("append") is None else typed.text("append") or "",
        header=None if qemu is None else boot.check(qemu),
        secure_boot=_choice(typed, "secure_boot", "absent", "off", "on"),
        separator=None if separator is None else int(separator[-1]),
        fw_cfg=_named(files, typed.texts("fw_cfg"), "--fw-cfg"),
        boot_vars=_named(files, typed.texts("boot_var"), "--boot-var"),
        extends=tuple(map(parse, typed.texts("extend"))),
        disk=opened.pop("esp"),
        **_booted(opened, told),
    )


def _booted(opened: dict[str, Blob | None], told: Inputs) -> dict[str, Blob | None]:
    """Return what was typed, with what a description boots where nothing else is booted."""
    described = {"kernel": told.kernel, "initrd": told.initrd}
    if opened["kernel"] is not None or opened["uki"] is not None:
        return opened
    return {n: described.get(n) if blob is None else blob for n, blob in opened.items()}


def _described(files: Files, typed: Typed) -> Inputs:
    """Return what the image says: firmware, or a launch description of a TD."""
    from cvmplan.planning.predicted import described

    path = typed.text("image")
    if path is None:
        return Inputs()
    given = read_options(typed.only(*READ_WITH))
    return described(files.open(path, "image"), files.open, given)


def _choice(typed: Typed, name: str, *choices: str) -> str | None:
    from cvmplan.core.values import one_of

    flag = f"--{name.replace('_', '-')}"
    word = typed.text(name)
    return None if word is None else read_value(one_of(*choices), word, flag)


def _named(files: Files, written: list[str], flag: str) -> dict[str, Blob]:
    """Return NAME=FILE options as files by name; ConfigError."""
    from cvmplan.boot.machine import FW_CFG_ITEMS, is_boot_variable

    items = flag == "--fw-cfg"
    hint = ", ".join(FW_CFG_ITEMS) if items else "BootOrder, Boot0000 …"
    found: dict[str, Blob] = {}
    for text in written:
        name, equals, path = text.partition("=")
        known = name in FW_CFG_ITEMS if items else is_boot_variable(name)
        if not equals or not known or name in found:
            raise ConfigError(f"{text!r} is not NAME=FILE, or is given twice", at=flag, hint=hint)
        found[name] = files.open(path, name)
    return found


def _expected(written: list[str]) -> dict[int, bytes]:
    from cvmplan.core.values import octets

    found: dict[int, bytes] = {}
    for text in written:
        name, _, value = text.partition("=")
        if name.lower() not in ("rtmr0", "rtmr1", "rtmr2", "rtmr3"):
            raise ConfigError(f"{text!r} is not RTMRn=HEX", at="--expect")
        number = int(name[-1])
        found[number] = read_value(octets(48), value, f"--expect {name}")
    return found
