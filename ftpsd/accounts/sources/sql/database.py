"""Connections to a database, which a few threads share: Database. `postgresql` and `sqlite` open them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from attrs import field, frozen

from ftpsd.accounts.sources.deadline import Deadline
from ftpsd.accounts.sources.source import SourceFailed

T = TypeVar("T")

#: A value of a parameter of a statement.
Parameter = str | bool | None

NOTHING: Mapping[str, Parameter] = {}

#: Seconds for which an unused connection is kept: firewalls forget it sooner or later, and say so to nobody.
_IDLE = 60.0


class ConnectionLost(SourceFailed):
    """The connection ended before there was an answer. Another one may work."""


class MissingTable(SourceFailed):
    """The database does not have a table that the statement names."""


@frozen
class Result:
    """The result of a statement: its columns, and its rows."""

    columns: Sequence[str] = ()
    rows: Sequence[tuple[object, ...]] = ()

    def mappings(self) -> list[dict[str, object]]:
        """Return the rows by column. Raises SourceFailed if two columns have one name."""
        twice = {each for each in self.columns if self.columns.count(each) > 1}
        if twice:
            raise SourceFailed(f"two columns are named {min(twice)}: give one of them another name with AS")
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Connection(Protocol):
    """One open connection. All methods block, but `abort`."""

    def run(self, statement: str, parameters: Mapping[str, Parameter] = NOTHING, most: int | None = None) -> Result:
        """Run one statement, with parameters `%(name)s`, and `%%` for a percent sign; return `most` rows at most.

        Raises SourceFailed, and ConnectionLost after the end of the connection.
        """

    def is_usable(self) -> bool:
        """Return whether the connection may be used again."""

    def abort(self) -> None:
        """Let `run` fail at once in another thread. The connection cannot be used any more."""

    def close(self) -> None:
        """Close the connection."""


class Database(Protocol):
    """How to connect to a database, and its dialect."""

    #: postgresql or sqlite.
    dialect: str
    #: What an administrator knows the database by, without a password.
    place: str

    def connect(self, deadline: Deadline, writable: bool = False) -> Connection:
        """Open a connection. Raises SourceFailed."""


@frozen
class _Idle:
    connection: Connection
    since: float = field(factory=time.monotonic)


class Pool:
    """The connections of a source. Each is used by one thread at a time, and opened when none is idle."""

    def __init__(self, database: Database, timeout: float) -> None:
        self._database = database
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: list[_Idle] = []
        self._closed = False

    def call(self, work: Callable[[Connection], T]) -> T:
        """Return what a function returns for a connection, within `timeout` seconds. Raises SourceFailed.

        It is called again with another connection if an idle one turns out to be lost: the server has been restarted.
        """
        deadline = Deadline(self._timeout)
        while True:
            reused = self._take()
            try:
                return self._use(reused or self._database.connect(deadline), work, deadline)
            except ConnectionLost:
                if reused is None or not deadline.remaining:
                    raise

    def _use(self, connection: Connection, work: Callable[[Connection], T], deadline: Deadline) -> T:
        try:
            with deadline.aborting(connection.abort):
                result = work(connection)
        except SourceFailed:
            if not deadline.expired:
                raise
            raise SourceFailed(f"no answer within {self._timeout:g} seconds") from None
        finally:
            self._give_back(connection)
        return result

    def _take(self) -> Connection | None:
        """Return an idle connection that can be used, the latest one; None if there is none. Close the others."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                found = self._idle.pop()
            if found.since > time.monotonic() - _IDLE and found.connection.is_usable():
                return found.connection
            found.connection.close()

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if not self._closed and connection.is_usable():
                self._idle.append(_Idle(connection))
                return
        connection.close()

    def close(self) -> None:
        """Close all connections; those in use when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for each in idle:
            each.connection.close()
