"""What must survive a restart, in one SQLite file: bans, and what others keep in tables of their own.

The file is in WAL mode with synchronous=FULL: a commit is one fsync and outlives a loss of power, a
crash at any instant leaves the last commit, and `ftpsd bans` reads while the daemon writes, neither
waiting for the other.
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
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.config.settings import StateSettings
from ftpsd.system.reactor import Reactor
from ftpsd.system.worker_threads import WorkerThreads

log = Logger(namespace="ftpsd")

FILE = "state.sqlite"

#: Of the file as a whole. A file of a later release is not touched; a table that changes gets a new name.
VERSION = 1

#: Seconds to wait while another process writes.
BUSY = 5

#: What goes wrong around a file that may be good: no permission, locked, no space, … All else is damage.
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

#: How a file is read that cannot be written. SQLite wants to write a little beside it even then, unless it is told that
#: nobody else writes; so that comes last.
READ_ONLY = ("mode=ro", "mode=ro&immutable=1")

#: What SQLite keeps beside a file: parted from it, it would be played into the next one.
COMPANIONS = ("", "-wal", "-shm", "-journal")


def directory(settings: StateSettings) -> Path | None:
    """Where the file is: as set, else what systemd gives (the first of its list), else nowhere."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return settings.directory or (Path(given) if given else None)


class LaterRelease(Exception):
    """The file is of a later release: it is good, and not for us."""


class State:
    """The file, open. Its calls block, and may come from any thread; `sqlite3.Error` tells what fails."""

    def __init__(self, path: Path | None, read_only: str = "", provisional: bool = False) -> None:
        """Opens the file, or makes it, for its owner only; with None the state is in memory."""
        #: Whether this stands for a file that could not be opened as it should be.
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
            raise sqlite3.DatabaseError("its pages do not fit together")
        ((version,),) = self.execute("PRAGMA user_version")
        if version > VERSION:
            raise LaterRelease("it is of a later release")
        if version < VERSION and not read_only:
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


def _must_be_a_file(path: Path, flags: int) -> None:
    """Makes it, if the flags say so. A symbolic link is not followed: who owns the directory leads nobody elsewhere."""
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is no regular file")
    finally:
        os.close(descriptor)


def damaged(error: sqlite3.Error) -> bool:
    """Whether an error is the file's own, so that it would be there again at each start."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in CIRCUMSTANCES


def opened(place: Path | None, hold: Callable[[Path], object] = lambda _: None) -> State:
    """The state for the daemon, whatever happens: a damaged file is set aside for a new one; one that cannot be
    written, or whose directory cannot be held, is read; where there can be none, the state is in memory."""
    if place is None:
        return State(None)
    path = place / FILE
    try:
        hold(place)
        return sound(path)
    except (sqlite3.Error, OSError, LaterRelease) as error:
        log.error(
            "bans and counts will not survive a restart until this is mended: {path}: {error}", path=path, error=error
        )
        return _makeshift(path)


def held(place: Path) -> int:
    """A descriptor that locks a directory, until it is closed."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BlockingIOError("another daemon keeps its state here") from None
    except OSError:
        pass  # a file system without such locks: they are a courtesy
    return descriptor


def sound(path: Path) -> State:
    """The file, or a new one in the place of one that is damaged."""
    try:
        return State(path)
    except sqlite3.Error as error:
        if not damaged(error):
            raise
        set_aside(path, error)
    return State(path)


def _makeshift(path: Path) -> State:
    for how in READ_ONLY:
        try:
            state = State(path, how)
        except (sqlite3.Error, OSError, LaterRelease):
            continue
        log.warn("{path} is read, but cannot be written", path=path)
        return state
    return State(None, provisional=True)


def set_aside(path: Path, why: object) -> None:
    """Renames the file with all that belongs to it; the last one that was damaged is kept."""
    aside = path.with_name(f"{FILE}.damaged")
    for companion in COMPANIONS:
        try:
            os.replace(f"{path}{companion}", f"{aside}{companion}")
        except FileNotFoundError:
            Path(f"{aside}{companion}").unlink(missing_ok=True)
    log.error("{path} is damaged ({why}): set aside as {aside}", path=path, why=why, aside=aside)


class Store:
    """The state of the daemon, and one thread for it: the reactor waits for no fsync, and calls keep their order."""

    def __init__(self, reactor: Reactor) -> None:
        self._thread = WorkerThreads(reactor, size=1)
        self._queue = self._thread.queue("state")
        self._place: Path | None = None
        self._lock: int | None = None
        #: Whether a call has failed since all was last known to be well.
        self.failing = False
        #: In memory until `start`. For calls that may block; others go through `put`.
        self.state = State(None)

    def start(self, place: Path | None) -> None:
        """Opens the file: not before the process is the one that stays, with the user that it keeps."""
        self._place = place
        self.state = opened(place, self._hold)
        self.failing = self.state.provisional
        self._thread.start()

    def stop(self) -> None:
        """Does what was put, and closes; a disk that hangs keeps nobody."""
        self._queue.submit(lambda: self.state.close())
        self._thread.stop()

    def open_again(self) -> bool:
        """Opens the file that could not be opened, if there is one: whether it was. Blocks, as calls of a state do."""
        if self._place is None or not self.state.provisional:
            return False
        self._hold(self._place)
        self._close()
        self.state = sound(self._place / FILE)
        return True

    def _hold(self, place: Path) -> None:
        """Takes the directory for this process, as long as it lives: two daemons would undo what the other has written.
        A daemon that drains has it still; whoever comes after it reads, and tries again."""
        if self._lock is None:
            self._lock = held(place)

    def replace(self, error: sqlite3.Error) -> None:
        """A new file in the place of one that has turned out to be damaged. Any other error is raised again."""
        if self._place is None or self.state.provisional or not damaged(error):
            raise error
        self._close()
        path = self._place / FILE
        set_aside(path, error)
        self.state = State(path)

    def _close(self) -> None:
        """Before a file is opened again or renamed: its locks are the process's, and who closes it last removes what is
        beside it, by name."""
        self.state.close()
        self.state = State(None, provisional=True)

    def put(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Calls in the thread; the result, or None when it fails. The first failure of a row is logged."""
        return self._queue.call(call, *arguments).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not self.failing:
            log.error("the state cannot be kept: {error}", error=failure.getErrorMessage())
        self.failing = True

    def recovered(self) -> None:
        """The file has again all that it should have."""
        if self.failing:
            log.info("the state is kept again")
        self.failing = False
