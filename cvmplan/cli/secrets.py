"""Passphrases of private keys: asked for, or read from a file; never an option's value."""

from __future__ import annotations

import sys
from collections.abc import Callable
from getpass import getpass

from cvmplan.core.blob import Blob
from cvmplan.core.errors import ConfigError
from cvmplan.core.values import printable

LONGEST = 1 << 12


def passphrase_of(key: str, file: Blob | None) -> Callable[[], bytes]:
    """
    Return what yields the passphrase of the file `key` when it is wanted.

    From the first line of `file`, or asked for on a terminal; ConfigError where there is
    neither.
    """

    def ask() -> bytes:
        if file is not None:
            return bytes(file.data[:LONGEST]).partition(b"\n")[0].rstrip(b"\r")
        if sys.stdin is None or not sys.stdin.isatty():
            hint = "run it on a terminal, or use --passphrase-file FILE"
            raise ConfigError("the key is encrypted and stdin is not a terminal", at=key, hint=hint)
        return getpass(f"Passphrase of {printable(key)}: ").encode()

    return ask
