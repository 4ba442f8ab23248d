"""cvmplan cpus."""

from __future__ import annotations

from typing import Annotated

from cvmplan.cli import make_app
from cvmplan.cli.options import Output, format_of, write
from cvmplan.emit import CPUS

app = make_app()
Format = Annotated[str, format_of(CPUS)]


@app.command()
def cpus(format: Format = "text", output: Output = None) -> None:
    """
    List the CPU models with their signatures.

    The signature (CPUID Fn0000_0001_EAX) of a vCPU is part of the launch digest of SEV-ES and
    SEV-SNP.  With QEMU's model "host" it is that of the host's processor, given as --cpu 0x….
    """
    from cvmplan.profiles.cpus import list_cpus

    write(CPUS.printer(format).cpus(list_cpus()), output)
