"""
The events of a boot, in order, as far as the inputs decide them.

One builder a register and kind of boot.  Nothing is guessed: an event whose digest does not
follow from what was given is a node without one, and its register has no value.

Sources: edk2 c5aa7e7, OvmfPkg (order: BdsDxe, PlatformBootManagerLib, TdTcg2Dxe); logs of
hardware and of boots with Debian's packages; further ones beside each rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cvmplan.boot import direct, event_data, node, stub
from cvmplan.boot.inputs import Inputs
from cvmplan.boot.linux import linux_events, option_events
from cvmplan.boot.machine import rtmr0
from cvmplan.boot.node import ACTION, APPLICATION, GPT, SEPARATOR, TAG, Node
from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError
from cvmplan.images import gpt, pe
from cvmplan.profiles import boot as vmm

FIRST_EXIT: Final = "if the first ExitBootServices succeeds"
_TDX = "edk2 c5aa7e7, OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c"


def predict(inputs: Inputs) -> tuple[Node, ...]:
    """
    Return the events of RTMR0 to RTMR3, each register's in order.

    ConfigError: inputs that contradict each other or the firmware; UnsupportedError,
    MalformedError, TruncatedError: an input that firmware would refuse, or that we can't read.
    """
    if inputs.kernel is not None and inputs.uki is not None:
        raise ConfigError("two things to boot", at="--uki", hint="--kernel or --uki, not both")
    if inputs.kernel is None and (inputs.initrd is not None or inputs.append):
        option = "--initrd" if inputs.initrd is not None else "--append"
        raise ConfigError("nothing to boot with it", at=option, hint="give --kernel")
    _check_used(inputs)
    second = separator_register(inputs)
    if inputs.firmware is not None and not inputs.firmware.measures:
        needs = "firmware that measures: this image has no TdTcg2Dxe"
        return tuple(_unknown(number, SEPARATOR, "", "events", needs) for number in range(3))
    boot = [_unknown(1, APPLICATION, "application", "what is booted", "--kernel or --uki")]
    if inputs.kernel is not None:
        boot = [*_direct(inputs, inputs.kernel, second)]
    elif inputs.uki is not None:
        boot = [*_disk(inputs, inputs.uki, second)]
    else:
        boot.append(_unknown(2, TAG, "", "what the booted system measures", "--kernel or --uki"))
    measured = (*rtmr0(inputs, second), *boot)
    return (*measured, *_extended(inputs))


def _check_used(inputs: Inputs) -> None:
    """Refuse options that would change nothing; ConfigError."""
    firmware = inputs.firmware
    for given, flag in ((inputs.loader, "--loader"), (inputs.disk, "--esp")):
        if given is not None and inputs.uki is None:
            raise ConfigError("nothing is booted from disk", at=flag, hint="give --uki")
    for used, flag in (
        (inputs.acpi_tables is not None, "--acpi-tables"), (inputs.smbios is not None, "--smbios"),
        (bool(inputs.fw_cfg), "--fw-cfg"), (bool(inputs.boot_vars), "--boot-var"),
    ):  # fmt: skip
        if used and firmware is None:
            raise ConfigError("nothing measures it", at=flag, hint="give the firmware image")
    if firmware is not None and inputs.smbios is not None and not firmware.smbios:
        raise ConfigError("this firmware does not measure SMBIOS", at="--smbios")
    if firmware is not None and inputs.fw_cfg and not firmware.fw_cfg:
        raise ConfigError("this firmware does not measure fw_cfg", at="--fw-cfg")


def changed(inputs: Inputs, *, has_initrd: bool) -> tuple[Node, ...]:
    """
    Return the events that inputs decide beside a template; errors as in predict.

    `has_initrd`: the template's kernel was given one.
    """
    if inputs.kernel is not None or inputs.uki is not None:
        return predict(inputs)
    _check_used(inputs)
    second = separator_register(inputs)
    nodes = [*rtmr0(inputs, second)] if inputs.firmware is not None else []
    return (*nodes, *option_events(inputs, has_initrd=has_initrd), *_extended(inputs))


def separator_register(inputs: Inputs) -> int | None:
    """Return the register of the second separator; ConfigError where inputs contradict."""
    told = inputs.firmware.separator_register if inputs.firmware is not None else None
    if None not in (told, inputs.separator) and told != inputs.separator:
        problem = f"the firmware extends RTMR{told} by its second separator"
        raise ConfigError(problem, at="--separator", hint="leave the option out")
    return inputs.separator if told is None else told


def _unknown(register: int, kind: int, key: str, what: str, needs: str) -> Node:
    return Node(register, kind, key, what, None, needs=needs)


def _separator(second: int | None) -> Iterator[Node]:
    """Yield the separator of RTMR1, where it has one."""
    if second is None:
        yield _unknown(1, SEPARATOR, "separator", "separator or none", "--separator rtmr0|rtmr1")
    elif second == 1:
        data = event_data.SEPARATOR
        yield Node(
            1, SEPARATOR, "separator", "separator", event_data.digest(data), data, source=_TDX
        )


def action(text: bytes, condition: str = "") -> Node:
    """Return the event of an action."""
    word = text.decode()
    return Node(
        1, ACTION, word, word, event_data.digest(text), text, condition=condition, source=_TDX
    )


def application(what: str, image: pe.Pe, depends: str, condition: str = "") -> Node:
    """Return the event of a PE image that firmware starts."""
    return Node(
        1, APPLICATION, "application", what, pe.authenticode(image), what.encode(),
        depends=(depends,), condition=condition,
        source="edk2 c5aa7e7, OvmfPkg/Tcg/TdTcg2Dxe/MeasureBootPeCoff.c",
    )  # fmt: skip


def _exits() -> Iterator[Node]:
    yield action(event_data.EXIT_INVOKED)
    yield action(event_data.EXIT_SUCCESS, FIRST_EXIT)


def _direct(inputs: Inputs, kernel: Blob, second: int | None) -> Iterator[Node]:
    """Yield what a direct boot of a Linux kernel extends RTMR1 and RTMR2 by."""
    image = pe.read(kernel)
    yield kernel_node(inputs, kernel, image)
    yield action(event_data.CALLING)
    yield from _separator(second)
    if stub.is_uki(image) or not direct.is_linux(kernel):
        needs = "a kernel of Linux, or --template"
        yield _unknown(1, APPLICATION, "application", "what this image starts", needs)
        yield from _exits()
        yield _unknown(2, TAG, "", "what this image measures", needs)
        return
    yield from _exits()
    yield from linux_events(inputs, kernel)


def kernel_node(inputs: Inputs, kernel: Blob, image: pe.Pe) -> Node:
    """Return the event of the kernel of a direct boot: its header may be the VMM's."""
    what = f"kernel {kernel.name}"
    if not direct.is_linux(kernel):
        return application(what, image, "kernel")
    rule = header_rule(inputs)
    if rule is None:
        needs = f"{vmm.WANTED} (and the firmware image)"
        return _unknown(1, APPLICATION, "application", what, needs)
    if rule == vmm.UNPATCHED:
        return application(what, image, "kernel")
    if inputs.memory is None and inputs.initrd is not None:
        return _unknown(1, APPLICATION, "application", what, "--memory")
    size = 0 if inputs.initrd is None else len(inputs.initrd)
    memory = inputs.memory or direct.MIB
    written = pe.read(direct.patched(kernel, memory, inputs.append, size))
    found = application(f"{what}, its header written by the VMM", written, "kernel")
    return Node(
        1, APPLICATION, found.key, found.what, found.digest, found.data,
        depends=("kernel", "initrd", "memory", "append"), source=vmm.FIELDS_SOURCE,
    )  # fmt: skip


def header_rule(inputs: Inputs) -> str | None:
    """Return whether the VMM's header is in the kernel that is measured, None where unknown."""
    named = None if inputs.firmware is None else inputs.firmware.named_blobs
    return vmm.header(inputs.header, named)


def _disk(inputs: Inputs, uki: Blob, second: int | None) -> Iterator[Node]:
    """Yield what a boot from disk extends RTMR1 and RTMR2 by: a UKI, behind a loader or not."""
    image = pe.read(uki)
    yield action(event_data.CALLING)
    yield from _separator(second)
    if inputs.disk is None:
        yield _unknown(1, GPT, "gpt", "partition table", "--esp FILE")
    else:
        table = gpt.event(inputs.disk)
        digest = event_data.digest(table)
        yield Node(
            1, GPT, "gpt", "partition table", digest, table, depends=("esp",),
            condition="if the disk has blocks of 512 bytes",
            source="edk2 c5aa7e7, SecurityPkg/Library/DxeTpm2MeasureBootLib",
        )  # fmt: skip
    if inputs.loader is not None:
        name = f"boot loader {inputs.loader.name}"
        yield application(name, pe.read(inputs.loader), "loader")
    yield application(f"UKI {uki.name}", image, "uki")
    yield from stub.events(inputs, image)
    yield from _exits()


def _extended(inputs: Inputs) -> Iterator[Node]:
    """Yield what RTMR3 is extended by: nothing but what was given."""
    for name, digest in inputs.extends:
        yield Node(3, node.RUNTIME, name, name, digest, name.encode(), depends=("extend",))
