"""Receive what PostgreSQL tells of changes: one connection that listens, in a thread."""

from __future__ import annotations

import select
from collections.abc import Callable, Collection
from threading import Event

from ftpsd.accounts.sources.deadline import Deadline
from ftpsd.accounts.sources.source import SourceFailed
from ftpsd.accounts.sources.sql.postgresql import PostgreSql, PostgreSqlConnection
from ftpsd.accounts.sources.sql.schema import CHANNEL

#: Seconds between two attempts to connect, and between two looks at whether to stop.
_RETRY, _STEP = 5.0, 1.0

#: Seconds after which a connection that is silent must show that it still works.
_HEARTBEAT = 30.0


def listen(database: PostgreSql, timeout: float, changed: Callable[[Collection[str]], None], stopped: Event) -> None:
    """Call `changed` with the names of users who have changed, until `stopped` is set.

    A connection that is lost is replaced. What changes meanwhile is not told: logins ask the database anyway.
    """
    while not stopped.is_set():
        try:
            connection = database.connect(Deadline(timeout))
            try:
                _receive(connection, timeout, changed, stopped)
            finally:
                connection.close()
        except SourceFailed:  # questions fail, too, and are logged
            stopped.wait(_RETRY)


def _receive(
    connection: PostgreSqlConnection, timeout: float, changed: Callable[[Collection[str]], None], stopped: Event
) -> None:
    with Deadline(timeout).aborting(connection.abort):
        connection.run(f"LISTEN {CHANNEL}")
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    silent = 0.0
    while not stopped.is_set():
        silent += _STEP
        if poll.poll(int(_STEP * 1000)) or silent >= _HEARTBEAT:
            silent = 0.0
            with Deadline(timeout).aborting(connection.abort):
                connection.run("SELECT 1")  # reads the notifications, or finds out that the connection is lost
        names, connection.notified = set(connection.notified), []
        if names:
            changed(names)
