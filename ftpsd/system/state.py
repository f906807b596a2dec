"""Persistent state, in one SQLite file: bans, and the tables of other modules.

The file is in WAL mode with synchronous=FULL. So a commit is one fsync and survives a loss of power, a crash leaves the
last commit, and `ftpsd bans` reads while the daemon writes, without either waiting for the other.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.config.settings import StateSettings
from ftpsd.system.reactor import Reactor
from ftpsd.system.worker_threads import WorkerThreads

log = Logger(namespace="ftpsd")

T = TypeVar("T")
P = ParamSpec("P")

#: A value of a column, and a row of the result of a statement, whose types the caller knows.
Value = str | bytes | int | float | None
Row = tuple[Any, ...]

FILE = "state.sqlite"

#: The version of the file as a whole. The file of a later release is not changed. A table that changes gets a new name.
VERSION = 1

#: Seconds to wait for another process that writes.
BUSY = 5

#: Errors whose cause is not the file itself: no permission, locked, no space … All others mean that it is damaged.
CIRCUMSTANCES = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
}

#: The ways to open a file that cannot be written. Even for reading, SQLite writes files beside it, unless `immutable`
#: says that no process changes it. That may be wrong, so it is tried last.
READ_ONLY = ("mode=ro", "mode=ro&immutable=1")

#: The suffixes of SQLite's files beside a database. If they are not moved with it, SQLite applies them to the next one.
COMPANIONS = ("", "-wal", "-shm", "-journal")


def directory(settings: StateSettings) -> Path | None:
    """Return the directory of the file: the configured one, else the first one of systemd's, else None."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return settings.directory or (Path(given) if given else None)


class LaterRelease(Exception):
    """The file belongs to a later release: it is not damaged, but cannot be used."""


class State:
    """The open file. All methods block, may be called from any thread, and raise sqlite3.Error."""

    def __init__(self, path: Path | None, read_only: str = "", provisional: bool = False) -> None:
        """Open the file; create it if necessary, readable for its owner only. With None, the state is in memory."""
        #: Whether this replaces, in memory or read-only, a file that could not be opened for writing.
        self.provisional = provisional or bool(read_only)
        self._lock = threading.Lock()
        if path is not None:
            _must_be_a_file(path, os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT)
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?{read_only or 'mode=rw'}" if path else ":memory:",
            timeout=BUSY,
            isolation_level=None,
            check_same_thread=False,
            uri=path is not None,
        )
        try:
            self._prepare(bool(read_only))
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, read_only: bool) -> None:
        if not read_only:
            self.execute("PRAGMA journal_mode = WAL")
            self.execute("PRAGMA synchronous = FULL")
        if self.execute("PRAGMA quick_check(1)") != [("ok",)]:
            raise sqlite3.DatabaseError("its pages are inconsistent")
        ((version,),) = self.execute("PRAGMA user_version")
        if version > VERSION:
            raise LaterRelease("it is of a later release")
        if version < VERSION and not read_only:
            self.execute(f"PRAGMA user_version = {VERSION}")

    def define(self, *statements: str) -> None:
        """Create the tables of a module, with statements `CREATE … IF NOT EXISTS`."""
        with self.transaction() as execute:
            for statement in statements:
                execute(statement)

    def execute(self, statement: str, *values: Value) -> list[Row]:
        """Run one statement as a transaction, and return its rows."""
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[Callable[..., list[Row]]]:
        """Run several statements, all or none. The function that is yielded works like `execute`."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield lambda statement, *values: self._connection.execute(statement, values).fetchall()
                self._connection.commit()
            except BaseException:
                self._connection.rollback()
                raise

    def version(self) -> int:
        """Return a number that changes when another process, but not this one, has changed the file."""
        return int(self.execute("PRAGMA data_version")[0][0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


def _must_be_a_file(path: Path, flags: int) -> None:
    """Create the file if the flags say so. Does not follow a link, since another user may own the directory."""
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not a regular file")
    finally:
        os.close(descriptor)


def damaged(error: sqlite3.Error) -> bool:
    """Return whether an error means that the file is damaged, so that it would occur again at each start."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in CIRCUMSTANCES


def open_state(directory: Path | None, lock: Callable[[Path], object] = lambda _: None) -> State:
    """Return the state for the daemon; does not fail.

    directory                                        state
    None                                             in memory
    locked by `lock`, the file is usable or new      the file
    the file is damaged                              a new file; the old one is renamed
    cannot be locked, or the file cannot be written  the file, read-only and provisional
    otherwise                                        in memory and provisional
    """
    if directory is None:
        return State(None)
    path = directory / FILE
    try:
        lock(directory)
        return open_or_replace(path)
    except (sqlite3.Error, OSError, LaterRelease) as error:
        log.error(
            "bans and counts will not survive a restart until this is repaired: {path}: {error}", path=path, error=error
        )
        return _provisional(path)


def lock_directory(directory: Path) -> int:
    """Lock a directory and return its descriptor, which holds the lock. Raises BlockingIOError if it is locked."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BlockingIOError("another daemon has its state here") from None
    except OSError:
        pass  # the file system has no such locks; the daemon can do without
    return descriptor


def open_or_replace(path: Path) -> State:
    """Open the file. If it is damaged, rename it and open a new one."""
    try:
        return State(path)
    except sqlite3.Error as error:
        if not damaged(error):
            raise
        set_aside(path, error)
    return State(path)


def _provisional(path: Path) -> State:
    for how in READ_ONLY:
        try:
            state = State(path, how)
        except (sqlite3.Error, OSError, LaterRelease):
            continue
        log.warn("{path} can be read, but not written", path=path)
        return state
    return State(None, provisional=True)


def set_aside(path: Path, why: object) -> None:
    """Rename a damaged file and the files beside it, in place of one that was damaged before."""
    aside = path.with_name(f"{FILE}.damaged")
    for companion in COMPANIONS:
        try:
            os.replace(f"{path}{companion}", f"{aside}{companion}")
        except FileNotFoundError:
            Path(f"{aside}{companion}").unlink(missing_ok=True)
    log.error("{path} is damaged ({why}): renamed to {aside}", path=path, why=why, aside=aside)


class Store:
    """The state of the daemon, and a thread that writes it, so that the reactor does not wait for fsync.

        memory       before `start`
        file         `state` is the file
        provisional  the file could not be opened for writing; `open_again` tries it

    Calls through `put` are made in their order. `failing` is set by the first one that fails, until `recovered`.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._thread = WorkerThreads(reactor, size=1)
        self._queue = self._thread.queue("state")
        self._directory: Path | None = None
        self._lock: int | None = None
        #: Whether a call has failed since `recovered`.
        self.failing = False
        #: The open state, for calls that may block. The reactor thread uses `put`.
        self.state = State(None)

    def start(self, directory: Path | None) -> None:
        """Open the file. Called in the process that will serve, after it has changed its user."""
        self._directory = directory
        self.state = open_state(directory, self._lock_once)
        self.failing = self.state.provisional
        self._thread.start()

    def stop(self) -> None:
        """Make the calls that were put, and close the file. A disk that does not respond does not delay the exit."""
        self._queue.submit(lambda: self.state.close())
        self._thread.stop()

    def open_again(self) -> bool:
        """Open the file if the state is provisional. Return whether it was opened. Blocks."""
        if self._directory is None or not self.state.provisional:
            return False
        self._lock_once(self._directory)
        self._close()
        self.state = open_or_replace(self._directory / FILE)
        return True

    def _lock_once(self, directory: Path) -> None:
        """Lock the directory until the process ends: two daemons would overwrite each other's state.

        A daemon that stops gracefully still holds the lock. Its successor reads the file, and tries again.
        """
        if self._lock is None:
            self._lock = lock_directory(directory)

    def replace(self, error: sqlite3.Error) -> None:
        """Replace a file that has turned out to be damaged by a new one. Raises any other error again."""
        if self._directory is None or self.state.provisional or not damaged(error):
            raise error
        self._close()
        path = self._directory / FILE
        set_aside(path, error)
        self.state = State(path)

    def _close(self) -> None:
        """Close the file before it is opened again or renamed.

        SQLite's locks belong to the process, and the last one to close the file removes the files beside it, by name.
        """
        self.state.close()
        self.state = State(None, provisional=True)

    def put(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Deferred[T | None]:
        """Call a function in the thread. Return its result, or None if it fails. Only the first failure is logged."""
        return self._queue.call(call, *arguments, **named).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not self.failing:
            log.error("the state cannot be saved: {error}", error=failure.getErrorMessage())
        self.failing = True

    def recovered(self) -> None:
        """Note that the file has everything again."""
        if self.failing:
            log.info("the state is saved again")
        self.failing = False
