"""
The command line: one module a verb, imported when it is called.

It reads files, prints, and exits; it decides nothing.  stdout carries the answer and
nothing else, errors go to stderr as "error: AT: MESSAGE" with a hint below.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

from cvmplan.cli.pages import WIDEST, Verb
from cvmplan.cli.process import (
    CLOSED_PIPE,
    SIGNALLED,
    answer_signals,
    fill_closed_streams,
    flush_output,
    has_colours,
    leave,
    tell,
)
from cvmplan.core.errors import CvmplanError, InputError
from cvmplan.core.files import forget_read
from cvmplan.core.mapped import confirm_all
from cvmplan.core.names import unknown
from cvmplan.core.values import printable

GROUPS: Final = (
    (
        "Plan a launch",
        {
            "inspect": "Print what an image declares: tables, sections, offsets.",
            "check": "Check an image and its launch, and print every finding.",
            "map": "Print which region owns each guest page.",
            "plan": "Print the ordered operations of the launch.",
            "trace": "Print the firmware commands of the launch.",
            "simulate": "Simulate a plan or a recorded launch on a kernel.",
            "measure": "Compute the launch measurement.",
            "report": "Write one page about the launch for reviewers.",
            "rtmr": "Predict RTMR0 to RTMR3 of a TD.",
        },
    ),
    (
        "Compare and explain",
        {
            "diff": "Compare two launches page by page.",
            "explain": "Find the settings that produce a measurement.",
            "catalogue": "List, show or add firmware known by its digests.",
            "sweep": "Measure many configurations.",
            "reference": "Write reference values for a verifier.",
            "config": "Write what makes a VMM do a launch.",
            "igvm": "Write launches as an IGVM file.",
        },
    ),
    (
        "Identity and evidence",
        {
            "verify": "Verify an attestation report or quote.",
            "events": "Replay an event log into RTMR0 to RTMR3.",
            "idblock": "Create, sign or check an SNP ID block.",
            "td-params": "Create TD_PARAMS and check them.",
            "td-info": "Compute TDINFO and TEE_INFO_HASH of a TD.",
            "session": "Create or verify the session of a SEV guest owner.",
            "launch-measure": "Compute what SEV firmware returns for LAUNCH_MEASURE.",
        },
    ),
    (
        "Reference",
        {
            "profiles": "List the VMM profiles with their sources.",
            "abis": "List the kernel interfaces with their sources.",
            "cpus": "List the CPU models with their signatures.",
            "rules": "List the rules of 'check'.",
            "schema": "Print the JSON Schema of a document.",
            "help": "Print a page of the documentation.",
        },
    ),
)
"""Titles and verbs, each verb with its summary; it is a module of this package."""
VERBS: Final = {name: text for _, verbs in GROUPS for name, text in verbs.items()}
BUG = 70
COMPLETE: Final = "_CVMPLAN_COMPLETE"
"""The environment variable by which a shell asks what may follow."""
_USAGE_ERROR: Any = typer.BadParameter.__mro__[2]  # the class of all errors of usage


def command_of(verb: str) -> Any:
    """Return the command of a verb, whose module is loaded."""
    module = import_module(f"{__name__}.{verb.replace('-', '_')}")
    command: Any = typer.main.get_command(module.app)
    command.name, command.short_help = verb, VERBS[verb]
    return command


class _Verbs(TyperGroup):
    """The verbs, each built from its module when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(VERBS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the summaries, which needs none of the modules."""
        del ctx
        for title, verbs in GROUPS:
            with formatter.section(title):
                formatter.write_dl(list(verbs.items()), col_max=16)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            if ctx.resilient_parsing:
                return None
            raise unknown("verb", cmd_name, VERBS, more="'cvmplan --help' lists the verbs")
        return command_of(cmd_name)


class _App(typer.Typer):
    """An application whose commands list their options in groups."""

    def command(self, name: str | None = None, **more: Any) -> Any:
        return super().command(name, **{"cls": Verb, **more})


def make_app(cls: type[TyperGroup] | None = None) -> typer.Typer:
    """Return an application that prints plainly and loads nothing to do so."""
    return _App(
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST},
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
    Plan, check and measure the launch of a confidential VM before you launch it.

    Try 'cvmplan measure --example snp'. 'cvmplan help' lists the documentation, 'cvmplan VERB
    --help' the options of a verb, 'cvmplan help exit-codes' the exit codes.
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
    if argv and argv[0].startswith("-"):
        from cvmplan.cli import familiar

        if familiar.is_like_the_tool(argv):
            argv = ["measure", familiar.LIKE_TOOL, *argv]
    if COMPLETE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]  # re-exported

        completion_init()  # typer's own shells
    forget_read()
    command = typer.main.get_command(app)
    code = command.main(argv or ["--help"], prog_name="cvmplan", standalone_mode=False)
    failed = flush_output()
    if failed:
        raise failed
    return int(code or 0)


def entry() -> None:
    """Run the program and end the process."""
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
    import traceback  # of a bug only: it takes two milliseconds

    tell("".join(traceback.format_exception(error)).rstrip("\n"))  # a bug, which says so
    return BUG


def complain(error: CvmplanError) -> None:
    """Print an error that does not end the run."""
    _complain(str(error), error.hint, error.exit_code)


def _complain(message: str, hint: str, code: int) -> int:
    """Print one line of error, and one of hint, on stderr."""
    _print_error("error", typer.colors.RED, message)
    if hint:
        _print_error("hint", typer.colors.CYAN, hint)
    return code


def _print_error(word: str, colour: str, message: str) -> None:
    label = f"{word}:"
    if has_colours():
        label = typer.style(label, fg=colour, bold=True)
    tell(f"{label} {printable(message)}")
