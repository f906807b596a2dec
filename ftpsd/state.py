"""What must survive a restart, in one SQLite file: bans, and what others keep in tables of their own.

The file is in WAL mode with synchronous=FULL: a commit is one fsync and outlives a loss of power, a
crash at any instant leaves the last commit, and `ftpsd bans` reads while the daemon writes, neither
waiting for the other.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from ftpsd.log import log
from ftpsd.settings import StateSettings
from ftpsd.workers import Workers

FILE = "state.sqlite"

#: Of the file as a whole. A file of a later release is not touched; a table that changes gets a new name.
VERSION = 1

#: Seconds to wait while another process writes.
BUSY = 5

#: What SQLite keeps beside a file: parted from it, it would be played into the next one.
COMPANIONS = ("", "-wal", "-shm", "-journal")


def directory(settings: StateSettings) -> Path | None:
    """Where the file is: as set, else what systemd gives (the first of its list), else nowhere."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return settings.directory or (Path(given) if given else None)


class State:
    """The file, open. Its calls block, and may come from any thread; `sqlite3.Error` tells what fails."""

    def __init__(self, path: Path | None) -> None:
        """Opens the file, or makes it, for its owner only; with None the state is in memory."""
        self._lock = threading.Lock()
        if path is not None:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._connection = sqlite3.connect(
            path or ":memory:", timeout=BUSY, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = FULL")
        if self.execute("PRAGMA quick_check(1)") != [("ok",)]:
            raise sqlite3.DatabaseError("its pages do not fit together")
        ((version,),) = self.execute("PRAGMA user_version")
        if version > VERSION:
            raise sqlite3.OperationalError("it is of a later release")
        if version < VERSION:
            self.execute(f"PRAGMA user_version = {VERSION}")

    def define(self, *statements: str) -> None:
        """Makes what a module keeps here, unless it is there: `CREATE … IF NOT EXISTS`."""
        with self.transaction() as execute:
            for statement in statements:
                execute(statement)

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """One statement, which is a transaction of its own; the rows that it has found."""
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
        """Several statements, all or none: what is yielded is called as `execute` is."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield lambda statement, *values: self._connection.execute(statement, values).fetchall()
                self._connection.commit()
            except BaseException:
                self._connection.rollback()
                raise

    def version(self) -> int:
        """A number that changes when another process has changed the file (and not when this one has)."""
        return int(self.execute("PRAGMA data_version")[0][0])

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()


def opened(place: Path | None) -> State:
    """The state for the daemon, whatever happens: a damaged file is set aside for a new one; where there
    can be none, the state is in memory."""
    if place is None:
        return State(None)
    path = place / FILE
    try:
        try:
            return State(path)
        except sqlite3.OperationalError:
            raise  # no permission, no space, of a later release: the file may be good
        except sqlite3.DatabaseError as error:
            aside = _set_aside(path)
            log.error("{path} is damaged ({error}): set aside as {aside}", path=path, error=error, aside=aside)
        return State(path)
    except (sqlite3.Error, OSError) as error:
        log.error("bans and counts will not survive a restart: {path}: {error}", path=path, error=error)
        return State(None)


def _set_aside(path: Path) -> Path:
    """Renames the file with all that belongs to it; the last one that was damaged is kept."""
    aside = path.with_name(f"{FILE}.damaged")
    for companion in COMPANIONS:
        try:
            os.replace(f"{path}{companion}", f"{aside}{companion}")
        except FileNotFoundError:
            Path(f"{aside}{companion}").unlink(missing_ok=True)
    return aside


class Store:
    """The state of the daemon, and one thread for it: the reactor waits for no fsync, and writes keep their order."""

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._thread = Workers(reactor, size=1)
        self._failing = False
        #: In memory until `start`. For calls that may block; others go through `put`.
        self.state = State(None)

    def start(self, place: Path | None) -> None:
        """Opens the file: not before the process is the one that stays, with the user that it keeps."""
        self.state = opened(place)
        self._thread.start()

    def stop(self) -> None:
        """Writes what was put, and closes; a disk that hangs keeps nobody."""
        self._thread.submit(self.state.close)
        self._thread.stop()

    def put(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Calls in the thread; the result, or None when it fails. The first failure of a row is logged."""
        return self._thread.call(call, *arguments).addCallbacks(self._good, self._bad)

    def _good(self, result: Any) -> Any:
        self._failing = False
        return result

    def _bad(self, failure: Failure) -> None:
        if not self._failing:
            log.error("the state cannot be kept: {error}", error=failure.getErrorMessage())
        self._failing = True
