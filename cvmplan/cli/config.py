"""cvmplan config."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Annotated

import typer

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, launch_verb, write
from cvmplan.cli.progress import watch_for
from cvmplan.cli.request import Request
from cvmplan.core.errors import MismatchError, UnsupportedError
from cvmplan.core.names import spelled, unknown
from cvmplan.core.values import printable
from cvmplan.emit import CONFIG
from cvmplan.kvm import abi as abis
from cvmplan.operations.plan import Plan
from cvmplan.profiles import PROFILES, Profile
from cvmplan.profiles.managers import MANAGERS, Manager

app = make_app()
To = Annotated[str, typer.Option("--to", metavar="TARGET", help=f"{', '.join(MANAGERS)}.")]


@app.command()
@launch_verb
def config(request: Request, to: To, output: Output = None) -> None:
    """
    Write what makes a VMM do this launch.

    TARGET is qemu (a command for a shell), libvirt (domain XML) or kata (configuration.toml).  A
    launch that the target has no means to start is refused.  The newest released kernel is
    assumed.
    """
    from cvmplan.launch.configuration import configure
    from cvmplan.operations.measure import broken_promises, measure
    from cvmplan.readers import recognise

    to = spelled(to, MANAGERS)
    if to not in MANAGERS:
        raise unknown("target", to, MANAGERS, "--to")
    manager, printer = MANAGERS[to], CONFIG.printer(to)
    kind, _ = recognise(request.image, request.options.text("platform"))
    plan = _plan(request, manager)
    result = measure(plan, watch_for(plan, quiet=request.quiet))
    for finding in broken_promises(plan, result):
        raise MismatchError(finding.message, at=finding.at)
    made = configure(plan, result, kind, manager, _absolute if manager.absolute else str)
    for text in (made.firmware, made.kernel, made.initrd, made.append):
        _check_text(text or "")
    write(printer.config(made), output)


def _plan(request: Request, manager: Manager) -> Plan:
    """Return the plan, for the newest released kernel where no other is named."""
    chosen = request.options.value("vmm")
    if isinstance(chosen, Profile) and chosen not in PROFILES.values():
        problem = f"{manager.name} starts launches of {manager.vmm}, not of a profile from a file"
        raise UnsupportedError(problem, at="--vmm")
    plan = request.plan()
    if "abi" not in plan.assumed or plan.vmm != manager.vmm:
        return plan
    newest = {"abi": abis.newest(plan.platform).name}
    return replace(request, options=request.options | newest, marks=True).plan()


def _absolute(path: str) -> str:
    return os.path.abspath(path)


def _check_text(text: str) -> None:
    """Raise UnsupportedError for text that no argument of a program can be."""
    try:
        broken = b"\0" in text.encode()
    except UnicodeEncodeError:
        broken = True
    if broken:
        raise UnsupportedError("has a NUL, or is not UTF-8", at=printable(text)[:60])
