"""The bans in the state file: what the daemon keeps there, and what `ftpsd bans` shows and lifts.

The book is the daemon's truth, and the file its copy. Whatever kept the copy from being made (a full disk, a file that
another process has locked, that is read-only or damaged), it is made anew, as a whole, when that is over.

Ends of bans are stored as POSIX time, and a clock may be wrong. When it is set, all is stored anew. At a start, a clock
that is wrong makes bans longer or shorter, but none longer than it was made; when it is set after that, those that have
become too short get what they lack. So a row is not forgotten before it is long over: see `LONG_OVER`.

A lift by another process leaves the row with a length of nothing: the daemon finds it within a second.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ftpsd.events.hub import Publisher
from ftpsd.events.types import BanLifted
from ftpsd.limits.bans.known_addresses import ALL, KNOWN
from ftpsd.limits.bans.policy import CAPACITY, FORGOTTEN, Ban, Book, Kind, counted, name
from ftpsd.protocol.parsing import network, site
from ftpsd.system.state import State, Store

log = Logger(namespace="ftpsd")

BANS = """CREATE TABLE IF NOT EXISTS bans
    (kind TEXT, subject TEXT, until REAL, length REAL, PRIMARY KEY (kind, subject)) WITHOUT ROWID"""
KNOWN_ADDRESSES = """CREATE TABLE IF NOT EXISTS known_addresses
    (user TEXT, address TEXT, seen REAL, PRIMARY KEY (user, address)) WITHOUT ROWID"""

#: What a row is, whoever has written it: 9e999 is infinite.
IS_BAN = """kind IN ('address', 'user', 'site') AND typeof(subject) = 'text' AND typeof(until) = 'real'
    AND typeof(length) = 'real' AND length > 0 AND abs(until) + length < 9e999"""
IS_LIFTED = "kind IN ('address', 'user', 'site') AND typeof(subject) = 'text' AND length <= 0"
IS_KNOWN = "typeof(user) = 'text' AND typeof(address) = 'text' AND typeof(seen) = 'real' AND abs(seen) < 9e999"

#: Seconds for which a row stays that is of no use any more by a clock that may be wrong.
LONG_OVER = KNOWN

#: Seconds by which the time of day may differ from the clock that no one sets before all is stored anew.
TOLERANCE = 1

#: Seconds until the next try, when all could not be stored anew.
RETRY = 5

Rows = tuple[list[Ban], list[tuple[str, str, float]]]


class Register:
    """The keeper of a book of bans. `wall` is POSIX time."""

    def __init__(self, store: Store, book: Book, wall: Callable[[], float], hub: Publisher) -> None:
        self._store = store
        self._book = book
        self._wall = wall
        self._hub = hub
        self._version = -1
        #: Whether the file has something that the book has not, and the book something that the file has not.
        self._unread = self._stale = True
        self._next_try = -math.inf
        self._ahead = self._ahead_now()

    def restore(self) -> None:
        """Gives the book all that was kept, and is told what changes from now on. If nothing can be read, it says so,
        and tries again later."""
        self._book.keep_with(self)
        self._ahead = self._ahead_now()
        try:
            self._book.add(*self._read())
        except (sqlite3.Error, OSError) as error:
            log.error("no bans could be read: {error}", error=error)

    def _read(self) -> Rows:
        try:
            rows = self._load(self._store.state)
        except sqlite3.Error as error:
            self._store.replace(error)
            rows = [], []
        self._unread = False
        return rows

    def _load(self, state: State) -> Rows:
        now, wall = self._book.now(), self._wall()
        if state.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('bans', 'known_addresses')") != [(2,)]:
            return [], []
        bans = state.execute(
            f"SELECT kind, subject, until, length FROM bans WHERE {IS_BAN}"
            f" AND until + max(length * {FORGOTTEN}, {LONG_OVER}) >= ? ORDER BY until DESC LIMIT {CAPACITY}",
            wall,
        )
        seen = state.execute(
            f"SELECT user, address, seen FROM known_addresses WHERE {IS_KNOWN}"
            f" AND seen >= ? ORDER BY seen DESC LIMIT {ALL}",
            wall - KNOWN - LONG_OVER,
        )
        return (
            [
                Ban(kind, subject, now + min(until - wall, length), length, stored=until)
                for kind, subject, until, length in bans
            ],
            [(user, address, now + min(when - wall, 0)) for user, address, when in reversed(seen)],
        )

    # --- what the book tells -----------------------------------------------------------------------

    def save(self, ban: Ban) -> None:
        """A new ban, in place of the last one."""
        until = self._stored(ban.until)
        self._write("INSERT OR REPLACE INTO bans VALUES (?, ?, ?, ?)", ban.kind, ban.subject, until, ban.length)

    def drop(self, ban: Ban) -> None:
        """A ban was crowded out."""
        self._write("DELETE FROM bans WHERE kind = ? AND subject = ?", ban.kind, ban.subject)

    def saw(self, user: str, address: str, when: float) -> None:
        """A user has logged in from an address."""
        self._write("INSERT OR REPLACE INTO known_addresses VALUES (?, ?, ?)", user, address, self._stored(when))

    def forget(self, user: str, address: str) -> None:
        """A known address was crowded out."""
        self._write("DELETE FROM known_addresses WHERE user = ? AND address = ?", user, address)

    def _stored(self, when: float) -> float:
        return when + self._ahead_now()

    def _ahead_now(self) -> float:
        return self._wall() - self._book.now()

    def _write(self, statement: str, *values: Any) -> None:
        def write() -> None:
            if not self._store.state.provisional:  # all is written when there is a file
                self._store.state.execute(statement, *values)

        self._store.put(write)

    # --- from time to time -------------------------------------------------------------------------

    def look(self) -> Deferred[None]:
        """Lifts what `ftpsd bans lift` has lifted since the last look (which costs nothing while there are no bans),
        and makes up for what could not be read or stored."""
        return Deferred.fromCoroutine(self._look())

    async def _look(self) -> None:
        self._mind_the_clock()
        if self._stale or self._store.failing:
            if self._book.now() >= self._next_try:
                await self._catch_up()
        elif len(self._book):
            self._lift(await self._store.put(self._find_lifted))

    def _mind_the_clock(self) -> None:
        ahead = self._ahead_now()
        if abs(ahead - self._ahead) > TOLERANCE:
            self._book.clock_was_set(self._ahead, ahead)
            self._ahead = ahead
            self._stale, self._next_try = True, -math.inf

    async def _catch_up(self) -> None:
        self._next_try = self._book.now() + RETRY
        if self._store.state.provisional or self._unread:
            rows = await self._store.put(self._read_again)
            if rows is None:
                return
            self._book.add(*rows)
        lifted = await self._store.put(self._write_all, *self._all())
        if lifted is not None:
            self._stale, self._next_try = False, -math.inf
            self._store.recovered()
            self._lift(lifted)

    def _read_again(self) -> Rows:
        if self._store.open_again():
            self._unread = True
        return self._read() if self._unread else ([], [])

    def _all(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """The rows of the whole book."""
        bans = [(ban.kind, ban.subject, self._stored(ban.until), ban.length) for ban in self._book.bans()]
        return bans, [(user, address, self._stored(when)) for user, address, when in self._book.known()]

    def _write_all(self, bans: list[tuple[Any, ...]], known: list[tuple[Any, ...]]) -> list[tuple[Kind, str]]:
        """Stores all anew, but for what was lifted, which is the result."""
        try:
            return self._rewrite(bans, known)
        except sqlite3.Error as error:
            self._store.replace(error)
            return self._rewrite(bans, known)

    def _rewrite(self, bans: list[tuple[Any, ...]], known: list[tuple[Any, ...]]) -> list[tuple[Kind, str]]:
        state = self._store.state
        state.define(BANS, KNOWN_ADDRESSES)
        with state.transaction() as execute:
            lifted: list[Any] = execute(f"SELECT kind, subject FROM bans WHERE {IS_LIFTED}")
            execute("DELETE FROM bans")
            execute("DELETE FROM known_addresses")
            gone = set(lifted)
            for ban in bans:
                if ban[:2] not in gone:
                    execute("INSERT INTO bans VALUES (?, ?, ?, ?)", *ban)
            for each in known:
                execute("INSERT INTO known_addresses VALUES (?, ?, ?)", *each)
        self._version = -1
        return lifted

    def stop(self) -> None:
        """The last chance to store what could not be stored."""
        if (self._stale or self._store.failing) and not (self._unread or self._store.state.provisional):
            self._store.put(self._write_all, *self._all())

    # --- what others have lifted -------------------------------------------------------------------

    def _find_lifted(self) -> list[tuple[Kind, str]]:
        state = self._store.state
        version = state.version()
        if version == self._version:
            return []
        with state.transaction() as execute:
            found: list[Any] = execute(f"SELECT kind, subject FROM bans WHERE {IS_LIFTED}")
            execute(f"DELETE FROM bans WHERE {IS_LIFTED}")
        self._version = version
        return found

    def _lift(self, lifted: list[tuple[Kind, str]] | None) -> None:
        for kind, subject in lifted or ():
            self._book.lift(kind, subject)
            self._hub.publish(BanLifted(kind, subject))


# --- for `ftpsd bans` ----------------------------------------------------------------------------------


def current(state: State, wall: float) -> list[tuple[str, str, float]]:
    """The bans that run: kind, subject, end in POSIX time; the one that ends last stands last."""
    state.define(BANS)
    found: list[Any] = state.execute(
        f"SELECT kind, subject, until FROM bans WHERE {IS_BAN} AND until > ? ORDER BY until", wall
    )
    return found


def lift(state: State, whom: str | None) -> int:
    """Lifts the bans of an address or a name, or all with None, as if they had never been; how many there were.

    The ban of a site from a name is lifted by the name, by an address of the site, and by the site.
    """
    state.define(BANS)
    given = name(whom or "")
    with state.transaction() as execute:
        execute(
            f"UPDATE bans SET length = 0, until = 0 WHERE {IS_BAN} AND (? OR subject IN (?, ?) OR kind = 'site' AND"
            " (substr(subject, instr(subject, ' ') + 1) = ? OR substr(subject, 1, instr(subject, ' ') - 1) IN (?, ?)))",
            whom is None,
            given,
            counted(given, network),
            given,
            given,
            counted(given, site),
        )
        ((lifted,),) = execute("SELECT changes()")
    return int(lifted)
