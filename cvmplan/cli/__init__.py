"""
The command line: one module a verb, imported when it is called.

It reads files, prints, and exits; it decides nothing.  stdout carries the answer and
nothing else, errors go to stderr as "error: AT: MESSAGE" with a hint below.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

from cvmplan.cli.process import (
    CLOSED_PIPE,
    SIGNALLED,
    answer_signals,
    fill_closed_streams,
    flush_output,
    leave,
    on_terminal,
    tell,
)
from cvmplan.core.errors import CvmplanError, InputError
from cvmplan.core.mapped import confirm_all
from cvmplan.core.values import printable

VERBS: Final = {
    "inspect": "What a file declares: tables, sections, offsets.",
    "check": "Every finding about the map and the launch.",
    "map": "Who owns which guest pages, and the gaps.",
    "plan": "The ordered operations of the launch.",
    "trace": "The firmware commands beneath the operations.",
    "simulate": "What a kernel answers to each call of a plan.",
    "measure": "The launch measurement.",
    "launch-measure": "What SEV firmware answers to LAUNCH_MEASURE.",
    "session": "A guest owner's session with SEV firmware, made or verified.",
    "diff": "Where two launches part, and why.",
    "explain": "Which settings reproduce a measurement.",
    "sweep": "Measurements of many configurations.",
    "verify": "A report or quote, held against a plan.",
    "idblock": "The ID block of an SNP launch, signed or checked.",
    "td-params": "TD_PARAMS of a TDX guest, and the module's rules.",
    "td-info": "TDINFO of a TDX guest, and TEE_INFO_HASH.",
    "events": "What a TD's event log says, and the RTMRs that it leads to.",
    "rtmr": "What a TD will measure after its launch, event by event.",
    "profiles": "VMM profiles, with their sources.",
    "abis": "Host kernel interfaces, with their sources.",
    "rules": "What 'check' looks for.",
    "schema": "The JSON Schema of a document.",
    "help": "Print a page of the documentation.",
}
"""Verb to its summary; each is a module of this package."""
BUG = 70
_USAGE_ERROR: Any = typer.BadParameter.__mro__[2]  # the class of all errors of usage


class _Verbs(TyperGroup):
    """The verbs, each built from its module when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(VERBS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the summaries, which needs none of the modules."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        del ctx
        if cmd_name not in VERBS:
            return None
        module = import_module(f"{__name__}.{cmd_name.replace('-', '_')}")
        command = typer.main.get_command(module.app)
        command.name, command.short_help = cmd_name, VERBS[cmd_name]
        return command


def make_app(cls: type[TyperGroup] | None = None) -> typer.Typer:
    """Return an application that prints plainly and loads nothing to do so."""
    return typer.Typer(
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        cls=cls,
    )


app = make_app(cls=_Verbs)


def _version(wanted: bool) -> None:
    if wanted:
        from cvmplan import __version__

        print(f"cvmplan {__version__}")
        raise typer.Exit


@app.callback()
def cvmplan(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """
    Which pages a confidential VM is built from, whether its launch is legal, what it measures.

    Exit codes: 0 fine, 1 the launch or the comparison is wrong, 2 usage, 3 unreadable or
    malformed input (also: output that cannot be written, no memory left, a worker killed),
    4 not supported or not recognised, 5 not known from what was given, 6 known only with a
    template's help, 70 a bug in cvmplan, 128 + N ended by signal N (141: the reader of standard
    output has gone).
    """
    del version


def main(argv: list[str]) -> int:
    """Run the command line `argv` and return its exit code."""
    try:
        return _run(argv)
    except SystemExit as stop:
        pipe = isinstance(stop.__context__, BrokenPipeError)  # of a page of help
        return CLOSED_PIPE if pipe else int(stop.code or 0)
    except (KeyboardInterrupt, typer.Abort):
        return SIGNALLED + signal.SIGINT
    except Exception as error:  # noqa: BLE001 each of them has an exit code
        return _explain(error)


def _run(argv: list[str]) -> int:
    """Run the command line and return its exit code, all that it prints written."""
    command = typer.main.get_command(app)
    code = command.main(argv or ["--help"], prog_name="cvmplan", standalone_mode=False)
    failed = flush_output()
    if failed:
        raise failed
    return int(code or 0)


def entry() -> None:
    """Run the program and end the process."""
    gc.disable()  # one answer, then the end: collecting cycles costs a tenth of the time
    fill_closed_streams()
    answer_signals()
    leave(main(sys.argv[1:]))


def _explain(error: Exception) -> int:
    """Print why the run failed; a file that changed while it was read explains any failure."""
    try:
        confirm_all()
    except InputError as changed:
        error = changed
    match error:
        case CvmplanError():
            return _complain(str(error), error.hint, error.exit_code)
        case BrokenPipeError():
            return CLOSED_PIPE
        case MemoryError():
            return _complain("not enough memory", "'ulimit -v' may limit it", InputError.exit_code)
        case OSError():
            place = f"{error.filename}: " if error.filename else ""
            problem = error.strerror or str(error) or type(error).__name__
            return _complain(f"{place}{problem}", "", InputError.exit_code)
    if isinstance(error, _USAGE_ERROR):
        context = getattr(error, "ctx", None)
        hint = f"'{context.command_path} --help' lists what there is" if context else ""
        return _complain(error.format_message(), hint, 2)
    tell("".join(traceback.format_exception(error)).rstrip("\n"))  # a bug, which says so
    return BUG


def _complain(message: str, hint: str, code: int) -> int:
    """Print one line of error, and one of hint, on stderr."""
    _print_error("error", typer.colors.RED, message)
    if hint:
        _print_error("hint", typer.colors.CYAN, hint)
    return code


def _print_error(word: str, colour: str, message: str) -> None:
    label = f"{word}:"
    if on_terminal() and not os.environ.get("NO_COLOR"):
        label = typer.style(label, fg=colour, bold=True)
    tell(f"{label} {printable(message)}")
