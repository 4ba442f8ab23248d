"""
Results in SQLite: one table, keyed by every input that a digest depends on.

Each parcel of results is one transaction, so that what is finished stays, whatever happens
then.  Results of another version of this program count as missing and are replaced.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Final, Self
from urllib.parse import quote

from cvmplan import __version__
from cvmplan.core.errors import InputError
from cvmplan.sweep.rows import COLUMNS, KEY, NUMBERS, Row

TABLE: Final = "measurement"
_FOUND_BY: Final = tuple(name for name in KEY if name != "vcpus")
_CREATE: Final = "CREATE TABLE IF NOT EXISTS {} ({}, PRIMARY KEY ({})) WITHOUT ROWID".format(
    TABLE,
    ", ".join(f"{n} {'INTEGER' if n in NUMBERS else 'TEXT'} NOT NULL" for n in COLUMNS),
    ", ".join(KEY),
)
_INSERT: Final = "INSERT OR REPLACE INTO {} ({}) VALUES ({})".format(  # noqa: S608 names of columns, no values
    TABLE, ", ".join(COLUMNS), ", ".join(f":{n}" for n in COLUMNS)
)
_SELECT: Final = "SELECT vcpus FROM {} WHERE version = :version AND {}".format(  # noqa: S608
    TABLE, " AND ".join(f"{n} = :{n}" for n in _FOUND_BY)
)


class Store:
    """The results in one file."""

    def __init__(self, path: str) -> None:
        self._path = path
        with self._errors():
            place = os.path.join(os.path.curdir, path)  # a file, also where it is named ":memory:"
            if os.path.exists(place):
                _check(place)
            self._file = sqlite3.connect(place, isolation_level=None)
        try:
            with self._errors():
                self._file.execute("PRAGMA journal_mode = WAL")
                self._file.execute("PRAGMA synchronous = NORMAL")
                self._file.execute(_CREATE)
        except BaseException:
            self._file.close()
            raise

    def missing(self, row: Row, vcpus: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return which of `vcpus` have no result; None where all do."""
        with self._errors():
            there = {n for (n,) in self._file.execute(_SELECT, {**row, "version": __version__})}
        if not vcpus:
            return None if there else ()
        return tuple(n for n in vcpus if n not in there) or None

    def put(self, rows: Iterable[Row]) -> None:
        """Keep `rows`, all of them or none; a row with the same key is replaced."""
        with self._errors():
            self._file.execute("BEGIN")
            self._file.executemany(_INSERT, rows)
            self._file.execute("COMMIT")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, _ForeignError, ValueError) as error:
            hint = "name a new file, or a database of 'cvmplan sweep'"
            problem = f"not a database of 'sweep': {error}"
            raise InputError(problem, at=self._path or "''", hint=hint) from None


class _ForeignError(Exception):
    """A database is not one of results."""


def _check(path: str) -> None:
    """Raise _ForeignError or sqlite3.Error, with nothing written, unless a file may be used."""
    if not os.path.isfile(path):
        raise _ForeignError("not a regular file")
    with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as file:
        tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master")}
        found = tuple(row[1] for row in file.execute(f"PRAGMA table_info({TABLE})"))
    if tables and TABLE not in tables:
        raise _ForeignError(f"it has other tables and no {TABLE!r}")
    if tables and found != COLUMNS:
        raise _ForeignError(f"its table {TABLE!r} has other columns")
