"""
The kernel parameters that the settings of Kata's agent add, of the runtimes in Go and in Rust.

Sources: kata-containers 4.1.0 src/runtime/pkg/katautils/config.go (type agent),
virtcontainers/kata_agent.go (KataAgentKernelParams), src/libs/kata-types/src/config/agent.rs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cvmplan.core.blob import Blob
from cvmplan.core.errors import UnsupportedError
from cvmplan.readers.descriptions.described import wrong
from cvmplan.readers.descriptions.kata_pod import Table, table

CDH_TIMEOUT: Final = 50_000  # ms, of the runtime in Rust where none is set


def of_agent(blob: Blob, held: Table, *, rust: bool) -> Iterator[str]:
    """
    Yield the parameters; MalformedError with the place, UnsupportedError.

    The runtime in Go does not read container_pipe_size, and takes its annotation too late.
    """
    yield from ["agent.log=debug"] if held.get("enable_debug") else []
    yield from ["agent.trace=true"] if held.get("enable_tracing") else []
    yield from _counted(blob, held, "container_pipe_size") if rust else ()
    if held.get("debug_console_enabled"):
        yield from ("agent.debug_console", "agent.debug_console_vport=1026")
    if rust:
        seconds = _number(blob, held, "cdh_api_timeout_ms", CDH_TIMEOUT) // 1000
        yield from [f"agent.cdh_api_timeout={seconds}"] if seconds else []
    else:
        yield from _counted(blob, held, "cdh_api_timeout")
    yield from _counted(blob, held, "launch_process_timeout")
    yield from ["agent.visible_cdi_devices=true"] if held.get("visible_cdi_devices") else []
    if table(held, "mem_agent").get("enable") or held.get("mem_agent_enable"):
        problem = "the parameters of the memory agent are not modelled"
        raise UnsupportedError(problem, at=f"{blob.name}: agent.kata.mem_agent")


def _counted(blob: Blob, held: Table, name: str) -> Iterator[str]:
    if number := _number(blob, held, name, 0):
        yield f"agent.{name}={number}"


def _number(blob: Blob, held: Table, name: str, usual: int) -> int:
    value = held.get(name, usual)
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise wrong(blob, f"agent.kata.{name}", f"{value!r} is not a number")
    return value
