"""Pages of help: options in groups, the verb's own first, and examples at the end."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final

from typer.core import TyperCommand

from cvmplan.cli import words
from cvmplan.cli.process import TICKER
from cvmplan.core.errors import CvmplanError

WIDEST: Final = 200  # columns that a page fills at most
OWN, LAUNCH, GUEST = "Options", "Image and launch", "Guest"
BOOT, AMD, INTEL, GENERAL = "Direct boot", "AMD SEV", "Intel TDX", "General"
GROUPS: Final = (OWN, LAUNCH, GUEST, BOOT, AMD, INTEL, GENERAL)
_LAUNCH: Final = {"example", "platform", "vmm", "abi", "inputs", "allow_outside"}
_GENERAL: Final = {"jobs", "quiet", "verbose", "help"}
_BOOT: Final = {"kernel", "initrd", "append"}
EXAMPLES: Final = {
    "inspect": ("cvmplan inspect OVMF.fd",),
    "check": (
        "cvmplan check image.json",
        "cvmplan check OVMF.fd --platform snp --abi kvm-6.18 --policy 0x30000",
        "cvmplan check images/*.json --fail-on warning --format sarif -o check.sarif",
    ),
    "map": (
        "cvmplan map OVMF.fd --platform tdx",
        "cvmplan map image.json --format html -o map.html",
    ),
    "plan": (
        "cvmplan plan OVMF.fd --platform snp --format json -o plan.json",
        "cvmplan plan OVMF.fd --platform tdx --abi kvm-6.16 --format calls",
    ),
    "trace": ("cvmplan trace OVMF.fd --platform snp --vcpus 2",),
    "simulate": (
        "cvmplan simulate plan.json --abi kvm-7.0",
        "cvmplan simulate qemu.log --image OVMF.fd --vcpus 4",
    ),
    "measure": (
        "cvmplan measure OVMF.fd --platform snp --vcpus 4 --cpu EPYC-Milan",
        "cvmplan measure OVMF.fd --platform snp --kernel bzImage --append quiet --bare",
        "cvmplan measure plan.json --expect @digest.txt",
    ),
    "report": ("cvmplan report OVMF.fd --platform snp --vcpus 4 -o report.html",),
    "rtmr": ("cvmplan rtmr OVMF.fd --memory 2GiB --kernel bzImage --qemu 10.2",),
    "diff": (
        'cvmplan diff OVMF.fd OVMF.fd --platform snp --a "--vmm qemu" --b "--vmm ec2"',
        "cvmplan diff plan.json qemu.log",
    ),
    "explain": (
        "cvmplan explain OVMF.fd --platform snp --vcpus 4 --expect HEX",
        "cvmplan explain OVMF.fd --report report.bin --try older/OVMF.fd",
        "cvmplan explain --report report.bin",
    ),
    "catalogue": (
        "cvmplan catalogue debian-2026.08+ds-2-amdsev",
        "cvmplan catalogue add OVMF.fd --version 7 --source https://example.org/OVMF.fd",
    ),
    "sweep": ("cvmplan sweep OVMF.fd --vcpus 1-64 --cpu EPYC-Milan,EPYC-Genoa --format csv",),
    "reference": (
        "cvmplan reference OVMF.fd --platform snp --vcpus 1-32 --cpu EPYC-Milan --to rvps",
        "cvmplan reference OVMF.fd --platform tdx --to go-tdx-guest -o tdx.textproto",
    ),
    "config": ("cvmplan config OVMF.fd --platform snp --vcpus 4 --cpu EPYC-Milan --to qemu",),
    "igvm": (
        "cvmplan igvm OVMF.fd --platform snp --vcpus 4 -o image.igvm",
        "cvmplan igvm OVMF.fd --platform tdx --beside snp-plan.json -o image.igvm",
    ),
    "verify": (
        "cvmplan verify report.bin --plan plan.json --certs vcek.pem --certs chain.pem",
        "cvmplan verify quote.dat OVMF.fd --event-log CCEL",
    ),
    "events": ("cvmplan events /sys/firmware/acpi/tables/data/CCEL",),
    "idblock": (
        "cvmplan idblock OVMF.fd --platform snp --id-key id.pem -o identity",
        "cvmplan idblock OVMF.fd --platform snp --verify --block B --auth A",
    ),
    "td-params": ("cvmplan td-params --vcpus 4 --format raw -o td_params.bin",),
    "td-info": ("cvmplan td-info OVMF.fd --mrowner file:owner.json",),
    "session": ("cvmplan session --pdh pdh.cert --godh-key owner.pem --policy 0x5 -o session",),
    "launch-measure": (
        "cvmplan launch-measure OVMF.fd --platform sev --tik tik --nonce HEX --api 1.55 --build 8",
    ),
    "profiles": ("cvmplan profiles qemu", "cvmplan profiles ec2 --format json -o own.json"),
    "abis": ("cvmplan abis kvm-6.18",),
    "cpus": ("cvmplan cpus --format json",),
    "rules": ("cvmplan rules",),
    "schema": ("cvmplan schema manifest",),
    "help": ("cvmplan help mismatch", "cvmplan help measure"),
}
"""Command lines at the end of a verb's page."""


def group_of(name: str) -> str:
    """Return the group of an option by the name of its parameter."""
    from cvmplan.core.platform import POLICED, WITH_SECURE_EPT
    from cvmplan.launch.settings import SETTINGS

    if name in _GENERAL or name in _LAUNCH:
        return GENERAL if name in _GENERAL else LAUNCH
    if name not in SETTINGS:
        return OWN
    if name.removesuffix("_hash") in _BOOT:
        return BOOT
    platforms = set(SETTINGS[name].platforms or ())
    if not platforms:
        return GUEST
    if platforms <= set(WITH_SECURE_EPT):
        return INTEL
    return AMD if platforms <= set(POLICED) else GUEST


VARIABLE: Final = "CVMPLAN_"
"""How variables begin that are defaults of options."""
TYPED: Final = "cvmplan.typed"
"""Where the context of a verb has options with what was typed for them."""


class Verb(TyperCommand):
    """A verb whose options are listed in groups where it has those of a launch."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line, with options of other tools in it; ConfigError for a repeat."""
        if not ctx.resilient_parsing:
            args = self._checked(ctx, args)
        return super().parse_args(ctx, args)

    def _checked(self, ctx: Any, args: list[str]) -> list[str]:
        known = words.declared(self.params)
        split = [*words.split(args, known)]
        if any(word.name and word.name not in known for word in split):
            from cvmplan.cli import familiar

            everything = familiar.options_of_the_tool() | known
            split, typed = familiar.translate([*words.split(args, everything)], known)
            ctx.meta[TYPED] = typed
        if "--quiet" in known or any(name.startswith(VARIABLE) for name in os.environ):
            from cvmplan.cli import usual

            split += usual.words(known, split)
        words.check_repeats(split, known, ctx.meta.get(TYPED, {}))
        return words.join(split)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb, and say that it runs where it takes long; errors name what was typed."""
        outer = ctx.parent is not None  # not options within an option
        if outer and not ctx.params.get("quiet") and not ctx.params.get("on_host"):  # EINTR of KVM
            TICKER.start(str(ctx.info_name))
        try:
            return super().invoke(ctx)
        except CvmplanError as error:
            error.at = ctx.meta.get(TYPED, {}).get(error.at, error.at)
            raise
        finally:
            if outer:
                TICKER.stop()

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, options by their groups, and examples."""
        shown = [(p, p.get_help_record(ctx)) for p in self.get_params(ctx)]
        arguments = [r for p, r in shown if r and p.param_type_name == "argument"]
        options = [(p.name or "", r) for p, r in shown if r and p.param_type_name == "option"]
        grouped = len({group_of(name) for name, _ in options}) > len({OWN, GENERAL})
        _write(formatter, "Arguments", arguments)
        for title in GROUPS:
            rows = [r for name, r in options if (group_of(name) if grouped else OWN) == title]
            _write(formatter, title, rows)
        if examples := EXAMPLES.get(str(ctx.info_name)):
            with formatter.section("Examples"):
                for line in examples:
                    formatter.write_text(line)


def _write(formatter: Any, title: str, rows: Iterable[tuple[str, str]]) -> None:
    listed = list(rows)
    if listed:
        with formatter.section(title):
            formatter.write_dl(listed)
