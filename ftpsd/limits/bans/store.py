"""Keep a copy of the ban list in the state file, over restarts. Read first: BanStore, at the end.

The list in memory decides; the file is its copy. When the copy could not be made (the disk is full, another process has
locked the file, it is read-only or damaged), the whole list is stored as soon as that is possible (`sync_state.py`).

The file has the ends of bans as POSIX time, and that clock may be wrong. When it is corrected, all rows are stored
again. If the clock is wrong at the start, bans end early or late, but none lasts longer than its length. When the clock
is corrected after that, bans that ended early continue: so a row is kept long after its end (`tables.GRACE`).

Bans that another process has lifted (`ftpsd bans lift`) are found within a second.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ftpsd.events.hub import Publisher
from ftpsd.events.types import BanEnded
from ftpsd.limits.bans import tables
from ftpsd.limits.bans.ban_list import BanList, shown_subject
from ftpsd.limits.bans.ban_table import Ban, Kind
from ftpsd.limits.bans.ends import Ends
from ftpsd.limits.bans.late_lifts import LateLifts
from ftpsd.limits.bans.sync_state import Event, Sync, SyncState
from ftpsd.limits.bans.tables import AddressRow, BanRow, Rows
from ftpsd.protocol.login_rules import Network
from ftpsd.system.state import Store, Value

log = Logger(namespace="ftpsd")

#: Seconds that the time of day may gain or lose against the monotonic clock before all rows are stored again.
TOLERANCE = 1


class BanFile:
    """The tables of bans in the state file. All methods block: after the start, the store's thread calls them."""

    def __init__(self, store: Store, wall: Callable[[], float]) -> None:
        self._store = store
        self._wall = wall
        #: SQLite's data_version at the last look for lifted bans.
        self._version = -1

    def open_and_read(self) -> Rows:
        """Open the file if it could not be opened before, and read it."""
        self._store.open_again()
        return self.read()

    def read(self) -> Rows:
        """Return what is stored. A damaged file is replaced."""
        try:
            return tables.load(self._store.state, self._wall())
        except sqlite3.Error as error:
            self._store.replace(error)
            return [], []

    def store_all(self, bans: list[BanRow], known: list[AddressRow]) -> list[tuple[Kind, str]]:
        """Store the whole list. Return the bans that another process has lifted, which are not stored."""
        self._version = -1
        try:
            return tables.replace_all(self._store.state, bans, known)
        except sqlite3.Error as error:
            self._store.replace(error)
            return tables.replace_all(self._store.state, bans, known)

    def find_lifted(self) -> list[tuple[Kind, str]]:
        """Return the bans that another process has lifted since the last look."""
        state = self._store.state
        version = state.version()
        if version == self._version:
            return []
        lifted = tables.take_lifted(state)
        self._version = version
        return lifted


class ChangeWriter:
    """Stores each change of the list (`ban_list.Listener`). `ahead` converts the list's times to POSIX time."""

    def __init__(self, store: Store, ahead: Callable[[], float]) -> None:
        self._store = store
        self._ahead = ahead

    def ban_added(self, ban: Ban) -> None:
        """Store a new ban, in place of the last one of the same subject."""
        self._write(tables.SAVE_BAN, *_row(ban, self._ahead()))

    def ban_dropped(self, ban: Ban) -> None:
        """Delete a ban that has made room for another."""
        self._write(tables.DELETE_BAN, ban.kind, ban.subject)

    def login_recorded(self, user: str, address: str, when: float) -> None:
        """Store that a user has logged in from an address."""
        self._write(tables.SAVE_ADDRESS, user, address, when + self._ahead())

    def address_dropped(self, user: str, address: str) -> None:
        """Delete a known address that has made room for another."""
        self._write(tables.DELETE_ADDRESS, user, address)

    def _write(self, statement: str, *values: Value) -> None:
        def write() -> None:
            if not self._store.state.provisional:  # all is written when there is a file
                self._store.state.execute(statement, *values)

        self._store.put(write)


def _row(ban: Ban, ahead: float) -> BanRow:
    return ban.kind, ban.subject, ban.until + ahead, ban.length


def _lifted(kind: Kind, subject: str) -> BanEnded:
    return BanEnded(kind, shown_subject(subject), "lifted")


def _publish(hub: Publisher, ended: Iterable[Ban]) -> None:
    for ban in ended:
        hub.publish(BanEnded(ban.kind, shown_subject(ban.subject), "expired"))


class BanStore:
    """Reads the stored bans at the start, and stores each change of the list. `wall` returns the POSIX time."""

    def __init__(self, store: Store, bans: BanList, wall: Callable[[], float], hub: Publisher) -> None:
        self._store = store
        self._bans = bans
        self._wall = wall
        self._hub = hub
        self._sync = SyncState()
        self._late = LateLifts()
        self._ends = Ends(bans.table)
        self._file = BanFile(store, wall)
        self._changes = ChangeWriter(store, self._ahead_now)
        #: Seconds that the time of day is ahead of the clock of the list.
        self._ahead = self._ahead_now()

    def _ahead_now(self) -> float:
        return self._wall() - self._bans.now()

    def restore(self) -> None:
        """Merge what is stored into the list; store changes from now on. If nothing can be read, log that; `check`
        tries again."""
        self._bans.set_listener(self._changes)
        self._ahead = self._ahead_now()
        try:
            self._merge(self._file.read())
        except (sqlite3.Error, OSError) as error:
            log.error("the bans cannot be read: {error}", error=error)

    def lift(self, ban: Ban) -> None:
        """Lift a ban, in memory and in the file, because an administrator wants it."""
        if self._sync.state is Sync.UNREAD:
            self._late.add(ban.kind, ban.subject)
        self._lift([(ban.kind, ban.subject)])
        self._changes.ban_dropped(ban)

    def lift_unread(self, network: Network | None, user: str | None, everything: bool) -> bool:
        """Lift the bans of a file that cannot be read yet, when it can be. Return False if too many requests wait."""
        self._observe()
        return self._sync.state is not Sync.UNREAD or self._late.add_request(network, user, everything)

    def is_stored(self) -> Deferred[bool]:
        """Return whether the file has all changes made so far, when those that wait for it were tried.

        Otherwise they are stored when that is possible, unless the daemon ends before.
        """

        def has_all(_: object) -> bool:
            self._observe()
            return self._sync.state is not Sync.UNREAD and not self._store.failing

        return self._store.put(bool).addCallback(has_all)

    def check(self) -> Deferred[None]:
        """Do what `sync_state` says: find lifted bans, or read and store what could not be read and stored before.

        To be called every second.
        """
        return Deferred.fromCoroutine(self._check())

    async def _check(self) -> None:
        self._check_clock()
        _publish(self._hub, self._ends.take())
        self._observe()
        if self._sync.state is not Sync.CURRENT:
            if self._sync.try_now(self._bans.now()):
                await self._catch_up()
        elif len(self._bans.table):  # without bans a check costs nothing
            self._lift(await self._store.put(self._file.find_lifted))

    def _check_clock(self) -> None:
        ahead = self._ahead_now()
        if abs(ahead - self._ahead) > TOLERANCE:
            self._bans.clock_was_set(self._ahead, ahead)
            self._ahead = ahead
            self._sync.happened(Event.CLOCK_SET)

    def _observe(self) -> None:
        """Learn what has happened to the file in the store's thread."""
        if self._store.state.provisional:
            self._sync.happened(Event.CLOSED)
        elif self._store.failing:
            self._sync.happened(Event.FAILED)

    async def _catch_up(self) -> None:
        if self._sync.state is Sync.UNREAD:
            rows = await self._store.put(self._file.open_and_read)
            if rows is None:
                return
            self._merge(rows)
        lifted = await self._store.put(self._file.store_all, *self._all())
        if lifted is not None:
            self._sync.happened(Event.STORED)
            self._store.recovered()
            self._lift(lifted)

    def _merge(self, rows: Rows) -> None:
        bans, known = rows
        now, wall = self._bans.now(), self._wall()
        found = [
            Ban(kind, subject, now + min(until - wall, length), length, stored=until)
            for kind, subject, until, length in bans
        ]
        kept = []
        for ban, is_lifted in self._late.apply(found):
            if not is_lifted:
                kept.append(ban)
            elif ban.until > now and not self._late.is_known(ban):
                self._hub.publish(_lifted(ban.kind, ban.subject))
        self._late.clear()
        self._bans.merge(
            kept,
            [(user, address, now + min(when - wall, 0)) for user, address, when in known],
        )
        self._sync.happened(Event.READ)

    def _all(self) -> tuple[list[BanRow], list[AddressRow]]:
        """Return the rows of the whole list."""
        ahead = self._ahead_now()
        known = [(user, address, when + ahead) for user, address, when in self._bans.known_addresses()]
        return [_row(ban, ahead) for ban in self._bans.table.all()], known

    def stop(self) -> None:
        """Store what could not be stored before, for the last time."""
        self._observe()
        if self._sync.state is Sync.BEHIND:
            self._store.put(self._file.store_all, *self._all())

    def _lift(self, lifted: Sequence[tuple[Kind, str]] | None) -> None:
        if lifted:
            _publish(self._hub, self._ends.take())  # one of them may have ended since the last check
        for kind, subject in lifted or ():
            last = self._bans.table.last(kind, subject)
            self._bans.lift(kind, subject)
            if last is None or last.until > self._bans.now():  # the end of another one was published
                self._hub.publish(_lifted(kind, subject))
