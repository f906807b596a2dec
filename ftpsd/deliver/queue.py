"""The deliveries that wait or were put aside, in a SQLite database: Queue."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ftpsd.deliver.intake import Execute, Intake, keys_of
from ftpsd.outbox.segments import Entry
from ftpsd.system.state import Row, State

FILE = "deliveries.sqlite"

#: The tables. `due` is the POSIX time of the next attempt. It is null while an earlier delivery to the same target has
#: a key in common, and for a delivery that was put aside, at the time `failed`.
_TABLES = (
    "CREATE TABLE IF NOT EXISTS positions (file TEXT PRIMARY KEY, offset INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS intents (event TEXT PRIMARY KEY, file TEXT NOT NULL, entry TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS deliveries (number INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL,"
    " target TEXT NOT NULL, entry TEXT NOT NULL, since REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,"
    " due REAL, failed REAL, error TEXT NOT NULL DEFAULT '', UNIQUE (event, target))",
    "CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (target, due) WHERE due IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS deliveries_failed ON deliveries (failed) WHERE failed IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS keys (target TEXT NOT NULL, key TEXT NOT NULL, delivery INTEGER NOT NULL,"
    " PRIMARY KEY (target, key, delivery)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS keys_delivery ON keys (delivery)",
)

_COLUMNS = "number, event, target, entry, since, attempts, failed, error"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one target."""

    number: int
    #: The identity of the event.
    event: str
    target: str
    #: What the journal has of the event: the record, and what programs are told besides.
    entry: Entry
    #: When it was taken over from the journal.
    since: float
    #: Attempts so far; the last one had this error.
    attempts: int
    #: When it was put aside, or None.
    failed: float | None
    error: str


class Queue:
    """The open database. The methods block, and raise sqlite3.Error."""

    def __init__(self, directory: Path) -> None:
        self._state = State(directory / FILE)
        self._state.define(*_TABLES)
        #: Takes entries over from the journal.
        self.intake = Intake(self._state)

    def close(self) -> None:
        """Close the database."""
        self._state.close()

    def size(self) -> int:
        """Return the bytes of the database that are in use."""
        ((pages,),), ((free,),), ((size,),) = (
            self._state.execute(f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def targets(self) -> set[str]:
        """Return the targets for which deliveries wait."""
        return {
            str(row[0]) for row in self._state.execute("SELECT DISTINCT target FROM deliveries WHERE failed IS NULL")
        }

    def due(self, target: str, now: float, limit: int) -> list[Delivery]:
        """Return deliveries to a target that may be tried now."""
        statement = f"SELECT {_COLUMNS} FROM deliveries WHERE target = ? AND due <= ? ORDER BY due, number LIMIT ?"
        return [_delivery(row) for row in self._state.execute(statement, target, now, limit)]

    def remove(self, numbers: Iterable[int], now: float) -> None:
        """Remove deliveries that their targets have accepted."""
        with self._state.transaction() as execute:
            for number in numbers:
                _release(execute, number, now)
                execute("DELETE FROM deliveries WHERE number = ?", number)

    def postpone(self, number: int, due: float, error: str) -> None:
        """Try a delivery again, at a later time."""
        statement = "UPDATE deliveries SET attempts = attempts + 1, due = ?, error = ? WHERE number = ?"
        self._state.execute(statement, due, error, number)

    def put_aside(self, number: int, now: float, error: str) -> None:
        """Try a delivery no more. Those that waited for it are tried."""
        with self._state.transaction() as execute:
            statement = (
                "UPDATE deliveries SET attempts = attempts + 1, due = NULL, failed = ?, error = ? WHERE number = ?"
            )
            execute(statement, now, error, number)
            _release(execute, number, now)

    def put_target_aside(self, target: str, now: float, error: str) -> int:
        """Put all deliveries to a target aside; return their number."""
        with self._state.transaction() as execute:
            execute("DELETE FROM keys WHERE target = ?", target)
            statement = "UPDATE deliveries SET due = NULL, failed = ?, error = ? WHERE target = ? AND failed IS NULL"
            execute(statement, now, error, target)
            return int(execute("SELECT changes()")[0][0])

    # --- for administrators ------------------------------------------------------------------------

    def failed(self) -> list[Delivery]:
        """Return the deliveries that were put aside, in their order."""
        statement = f"SELECT {_COLUMNS} FROM deliveries WHERE failed IS NOT NULL ORDER BY number"
        return [_delivery(row) for row in self._state.execute(statement)]

    def retry(self, event: str | None, now: float) -> int:
        """Try the deliveries of an event, or all, that were put aside; return their number."""
        with self._state.transaction() as execute:
            where = "failed IS NOT NULL AND (?1 IS NULL OR event = ?1)"
            rows = execute(f"SELECT number, target, entry FROM deliveries WHERE {where}", event)
            for number, target, entry in rows:
                for key in keys_of(json.loads(entry)):
                    execute("INSERT OR IGNORE INTO keys VALUES (?, ?, ?)", target, key, number)
            statement = f"UPDATE deliveries SET failed = NULL, attempts = 0, since = ?2, due = ?2 WHERE {where}"
            execute(statement, event, now)
        return len(rows)

    def counts(self) -> tuple[int, int, float | None]:
        """Return how many deliveries wait, how many were put aside, and since when the oldest one waits."""
        statement = "SELECT count(*), count(failed), min(CASE WHEN failed IS NULL THEN since END) FROM deliveries"
        ((count, failed, oldest),) = self._state.execute(statement)
        return count - failed, failed, oldest


def _delivery(row: Row) -> Delivery:
    number, event, target, entry, since, attempts, failed, error = row
    return Delivery(number, event, target, json.loads(entry), since, attempts, failed, error)


def _release(execute: Execute, number: int, now: float) -> None:
    """Let the deliveries be tried that have waited for this one only."""
    keys = execute("SELECT target, key FROM keys WHERE delivery = ?", number)
    execute("DELETE FROM keys WHERE delivery = ?", number)
    for target, key in keys:
        ((following,),) = execute("SELECT min(delivery) FROM keys WHERE target = ? AND key = ?", target, key)
        if following is None:
            continue
        earlier = (
            "SELECT 1 FROM keys AS own JOIN keys AS other ON other.target = own.target AND other.key = own.key"
            " AND other.delivery < own.delivery WHERE own.delivery = ? LIMIT 1"
        )
        if not execute(earlier, following):
            statement = "UPDATE deliveries SET due = ? WHERE number = ? AND due IS NULL AND failed IS NULL"
            execute(statement, now, following)
