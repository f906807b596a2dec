"""The bans in the state file: what the daemon keeps there, and what `ftpsd bans` shows and lifts.

Ends of bans are stored as POSIX time. A clock that was set makes stored bans shorter or longer, but none
longer than it was made.

A lift by another process leaves the row with a length of nothing: the daemon finds it within a second.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from ftpsd.bans import CAPACITY, FORGOTTEN, KNOWN, Ban, Book, Kind, name
from ftpsd.log import log
from ftpsd.state import State, Store
from ftpsd.wire import network, plain_address

BANS = """CREATE TABLE IF NOT EXISTS bans
    (kind TEXT, subject TEXT, until REAL, length REAL, PRIMARY KEY (kind, subject)) WITHOUT ROWID"""
KNOWN_ADDRESSES = """CREATE TABLE IF NOT EXISTS known_addresses
    (user TEXT, address TEXT, seen REAL, PRIMARY KEY (user, address)) WITHOUT ROWID"""


class Register:
    """The keeper of a book of bans. `wall` is POSIX time."""

    def __init__(self, store: Store, book: Book, wall: Callable[[], float]) -> None:
        self._store = store
        self._book = book
        self._wall = wall
        self._version = -1

    def restore(self) -> None:
        """Gives the book all that was kept; nothing, and a log line, if it cannot be read."""
        try:
            self._book.restore(self, *self._load(self._store.state, self._wall()))
        except sqlite3.Error as error:
            log.error("no bans could be read: {error}", error=error)

    def _load(self, state: State, wall: float) -> tuple[list[Ban], list[tuple[str, str, float]]]:
        now = self._book.now()
        state.define(BANS, KNOWN_ADDRESSES)
        state.execute(f"DELETE FROM bans WHERE length <= 0 OR until + length * {FORGOTTEN} < ?", wall)
        state.execute("DELETE FROM known_addresses WHERE seen < ?", wall - KNOWN)
        bans = state.execute("SELECT kind, subject, until, length FROM bans ORDER BY until DESC LIMIT ?", CAPACITY)
        seen = state.execute("SELECT user, address, seen FROM known_addresses ORDER BY seen DESC LIMIT ?", CAPACITY)
        return (
            [Ban(kind, subject, now + min(until - wall, length), length) for kind, subject, until, length in bans],
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
        return self._wall() + when - self._book.now()

    def _write(self, statement: str, *values: Any) -> None:
        self._store.put(self._store.state.execute, statement, *values)

    # --- what others have lifted -------------------------------------------------------------------

    def look_for_lifts(self) -> Any:
        """Lifts what `ftpsd bans lift` has lifted since the last look. Costs nothing while there are no bans."""
        return self._store.put(self._find_lifted).addCallback(self._lift) if len(self._book) else None

    def _find_lifted(self) -> list[tuple[Kind, str]]:
        state = self._store.state
        version = state.version()
        if version == self._version:
            return []
        with state.transaction() as execute:
            found: list[Any] = execute("SELECT kind, subject FROM bans WHERE length <= 0")
            execute("DELETE FROM bans WHERE length <= 0")
        self._version = version
        return found

    def _lift(self, lifted: list[tuple[Kind, str]] | None) -> None:
        for kind, subject in lifted or ():
            self._book.lift(kind, subject)
            log.info("the ban of {subject} was lifted", subject=subject)


# --- for `ftpsd bans` ----------------------------------------------------------------------------------


def current(state: State, wall: float) -> list[tuple[str, str, float]]:
    """The bans that run: kind, subject, end in POSIX time; the one that ends last stands last."""
    state.define(BANS)
    found: list[Any] = state.execute(
        "SELECT kind, subject, until FROM bans WHERE length > 0 AND until > ? ORDER BY until", wall
    )
    return found


def lift(state: State, whom: str | None) -> int:
    """Lifts the bans of an address or a name, or all with None, as if they had never been; how many there were."""
    state.define(BANS)
    given = whom or ""
    with state.transaction() as execute:
        execute(
            "UPDATE bans SET length = 0, until = 0 WHERE length > 0 AND (? OR subject IN (?, ?))",
            whom is None,
            name(given),
            _as_network(given),
        )
        ((lifted,),) = execute("SELECT changes()")
    return int(lifted)


def _as_network(text: str) -> str:
    try:
        return network(plain_address(text))
    except ValueError:
        return text
