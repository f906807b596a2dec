"""Connections to a SQLite file, with the standard library."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from ftpsd.accounts.sources.deadline import Deadline
from ftpsd.accounts.sources.source import SourceFailed
from ftpsd.accounts.sources.sql.database import NOTHING, MissingTable, Parameter, Result

_PARAMETER = re.compile(r"%(?:%|\((\w+)\)s)")

#: What to do about errors whose usual text does not say it.
_REMEDIES = {
    sqlite3.SQLITE_CANTOPEN: "the daemon must be able to read it, and to write to its directory if it is in WAL mode",
    sqlite3.SQLITE_READONLY_ROLLBACK: "a process was killed while it wrote, which `ftpsd sql migrate` undoes",
    sqlite3.SQLITE_READONLY: "the daemon must be able to write to its directory if it is in WAL mode",
}


class SqliteFile:
    """A database in a file. Another process changes it."""

    dialect = "sqlite"

    def __init__(self, file: Path) -> None:
        self._file = file
        self.place = f"SQLite in {file}"

    def connect(self, deadline: Deadline, writable: bool = False) -> SqliteConnection:
        """Open the file. Raises SourceFailed if it does not exist, even if it may be written."""
        mode = "rw" if writable else "ro"
        try:
            identity = _identity(self._file)
            connection = sqlite3.connect(
                f"{self._file.as_uri()}?mode={mode}",
                # Not all of it: then SQLite says that the file is locked, before the deadline says less.
                timeout=0.8 * deadline.remaining,
                isolation_level=None,
                check_same_thread=False,
                uri=True,
            )
        except OSError as error:
            raise SourceFailed(f"{self._file}: {(error.strerror or str(error)).lower()}") from None
        except sqlite3.Error as error:
            raise _failure(self._file, error) from None
        return SqliteConnection(connection, self._file, identity)


class SqliteConnection:
    """One connection to a database file."""

    def __init__(self, connection: sqlite3.Connection, file: Path, identity: tuple[int, int]) -> None:
        self._connection = connection
        self._file = file
        self._identity = identity
        self._aborted = False

    def run(self, statement: str, parameters: Mapping[str, Parameter] = NOTHING, most: int | None = None) -> Result:
        """Run one statement; return `most` rows at most. Raises SourceFailed."""
        text = _PARAMETER.sub(lambda match: f":{match[1]}" if match[1] else "%", statement)
        try:
            with closing(self._connection.execute(text, parameters)) as cursor:
                rows = cursor.fetchall() if most is None else cursor.fetchmany(most)
                return Result([column[0] for column in cursor.description or ()], rows)
        except (sqlite3.Error, sqlite3.Warning) as error:  # a second statement is a Warning, before Python 3.12
            raise _failure(self._file, error) from None

    def is_usable(self) -> bool:
        """Return whether the file that was opened still has its name. A restored backup may have taken its place."""
        try:
            return not self._aborted and not self._connection.in_transaction and _identity(self._file) == self._identity
        except OSError:
            return False

    def abort(self) -> None:
        """Interrupt the statement that runs."""
        self._aborted = True
        self._connection.interrupt()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _identity(file: Path) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_dev, status.st_ino


def _failure(file: Path, error: Exception) -> SourceFailed:
    if "no such table" in str(error):
        return MissingTable(f"{file}: {error}")
    code = getattr(error, "sqlite_errorcode", 0)
    remedy = _REMEDIES.get(code) or _REMEDIES.get(code & 0xFF)
    return SourceFailed(f"{file}: {error}" + (f": {remedy}" if remedy else ""))
