"""Processes of other machines: a dask cluster (extra `dask`), through its own client."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager
from typing import Any

from cvmplan.core.errors import ConfigError, InputError
from cvmplan.sweep.pool import Share
from cvmplan.sweep.run import Inputs

SCHEME = "dask://"
PATIENCE = 10  # seconds in which a scheduler must answer
LARGE = "1 TiB"  # of inputs that the scheduler keeps, without a warning


@contextmanager
def connected(address: str) -> Iterator[tuple[Executor, Share]]:
    """
    Connect to the scheduler at "dask://HOST:PORT"; ConfigError, InputError.

    InputError too where scheduler or workers end before the work is done.

    Inputs are a task of the cluster, named by their hash: they are sent once, and where they
    are lost with a worker the scheduler has them made again.
    """
    if not address.startswith(SCHEME) or not address.removeprefix(SCHEME):
        raise ConfigError(f"{address!r} is not dask://HOST:PORT", at="--executor")
    try:
        import dask
        from distributed import Client
    except ModuleNotFoundError:
        hint = "pip install 'cvmplan[dask]'"
        raise ConfigError("dask is not installed", at="--executor", hint=hint) from None
    try:
        client: Any = Client(address.removeprefix(SCHEME), timeout=PATIENCE)  # type: ignore[no-untyped-call]  # it ships half of its types
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"does not answer: {error}", at=address) from None

    def share(key: str, inputs: Inputs) -> Any:
        return client.submit(_kept, inputs, key=f"cvmplan-{key}")

    from distributed.scheduler import KilledWorker

    with client, dask.config.set({"distributed.admin.large-graph-warning-threshold": LARGE}):
        try:
            yield client.get_executor(), share
        except (KilledWorker, CancelledError, OSError) as error:
            raise InputError(f"the cluster lost its work: {error}", at=address) from None


def _kept(inputs: Inputs) -> Inputs:
    return inputs
